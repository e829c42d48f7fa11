# Each target makes what it needs: a virtual environment in .venv with the project and its tools.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install check test build demo hunt bench screenshots format clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Three at a time on two cores: many tests wait for something. A file's tests stay together, and the long files, which
# are not those with the most tests, do not come last.
test: install
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

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

# Pictures of every page of the dashboard, light and dark, into docs/images; takes a Chromium and some minutes.
screenshots: install
	$(BIN)/python -m tests.browser.screenshots

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
