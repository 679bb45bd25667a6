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

.PHONY: demo test test-all faults lint install clean

demo: $(STAMP)
	$(BIN)/ddbench run --method wmdd --method random --dataset digits --ipc 10 --seeds 3

# Every module in a few minutes; one thread a test process: the workers already fill the cores.
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

# All tests. Only those that `make test` leaves out: make test-all PYTEST_ARGS="-m slow"
test-all: export OMP_NUM_THREADS ?= 1
test-all: $(STAMP)
	$(PYTEST) $(PYTEST_ARGS)

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

install: $(STAMP)

# A changed pyproject.toml, in the root or in a plugin, installs again.
$(STAMP): $(PROJECTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group dev -e . $(addprefix -e ,$(PLUGINS))
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
