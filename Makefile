# make study: the main job, with the core package alone.  make test: everything, tested.  make bench: speed, in minutes.
# make check-fast: in under 90 seconds what the last hour's changes can break.  make test-all: slow tests too.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# seconds of tests in make check-fast, over its two processes; they start in ten
FAST := 45

.PHONY: study setup test test-all lint types check check-fast bench clean

study: $(VENV)/.core
	$(BIN)/resect study

setup: $(VENV)/.full

test: setup
	$(BIN)/python -m pytest

test-all: setup
	$(BIN)/python -m pytest -m ""

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

check: lint types test

check-fast: lint types
	$(BIN)/python -m pytest --affected $(FAST)

bench: setup $(VENV)/.bench
	$(BIN)/python benchmarks/all.py

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "resect needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.full: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[vision,hf,train,onnx,ray,explore,dev]'
	touch $@ $(VENV)/.core

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
