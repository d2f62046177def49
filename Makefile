# afterclick: what a developer can do. `make` alone lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench chaos clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## a virtual environment in .venv with everything in it

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "afterclick needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (torch is large; this takes a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## simulate two weeks of traffic, replay, verify and report them
	@$(BIN)/afterclick demo

test: $(READY) lint  ## lint, types, and all tests
	$(BIN)/python -m pytest --quiet --numprocesses $$($(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 1)')  # many wait for servers

lint: $(READY)  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## speed and memory beside the baselines, as ratios (minutes; wants a quiet machine)
	$(BIN)/python tests/bench/run.py

chaos: $(READY)  ## processes killed, stopped and restarted at random under load, on a real broker (two hours; ROUNDS=50)
	$(BIN)/python tests/chaos/run_chaos.py --rounds $(or $(ROUNDS),50)
	$(BIN)/python tests/chaos/run_chaos.py --rounds $(or $(ROUNDS),50) --of train
	PYTHONPATH=tests $(BIN)/python tests/chaos/join_chaos.py --rounds $(or $(ROUNDS),50)
	PYTHONPATH=tests $(BIN)/python tests/chaos/join_chaos.py --rounds $(or $(ROUNDS),50) --seed 1000 --store redis


clean:  ## remove the virtual environment, caches and the demo
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
