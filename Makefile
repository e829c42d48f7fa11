# Each target makes what it needs: a virtual environment in .venv with the project and its tools.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install check test build demo hunt bench format clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two at a time: most tests wait for something. A file's tests stay together.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

build: install
	$(BIN)/python -m build

demo: install
	$(BIN)/eventstore demo

# The concurrency hunts at full length; `make test` runs them reduced.
hunt: install
	HUNT=full $(BIN)/python -m pytest -m hunt

# Ours beside raw Postgres and beside other event stores; for example `make bench ARGS=--quick`.
bench: install
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks $(ARGS)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
