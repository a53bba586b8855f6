# Two commands for a fresh machine: `make demo` and `make test`. Both make .venv themselves, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench clean

help:  ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 10

# The stamp is younger than pyproject.toml once everything in it is installed.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else \
	  f"hotstream needs Python 3.10 or newer, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "python3 has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@echo "installing hotstream and its libraries into $(VENV); torch is large, this takes some minutes"
	$(BIN)/pip install --quiet --editable '.[embedded,dev]'
	@touch $(READY)

install: $(READY)  ## make .venv and install everything into it

demo: $(READY)  ## the whole of hotstream on a broker of its own, with a report at the end
	$(BIN)/hotstream demo

test: $(READY)  ## all tests, on both brokers, with lint and types
	$(BIN)/python -m pytest

lint: $(READY)  ## format, lint and types alone
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)  ## measure the sketch, the pipeline and the trainer on this machine
	$(BIN)/hotstream bench sketch
	$(BIN)/hotstream bench pipeline
	$(BIN)/hotstream bench trainer

clean:  ## remove .venv, the demo's files and all caches
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find sketch streams trainer tests -name __pycache__ -type d -prune -exec rm -rf {} +
