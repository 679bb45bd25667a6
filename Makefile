# Needs python3 (3.11 or later, with venv) and make; everything else is set up under .venv, once.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
WORKERS ?= 4

PYTEST := $(BIN)/pytest -n auto --maxprocesses $(WORKERS) --dist worksteal

# Tests start many processes: Python keeps what it has compiled, also where the environment says otherwise.
test test-all faults: export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-all test-lowest faults lint docs install clean

demo: $(STAMP)
	$(BIN)/ddbench run --method wmdd,random --dataset digits --ipc 10 --recipe quick --recipe tuned --evaluator fkd,hard --seeds 3

# Every module in a few minutes; one thread a test process: the workers already fill the cores.
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

# All tests. Only those that `make test` leaves out: make test-all PYTEST_ARGS="-m slow"
test-all: export OMP_NUM_THREADS ?= 1
test-all: $(STAMP)
	$(PYTEST) $(PYTEST_ARGS)

# The oldest versions that the pyproject.toml files allow, in an environment of their own: the whole suite is collected, a
# few tests of what meets other packages pass, and a small run ends.
LOWEST := .lowest
LOWEST_TESTS := tests/unit/test_dependencies.py tests/cli/test_help.py \
	$(addprefix tests/unit/,nn/test_device.py storage/test_artifacts.py results/test_provenance.py config/test_schema.py)
test-lowest: export OMP_NUM_THREADS ?= 1
test-lowest: export DDBENCH_LOWEST = 1
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -p no:warnings --collect-only --quiet > $(LOWEST)/collected.txt || \
		{ tail -n 40 $(LOWEST)/collected.txt; exit 1; }
	$(LOWEST)/bin/python -m pytest -p no:warnings $(LOWEST_TESTS)
	rm -rf $(LOWEST)/run
	$(LOWEST)/bin/ddbench run --method wmdd --dataset digits --ipc 1 --recipe smoke --image-size 8 --arch convnet-bn-d1 \
		--device cpu --cache-dir $(LOWEST)/run/cache --results-dir $(LOWEST)/run/results

# Every injected fault at its full count; the tests run a short form of them. Fails if one of them fails (pipefail).
faults: export DDBENCH_FAULTS = full
faults: export OMP_NUM_THREADS ?= 1
faults: SHELL := bash
faults: $(STAMP)
	set -o pipefail; $(PYTEST) --timeout 3600 -rs \
		-o tmp_path_retention_policy=failed tests/faults | tee results/faults.txt

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports

# The documentation site, in build/site. Serve it: .venv/bin/python -m http.server --directory build/site
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(STAMP)
	$(BIN)/mkdocs build --quiet

install: $(STAMP)

# A changed pyproject.toml, in the root or in a plugin, installs again.
$(STAMP): $(PROJECTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group dev -e . $(addprefix -e ,$(PLUGINS))
	touch $@

$(LOWEST)/.installed: $(STAMP)
	$(PYTHON) -m venv --clear $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --group test \
		-e '.[fabric,hf,ray,s3]' $(addprefix -e ,$(PLUGINS))
	touch $@

clean:
	rm -rf .venv $(LOWEST) .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
