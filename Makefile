# `make run` sets everything up and runs SOLLOL; `make test` runs every test. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install run test covered lint bench simulate faults docs clean

# The first Python of version 3.11 or later, or the one given: make PYTHON=/path/to/python3.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo "$$p"; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
# How many tests run at a time, and what pytest is told besides: make test ARGS="tests/unit -x".
JOBS ?= auto
ARGS ?=
PYTEST = $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadgroup
# The tests that reach every branch of core and wire. What a branch is differs a little between versions of Python, so it is
# demanded where the version is known: in CI.
PURE := tests/unit/core tests/unit/wire
COVERED := --cov=sollol.core --cov=sollol.wire --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: $(VENV)/.installed ## make .venv and install SOLLOL into it, in the versions that are pinned

run: install ## run the gateway; without any node it starts emulated ones
	@exec $(BIN)/sollol up --demo-if-empty

test: $(VENV)/.developing ## run every test
	@scripts/install_test_packages.sh
ifeq ($(if $(CI),$(strip $(ARGS)),no),)
	@$(MAKE) --no-print-directory covered
	@$(PYTEST) $(addprefix --ignore=,$(PURE))
else
	@$(PYTEST) $(ARGS)
endif

covered: $(VENV)/.developing ## run the tests of core and wire and see that they reach every branch
	@$(PYTEST) $(PURE) $(COVERED)

lint: $(VENV)/.developing ## style, types, the floors of the house, and that the package builds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@rm -rf build/wheel
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/wheel .

bench: $(VENV)/.developing .tools/compiled/.installed ## measure the gateway against other front doors
	$(BIN)/python -m benchmarks $(ARGS)

simulate: $(VENV)/.developing ## compare ways of choosing a node, in virtual time
	$(BIN)/python -m benchmarks.simulate $(ARGS)

faults: $(VENV)/.developing ## play every fault and print what clients see of it (ten minutes)
	@scripts/install_test_packages.sh
	@$(BIN)/python -m benchmarks.faults $(ARGS)

docs: $(VENV)/.developing ## build the documentation into site/
	$(BIN)/zensical build --clean --strict

.tools/compiled/.installed: pyproject.toml $(wildcard src/sollol/*.py src/sollol/*/*.py src/sollol/*/*/*.py) | $(VENV)/.developing
	@echo "installing SOLLOL with its core compiled into .tools/compiled (about a minute)"
	@scripts/install_compiled.sh .tools/compiled
	@touch $@

clean: ## remove everything that was made here, .venv too
	rm -rf $(VENV) build dist site .cache .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is as new as the last installation: a second `make` looks at a few dates and installs nothing.
$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then echo "SOLLOL needs Python 3.11 or later, and none is on PATH. Name one: make PYTHON=/path/to/python3" >&2; exit 1; fi
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); echo "That Python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml requirements/run.txt requirements/build.txt | $(BIN)/python
	@echo "installing SOLLOL into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/run.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed requirements/dev.txt
	@echo "installing what tests and linters need into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
