VENV := .venv
PYTHON ?= python3
READY := $(VENV)/.ready
RUN := $(VENV)/bin

.PHONY: demo test slow bench lint clients

demo: $(READY)  ## train on digits with planted bugs and show what is found
	$(RUN)/python examples/digits.py

test: lint  ## what CI runs
	$(RUN)/pytest -n 2 -m "not slow"

slow: lint  ## every test
	$(RUN)/pytest -n 2

bench: $(READY)  ## what the suite costs, beside what people use instead
	$(RUN)/python -m tests.bench --out bench.md

clients:  ## train other people's programs, each in its own environment; not in CI
	$(PYTHON) -m tests.clients $(CLIENTS)

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

# Torch first and alone, so that no other requirement can choose its version.
$(READY): setup.cfg pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install -c .ci/constraints.txt torch==2.13.0
	$(RUN)/pip install -c .ci/constraints.txt -e ".[test,loggers]"
	touch $@
