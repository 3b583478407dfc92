# make repro        set up, run every stage that is out of date, print the results
# make full         the same, then every other method on the same sample (preset laptop-full)
# make longcontext  train and measure DSRAM on long texts (docs/longcontext.md)
# make ask Q="…"    ask the trained model one question
# make serve        serve the trained model and its memory, at http://127.0.0.1:8000
# make experiments  try out the three claims that the project began with, each with a verdict
# make test         formatting, types, tests, branch coverage
# make soak         the tests that take minutes
#
# Variables: VENV (folder of the environment), PYTHON (the interpreter that makes it), TORCH (what pip
# installs as torch, an accelerator's build for instance), EXTRA (cpu, or gpu for faiss-gpu), JOBS (stages at a
# time, each with its share of the cores; 1 is plain `dvc repro`), PORT (of the server).

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
EXTRA ?= cpu
JOBS ?= 2

BIN := $(abspath $(VENV))/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CORES := $(shell nproc 2>/dev/null || echo 2)

export OMP_NUM_THREADS ?= $(CORES)
export MKL_NUM_THREADS ?= $(CORES)
export TOKENIZERS_PARALLELISM ?= false
export Q
PORT ?= 8000

.PHONY: setup repro full longcontext ask serve experiments test soak clean

setup: $(VENV)/.installed-$(EXTRA)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: what TORCH names must not be replaced by another build of it.
$(VENV)/.installed-$(EXTRA): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) $(TORCH)
	$(INSTALL) -c constraints.txt -e '.[$(EXTRA)]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed-$(EXTRA)
	$(INSTALL) -c constraints.txt -e '.[$(EXTRA),test]'
	touch $@

repro: setup
	PATH="$(BIN):$$PATH" $(BIN)/python -m pipeline.repro --jobs $(JOBS)
	@cat reports/results.md
	@echo "Report: $(CURDIR)/reports/report.html"

full: repro
	$(BIN)/python -m pipeline.benchmarks.campaign laptop-full --root multirun/laptop-full --jobs $(JOBS)
	$(BIN)/python -m pipeline.reporting.maintable multirun/laptop-full --plan laptop-full \
		--out reports/laptop-full/main.json

longcontext: setup
	PATH="$(BIN):$$PATH" $(BIN)/python -m pipeline.repro --jobs 1 longcontext_evaluate

ask: setup
	@$(BIN)/python -m pipeline.ask "$$Q"

$(VENV)/.installed-serve: $(VENV)/.installed-$(EXTRA)
	$(INSTALL) -c constraints.txt -e '.[$(EXTRA),serve]'
	touch $@

serve: $(VENV)/.installed-serve
	@$(BIN)/python -m pipeline.serve serve.port=$(PORT)

experiments: setup
	@$(BIN)/python -m pipeline.ask --experiments

test: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	MYPY_NUM_WORKERS=$(CORES) $(BIN)/mypy
	PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak" \
		--numprocesses logical --maxprocesses 8 --dist loadscope --cov --cov-report=term:skip-covered \
		--cov-report=json:build/coverage.json --junitxml=build/junit.xml

soak: $(VENV)/.installed-test
	PATH="$(BIN):$$PATH" $(BIN)/python -m pytest -m soak --junitxml=build/soak.xml

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* outputs multirun wandb build
