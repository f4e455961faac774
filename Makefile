# Two commands matter: `make setup` and `make test`. The rest are parts of them, or run by hand.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
TORCH_VENV := .venv-torch
STAMP := $(VENV)/.stamp
DEMO_STAMP := $(VENV)/.stamp-demo
TORCH_STAMP := $(TORCH_VENV)/.stamp

LOCKED := requirements.lock pyproject.toml client/pyproject.toml scripts/setup.sh
# Two processes, each with servers of its own: much of a run is waiting.
PYTEST_ARGS ?= -n 2
TYPED := service workers kernels client/arrowquant tests/conftest.py tests/processes.py tests/servers.py \
         benchmarks scripts/demo.py scripts/demonstration scripts/client_code scripts/chart_schema.py tests/demo docker

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.PHONY: setup
setup: $(STAMP) ## Create .venv and install the locked packages and both distributions

$(STAMP): $(LOCKED)
	scripts/setup.sh $(VENV)
	@touch $@

.PHONY: servers
servers: ## Install the system packages that the tests start: Redis and PostgreSQL
	scripts/servers.sh

.PHONY: test
test: setup servers lint ## Lint, then run every test but those that need torch
	$(BIN)/pytest $(PYTEST_ARGS)

.PHONY: lint
lint: setup ## Ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports

.PHONY: format
format: setup ## Rewrite the sources as the linter wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: test-torch
test-torch: $(TORCH_STAMP) ## Run the tests marked torch, in an environment of their own
	$(TORCH_VENV)/bin/python -m pytest tests/torch -m torch

$(TORCH_STAMP): $(STAMP) scripts/setup-torch.sh
	scripts/setup-torch.sh $(TORCH_VENV)
	@touch $@

.PHONY: demo
demo: setup $(DEMO_STAMP) ## Quantize a real model through the service on this machine
	$(BIN)/python scripts/demo.py

$(DEMO_STAMP): $(STAMP) requirements-demo.lock
	$(BIN)/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes \
	    --requirement requirements-demo.lock
	@touch $@

.PHONY: bench
bench: setup $(DEMO_STAMP) ## Measure everything, then write the report (BENCH_ARGS names less)
	$(BIN)/python -m benchmarks $(or $(BENCH_ARGS),--all) --generate-charts

.PHONY: report
report: setup ## Write docs/benchmark-report.md, docs/accuracy.md and their charts from the raw results
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.accuracy_page

.PHONY: try-slurm
try-slurm: setup ## Run pilots under a real Slurm on this machine (root, Debian's slurmctld, slurmd, munge)
	$(BIN)/python scripts/try_slurm.py

.PHONY: openapi
openapi: setup ## Write openapi.yaml from the application
	$(BIN)/python -m service openapi > openapi.yaml.new
	mv openapi.yaml.new openapi.yaml

.PHONY: chart
chart: setup ## Write what the chart's schema says of settings, from the settings
	PYTHONPATH=. $(BIN)/python scripts/chart_schema.py

.PHONY: client
client: setup ## Write the client's operations and types from openapi.yaml
	$(BIN)/python -m scripts.client_code

.PHONY: lock
lock: setup ## Resolve the lock files again (LOCK_ARGS=--upgrade for newer versions)
	UV=$(BIN)/uv scripts/lock.sh $(LOCK_ARGS)

.PHONY: clean
clean: ## Remove the environments and everything that can be made again
	rm -rf $(VENV) $(TORCH_VENV) .venv-bench build client/build *.egg-info client/*.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis openapi.yaml.new
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
