# The whole developer interface: `make help` lists it. All it needs is Python >= 3.10.

PYTHON ?= python3
# Where the environment is, so that one may be shared or thrown away: `make test VENV=/tmp/other`.
VENV ?= .venv
# A slow test may take several gigabytes: `make test-slow WORKERS=1` where memory is short.
WORKERS ?= 2
# More for pytest: `make test ARGS="tests/registry -x"`.
ARGS ?=

PLUGINS := $(patsubst %/pyproject.toml,%,$(sort $(wildcard plugins/*/pyproject.toml)))
INSTALLED := $(VENV)/.installed
OLDEST_TIMM := $(VENV)/oldest-timm
BIN := $(VENV)/bin
# The workers share the cores; a thread pool in each of them would only get in the others' way.
# Each begins with tests that follow one another, so fixtures of a module are made once, and one
# that has nothing left takes from the others.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-oldest-timm soak inputs map-proofs comparisons map-pictures mutants lint coverage clean

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## Embed and classify real photographs
	$(BIN)/python tools/demo.py

test: $(INSTALLED)  ## Run the default tests
	$(PYTEST) $(ARGS)

test-slow: $(INSTALLED)  ## Run the tests that take longer, or gigabytes
	$(PYTEST) -m "slow and not gpu" $(ARGS)

# The environment's torch, with another timm before it on the path.
test-oldest-timm: $(OLDEST_TIMM)  ## Run timm's default tests on the oldest timm that is supported
	PYTHONPATH=$(OLDEST_TIMM) $(PYTEST) plugins/headstrip-timm $(ARGS)

# Two minutes on two cores; what it measured is committed.
soak: $(INSTALLED)  ## Embed a million images, and draw the memory that it took
	$(BIN)/python tools/soak_embed.py --markdown docs/reference/memory.md \
		--svg docs/reference/memory.svg

# Half an hour on two cores; what it measured is committed.
inputs: $(INSTALLED)  ## Compare encoders of other channels and sizes with their networks
	$(BIN)/python tools/input_proofs.py --write --workers $(WORKERS) $(ARGS)

# Half an hour on two cores; what it measured is committed.
map-proofs: $(INSTALLED)  ## Prove the feature maps of all architectures
	$(BIN)/python tools/map_proofs.py --write --workers $(WORKERS) $(ARGS)

# Ten minutes on one core; what it found is committed.
comparisons: $(INSTALLED)  ## Compare a backbone with itself 200 times, and count the winners
	$(BIN)/python tools/compare_with_itself.py --write

map-pictures: $(INSTALLED)  ## Write the pictures of the guide to feature maps
	$(BIN)/python tools/map_pictures.py

# An hour on one idle core. `make mutants ARGS="registry plan"` runs some areas.
mutants: $(INSTALLED)  ## Change the code in small ways, and count the changes that tests notice
	$(BIN)/python tools/mutants.py $(ARGS)

lint: $(INSTALLED)  ## Check style, format, prose and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python tools/prose.py all
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

coverage: $(INSTALLED)  ## Run the default tests, child processes included, and report what they miss
	$(PYTEST) --cov $(ARGS)

clean:  ## Remove what was built and cached, the environment aside
	rm -rf .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist htmlcov
	find src tests tools plugins -name __pycache__ -type d -prune -exec rm -rf {} +

$(OLDEST_TIMM): plugins/headstrip-timm/pyproject.toml $(INSTALLED)
	@rm -rf $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ \
		timm==$(shell sed -n 's/.*"timm>=\([0-9.]*\)".*/\1/p' plugins/headstrip-timm/pyproject.toml)
	@touch $@

# Core and plugins in one call: the plugins require headstrip, and must get this one.
$(INSTALLED): pyproject.toml $(PLUGINS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "headstrip needs Python >= 3.10")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing headstrip and its plugins into $(VENV). PyTorch is several GB: this takes minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-e ".[dev]" $(PLUGINS:%=-e ./%)
	@touch $@
