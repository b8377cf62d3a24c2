# The commands of this repository. `make help` lists them; everything runs inside .venv, which `make setup` makes.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
PIP := $(BIN)/pip --disable-pip-version-check
# Processes that the default test suite is divided among.
WORKERS ?= 2

.PHONY: help setup demo test test-slow test-churn fuzz test-books test-native lint type protos bench bench-kernels bench-signing bench-placement bench-trust bench-scaling adversaries innocents clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch comes first and alone: any other version pulls gigabytes of what no CPU needs. The native kernels are built by the
# install: without it, newer Python would pass an older library over and be slow.
$(STAMP): pyproject.toml setup.py $(wildcard kernels/native/*.c kernels/native/*.h)
	@echo "== making $(VENV) and installing what Folkmoot needs (a few hundred MB the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --progress-bar on "torch==2.13.0"
	$(PIP) install --progress-bar on -e .
	@touch $@

$(DEV_STAMP): $(STAMP)
	@echo "== installing what tests and checks need"
	$(PIP) install --progress-bar on -e '.[dev]'
	@touch $@

setup: $(DEV_STAMP)  ## make the virtual environment and install everything, development tools included

demo: $(STAMP)  ## start a coordinator and three nodes on this machine, ask them a question, show what happened
	@$(BIN)/folkmoot demo

# A file goes to one worker as a whole, so that what its tests share is made once; in the order of the tree, so that none of
# the files with few but long tests comes last. Tests start hundreds of processes: what they import is compiled once.
test: $(DEV_STAMP)  ## run the default test suite, by as many processes at once as WORKERS says: 2
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(DEV_STAMP)  ## run the tests that take minutes each
	$(BIN)/pytest -m slow --timeout 1800

test-churn: $(DEV_STAMP)  ## twelve nodes join, leave, are killed and come back under load for five minutes
	$(BIN)/pytest -m churn -s tests/network/test_churn.py

FUZZ_SECONDS ?= 600

fuzz: $(DEV_STAMP)  ## parsers of what comes from outside, for FUZZ_SECONDS (600), and every bit of every signed file
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/pytest -m fuzz -s --timeout 0 tests/trust

test-books: $(DEV_STAMP)  ## kill a coordinator and a keeper of books 200 times each, with SQLite and with PostgreSQL, and balance the books
	$(BIN)/pytest -m books -q

SANITIZED := -std=gnu11 -O1 -g -Wall -Wextra -Werror -fno-sanitize-recover=all -Ikernels/native -DFOLKMOOT_WORTH_BYTES=1024
NATIVE_SOURCES := tests/kernels/native_driver.c $(wildcard kernels/native/*.c)

test-native: $(NATIVE_SOURCES) $(wildcard kernels/native/*.h)  ## run the native kernels under the address, undefined-behaviour and thread sanitizers
	@mkdir -p build/native
	$(CC) $(SANITIZED) -fsanitize=address,undefined -o build/native/driver-address $(NATIVE_SOURCES) -lpthread -lm
	build/native/driver-address
	$(CC) $(SANITIZED) -fsanitize=thread -o build/native/driver-thread $(NATIVE_SOURCES) -lpthread -lm
	TSAN_OPTIONS=die_after_fork=0 build/native/driver-thread

lint: $(DEV_STAMP)  ## check style, file lengths, room borders, and that generated code is current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -q tests/test_house.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python protos/generate.py --check

# mypy sees the root as the package `folkmoot` through one link.
type: $(DEV_STAMP)  ## check types with mypy
	@mkdir -p build/typing && ln -sfn "$(CURDIR)" build/typing/folkmoot
	MYPYPATH=build/typing $(BIN)/mypy -p folkmoot

protos: $(DEV_STAMP)  ## generate the modules of the wire contract again
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python protos/generate.py

bench: $(STAMP)  ## measure transformers, LocalExperts and a network of two nodes on the model moe-4l, in one run
	$(BIN)/folkmoot-bench moe-4l

bench-kernels: $(STAMP)  ## measure the expert kernels against memory, F.linear and grouped_mm
	$(BIN)/folkmoot-bench kernels

bench-signing: $(STAMP)  ## measure what it costs to sign results, each by itself or together
	$(BIN)/folkmoot-bench signing

bench-placement: $(STAMP)  ## plan a thousand nodes for DeepSeek-V3, and measure rows and loads; writes build/bench/placement.json
	$(BIN)/folkmoot-bench placement

bench-trust: $(STAMP)  ## what signatures and audits cost a network with 16 streams; writes build/bench/trust-cost.json
	$(BIN)/folkmoot-bench trust-cost

bench-scaling: $(STAMP)  ## aggregate tokens a second with 2, 4 and 8 nodes of a fixed speed; writes build/bench/scaling.json
	$(BIN)/folkmoot-bench scaling

adversaries: $(STAMP)  ## measure how soon each kind of cheating node is caught; writes build/adversaries.json
	$(BIN)/folkmoot-bench adversaries

innocents: $(STAMP)  ## audit 100,000 honest rows of every format; writes build/innocents.json
	$(BIN)/folkmoot-bench innocents

clean:  ## remove what was built; the virtual environment and downloaded models stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
