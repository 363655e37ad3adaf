# Everything here runs in .venv, made from the hashed locks. PYTHON names the interpreter it is made with.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
CODE := gateway adapters compat tests bench

.PHONY: run test check format bench lock clean

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

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .hypothesis
