# `make help` lists what there is. Every target sets up what it needs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup run check test lint types quick unit soak format reproduce plain bench bench-gpu gpu-program tpu-program scaling sweeps recipes pictures notebook torture torture-together readme clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 16

setup: $(VENV)/.complete ## make the virtual environment .venv and install (skipped when nothing changed)

$(VENV)/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "expected Python 3.11 or newer, found $$($(PYTHON) --version); set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: setup ## train the reference CNN on MNIST: experiments/base.py
	$(BIN)/python -m mmids_cnn.main --config=experiments/base.py
	@echo 'before that, once in a shell: . $(BIN)/activate'

check: lint types quick ## lint, types and the quick tests, in about a minute

test: lint types unit ## lint, types, tests, in five minutes; compiled programs are kept for the next time

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tests/benchmarks/table.py --check

types: setup
	$(BIN)/mypy

quick: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not soak"

unit: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not soak"

soak: setup ## the other half of the tests: processes killed and starved, old folders, more of the same
	$(BIN)/python -m pytest -n 5 --dist worksteal -m soak

format: setup ## format the code and sort its imports
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

reproduce: setup ## train experiments/base.py with seeds 0 to 4, record the results, write the README's tables
	$(BIN)/python tests/benchmarks/reproduce.py
	$(BIN)/python tests/benchmarks/table.py

plain: setup ## train the recipe with plain Flax and seeds 0 to 4, to compare its accuracy with ours; 20 minutes
	$(BIN)/python tests/benchmarks/accuracy.py
	$(BIN)/python tests/benchmarks/table.py

bench: setup ## time this project beside PyTorch, Keras and plain Flax (makes .venv-peers, 2.4 GB); an hour
	$(BIN)/python tests/benchmarks/bench.py
	$(BIN)/python tests/benchmarks/networks.py --only=recipes --rounds=3
	$(BIN)/python tests/benchmarks/saving.py
	$(BIN)/python tests/benchmarks/table.py

bench-gpu: $(if $(GPU_PYTHON),,setup) ## time training on a GPU (PART, BUDGET s; GPU_PYTHON with its own JAX), else in small
	$(or $(GPU_PYTHON),$(BIN)/python) tests/benchmarks/gpu.py --part=$${PART:-1,2,3} --budget=$${BUDGET:-540}
	$(or $(GPU_PYTHON),$(BIN)/python) tests/benchmarks/table.py

gpu-program: setup ## compile for an H100 without one, and count what a step launches
	$(BIN)/python tests/benchmarks/programs.py gpu
	$(BIN)/python tests/benchmarks/table.py

tpu-program: setup ## compile for a TPU v5e without one; count operations, copies and the padding of tiles
	$(BIN)/python tests/benchmarks/programs.py tpu
	$(BIN)/python tests/benchmarks/table.py

scaling: setup ## time how cost grows with batch, width, data and models, and shrinks with processes
	$(BIN)/python tests/benchmarks/scaling.py
	$(BIN)/python tests/benchmarks/processes.py
	$(BIN)/python tests/benchmarks/table.py

sweeps: setup ## time populations beside single runs; run experiments/lr_sweep.py with and without halving
	$(BIN)/python -m tests.benchmarks.sweep
	$(BIN)/python tests/benchmarks/halving.py
	$(BIN)/python tests/benchmarks/table.py

recipes: setup ## train the recipes over their seeds (FASHION: folder of Fashion-MNIST), time networks; a day
	$(if $(POPULATION),$(BIN)/python tests/benchmarks/recipes.py --only=$(POPULATION) --population)
	$(BIN)/python tests/benchmarks/recipes.py $${FASHION:+--fashion=$$FASHION}
	$(BIN)/python tests/benchmarks/networks.py
	$(BIN)/python tests/benchmarks/table.py

pictures: setup ## draw the README's pictures again; needs Debian's chromium
	$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright
	$(BIN)/python tests/benchmarks/augmentations.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/front.py

notebook: setup ## run experiments/walkthrough, the course notebook step by step, to .ipynb and HTML; 3 minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebook]'
	cd experiments/walkthrough && ../../$(BIN)/jupytext --to ipynb --execute walkthrough.py
	cd experiments/walkthrough && ../../$(BIN)/jupyter-nbconvert --to html walkthrough.ipynb

torture: setup ## break ROUNDS runs and sweeps (100), damage as many files, type 500 wrong lines; minutes
	$(BIN)/python -m tests.support.lines --number 500
	$(BIN)/python -m tests.promises.torture --rounds $${ROUNDS:-100}
	$(BIN)/python tests/benchmarks/table.py

torture-together: setup ## hit ROUNDS runs in two processes (30), compare their ends with one process's
	$(BIN)/python -m tests.promises.torture_together --rounds $${ROUNDS:-30}
	$(BIN)/python tests/benchmarks/table.py

readme: setup ## run every command of the README as it is written, in a fresh clone; an hour
	$(BIN)/python -m tests.promises.readme

clean: ## remove the virtual environment and what tools left behind; runs/ and data stay
	rm -rf $(VENV) .cache build *.egg-info .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
