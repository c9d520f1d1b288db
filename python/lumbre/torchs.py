"""What is torch's own, and who watches it: what each shorter road through torch asks first."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch


def watchers() -> tuple[Any, Callable[[], bool], Callable[[], bool], Callable[[], int]]:
    """Return what tells whether somebody watches torch's calls.

    Whoever is on a road asks all of it, in place, as a function around it would cost as much again:
    `profiler._is_profiler_enabled or profiling() or functions() or dispatch()`.
    """
    return (
        # The flag knows of torch's profilers in any thread, the function of those from C++.
        torch.autograd.profiler,
        torch._C._autograd._profiler_enabled,
        # Function and dispatch modes see calls that the shorter roads do not make.
        torch._C._is_torch_function_mode_enabled,
        torch._C._len_torch_dispatch_stack,
    )


def are_watching() -> bool:
    """True if somebody watches torch's calls now."""
    profiler, profiling, functions, dispatch = watchers()
    return bool(profiler._is_profiler_enabled or profiling() or functions() or dispatch())


def torchs(function: Any, module: ModuleType) -> Any:
    """Return the function if its code stands in that module of torch; a decorator's does not.

    Raises:
        LookupError: when it is somebody else's.
    """
    if function.__code__.co_filename != module.__file__:
        raise LookupError(f"{function!r} is not from {module.__name__}")
    return function
