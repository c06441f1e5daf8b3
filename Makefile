# make demo | test | lint | bench: each first makes .venv, and does so again only when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench
.DEFAULT_GOAL := demo

demo: .venv/.installed
	$(BIN)/python recipes/finetune.py

test: .venv/.installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

bench: .venv/.installed
	$(BIN)/python benchmarks/run_all.py

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@
