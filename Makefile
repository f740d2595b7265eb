# Each target does its own set-up on a fresh Debian or Ubuntu machine with Python 3.11 and make.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Each does nothing when what it makes is there and is of today's lock; with -j they share the time.
ENVIRONMENTS := vllm programs litellm encoder sdks

.PHONY: help demo demo-train test faults chaos lint bench quality schemas lock clean
.PHONY: environments $(ENVIRONMENTS)

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: requirements/dev.lock pyproject.toml
	@echo "==> the gateway's environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --require-hashes --only-binary :all: -r requirements/dev.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

environments: $(VENV)/.ready $(ENVIRONMENTS)

vllm:
	@$(PYTHON) demo/vllm_env.py

programs:
	@$(PYTHON) scripts/system.py redis-server postgres chromium

litellm:
	@$(PYTHON) scripts/litellm_env.py

encoder:
	@$(PYTHON) scripts/models.py

sdks:
	@$(PYTHON) tests/sdk/setup_envs.py

demo: $(VENV)/.ready ## everything set up, then real requests routed on a real vLLM
	@$(BIN)/python -m demo.run $(if $(KEEP),--keep)

demo-train: $(VENV)/.ready vllm ## the demo's weights made again
	@.vllm/bin/python -m demo.train

test: environments ## every test, each with its real servers
	@$(BIN)/python -m pytest

faults: $(VENV)/.ready ## every fault of a backend tried, and the table of docs/reliability.md written
	@$(BIN)/python -m tests.faults

chaos: environments ## MINUTES=30 SEED=7: traffic while backends are killed, revisions applied
	@$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),2) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/.ready ## format, lint, strict types, import rules, schemas and docs current
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m gateway.config.schema --check
	@$(BIN)/python -m gateway.config.docs --check
	@$(BIN)/python -m gateway.cli.reference --check

bench: $(VENV)/.ready vllm ## the gateway beside nginx and others, into benchmarks/results.json
	@$(PYTHON) scripts/system.py nginx redis-server postgres
	@$(BIN)/python -m benchmarks.vllm_times --write
	@$(BIN)/python -m benchmarks.limited --write
	@$(BIN)/python -m benchmarks.workers --write
	@$(BIN)/python -m benchmarks.run --write

quality: $(VENV)/.ready vllm ## what is true of its comparisons, into docs/quality.md
	@$(BIN)/python -m benchmarks.experiments --write
	@$(BIN)/python -m benchmarks.routing --write
	@$(BIN)/python -m benchmarks.pooled --write
	@$(BIN)/python -m benchmarks.replay --write
	@$(BIN)/python -m benchmarks.suites --write
	@$(BIN)/python -m benchmarks.compositions --write

schemas: $(VENV)/.ready ## the JSON Schemas and the generated references written anew
	@$(BIN)/python -m gateway.config.schema
	@$(BIN)/python -m gateway.config.docs
	@$(BIN)/python -m gateway.cli.reference

lock: $(VENV)/.ready ## the dependencies locked anew, with hashes
	@for extra in "gateway" "dev"; do \
	  $(BIN)/uv pip compile -q pyproject.toml --extra embedding --extra evals --extra postgres --extra redis --extra sources \
	    $$( [ $$extra = dev ] && echo --extra dev ) --generate-hashes --universal \
	    --python-version 3.11 --no-annotate --custom-compile-command "make lock" \
	    -o requirements/$$extra.lock; done
	@$(BIN)/python scripts/litellm_env.py --lock

clean: ## every environment and cache that the other targets made
	rm -rf demo/weights/adapters/.shelf $(VENV) .vllm .litellm .models .sdks .bench .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache
