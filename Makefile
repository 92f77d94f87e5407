# EngramOS. `make run` and `make test` set everything up by themselves.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run test lint style types layers unit bench clean

help:
	@echo "make run    set up, then a demonstration (on a terminal it ends in the shell)"
	@echo "make test   set up, then every check: style, types, layers, tests"
	@echo
	@echo "make setup  the environment in .venv only"
	@echo "make lint   style, types, layers"
	@echo "make unit   tests only; ARGS='-k name' chooses"
	@echo "make bench  every benchmark, one after another"
	@echo "make clean  remove caches and build leftovers (not .venv)"
	@echo
	@echo "PYTHON=python3.12            another interpreter (3.11 or newer)"
	@echo "ENGRAM_VARIANT=cpu|cuda      instead of what the machine has"
	@echo "TORCH_INDEX=URL              where CPU builds of torch are, if your index has none"

setup:
	@command -v $(PYTHON) >/dev/null || { echo "setup: there is no $(PYTHON); EngramOS needs Python 3.11 or newer (make PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -I -S scripts/setup.py

run: setup
	@$(BIN)/engram demo --auto

test: lint unit

lint: style types layers

style: setup
	@echo "== style: ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check . || { echo "fix with: $(BIN)/ruff format ." >&2; exit 1; }

types: setup
	@echo "== types: mypy --strict"
	@$(BIN)/mypy

layers: setup
	@echo "== layers: import-linter"
	@$(BIN)/lint-imports --no-logo

unit: setup
	@echo "== tests: pytest"
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

bench: setup
	@for file in benchmarks/[!_]*.py; do \
		test -e "$$file" || continue; \
		echo "== $$file"; \
		$(BIN)/python "$$file" || exit 1; \
	done

clean:
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
