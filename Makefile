# make run [ARGS="--preset smoke"]   set up and run the main job
# make test                          set up and run the tests
# make test-slow                     the slow tests, about half an hour
# make lint                          format, types, import rules
# make throughput [ARGS=...]         speed of stepping, learning, attacking, certifying
# make versions                      the smoke run with PYTHONS, with pinned and newest versions

PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
BIN := .venv/bin

.PHONY: run test test-slow lint throughput versions clean

run: .venv/installed
	$(BIN)/python -m benchmarks.run $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

throughput: .venv/installed
	$(BIN)/python -m benchmarks.throughput $(ARGS)

versions:
	tests/versions.sh $(PYTHONS)

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "error: PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1 | head -1): jaxprune needs" \
	    "Python 3.11, 3.12 or 3.13; name one, e.g. make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch $@

clean:
	rm -rf .venv
