# `make demo` and `make test` are all a newcomer needs; both install into .venv first.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# The CPU build: another version would download gigabytes of CUDA on a machine without a GPU.
TORCH ?= torch==2.13.0

.PHONY: demo test ray lint install feast clean

demo: $(VENV)/installed
	$(BIN)/captionary run configs/demo.yaml

test: lint
	OMP_NUM_THREADS=1 CAPTIONARY_REQUIRE=torchrec CAPTIONARY_FEAST_PYTHON=$(wildcard $(CURDIR)/$(VENV)-feast/bin/python) $(BIN)/python -m pytest -n 2

# Tests on a local Ray cluster, which starts slowly and wants the machine to itself.
ray: $(VENV)/installed
	CAPTIONARY_RAY=1 CAPTIONARY_REQUIRE=ray,torchrec OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
		tests/understand/test_engine_ray.py tests/online/test_replicas.py tests/rank/test_distributed_ray.py

lint: $(VENV)/installed
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/mypy

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,train]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH) tensordict pyre-extensions torchmetrics==1.0.3
	touch $@

# Feast pins older versions of what we use, so its tests have an environment of their own.
feast: $(VENV)-feast/installed

$(VENV)-feast/installed:
	$(PYTHON) -m venv $(VENV)-feast
	$(VENV)-feast/bin/pip install --quiet --disable-pip-version-check feast==0.67.0
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-feast runs build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
