# Needs python3 (3.11 or later, with venv) and make; everything else is set up under .venv, once.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
WORKERS ?= 4

.PHONY: demo test faults lint install clean

demo: $(STAMP)
	$(BIN)/ddbench run --method wmdd --method random --dataset digits --ipc 10 --seeds 3

# One thread a test process: the workers already fill the cores.
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP)
	$(BIN)/pytest -n auto --maxprocesses $(WORKERS) --dist worksteal $(PYTEST_ARGS)

# Every injected fault at its full count; the tests run a short form of them. Fails where one of them does (pipefail).
faults: export DDBENCH_FAULTS = full
faults: export OMP_NUM_THREADS ?= 1
faults: SHELL := bash
faults: $(STAMP)
	set -o pipefail; $(BIN)/pytest -n auto --maxprocesses $(WORKERS) --dist worksteal --timeout 3600 -rs \
		-o tmp_path_retention_policy=failed tests/faults | tee results/faults.txt

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

install: $(STAMP)

# A changed pyproject.toml, in the root or in a plugin, installs again.
$(STAMP): $(PROJECTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group dev -e . $(addprefix -e ,$(PLUGINS))
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
