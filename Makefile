# Everything runs in .venv, made on first use from constraints.txt. `make PYTHON=python3.12 test` picks another Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test lint embedded contract bench bench-gate clean

demo: $(STAMP)
	$(BIN)/sarsteer demo

test: $(STAMP) lint
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

embedded: $(STAMP)
	$(BIN)/python -u -m training.embedded.build
	$(BIN)/python -u -m training.embedded.contract

contract: $(STAMP)
	$(BIN)/python -u -m training.embedded.contract

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py --rounds 9
	$(BIN)/python -m benchmarks.gate_speed --rounds 9

bench-gate: $(STAMP)
	$(BIN)/python -m benchmarks.gate

# torch comes first and pinned: an unpinned one would bring gigabytes of CUDA
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-report.html
