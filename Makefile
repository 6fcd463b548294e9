# The front door: `make` lists what there is. Works with GNU make 3.81, which macOS ships.

PYTHON ?=
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin

# Sets $python to the first of the candidates that is new enough and can make an environment,
# or says in one line what is missing.
define FIND_PYTHON
	why='Python 3.11 or newer is needed, and no python3 was found.'; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 ''; do \
	  if [ -z "$$python" ]; then echo "$$why" >&2; exit 1; fi; \
	  version=$$("$$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue; \
	  if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    why="Python 3.11 or newer is needed, and $$python is $$version."; continue; fi; \
	  if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then break; fi; \
	  why="$$python has no venv module (on Debian and Ubuntu: apt install python3-venv)."; \
	done
endef

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(VENV)/.installed ## Make the environment (PYTHON=… and VENV=… to choose)

# Made anew whenever the lock changes, so that nothing unlocked stays behind.
$(VENV)/.locked: requirements.lock
	@$(FIND_PYTHON); \
	echo "Python $$version: making $(VENV)"; \
	"$$python" -m venv --clear "$(VENV)" && \
	"$(BIN)/python" -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock && \
	touch "$@"

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@"$(BIN)/python" -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps -e . && \
	touch "$@"

.PHONY: demo
demo: setup ## Run everything here: embedded broker, bridge on 127.0.0.1:8000, sample services
	@exec $(BIN)/natsbridge dev $(ARGS)

# Minutes each, with processes that take all they can get: they have the cores to themselves.
EDGE = tests/faults/test_greedy_clients.py tests/faults/test_hostile_addresses.py \
	tests/faults/test_rolling_deploy.py

.PHONY: test
test: setup ## Run the tests but `make edge` (ARGS='tests/unit -k name')
	@$(BIN)/pytest -n auto --dist worksteal $(addprefix --ignore=,$(EDGE)) $(ARGS)

.PHONY: edge
edge: setup ## Hostile addresses, greedy clients, a rolling deploy behind nginx and HAProxy
	@$(BIN)/pytest $(EDGE) $(ARGS)

# The WebSocket libraries that tests connect with live in an environment of their own. What this
# machine can't install or build is left out, and said.
$(VENV)-clients/.installed: tests/libraries/requirements.txt
	@$(FIND_PYTHON); \
	"$$python" -m venv --clear "$(VENV)-clients" && \
	"$(VENV)-clients/bin/python" -m pip install --disable-pip-version-check --quiet -r tests/libraries/requirements.txt && \
	touch "$@"

.PHONY: clients
clients: setup $(VENV)-clients/.installed ## Connect with WebSocket libraries of Python, Node and C (CLOSE_REPETITIONS=50)
	@names=websockets,aiohttp,websocket-client,picows; \
	if ! command -v npm >/dev/null; then echo 'left out: ws and undici, since there is no npm'; \
	else npm ci --prefix tests/node --no-audit --no-fund --loglevel=error || exit; names=$$names,ws,undici; fi; \
	if ! $(CC) -O1 -o "$(VENV)-clients/bin/libwebsockets-client" tests/libraries/libwebsockets_client.c -lwebsockets -lpthread 2>/dev/null; then \
	echo 'left out: libwebsockets, which takes a C compiler and libwebsockets-dev'; \
	else names=$$names,libwebsockets; fi; \
	CLIENT_ENVIRONMENT="$(abspath $(VENV))-clients" CLIENT_LIBRARIES=$$names CLOSE_REPETITIONS=$${CLOSE_REPETITIONS:-5} \
	  $(BIN)/pytest -n auto --dist worksteal tests/contract/test_client_libraries.py $(ARGS)

.PHONY: faults
faults: setup ## Break things again and again, and count every event (ARGS='-k broker')
	@FAULT_REPETITIONS=$${FAULT_REPETITIONS:-3} FAULT_SCALE=$${FAULT_SCALE:-3} \
	  FAULT_CLIENTS=$${FAULT_CLIENTS:-1000} HOSTILE_SECONDS=$${HOSTILE_SECONDS:-60} $(BIN)/pytest tests/faults --timeout 900 $(ARGS)

.PHONY: soak
soak: setup ## Half an hour of clients that come and go, then look for what is left of them
	@SOAK_SECONDS=$${SOAK_SECONDS:-1800} $(BIN)/pytest tests/faults/test_soak.py $(ARGS)

.PHONY: lint
lint: setup ## Check style and format
	@$(BIN)/ruff check && $(BIN)/ruff format --check

.PHONY: fmt
fmt: setup ## Mend style and format
	@$(BIN)/ruff check --fix && $(BIN)/ruff format

.PHONY: types
types: setup ## Check types
	@$(BIN)/mypy

# The peers of the benchmark and its charts live in an environment of their own.
$(VENV)-bench/.installed: benchmarks/requirements.txt
	@$(FIND_PYTHON); \
	"$$python" -m venv --clear "$(VENV)-bench" && \
	"$(VENV)-bench/bin/python" -m pip install --disable-pip-version-check --quiet -r benchmarks/requirements.txt && \
	touch "$@"

.PHONY: bench
bench: setup $(VENV)-bench/.installed ## Measure beside the peers (ARGS='--quick --scenario burst')
	@if command -v npm >/dev/null && [ ! -d benchmarks/node/node_modules ]; then \
	  npm ci --prefix benchmarks/node --no-audit --no-fund --loglevel=error; fi
	@BENCH_PYTHON="$(abspath $(VENV))-bench/bin/python" $(BIN)/python -m benchmarks $(ARGS)

.PHONY: check-compose
check-compose: setup ## Build the image, run the Compose stack and receive an event through it
	@deploy/check-compose

# The pins in the lock files are kept where pyproject.toml still allows them.
LOCK = pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --quiet $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: ## Write the lock files from pyproject.toml (UPGRADE=1 for the newest versions)
	@$(FIND_PYTHON); \
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	"$$python" -m venv "$$dir" && \
	"$$dir/bin/python" -m pip install --disable-pip-version-check --quiet uv && \
	"$$dir/bin/uv" $(LOCK) --extra server --extra dev -o requirements.lock && \
	"$$dir/bin/uv" $(LOCK) --extra server -c requirements.lock -o requirements-bridge.lock && \
	"$$dir/bin/uv" $(subst pyproject.toml,--group build,$(LOCK)) -c requirements.lock -o requirements-build.lock

.PHONY: clean
clean: ## Remove environments, builds and caches
	rm -rf "$(VENV)" .venv .venv-bench .venv-clients .venv312 .venv313 .venv314 build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
