# The lanes of the project; CI calls the same ones. `make` alone lists them.
# Nothing has to be there beforehand but Python, a Rust toolchain and a network.

# Named, so that make 3.81 (macOS) looks commands up in the PATH that is exported below.
SHELL := bash
PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin

# rustup puts cargo here; a shell that was open when it did does not know yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
# Every cargo call sees the interpreter that maturin sees, so that none builds pyo3 anew.
export PYO3_PYTHON := $(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built
RUST := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml $(wildcard Cargo.lock)
RUST_NEEDED := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# All of the speed rows, or `make bench ROW=NAME`.
ROW ?=

.PHONY: help demo test lint dev bench bench-core clean toolchain
.DELETE_ON_ERROR:

help: ## list the targets
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: dev ## see a small network learn handwritten digits
	$(BIN)/python examples/digits.py

test: dev ## run the tests of the Rust core, of the package and of its documentation
	cargo test --workspace --exclude lumbre-py
	$(BIN)/python -m pytest -n auto

lint: dev ## check formatting, lints, types, the stub and the core's documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p lumbre-core
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benches/run.py
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml lumbre._core

dev: $(BUILT) ## make .venv with everything pinned, and build the Rust core into it

bench: dev ## measure every budget on one thread (ROW=NAME: one of them)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python benches/run.py $(ROW)

bench-core: ## measure the Rust core alone
	cargo bench -p lumbre-core

clean: ## remove what was built; .venv stays, delete it by hand
	rm -rf target python/lumbre/_core.*.so $(BUILT) digits-*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Looked at first: nobody should wait for torch to be told that the compiler is missing.
toolchain:
	@command -v cargo >/dev/null || { \
	  echo "lumbre's core is Rust, and there is no cargo here. Install it, then make again:"; \
	  echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"; exit 1; }
	@rustc --version | awk -v need=$(RUST_NEEDED) '{ split($$2, has, "."); split(need, min, "."); \
	  exit has[1] * 1000 + has[2] < min[1] * 1000 + min[2] }' || { \
	  echo "lumbre needs Rust $(RUST_NEEDED) or newer; here is $$(rustc --version). Newer: rustup update stable"; \
	  exit 1; }

# The interpreter matters once: later on the environment has its own.
$(BIN)/python: | toolchain
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "lumbre needs Python 3.11 to 3.14, and there is no $(PYTHON) here."; \
	  echo "Get one from https://www.python.org/downloads, then: PYTHON=python3.12 make ..."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || { \
	  echo "lumbre needs Python 3.11 to 3.14; $(PYTHON) is $$("$(PYTHON)" --version 2>&1)."; \
	  echo "Name another: PYTHON=python3.12 make ... (https://www.python.org/downloads)"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# Order-only, as the date of an interpreter says nothing about what is installed beside it.
$(INSTALLED): requirements.lock | $(BIN)/python
	@echo "Installing what requirements.lock pins; PyTorch is large, the first time takes minutes."
	$(BIN)/python -m pip install $(if $(CI),--quiet) --no-deps -r requirements.lock
	$(BIN)/python -m pip check
	@touch $@

# env -u: beside an active conda environment maturin would not know which one is meant.
$(BUILT): $(INSTALLED) $(RUST) pyproject.toml | toolchain
	env -u CONDA_PREFIX VIRTUAL_ENV=$(VENV) PIP_QUIET=1 $(BIN)/maturin develop --release
	@touch $@
