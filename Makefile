# Each target does its own set-up on a fresh Debian or Ubuntu machine with Python 3.11 and make.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo demo-train test lint bench lock sdks schemas system clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: requirements/dev.lock pyproject.toml
	@echo "==> the gateway's environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --require-hashes --only-binary :all: -r requirements/dev.lock
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

.vllm/.ready: demo/vllm_env.py demo/vllm-requirements.lock
	@$(PYTHON) demo/vllm_env.py

demo: $(VENV)/.ready ## everything set up, then real requests routed on a real vLLM
	@$(BIN)/python -m demo.run $(if $(KEEP),--keep)

demo-train: .vllm/.ready ## the demo's weights made again
	@.vllm/bin/python demo/train.py

test: $(VENV)/.ready ## every test, each with its real servers
	@$(PYTHON) demo/vllm_env.py
	@$(BIN)/python -m pytest

lint: $(VENV)/.ready ## format, lint, strict types, import rules, schemas and docs current
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m gateway.config.schema --check
	@$(BIN)/python -m gateway.config.docs --check

lock: $(VENV)/.ready ## the dependencies locked anew, with hashes
	@for extra in "gateway" "dev"; do \
	  $(BIN)/uv pip compile -q pyproject.toml --extra embedding --extra postgres --extra redis \
	    $$( [ $$extra = dev ] && echo --extra dev ) --generate-hashes --universal \
	    --python-version 3.11 --no-annotate --custom-compile-command "make lock" \
	    -o requirements/$$extra.lock; done
