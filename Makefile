# `make demo` and `make test` set up everything they need in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# Packages are installed uncompiled, and what is imported is compiled once: where this is set, each process compiles anew.
unexport PYTHONDONTWRITEBYTECODE

# Apple silicon runs on MLX, and tests PyTorch beside it; Linux runs on PyTorch, and tests MLX beside it.
ifeq ($(shell uname -sm),Darwin arm64)
BOTH = torch
else
BOTH = mlx-cpu
endif

.PHONY: demo test test-heavy test-fast fuzz package-test check lint format docs docs-sessions clean

demo: $(VENV)/.installed
	@$(BIN)/rir-mlx demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 3 --dist worksteal -m 'not heavy'

# What starts a cluster, ranks or a compiler, or measures: about three minutes.
test-heavy: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m heavy

# What is quick, needs no framework and starts no process: about 80 s on two busy cores.
test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 3 --dist worksteal -m 'not slow' $(addprefix --ignore tests/,contract convert backends docs)

# Mutated files and answers: 10,000 of them, or as many as the time suffices for.
FUZZ_CASES ?= 10000
FUZZ_SECONDS ?= 300
FUZZ_SEED ?= 0
fuzz: $(VENV)/.installed-dev
	PYTHONPATH=tests $(BIN)/python -m fuzz --cases $(FUZZ_CASES) --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test test-heavy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel in an empty environment, from another folder.
package-test:
	PYTHON=$(PYTHON) .ci/package

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Run the commands of the pages again and paste what they print.
docs-sessions: $(VENV)/.installed
	$(BIN)/python docs/sessions.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rir-mlx needs Python 3.11 or newer: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing rir-mlx and what it needs into $(VENV): some minutes, the first time only."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[serve]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev,$(BOTH)]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[docs]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
