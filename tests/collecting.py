"""A pytest plugin: the garbage collector runs at nearly every new object, for `make sanitize`.

What a collection finds half made, or lets go of too early, shows otherwise once in many thousand.
"""

import gc
from collections.abc import Iterator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """The youngest objects at each chance, the older ones often enough."""
    usual = gc.get_threshold()
    gc.set_threshold(1, 200, 200)
    try:
        return (yield)
    finally:
        gc.set_threshold(*usual)
