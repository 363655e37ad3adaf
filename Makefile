# Everything here runs in .venv, made from the hashed locks. PYTHON names the interpreter it is made with.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
CODE := gateway adapters compat tests bench

.PHONY: run test check format bench chaos conformance lock clean

run: $(VENV)/run.stamp
	@exec $(BIN)/simroute serve

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q -rs -n 2 --dist loadgroup $(ARGS)

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

format: $(VENV)/dev.stamp
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: $(VENV)/dev.stamp
	$(BIN)/python -m bench $(ARGS)

# Breaks running gateways by a plan and makes up the accounts afterwards; the seed of a run that failed repeats its plan:
# make chaos ARGS='--seed 7 --seconds 120 --database postgresql'
chaos: $(VENV)/dev.stamp
	$(BIN)/python -m tests.chaos $(ARGS)

# Published clients in an environment of their own, against a running gateway; the table goes into the docs.
# INSTALL=1 lets root fetch the tools that scripts want, by apt; what is missing is skipped, and the table says so.
CONFORMANCE := build/conformance
CONFORMANCE_TOOLS := php:php-cli javac:default-jdk-headless cc:gcc curl:curl npm:npm
conformance: $(VENV)/dev.stamp $(CONFORMANCE)/stamp
ifdef INSTALL
	@for one in $(CONFORMANCE_TOOLS); do \
		command -v $${one%%:*} >/dev/null || missing="$$missing $${one##*:}"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -y --no-install-recommends $$missing; fi
endif
	@if command -v npm >/dev/null; then cp tests/conformance/package*.json $(CONFORMANCE) && \
		(cd $(CONFORMANCE) && npm ci --ignore-scripts --legacy-peer-deps --no-audit --no-fund --loglevel=error); fi
	$(BIN)/python -m tests.conformance --python $(CONFORMANCE)/venv/bin/python \
		--node-modules $(CONFORMANCE)/node_modules $(or $(ARGS),--write)

$(CONFORMANCE)/stamp: tests/conformance/requirements.txt
	$(PYTHON) -m venv $(CONFORMANCE)/venv
	$(CONFORMANCE)/venv/bin/python -m pip --disable-pip-version-check --no-input -q install \
		--no-deps --require-hashes -r tests/conformance/requirements.txt
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(BIN)/python requirements.txt pyproject.toml
	$(PIP) install --require-hashes -r requirements.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp tests/requirements.txt
	$(PIP) install --require-hashes -r tests/requirements.txt
	@touch $@

# Needs uv; the locks hold hashes for every platform and name no index.
UV_LOCK := uv pip compile --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11
lock:
	$(UV_LOCK) pyproject.toml -o requirements.txt
	$(UV_LOCK) --group dev -c requirements.txt -o tests/requirements.txt
	$(UV_LOCK) --override tests/conformance/overrides.txt tests/conformance/requirements.in -o tests/conformance/requirements.txt
	cd tests/conformance && npm install --package-lock-only --omit-lockfile-registry-resolved --legacy-peer-deps

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .hypothesis
