# neuronetz-gateway. `make` lists the targets.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ONCE ?=
PYTEST_ARGS ?=
# Each worker starts its own PostgreSQL and Redis. TEST_REDIS_URL names one server, which workers cannot share. Many tests
# wait for a process or a timeout, so two workers per core and one more keep the cores busy; see `_begins_at_the_end`.
PYTEST_WORKERS ?= $(if $(TEST_REDIS_URL),0,$(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 3 ] && n=3; echo $$((2 * n + 1))))
FUZZ_REQUESTS ?= 100000
FUZZ_SEED ?= 1
SOAK_SECONDS ?= 1200
SOAK_SEED ?= 1
STREAMS ?= 5000
BENCH_ARGS ?=
BENCH_AGAINST ?=
BENCH_AGAINST_SETTINGS ?=
BENCH_PEERS ?=
FAIRNESS_ARGS ?=
MEMORY_ARGS ?=
CLIENTS_ARGS ?=
FUZZ_SECONDS ?= 60
GATEWAY_IMAGE ?= neuronetz-gateway:local
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' gateway/__init__.py)
UV_VERSION := 0.13.8

.DEFAULT_GOAL := help
.PHONY: help demo test lint types fuzz fuzz-stack soak alerts real-ollama clients streams bench fairness memory pictures dashboard accessibility docs image sbom compose-test lock wasm clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## run the real stack on loopback with a simulated Ollama; ONCE=1 stops after the proof
	@$(BIN)/neuronetz-gateway demo $(if $(ONCE),--once)

test: $(VENV)/.dev ## run every test: unit, property, contract and end-to-end
	@$(BIN)/python -m pytest -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

fuzz-stack: $(VENV)/.dev ## send unusual requests to the running stack, with disconnecting callers and failing backends; FUZZ_REQUESTS=100000 FUZZ_SEED=1
	@FUZZ_REQUESTS=$(FUZZ_REQUESTS) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest -q -s tests/e2e/test_fuzz_stack.py

soak: $(VENV)/.dev ## run mixed load and a full queue while processes are killed and stores fail, then check the ledger; SOAK_SECONDS=1200 SOAK_SEED=1
	@SOAK_SECONDS=$(SOAK_SECONDS) SOAK_SEED=$(SOAK_SEED) $(BIN)/python -m pytest -q -s tests/e2e/test_soak.py tests/e2e/test_queue_soak.py

real-ollama: $(VENV)/.dev ## compare an Ollama with its recordings, the simulator and the ledger; OLLAMA=PATH MODEL=FILE.gguf EMBEDDING_MODEL=FILE.gguf
	@$(BIN)/python -m tests.real_ollama $(if $(OLLAMA),--ollama '$(OLLAMA)') $(if $(MODEL),--model '$(MODEL)') $(if $(EMBEDDING_MODEL),--embedding-model '$(EMBEDDING_MODEL)')

alerts: $(VENV)/.dev ## drive each fault on a running stack and check that exactly its alert fires; needs promtool
	@RECORD_ALERTS=1 $(BIN)/python -m pytest -q -s tests/e2e/test_alerts.py

clients: $(VENV)/.dev build/clients/.done ## run published clients and coding agents against the gateway; CLIENTS_ARGS='--only Codex --write docs/clients.md'
	@$(BIN)/python -m tests.clients $(CLIENTS_ARGS)

streams: $(VENV)/.dev ## open many streams, break all of them off at once, check the ledger and measure the memory per stream; STREAMS=5000
	@STREAMS=$(STREAMS) $(BIN)/python -m pytest -q -s tests/e2e/test_streams.py

lint: $(VENV)/.dev ## check style, import rules and the English of comments, messages and pages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.prose

types: $(VENV)/.dev ## check the types with mypy --strict
	@$(BIN)/mypy

fuzz: $(VENV)/.dev ## search for inputs that break a guarantee of the readers, the decoders and the gRPC server; FUZZ_SECONDS=60
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

bench: $(VENV)/.runtime ## measure the gateway next to a plain Envoy and other gateways; BENCH_AGAINST=CHECKOUT BENCH_PEERS=1 BENCH_ARGS='--quick --json'
	@BENCH_AGAINST='$(BENCH_AGAINST)' BENCH_AGAINST_SETTINGS='$(BENCH_AGAINST_SETTINGS)' BENCH_PEERS='$(BENCH_PEERS)' $(BIN)/python -m bench $(BENCH_ARGS)

memory: $(VENV)/.runtime ## measure the memory of each process over 200,000 requests and with 2,000 idle streams; MEMORY_ARGS=--quick or --docs
	@$(BIN)/python -m bench.memory $(MEMORY_ARGS)

fairness: $(VENV)/.runtime ## measure how the queue shares slots, for 20 minutes; FAIRNESS_ARGS='--quick', '--only shares --seconds 60' or --docs
	@$(BIN)/python -m bench.fairness $(FAIRNESS_ARGS)

pictures: $(VENV)/.dev docs ## take the pictures of the documentation from the running product; needs chromium and chromedriver
	@$(BIN)/python -m tools.pictures docs/pictures site

dashboard: $(VENV)/.dev ## draw the Grafana dashboard from a running gateway; needs prometheus on the PATH, or PROMETHEUS=PATH
	@PROMETHEUS='$(PROMETHEUS)' $(BIN)/python -m tools.dashboard docs/pictures/dashboard.svg

accessibility: $(VENV)/.dev build/accessibility/.done docs ## check the playground and the documentation with axe-core; needs npm, chromium and chromedriver
	@$(BIN)/python -m tools.accessibility build/accessibility/node_modules/axe-core/axe.min.js site

docs: build/docs/.done ## build the documentation site in site/
	@NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --quiet --site-dir site && echo "site/index.html"

image: ## build the container image of the services, neuronetz-gateway:local; BASE_IMAGE=… GATEWAY_IMAGE=…
	@docker build $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) -t $(GATEWAY_IMAGE) .

sbom: $(VENV)/.runtime ## write the bill of materials of the image, CycloneDX JSON, to build/sbom.cdx.json
	@mkdir -p build && $(BIN)/python -m ops.compose.sbom requirements-image.lock >build/sbom.cdx.json && echo build/sbom.cdx.json

compose-test: $(VENV)/.dev ## test compose.yaml on the local Docker, as a separate project that is removed afterwards
	@$(BIN)/python -m pytest tests/compose $(PYTEST_ARGS)

UV := build/lock/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --no-header
DOCS_EXTRA := import tomllib; \
  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")
BUILD_EXTRA := $(subst "docs","build",$(DOCS_EXTRA))

lock: ## pin every dependency again, with hashes and without index addresses
	@test -x $(UV) || { $(PYTHON) -m venv build/lock && build/lock/bin/pip install -q uv==$(UV_VERSION); }
	@$(COMPILE) --extra build --extra embedded pyproject.toml -o requirements.lock
	@$(COMPILE) --extra build --extra embedded --extra dev pyproject.toml -o requirements-dev.lock
	@$(PYTHON) -c '$(DOCS_EXTRA)' | $(COMPILE) - -o requirements-docs.lock
	@$(COMPILE) --constraint requirements.lock pyproject.toml -o requirements-image.lock
	@$(PYTHON) -c '$(BUILD_EXTRA)' | $(COMPILE) --constraint requirements.lock - -o requirements-build.lock
	@$(COMPILE) tests/clients/requirements.in -o tests/clients/requirements.lock
	@test ! -x $(NPM) || (cd tests/clients/javascript && PATH=$(CURDIR)/build/clients/venv/bin:$$PATH npm install --package-lock-only \
	  --omit-lockfile-registry-resolved --no-audit --no-fund --silent)
	@for peer in fastapi litellm; do $(COMPILE) bench/peers/$$peer.in -o bench/peers/$$peer.lock || exit 1; done

wasm: $(VENV)/.dev ## assemble envoy/hold_response.wasm from its source
	@$(BIN)/python -m ops.data_plane.hold_filter

clean: ## remove everything that the targets created, except the state directories of `up` and `demo`
	@rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

build/accessibility/.done: tools/accessibility/package.json tools/accessibility/package-lock.json
	@mkdir -p build/accessibility && cp $^ build/accessibility/
	@cd build/accessibility && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

build/docs/.done: requirements-docs.lock
	@test -x build/docs/bin/python || $(PYTHON) -m venv build/docs
	@build/docs/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements-docs.lock
	@touch $@

# Node.js comes from a wheel, so npm is not needed on the machine. The packages take 2 GB. `npm ci` refuses a lock without the
# optional packages of other platforms, which not every registry has; `npm install` checks the same hashes.
NPM := build/clients/venv/bin/npm
build/clients/.done: tests/clients/requirements.lock tests/clients/javascript/package-lock.json
	@test -x build/clients/venv/bin/python || $(PYTHON) -m venv build/clients/venv
	@echo "installing the clients …"
	@build/clients/venv/bin/pip install -q --disable-pip-version-check --require-hashes -r tests/clients/requirements.lock
	@mkdir -p build/clients/javascript
	@cp tests/clients/javascript/package.json tests/clients/javascript/package-lock.json build/clients/javascript
	@cd build/clients/javascript && PATH=$(CURDIR)/build/clients/venv/bin:$$PATH npm install --no-save --no-audit \
	  --no-fund --loglevel=error
	@touch $@

# A virtual environment with exactly the pinned packages. It is updated when the pins or the metadata of the project change. The
# source is installed as a link, so that an edit needs no new installation.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "the venv module of $(PYTHON) is missing; on Debian: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages of $(1) …"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r $(1)
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
endef

$(VENV)/.runtime: requirements.lock pyproject.toml
	$(call install,requirements.lock)

$(VENV)/.dev: requirements-dev.lock pyproject.toml
	$(call install,requirements-dev.lock)
	@touch $(VENV)/.runtime
