# make run [ARGS="--preset smoke"]   set up and run the main job
# make test                          set up and run the tests
# make test-slow                     the slow tests, about half an hour
# make lint                          format, types, import rules
# make throughput [ARGS=...]         speed of stepping, learning, attacking, certifying

PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: run test test-slow lint throughput clean

run: .venv/installed
	$(BIN)/python -m benchmarks.run $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

throughput: .venv/installed
	$(BIN)/python -m benchmarks.throughput $(ARGS)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch $@

clean:
	rm -rf .venv
