# Each target makes what it needs: a virtual environment in .venv with the project and its tools; with LOCKED=1 the very
# packages of the lock, by their hashes.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LOCK   := requirements/ci.txt
STAMP  := $(VENV)/$(if $(LOCKED),.locked,.installed)

.PHONY: install check audit lock test slow thorough test-all build demo hunt faults reliability bench screenshots format \
	clean

install: $(STAMP)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.locked: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

check: install audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known vulnerabilities of what is locked. Where the service cannot be reached this says so; AUDIT=strict fails then.
audit: install
	$(BIN)/python -m tests.supply.audit $(LOCK) $(if $(filter strict,$(AUDIT)),--strict)

# Newer versions of everything, with the hashes of all their files.
lock: install
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--upgrade --custom-compile-command "make lock" --quiet --output-file $(LOCK)

# Three at a time on two cores: many tests wait for something. A file's tests stay together, and the long files, which
# are not those with the most tests, do not come last.
PYTEST = $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST) -m "not slow and not thorough"

# One test in ten, which together take as long as those; CI runs them too. tests/slow.txt names them.
slow: install
	$(PYTEST) -m slow

# What takes long for what it adds: more processes, browsers and cases. tests/thorough.txt names it.
thorough: install
	$(PYTEST) -m thorough

test-all: install
	$(PYTEST)

# What is released: the wheel, the sources, and what comes with the wheel as bills of materials.
build: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m tests.supply.bills dist $(LOCK)

demo: install
	$(BIN)/eventstore demo

# The concurrency hunts at full length; `make test` and `make slow` run them reduced.
hunt: install
	HUNT=full $(BIN)/python -m pytest -m hunt

# Every fault at once, for half an hour; for example `make faults FAULTS_MINUTES=5`.
FAULTS_MINUTES ?= 30
faults: install
	$(BIN)/python -m tests.faults soak --minutes $(FAULTS_MINUTES)

# Every row of docs/reliability.md at full length, the soak, and the page: some two hours on two cores.
reliability: install
	-$(BIN)/python -m tests.faults rows
	-$(BIN)/python -m tests.faults soak --minutes $(FAULTS_MINUTES)
	$(BIN)/python -m tests.faults report

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
