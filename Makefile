# The interpreter that makes the environment: any Python >=3.11, as in `make test PYTHON=python3.12`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCHMARKS := accuracy calibration calibration_extended campaign closure compression counts dense flux_points fold forecast joint_crab light_curve likelihood limits off_runs on_off outside paper_2401_13876 peers samplers scale scaling simulate systematics targets ts_map
SOURCES := gammajax gammajax_command.py $(wildcard tests benchmarks tools notebooks)

.PHONY: demo test slow oldest lint docs notebooks site package bench gpu clean

demo: $(VENV)/.installed
	$(BIN)/gammajax run galactic-centre --out results/galactic-centre --overwrite

# Two worker processes; `make test WORKERS=8` on a larger machine. `make slow` runs the tests that take longest.
WORKERS ?= 2
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

# These and the examples without checks of the types of every call, which `make test` makes: a fifth of the time.
slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) -m slow -o addopts="-q --dist=loadfile --no-loadscope-reorder"

# The oldest versions that pyproject.toml allows, in an environment of their own.
oldest:
	$(PYTHON) -m venv --clear $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet uv
	$(VENV)-oldest/bin/uv pip install --quiet --compile-bytecode --python $(VENV)-oldest/bin/python --resolution lowest-direct -e '.[dev]'
	$(VENV)-oldest/bin/python -m pytest -n $(WORKERS)

lint: $(VENV)/.installed
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

# The examples in docstrings, in README.md and in docs/*.md are run as tests; a path in tests brings their conftest.py.
docs: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) -o addopts="-q --dist=worksteal" --doctest-modules --doctest-glob='*.md' \
		gammajax README.md $(wildcard docs) tests/run_notebooks.py::test_all_are_here

# The notebooks with small numbers.
notebooks: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) -o addopts="-q --dist=worksteal" tests/run_notebooks.py

# Pages of docs and of the docstrings in build/site; a warning is an error. Figures are made by the examples of the pages.
site: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Wheel and source distribution in dist, installed and run in an empty environment.
package: $(VENV)/.installed
	$(BIN)/python tools/check_package.py

bench: $(VENV)/.installed
	set -e; for benchmark in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$benchmark; done

# Ten minutes on the accelerator that JAX finds; on a CPU with a hundredth of the sizes. Elsewhere: docs/cluster.md.
gpu: $(VENV)/.installed
	$(BIN)/python -m benchmarks.accelerator

clean:
	rm -rf $(VENV) $(VENV)-oldest results build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find gammajax $(wildcard tests benchmarks tools) -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than pyproject.toml when the environment is up to date.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@
