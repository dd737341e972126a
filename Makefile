# `make` or `make help` lists what there is. VENV is the environment's folder, PYTHON the interpreter
# that it is made with.

VENV ?= .venv
PYTHON ?= python3
WORKERS ?= logical
PYTEST_ARGS ?=
SOAK_ARGS ?=
SCALE_ARGS ?=
SANITIZE_TESTS ?= tests/unit tests/model tests/transport

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

bin := $(VENV)/bin
export VENV PYTHON

installs := pyproject.toml scripts/setup.sh $(wildcard requirements/*.txt)
cython_sources := $(wildcard src/limiter/*.pyx src/limiter/*.pxd) src/limiter/bounds.py setup.py
python_sources := setup.py src scripts tests $(wildcard examples benchmarks)
cython_lint_sources := $(wildcard src/limiter/*.pyx src/limiter/*.pxd)
pytest = $(bin)/python -m pytest

built_run := $(VENV)/.built-run
built_dev := $(VENV)/.built-dev

##@ Use

.PHONY: help
help: ## lists the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(built_run) ## starts a server and plays a real message trace through it
	$(bin)/python examples/collegemsg/replay.py

##@ Check

.PHONY: test
test: lint pytest ## sets up, lints and passes every test

.PHONY: pytest
pytest: $(built_dev) ## the tests alone; PYTEST_ARGS="tests/unit -k window" selects some
	$(pytest) -n $(WORKERS) --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

.PHONY: lint
lint: $(built_dev) ## ruff, mypy, cython-lint and buf
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy $(python_sources)
	PATH="$(abspath $(bin)):$$PATH" cython-lint $(cython_lint_sources)
	$(bin)/buf lint
	$(bin)/buf format --diff --exit-code

.PHONY: torture
torture: $(built_dev) ## many more random examples, calls and bytes, and 10,000 crashes; takes long
	HYPOTHESIS_PROFILE=torture $(pytest) --timeout 3600 -n $(WORKERS) tests/model
	$(MAKE) histories LIMITER_HISTORIES=1000000
	$(MAKE) crash LIMITER_CRASH_ROUNDS=10000
	$(MAKE) disk LIMITER_POWER_STATES=1000000 LIMITER_SERVER_IO_STEP=1
	$(MAKE) holds-out LIMITER_CALLS=10000000 LIMITER_FUZZ_SECONDS=600

.PHONY: histories
histories: export LIMITER_HISTORIES ?= 5000
histories: $(built_dev) ## LIMITER_HISTORIES (5000) simulated servers, whose disks and clocks fail
	$(pytest) -n 2 tests/simulation/test_histories.py

.PHONY: crash
crash: export LIMITER_CRASH_ROUNDS ?= 200
crash: $(built_dev) ## kills the server LIMITER_CRASH_ROUNDS (200) times under load
	$(pytest) -n 2 tests/crash/test_kill.py

.PHONY: disk
disk: export LIMITER_POWER_STATES ?= 10000
disk: export LIMITER_IO_STEP ?= 1
disk: export LIMITER_SERVER_IO_STEP ?= 25
disk: $(built_dev) ## the store, and whole servers, on disks that lose power, fail and fill up
	$(pytest) -n 2 tests/disk
	$(pytest) -n 2 tests/crash/test_faults.py
	$(pytest) -n 2 tests/crash/test_full.py

.PHONY: soak
soak: $(built_dev) ## days of mixed traffic: memory and disk stay flat; SOAK_ARGS="--days 200 --scale 2"
	$(bin)/python -m tests.soak.run $(SOAK_ARGS)

.PHONY: holds-out
holds-out: export LIMITER_CALLS ?= 1000000
holds-out: export LIMITER_FUZZ_SECONDS ?= 90
holds-out: $(built_dev) ## floods the transport with calls, bad clients and random bytes
	$(pytest) -m torture tests/torture

.PHONY: sanitize
sanitize: $(built_dev) ## tests of what is compiled, under AddressSanitizer and UBSan
	scripts/sanitize.sh build/sanitize -q -n $(WORKERS) --maxprocesses 8 $(SANITIZE_TESTS)

.PHONY: clients
clients: $(built_dev) ## builds the clients in other languages and runs their story
	scripts/client_toolchains.sh build/clients/toolchain
	$(pytest) -m clients tests/clients

.PHONY: conformance
conformance: $(built_dev) ## other people's tests of HTTP/2 and gRPC servers, on the native transport
	scripts/go_toolchain.sh tests/conformance/tools build/clients/toolchain
	$(pytest) -m conformance tests/conformance

.PHONY: bench
bench: $(built_dev) ## the benchmarks, on this machine and this commit
	cd benchmarks && $(abspath $(bin))/asv run --python=same --show-stderr $(BENCH_ARGS)

.PHONY: scale
scale: $(built_dev) ## what many accounts cost; SCALE_ARGS="--only memory --scale 0.1"
	$(bin)/python -m benchmarks.scale $(SCALE_ARGS)

.PHONY: loop-lag
loop-lag: $(built_dev) ## how long the event loop is held, by the kind of work
	$(bin)/python -m benchmarks.loop_lag

.PHONY: fairness
fairness: $(built_dev) ## what one account's flood does to another account's latencies
	$(bin)/python -m benchmarks.fairness

##@ Change

.PHONY: setup
setup: $(built_dev) ## makes the environment for development

.PHONY: build
build: $(built_dev) ## compiles the extension modules

.PHONY: format
format: $(built_dev) ## brings Python and proto files into form
	$(bin)/ruff check --fix .
	$(bin)/ruff format .
	$(bin)/buf format --write

.PHONY: stubs
stubs: $(built_dev) ## generates the stubs of proto/
	$(bin)/python scripts/generate_stubs.py

.PHONY: lock
lock: ## pins the newest versions of what is installed
	scripts/lock.sh $(bin)/uv

.PHONY: clean
clean: ## removes what was built and cached, but not the environment
	rm -rf build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f src/limiter/*.c src/limiter/*.cpp src/limiter/*.html src/limiter/*.so
	rm -f $(VENV)/.built-* $(VENV)/.installed-*
	find src scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The modules lie in the source tree: another environment's `make clean` may have removed them.
missing := $(if $(wildcard src/limiter/*.so),,modules-missing)
.PHONY: modules-missing
modules-missing:

$(built_run): $(installs) $(cython_sources) $(missing)
	@scripts/setup.sh run
	@echo "setup: compiling the extension modules (a minute or two)" >&2
	@$(bin)/python setup.py --quiet build_ext --inplace
	@touch $@

$(built_dev): $(installs) $(cython_sources) $(missing)
	@scripts/setup.sh dev
	@echo "setup: compiling the extension modules (a minute or two)" >&2
	@$(bin)/python setup.py --quiet build_ext --inplace
	@touch $@
