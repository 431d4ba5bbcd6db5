PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-full check bench bench-export bench-engines format train-demo clean
.DEFAULT_GOAL := demo

demo: $(VENV)/installed  ## export, build and generate the demo pictures
	$(BIN)/python -m latentrt.benchmarks.demo

test: $(VENV)/installed  ## the whole test suite, in two processes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-full: $(VENV)/installed  ## the tests that need 9 GB of memory, 20 GB of disk and half an hour
	$(BIN)/python -m pytest -m full

check: $(VENV)/installed  ## lint, types, and the figures of the README
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/python -m latentrt.benchmarks.readme --check

bench: $(VENV)/installed  ## measure, and write benchmarks/results/
	$(BIN)/python -m latentrt.benchmarks.demo_model && $(BIN)/python -m latentrt.benchmarks.overhead && $(BIN)/python -m latentrt.benchmarks.sampler_parity && $(BIN)/python -m latentrt.benchmarks.footprint && $(BIN)/python -m latentrt.benchmarks.fidelity

bench-export: $(VENV)/installed  ## measure exports of SD 1.5's true size, form by form: 20 GB of disk, half an hour
	$(BIN)/python -m latentrt.benchmarks.export_full

bench-engines: $(VENV)/installed  ## time the CPU engines beside PyTorch at SD 1.5's true size: 15 GB of disk, half an hour
	$(BIN)/python -m latentrt.benchmarks.engines

format: $(VENV)/installed  ## format the code and the README's tables
	$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/python -m latentrt.benchmarks.readme

train-demo: $(VENV)/installed  ## train the demo model again, from nothing (resumes in build/demo-training)
	$(BIN)/python -m latentrt.export.demo

clean:
	rm -rf $(VENV) build/demo-bundle dist  # build/demo-training stays: it may be hours of work

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@
