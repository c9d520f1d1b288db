"""What is torch's own, and who watches it: what each shorter road through torch asks first."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch


def watchers() -> tuple[Any, Callable[[], bool], Callable[[], int]]:
    """Return what tells whether somebody watches torch's calls.

    Whoever is on a road asks all of it, in place, as a function around it would cost as much again:
    `profiler._is_profiler_enabled or functions() or dispatch()`.
    """
    return (
        # Its flag knows of the profilers that Python has started, in any thread.
        torch.autograd.profiler,
        # Function and dispatch modes see calls that the shorter roads do not make.
        torch._C._is_torch_function_mode_enabled,
        torch._C._len_torch_dispatch_stack,
    )


def are_watching() -> bool:
    """True if somebody watches torch's calls now.

    It also asks for a profiler that was started from C++, as a tracing daemon does it. That costs
    ten times as much, so that one which is started later misses the ranges of the step.
    """
    profiler, functions, dispatch = watchers()
    profiling = torch._C._autograd._profiler_enabled
    return bool(profiler._is_profiler_enabled or functions() or dispatch() or profiling())


def torchs(function: Any, module: ModuleType) -> Any:
    """Return the function if its code stands in that module of torch; a decorator's does not.

    Raises:
        LookupError: when it is somebody else's.
    """
    if function.__code__.co_filename != module.__file__:
        raise LookupError(f"{function!r} is not from {module.__name__}")
    return function
