# `make demo` and `make test` need nothing but a Python of 3.11 or later: the first of them fills .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test versions lint format clean

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Run the demonstration; results in runs/demo.
	$(BIN)/ghn-eval demo --out runs/demo

test: lint ## Lint, check types, run the tests.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

versions: ## Run the tests with the oldest and with the newest versions that pyproject.toml admits.
	for age in oldest newest; do \
		$(PYTHON) -m venv .venv-$$age && \
		$(PYTHON) tests/versions.py $$age > .venv-$$age/constraints.txt && \
		.venv-$$age/bin/python -m pip install --quiet --upgrade -c .venv-$$age/constraints.txt -e ".[test]" && \
		.venv-$$age/bin/python -m pip list | grep -E "^(jax|jaxlib|flax|optax|orbax-checkpoint|chex|numpy|scipy) " && \
		.venv-$$age/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -W ignore::DeprecationWarning || exit 1; \
	done

lint: $(INSTALLED) ## Lint, check formatting and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED) ## Format the code, sort imports.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove the environment, caches and builds; runs/ is kept.
	rm -rf $(VENV) .venv-oldest .venv-newest build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@
