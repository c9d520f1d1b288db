"""What every test runs under: one torch thread, a known seed, no window and no deadline."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# `make wheel` runs it, where the wheel is installed and the source is not.
collect_ignore = ["smoke.py"]

# For the processes that tests start, and for matplotlib, which nothing has imported yet.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# The tests share the cores among themselves; threads of torch would only be in their way.
torch.set_num_threads(1)

# What a shell starts in the background ignores Ctrl-C, which tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something about the machine, not about lumbre.
settings.register_profile(
    "lumbre",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("lumbre")


@pytest.fixture(autouse=True)
def _torch_state() -> Iterator[None]:
    """Start from one seed, and hold every run to putting the grad mode back."""
    torch.manual_seed(0)
    yield
    left_on = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert left_on, "the test ended with gradients switched off"
