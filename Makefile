# make demo | test | test-long | lint | docs | bench: each first makes .venv, and does so again only when pyproject.toml or constraints.txt changed.
# TORCH: auto (what the GPU's driver can use, else the CPU's; with sources of pip's own, what they hold), cpu, cu126, cu130 ..., pypi.
PYTHON ?= python3
TORCH ?= auto
BIN := .venv/bin
INSTALLED := .venv/.installed-$(TORCH)

.PHONY: demo test test-long lint docs bench install doctor
.DEFAULT_GOAL := demo

demo: install
	$(BIN)/python recipes/finetune.py

test: install
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-long: install
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m long

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

# Into site/; ends with the first link that leads nowhere.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: install
	$(BIN)/python benchmarks/run_all.py

doctor: install
	$(BIN)/python recipes/doctor.py

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt install.py
	$(PYTHON) install.py --torch $(TORCH)
	rm -f .venv/.installed*
	touch $@
