# Two commands for a new machine: `make demo` and `make test`. Both create .venv if it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# TorchRec fits one version of torch only, and has an environment of its own.
TORCHREC := .venv-torchrec
READY := $(VENV)/.ready
# Processes that share the tests; each starts brokers of its own. They often wait, so one more than the cores of CI.
JOBS := 3

.DEFAULT_GOAL := help
.PHONY: help install demo test test-torchrec chaos lint bench gpu reference figures clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 10

# The stamp file is newer than pyproject.toml when all its dependencies are installed.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else \
	  f"hotstream needs Python 3.10 or newer, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "python3 has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@echo "installing hotstream and its dependencies into $(VENV); torch is large: this takes some minutes"
	@( while sleep 4 && kill -0 $$$$ 2>/dev/null; do echo "  still installing: $$(du -sh $(VENV) | cut -f1)"; done ) & \
	  $(BIN)/pip install --quiet --editable '.[embedded,dev]'
	@touch $(READY)

install: $(READY)  ## create .venv and install everything into it

demo: $(READY)  ## run all of hotstream on a broker of its own, with a report at the end
	$(BIN)/hotstream demo

test: $(READY)  ## run all tests, on both brokers, with lint and type checks
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

$(TORCHREC)/.ready: pyproject.toml
	test -x $(TORCHREC)/bin/python || $(PYTHON) -m venv $(TORCHREC)
	$(TORCHREC)/bin/pip install --quiet --upgrade pip
	$(TORCHREC)/bin/pip install --quiet --editable '.[torchrec]' 'pytest>=8.2' 'pytest-timeout>=2.3'
	$(TORCHREC)/bin/pip uninstall --quiet --yes fbgemm-gpu fbgemm-gpu-cpu  # both have the same files; one needs a GPU
	$(TORCHREC)/bin/pip install --quiet --no-deps fbgemm-gpu-cpu==1.9.0
	@touch $@

test-torchrec: $(TORCHREC)/.ready  ## run the tests of the TorchRec adapter, in an environment of its own (9 GB)
	$(TORCHREC)/bin/python -m pytest --noconftest -W ignore tests/test_embedding_managed_collision.py

chaos: $(READY)  ## disturb a whole pipeline on Apache Kafka, scenario by scenario (10 to 30 minutes)
	HOTSTREAM_CHAOS=1 $(BIN)/python -m pytest tests/test_chaos.py tests/test_process_away.py tests/test_agent_broker.py

lint: $(READY)  ## check format, lint and types only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)  ## measure the sketch, the pipeline and the trainer on this machine
	$(BIN)/hotstream bench sketch
	$(BIN)/hotstream bench pipeline
	$(BIN)/hotstream bench trainer

gpu: $(READY)  ## run the tests that need a GPU, and measure the trainer on it (about 10 minutes)
	$(BIN)/python -m pytest -m gpu
	$(BIN)/hotstream bench trainer --device cuda --json benchmarks/results/trainer-cuda.json \
	  --picture benchmarks/results/trainer-cuda.png

reference: $(READY)  ## write docs/commands.md from the code
	$(BIN)/python -m trainer.reference

figures: $(READY)  ## fill the documents' tables from benchmarks/results
	$(BIN)/python -m trainer.evaluate.report.documents

clean:  ## remove .venv, the demo's files and all caches
	rm -rf $(VENV) $(TORCHREC) demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find sketch streams trainer tests -name __pycache__ -type d -prune -exec rm -rf {} +
