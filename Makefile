# `make demo` and `make test` set everything up in .venv first. PYTHON picks the interpreter.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS ?= 2

.PHONY: verify-gpu demo test test-slow check generate docs bench install clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml sanac/data/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c sanac/data/constraints.txt -e '.[rtx-build,train,dev,docs]'
	touch $@

demo: $(INSTALLED)  ## install, then the main job on a small model, with the verdict
	$(BIN)/sanac run demo --workspace build/demo

test: $(INSTALLED)  ## everything that runs in minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED)  ## the long tests alone
	$(BIN)/python -m pytest -q -m slow

verify-gpu: $(INSTALLED)  ## on a GPU: an engine of sanac:tiny is built, run and compared; send back verify-gpu.json
	$(BIN)/sanac export sanac:tiny --trt --no-verify --out build/verify-gpu --workspace build --force
	$(BIN)/sanac verify build/verify-gpu --against sanac:tiny --backend trt --json > verify-gpu.json

check: $(INSTALLED)  ## format, lint, types, layers, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

generate: $(INSTALLED)  ## option tables in docs/, the recipes' schema, the API's type stub: from the settings
	$(BIN)/python -m scripts.generate

docs: $(INSTALLED)  ## the site, served on localhost
	$(BIN)/mkdocs serve

bench: $(INSTALLED)  ## the figures of docs/research/benchmarks.md; takes 38 GB of disk and a quarter of an hour
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/convert.py

clean:
	rm -rf $(VENV) site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
