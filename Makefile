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
EXTENSIONS := $(VENV)/.extensions
RUST := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml $(wildcard Cargo.lock)
# Two wheels of others' callbacks, each with a workspace and a lock file of its own.
TEST_EXTENSION := tests/extension
TEMPLATE := examples/rust-callback
EXTENSION_FILES := $(shell find $(TEST_EXTENSION) $(TEMPLATE) -name target -prune -o -type f \
  \( -name '*.rs' -o -name '*.c' -o -name '*.toml' -o -name '*.pyi' -o -name Cargo.lock \) -print)
EXTENSION_TARGET := $(CURDIR)/target/extension
RUST_NEEDED := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# All of the speed rows, or `make bench ROW=NAME`.
ROW ?=
# The tests that only an interpreter with a library of its own can be linked with.
LIBPYTHON = $(shell $(BIN)/python -c "import sysconfig as s, os; d, f = map(s.get_config_var, \
  ('LIBDIR', 'LDLIBRARY')); print(d if s.get_config_var('Py_ENABLE_SHARED') and \
  os.path.exists(os.path.join(d, f)) else '')")
# How many kills `make torture` has come at random.
KILLS ?= 300
# How long `make sanitize` fuzzes.
FUZZ_SECONDS ?= 60
# `make wheel` borrows torch and its like from .venv; `make wheel BORROW=` installs them anew.
BORROW ?= yes
WHEEL_ENV := $(CURDIR)/target/wheel-env
# Other libraries, in an environment of their own; how often each is measured.
PEERS_ENV := $(CURDIR)/target/peers-env
export PASSES ?= 2

.PHONY: help demo test lint dev torture bench bench-core peers wheel package sanitize clean toolchain
.DELETE_ON_ERROR:

help: ## list the targets
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BUILT) ## see a small network learn handwritten digits
	$(BIN)/python examples/digits.py

test: dev ## run the tests of the crates, of the package, of its documentation and of the template
	cargo test --workspace --exclude lumbre-py
	@if [ -n "$(LIBPYTHON)" ]; then set -x; \
	  LD_LIBRARY_PATH="$(LIBPYTHON)" DYLD_LIBRARY_PATH="$(LIBPYTHON)" \
	  cargo test -p lumbre-abi --features pyo3 -- --skip author:: --skip misuse::; \
	else echo "Left out: lumbre-abi's tests with the feature pyo3, as this Python has no libpython."; fi
	CARGO_TARGET_DIR=$(EXTENSION_TARGET) \
	  cargo test --locked --manifest-path $(TEST_EXTENSION)/Cargo.toml --workspace --no-default-features
	CARGO_TARGET_DIR=$(EXTENSION_TARGET) cargo test --locked --manifest-path $(TEMPLATE)/Cargo.toml
	$(BIN)/python -m pytest -n auto
	cd $(TEMPLATE) && $(BIN)/python -m pytest

lint: dev package ## check formatting, lints, arrows, types, the stub, rustdoc, and that the crates can be published
	cargo fmt --all --check
	cargo fmt --check --all --manifest-path $(TEST_EXTENSION)/Cargo.toml
	cargo fmt --check --manifest-path $(TEMPLATE)/Cargo.toml
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p lumbre-abi -p lumbre-abi-macros --features lumbre-abi/pyo3 --all-targets -- -D warnings
	CARGO_TARGET_DIR=$(EXTENSION_TARGET) cargo clippy --locked \
	  --manifest-path $(TEST_EXTENSION)/Cargo.toml --all-targets -- -D warnings
	CARGO_TARGET_DIR=$(EXTENSION_TARGET) cargo clippy --locked --no-default-features \
	  --manifest-path $(TEST_EXTENSION)/Cargo.toml --workspace --all-targets -- -D warnings
	CARGO_TARGET_DIR=$(EXTENSION_TARGET) cargo clippy --locked --all-features \
	  --manifest-path $(TEMPLATE)/Cargo.toml --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p lumbre-core -p lumbre-abi-macros
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps -p lumbre-abi --features pyo3
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy benches/run.py
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml lumbre._core

dev: $(BUILT) $(EXTENSIONS) ## make .venv with everything pinned, and build the Rust core and the tests' wheels into it

torture: dev ## kill fits at random moments and at each of their file operations, and compare the ends
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/torture.py $(KILLS)

bench: dev ## measure every budget on one thread (ROW=NAME: one of them)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python benches/run.py $(ROW)

peers: dev $(PEERS_ENV)/.installed ## measure lumbre beside other libraries, into benches/peers.md (ROW="NAME...": print some)
	$(PEERS_ENV)/bin/python benches/peers/run.py $(ROW)

bench-core: ## measure the Rust core alone
	cargo bench -p lumbre-core

package: | toolchain ## see that the crates can be published, as they stand in git (outside CI: as they lie here)
	@# A warning is a flaw too, and cargo has no flag that says so.
	set -o pipefail; cargo package $(if $(CI),,--allow-dirty) -p lumbre-core -p lumbre-abi-macros -p lumbre-abi 2>&1 \
	  | awk '{ print } /^(warning|error)/ { bad = 1 } END { exit bad }'

wheel: $(EXTENSIONS) | toolchain ## build the sdist and from it the wheel, install that where no Rust is, and use it
	rm -rf dist $(WHEEL_ENV)
	env -u CONDA_PREFIX $(BIN)/maturin build --release --locked --sdist -o dist -i $(BIN)/python
	@for part in rust/core rust/abi rust/abi-macros rust/py python/lumbre Cargo.lock LICENSE-MIT; do \
	  tar -tzf dist/lumbre-*.tar.gz | grep "^[^/]*/$$part" >/dev/null || { \
	  echo "The sdist has no $$part."; exit 1; }; done
	$(BIN)/python -m venv $(if $(BORROW),--without-pip) $(WHEEL_ENV)
ifneq ($(BORROW),)
	@# The wheels themselves are installed as anywhere; torch alone would be gigabytes once more.
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" \
	  > "$$($(WHEEL_ENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
endif
	@# A PATH without cargo, and a folder without lumbre's source.
	cd $(WHEEL_ENV) && export PATH=$(WHEEL_ENV)/bin:/usr/bin:/bin && ! command -v cargo rustc && \
	  python -m pip install $(if $(BORROW),--no-deps --ignore-installed) \
	    $(CURDIR)/dist/lumbre-*.whl $(EXTENSION_TARGET)/wheels/lumbre_test_extension-*.whl && \
	  python -m pip check && python -I $(CURDIR)/tests/smoke.py

sanitize: dev ## Miri, AddressSanitizer, valgrind, a fuzzer and a busy garbage collector: those that are here
	PYTHON=$(BIN)/python FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz/sanitize.sh

clean: ## remove what was built; .venv stays, delete it by hand
	rm -rf target fuzz/target dist python/lumbre/_core.*.so $(BUILT) $(EXTENSIONS) digits-*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

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

# Only what .venv lacks: torch and its like are borrowed, by addsitedir, as lumbre is there by a .pth.
$(PEERS_ENV)/.installed: benches/peers/requirements.lock $(INSTALLED)
	rm -rf $(PEERS_ENV)
	$(BIN)/python -m venv --without-pip $(PEERS_ENV)
	$(BIN)/python -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" \
	  > "$$($(PEERS_ENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
	$(PEERS_ENV)/bin/python -m pip install $(if $(CI),--quiet) --no-deps -r benches/peers/requirements.lock
	@touch $@

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

# What the tests load beside lumbre: the wheel of callbacks, the same ABI without pyo3, the first
# layout in C; and the template, installed as whoever copies it would have it.
$(EXTENSIONS): $(INSTALLED) $(RUST) $(EXTENSION_FILES) | toolchain
	rm -rf $(EXTENSION_TARGET)/wheels
	for crate in $(TEST_EXTENSION) $(TEMPLATE); do \
	  env -u CONDA_PREFIX CARGO_TARGET_DIR=$(EXTENSION_TARGET) $(BIN)/maturin build --release --locked \
	    -m $$crate/Cargo.toml -i $(BIN)/python -o $(EXTENSION_TARGET)/wheels || exit 1; done
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall $(EXTENSION_TARGET)/wheels/*.whl
	CARGO_TARGET_DIR=$(EXTENSION_TARGET) cargo build --release --locked \
	  --manifest-path $(TEST_EXTENSION)/Cargo.toml -p lumbre-test-plain
	$(CC) -std=c11 -shared -fPIC -O1 -Wall -Wextra -Werror \
	  -o $(EXTENSION_TARGET)/first_layout.so $(TEST_EXTENSION)/first_layout.c
	@touch $@
