"""What a training step costs over libtorch's C++ loop: the limit of what is built on torch."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from measure import Row, ratio
from rows_step import SGD, Outcome, Problem, bare_loop, fit, linear, turns, weights

SOURCE = Path(__file__).with_name("limit.cpp")
CACHE = Path(__file__).with_name(".cache")

Train = Callable[..., float]


class LeftOut(Exception):  # noqa: N818 (it is no error to have no compiler)
    """Why the C++ loop cannot be had here."""


# --- building ---------------------------------------------------------------------------------


def compiler() -> list[str]:
    """The command that compiles C++."""
    asked = os.environ.get("CXX")
    for words in [shlex.split(asked)] if asked else [["c++"], ["g++"], ["clang++"]]:
        if words and shutil.which(words[0]):
            return words
    raise LeftOut(f"there is no C++ compiler here{f' by the name of {asked}' if asked else ''}")


def command() -> list[str]:
    """How the library is built, but for where it goes."""
    try:
        # It imports setuptools, which no other row should have to carry, or to have at all.
        from torch.utils import cpp_extension
    except ImportError as error:
        raise LeftOut(f"torch's headers cannot be looked for: {error}") from error
    libraries = cpp_extension.library_paths()
    return [
        *compiler(),
        # Without NDEBUG the headers check what they leave alone in any release.
        *("-O2", "-DNDEBUG", "-std=c++20", "-fPIC", "-shared"),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        # As the system's own, so that no warning is about them.
        *(word for path in cpp_extension.include_paths() for word in ("-isystem", path)),
        str(SOURCE),
        *(f"-L{path}" for path in libraries),
        *(f"-Wl,-rpath,{path}" for path in libraries),
        *("-ltorch", "-ltorch_cpu", "-lc10"),
    ]


def build() -> Path:
    """The library, built where it is not there as this source, torch and command make it."""
    words = command()
    parts = (SOURCE.read_text(), torch.__version__, *words)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    target = CACHE / f"limit-{digest}.so"
    if not target.exists():
        CACHE.mkdir(exist_ok=True)
        # Under its name there is never half of a library, as one that is broken off would leave.
        half = target.with_suffix(f".{os.getpid()}")
        try:
            done = subprocess.run([*words, "-o", str(half)], capture_output=True, text=True)
            if done.returncode:
                said = done.stderr.strip().splitlines()[:5] or [f"it exits with {done.returncode}"]
                raise LeftOut("\n  ".join(["the compiler does not build the C++ loop:", *said]))
            half.replace(target)
        finally:
            half.unlink(missing_ok=True)
    return target


def load() -> Train:
    """The C++ function."""
    try:
        # The torch libraries that it asks for are those that the process has loaded.
        train = ctypes.CDLL(str(build())).limit_train
    except OSError as error:
        raise LeftOut(f"the C++ loop cannot be built or loaded: {error}") from error
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    train.argtypes = [pointer, pointer, *[whole] * 4, pointer, pointer, whole, ctypes.c_double]
    train.restype = ctypes.c_double
    return train


# --- the side ---------------------------------------------------------------------------------


def cpp_loop(train: Train, problem: Problem) -> Outcome:
    """By libtorch's C++ frontend, with SGD and without any metric."""
    torch.manual_seed(0)
    model = problem.model()
    if not isinstance(model, nn.Linear):
        raise TypeError("the C++ loop has a linear model alone")
    # A batch that comes again is one tensor in C++, too: more of them would fill the caches.
    batches = list({id(batch): batch for batch in problem.loader()}.values())
    pointers = ctypes.c_void_p * len(batches)
    seconds = train(
        pointers(*(x.data_ptr() for x, _ in batches)),
        pointers(*(y.data_ptr() for _, y in batches)),
        len(batches),
        len(batches[0][0]),
        model.in_features,
        model.out_features,
        model.weight.data_ptr(),
        model.bias.data_ptr(),
        problem.steps,
        SGD.keywords["lr"],
    )
    if seconds < 0:
        raise RuntimeError("the C++ loop failed, and has said why")
    return Outcome(seconds / problem.steps, weights(model), None)


# --- rows -------------------------------------------------------------------------------------


def limit() -> list[Row]:
    """A step by lumbre and one by hand, over one that has no Python in it."""
    try:
        train = load()
    except LeftOut as reason:
        print(f"limit.sgd: left out, {reason}", flush=True)
        return []
    problem = linear()
    times = turns(
        {
            "fit": lambda: fit(problem),
            "hand": functools.partial(bare_loop, problem, SGD),
            "limit": functools.partial(cpp_loop, train, problem),
        }
    )
    other = "the same steps in libtorch's C++ loop, which keeps nothing"
    return [
        ratio("limit.sgd", f"a step with loss and accuracy / {other}", times, "fit", "limit", 2.4),
        ratio("limit.hand", f"a step by hand without metrics / {other}", times, "hand", "limit"),
    ]


ROWS: dict[str, Callable[[], list[Row]]] = {"limit": limit}
