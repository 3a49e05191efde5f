# `make` alone lists what there is. Everything is installed into .venv, nothing outside this folder.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SET_UP := $(VENV)/.set-up
SET_UP_TRAINING := $(VENV)/.set-up-training

# torch is installed apart from the lock: its CPU build has another hash on every source. Left empty, the
# index that pip is configured with is asked; to get the small CPU build from another index, name it:
#   make setup-training TORCH_INDEX=<address of an index that has CPU builds>
TORCH := torch==2.13.0
TORCH_INDEX ?=

ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 2
BENCHES := bus orders feed features inference
COVERED_BY := tests/executor tests/contract tests/shared tests/gateway/test_orders.py tests/cli/test_operate.py

.PHONY: help setup setup-training demo test check coverage bench chaos lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(SET_UP) ## virtual environment with the locked packages, without torch

setup-training: $(SET_UP_TRAINING) ## torch too, for training (TORCH_INDEX: see the Makefile)

$(SET_UP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not there: install Python 3.11, or set PYTHON" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-deps --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(SET_UP_TRAINING): $(SET_UP) Makefile
	$(PIP) install --quiet --no-deps $(TORCH) $(TORCH_INDEX:%=--index-url %)
	@$(BIN)/python -c 'import torch' || { echo "make: this build of $(TORCH) does not run here (CUDA libraries?): take a CPU build, see TORCH_INDEX in the Makefile" >&2; exit 1; }
	@touch $@

demo: setup ## the whole mesh on this machine; ARGS='--bars 200' passes options, Ctrl-C stops
	$(BIN)/tradeguard demo $(ARGS)

test: setup setup-training ## all tests (PYTEST_ARGS passes options)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope $(PYTEST_ARGS)

check: setup ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy -p bench

coverage: setup ## branch coverage of the executor, the gateway's orders and the bus: 95 % of each
	$(BIN)/coverage run -m pytest -q $(COVERED_BY)
	@for file in 'services/executor/*' services/gateway/orders.py shared/redis_bus.py; do \
	  $(BIN)/coverage report --include="$$file" --show-missing --fail-under=95; done

bench: setup ## benchmarks: bus, orders, feed, features, inference
	@for name in $(BENCHES); do $(BIN)/python -m bench.$$name; done

chaos: setup ## kill, stop and cut off real processes at random while they trade; ARGS='--kills 30 --slices 200'
	$(BIN)/python -m bench.process_chaos $(ARGS)

lock: ## write requirements.lock anew (needs uv)
	@command -v uv >/dev/null || { echo "make: uv is not there: install it first" >&2; exit 2; }
	uv pip compile pyproject.toml --extra dev --python-platform linux --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --no-emit-package tradeguard --no-emit-package torch -q -o requirements.lock
	sed -i '/^# The following packages were excluded/,$$d' requirements.lock
	@! grep -nE '^ *(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)|://|file:|@ ' requirements.lock \
	  || { echo "make: requirements.lock names an index, a host or a folder: it has to hold everywhere" >&2; rm requirements.lock; exit 1; }

clean: ## remove what can be made again; var/ and bundles/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
