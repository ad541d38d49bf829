# Everything runs in .venv at the root, re-installed only when pyproject.toml or the lock changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= demo
unexport PYTHONDONTWRITEBYTECODE  # else torch and transformers would be compiled anew at each import: half a minute

.PHONY: help setup demo test tests quick lint format docs lock bench gpu clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## create .venv and install the locked dependencies

$(STAMP): pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: setup ## run the whole study on the microworld; the report lands in $(OUT)/report/index.html
	$(BIN)/crosstax demo --out $(OUT)

test: setup ## run the tests, the linter and the type checker
	$(MAKE) --no-print-directory --jobs 2 lint tests

tests: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

quick: setup ## ruff, and the tests to run before a commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --quick --exitfirst --numprocesses 2 --dist loadfile

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff rewrite the code in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## build the documentation and the API pages in site/
	$(BIN)/mkdocs build --strict --site-dir site

lock: setup ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-header --no-annotate --quiet --upgrade --output-file requirements.lock

bench: setup ## time the engine against the naive loop on this machine
	$(BIN)/crosstax bench

# Each part has its own limit, so that what is done is written in any case.
gpu: setup ## on a machine with a CUDA GPU: its tests and the bench, at most 20 minutes; the report lands in gpu-report.txt
	@{ date; nvidia-smi; $(BIN)/crosstax doctor; \
	timeout 330 $(BIN)/python -m pytest -m gpu; \
	timeout 300 $(BIN)/crosstax bench --device cuda --lm-config 0.6b --rounds 5; \
	timeout 240 $(BIN)/crosstax bench --device cuda --lm-config 0.6b --rounds 5 --no-compile; \
	timeout 330 $(BIN)/crosstax bench --device cuda --lm-config 1.7b --rounds 3; date; } > gpu-report.txt 2>&1; \
	tail -n 60 gpu-report.txt

clean: ## remove the environment and everything built (worlds in the user cache stay)
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
