# Everything a fresh machine needs is Python 3.11 and make. `make demo` and `make test` do all their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test check format lint types manifests micro load chaos agreement lab lab-full ablation routers ladder clean lock
help:            ## what can be made
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(READY)

setup: $(READY)  ## a virtual environment with locked versions

demo: $(READY)   ## four simulated replicas: round_robin, then cache_aware, side by side
	$(BIN)/homing demo $(DEMO)

test: $(READY)   ## the default tests
	$(BIN)/python -m pytest $(TESTS)

format: $(READY) ## is the code formatted
	$(BIN)/ruff format --check .

lint: $(READY)   ## ruff
	$(BIN)/ruff check .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

check: format lint types test  ## what CI runs

manifests: $(READY) ## k8s/ built by kubectl, held against the schemas, its alerts tested by promtool
	$(BIN)/python -m pytest tests/k8s -rs

micro: $(READY)  ## micro-benchmarks beside a bare relay
	$(BIN)/python -m loadtest.micro $(MICRO)

load: $(READY)   ## locust against URL (default a local Homing)
	$(BIN)/python -m locust -f loadtest/locustfile.py -H $(or $(URL),http://127.0.0.1:8080)

chaos: $(READY)  ## everything goes wrong for ten minutes, and the rules hold (CHAOS="--minutes 3 --seed 7")
	$(BIN)/python -m loadtest.chaos $(CHAOS)

agreement: $(READY) ## does the virtual fleet rank policies as a run over HTTP does, into loadtest/results
	$(BIN)/python -m loadtest.agreement $(AGREEMENT)

lab: $(READY)    ## policies against each other in virtual time, into loadtest/results (LAB="--traces DIR")
	$(BIN)/python -m loadtest.lab $(LAB)

lab-full: $(READY) ## the same with every rival, hardships everywhere, loads by 3 seeds: hours; goes on where it stopped
	$(BIN)/python -m loadtest.lab --full $(LAB)

ablation: $(READY) ## what each term of the default policy is worth: it without one at a time
	$(BIN)/python -m loadtest.lab --ablation $(LAB)

routers: $(READY) ## one router and several, sharing and not, in virtual time (ROUTERS="--traces DIR")
	$(BIN)/python -m loadtest.several $(ROUTERS)

ladder: $(READY) ## llm-d's published ladder in virtual time, beside its figures
	$(BIN)/python -m loadtest.ladder $(LADDER)

lock: $(READY)   ## pin again what CI installs
	$(BIN)/python -m pip install --quiet 'uv>=0.5'
	$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --no-annotate --extra dev --upgrade pyproject.toml -o requirements.lock

clean:           ## forget the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
