# Commands for people and CI; `make help` lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

# Logs are text, not JSON, even without a terminal.
export PRODUCT1M_LOG ?= text
# Keep compiled Python files for the next process, even if the caller's environment forbids it.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
BIN := .venv/bin
INSTALLED := .venv/.installed
SAMPLE_DATA := build/sample-data
RUNNER ?= subprocess
SAMPLE := build/sample$(if $(filter docker,$(RUNNER)),-docker)
REGISTRY ?=
STEPS := ingestion background-synthesis rpn-training feature-extraction capture-pretraining \
	indexing evaluation registration
UNTRIMMED := rpn-training capture-pretraining registration serving mlflow-server image-tools
LOCK_IMAGE = $(BIN)/uv pip compile --constraint requirements.txt --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet
CODE := src components pipelines tests benchmarks
JOBS ?= 3
SET ?=
PORT ?= 8000
UI_PORT ?= 5000
RAN ?=

.PHONY: help install demo demo-model sample reference-check images push sample-data check-cached check-same test check lint types tests faults format docs site lock lock-images ui clean

help: ## List every target
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Create .venv; install the pinned dependencies and this package

# uv installs in seconds, pip in minutes; pip is used if uv is unavailable.
$(INSTALLED): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "needs Python 3.11 or 3.12, got " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION) || echo "uv is unavailable; installing with pip"
	if test -x $(BIN)/uv; then \
		$(BIN)/uv pip install --python $(BIN)/python --require-hashes --requirement requirements.txt && \
		$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .; \
	else \
		$(BIN)/python -m pip install --require-hashes --no-deps --requirement requirements.txt && \
		$(BIN)/python -m pip install --no-deps --editable .; \
	fi
	touch $@

demo: $(INSTALLED) ## Open a page that answers photos, with a small model that is kept here (PORT=8000)
	$(BIN)/product1m serve --model demo/model --allow-unsigned --examples demo/photos --open --port $(PORT)

demo-model: $(INSTALLED) ## Make that small model again, from the candidate of `make sample`
	rm -rf demo/model
	MLFLOW_TRACKING_URI=sqlite:///$(CURDIR)/$(SAMPLE)/mlflow.db \
		$(BIN)/product1m small-model models:/product1m-candidate@challenger demo/model

sample: build/.sample-data $(if $(filter docker,$(RUNNER)),images) ## Run the pipeline on a sample split (SET="section.key=value …", RUNNER=docker)
	$(BIN)/python -m pipelines run --preset sample --dataset $(SAMPLE_DATA) --output $(SAMPLE) \
		--runner $(RUNNER) $(foreach setting,$(SET),--set $(setting))

reference-check: build/.sample-data ## Run the reference preset at its real sizes on a few dozen items
	$(BIN)/python benchmarks/reference_check.py build/reference-check --sample $(SAMPLE_DATA)

images: $(INSTALLED) ## Build and lock the image of every step (BASE_IMAGE, BUILD_OPTIONS)
	$(BIN)/python -m pipelines images build

push: $(INSTALLED) ## Push the images to REGISTRY and lock their digests
	$(BIN)/python -m pipelines images push "$(REGISTRY)"

sample-data: build/.sample-data ## Write the sample split to build/sample-data

build/.sample-data: $(wildcard src/product1m/sample/drawn/*.py) | $(INSTALLED)
	rm -rf $(SAMPLE_DATA)
	$(BIN)/product1m make-sample $(SAMPLE_DATA)
	touch $@

# data_state always runs: everything behind it is cached on what it finds.
check-cached: ## Check that the last sample run used cached steps (all except RAN="step …")
	@$(BIN)/python -c 'import json, sys; \
	steps = json.load(open("$(SAMPLE)/summary.json"))["steps"]; \
	ran = {name for name, step in steps.items() if not step["cached"]} - {"data_state"}; \
	sys.exit(f"ran: {sorted(ran)}, expected: $(RAN)" if ran != set("$(RAN)".split()) else 0)'
	@echo "as expected: every step was cached except data_state [$(RAN)]"

check-same: ## Check that the sample run in containers has the metrics of the run without
	@$(BIN)/python -c 'import json, sys; \
	runs = [json.load(open(f"build/{name}/summary.json")) for name in ("sample", "sample-docker")]; \
	parts = [{key: run[key] for key in ("metrics", "differences", "fusion", "rpn")} for run in runs]; \
	sys.exit(parts[0] != parts[1] and "the metrics of build/sample and build/sample-docker differ")'
	@echo "as expected: the same metrics in containers, to the last digit"

# Types are checked beside the tests, which often wait for a server or a process.
test: lint ## Lint, types and tests
	@checked=$$(mktemp); $(MAKE) --silent types > $$checked 2>&1 & types=$$!; \
	$(MAKE) --silent tests; tested=$$?; \
	wait $$types; typed=$$?; cat $$checked; rm -f $$checked; exit $$((tested || typed))

check: lint types ## Lint and types

lint: $(INSTALLED)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports --no-cache

types: $(INSTALLED)
	$(BIN)/mypy

# A file's tests run in one worker, which makes the file's fixtures once. Three workers keep two cores
# busy, because tests also wait.
tests: $(INSTALLED) ## Tests only
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

faults: $(INSTALLED) ## Tests that take long: every step killed at every file operation, and other faults
	$(BIN)/pytest -m slow -n $(JOBS) -rP

format: $(INSTALLED) ## Format the code and apply ruff's automatic fixes
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

docs: $(INSTALLED) ## Write docs/configuration.md from the settings
	$(BIN)/product1m config docs > docs/configuration.md

site: $(INSTALLED) ## Build the documentation as a site in build/site
	$(BIN)/zensical build --strict --clean -f zensical.toml

lock: $(INSTALLED) ## Pin the newest versions that pyproject.toml allows, with hashes
	$(BIN)/uv pip compile pyproject.toml --upgrade --universal --python-version 3.11 --all-extras \
		--group dev --generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
		--quiet --output-file requirements.txt
	$(MAKE) --no-print-directory lock-images

# Trimmed targets leave out packages that MLflow's client needs only to sign in to clouds (the
# Kubernetes client of the training steps and the signatures of registration need them). kfp is locked without its dependencies, because
# its executor uses none of them.
lock-images: $(INSTALLED) ## Pin the packages of every image, at the versions of requirements.txt
	for target in gpu $(filter-out $(UNTRIMMED),$(STEPS)); do \
		$(LOCK_IMAGE) --group pyproject.toml:$$target --output-file docker/locks/$$target.txt \
			$(addprefix --no-emit-package ,cryptography cffi pycparser) || exit; \
	done
	for target in $(UNTRIMMED); do \
		$(LOCK_IMAGE) --group pyproject.toml:$$target --output-file docker/locks/$$target.txt || exit; \
	done
	echo kfp | $(LOCK_IMAGE) --no-deps - --output-file docker/locks/executor.txt

ui: $(INSTALLED) ## Open MLflow's page of the sample run's candidate (UI_PORT=5000)
	MLFLOW_TRACKING_URI=sqlite:///$(CURDIR)/$(SAMPLE)/mlflow.db $(BIN)/product1m ui --port $(UI_PORT)

clean: ## Remove the files of runs and tests; keep .venv
	rm -rf build .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
