#!/usr/bin/env bash
# Five looks at the unsafe code, most of all at that of the callback ABI, for `make sanitize`. Each
# says what it lacks where it cannot run; the last lines say which ran. Fails if one that ran found
# something, or none ran.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

PYTHON=${PYTHON:-python3}
FUZZ_SECONDS=${FUZZ_SECONDS:-60}
HOST=$(rustc -vV | sed -n 's/^host: //p')
TARGET=$PWD/target/sanitize
RUNNER=CARGO_TARGET_$(tr 'a-z.-' 'A-Z__' <<<"$HOST")_RUNNER
EXTENSION=(--manifest-path tests/extension/Cargo.toml --workspace --no-default-features)
# They start cargo, or leak on purpose.
SKIP=(--skip author:: --skip misuse:: --skip what_was_thrown)
export RUST_BACKTRACE=0

ran=() missing=() failed=()

# lane NAME: runs `run_NAME`, unless `NAME_lacks` prints what is missing.
lane() {
  local lacks
  lacks=$("$1_lacks" 2>/dev/null)
  if [ -n "$lacks" ]; then
    missing+=("$1: $lacks")
    return
  fi
  echo "== $1"
  if ("run_$1"); then ran+=("$1"); else failed+=("$1"); fi
}

nightly_lacks() {
  rustc +nightly --version >/dev/null || echo "no nightly toolchain (rustup toolchain install nightly)"
}

# Every read and write, every pointer's origin, every leak; slow, so that chance gets few cases.
miri_lacks() {
  nightly_lacks | grep . && return
  cargo +nightly miri setup >/dev/null ||
    echo "no Miri, or no source of std (rustup +nightly component add miri rust-src)"
}
run_miri() {
  PROPTEST_CASES=8 MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-strict-provenance" \
    CARGO_TARGET_DIR=$TARGET cargo +nightly miri test -p lumbre-abi --lib --tests
}

asan_lacks() {
  nightly_lacks | grep . && return
  compgen -G "$(rustc +nightly --print sysroot)/lib/rustlib/$HOST/lib/*rt*asan*" >/dev/null ||
    echo "AddressSanitizer does not come with this toolchain's $HOST"
}
run_asan() {
  local flags=(--target "$HOST" --lib --tests)
  export CARGO_TARGET_DIR=$TARGET/asan RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=1
  cargo +nightly test -p lumbre-abi "${flags[@]}" -- "${SKIP[@]}" &&
    cargo +nightly test --locked "${EXTENSION[@]}" --target "$HOST"
}

valgrind_lacks() {
  command -v valgrind >/dev/null || echo "no valgrind (apt-get install valgrind)"
}
run_valgrind() {
  local check="valgrind -q --error-exitcode=9"
  local leaks="$check --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite"
  export PROPTEST_CASES=32 "$RUNNER=$leaks"
  cargo test -p lumbre-abi --lib --tests -- "${SKIP[@]}" --test-threads 1 &&
    CARGO_TARGET_DIR=$PWD/target/extension cargo test --locked "${EXTENSION[@]}" -- --test-threads 1 ||
    return
  # The installed extension under Python, torch and all: five minutes. Values of Python's own that
  # valgrind takes for uninitialised do not count, nor what Python keeps till its end.
  PYTHONMALLOC=malloc $check --undef-value-errors=no --suppressions=fuzz/valgrind.supp \
    "$PYTHON" -m pytest -q -p no:cacheprovider tests/hooks/test_abi.py tests/hooks/test_extension*.py
}

# Coverage-guided, with AddressSanitizer in it. What it has learnt stays in fuzz/corpus.
fuzz_lacks() {
  asan_lacks | grep . && return
  command -v "${CXX:-c++}" >/dev/null || echo "no C++ compiler for libFuzzer"
  cargo +nightly fuzz --version >/dev/null || echo "no cargo-fuzz (cargo install cargo-fuzz)"
}
run_fuzz() {
  local target targets=(tables lent)
  for target in "${targets[@]}"; do
    CARGO_TARGET_DIR=$TARGET/fuzz cargo +nightly fuzz run "$target" -- -max_len=1024 \
      -max_total_time=$((FUZZ_SECONDS / ${#targets[@]})) -verbosity=0 -print_final_stats=1 2>&1 |
      grep -av '# Uses\|ecommended dictionary' || return
  done
}

# Every test of the package, with Python's garbage collector at nearly every new object.
collector_lacks() {
  "$PYTHON" -c "import xdist, lumbre" >/dev/null || echo "no environment with lumbre and its tests (make dev)"
}
run_collector() {
  PYTHONPATH=tests "$PYTHON" -m pytest -q -p no:cacheprovider -p collecting -n auto tests
}

for name in miri asan valgrind fuzz collector; do lane "$name"; done

echo
echo "ran and found nothing: ${ran[*]:-none}"
[ ${#missing[@]} -eq 0 ] || printf 'did not run: %s\n' "${missing[@]}"
[ ${#failed[@]} -eq 0 ] || printf 'FAILED: %s\n' "${failed[@]}"
[ ${#failed[@]} -eq 0 ] && [ ${#ran[@]} -gt 0 ]
