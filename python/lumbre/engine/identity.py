"""Whose state it is: what a fit is made of, as plain values by name, and how two fits differ."""

from __future__ import annotations

import functools
import inspect
import platform
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lumbre.data.content import described, digest_of
from lumbre.engine.resume import callback_state, named
from lumbre.files.tree import qualified_name
from lumbre.state.code import code_of, is_foreign
from lumbre.state.run_state import RunState
from lumbre.version import __version__

# A longer text is kept by its digest.
_LONG = 20_000
# Arguments that say where and when files are written: they are no part of what is trained.
_OF_FILES = frozenset({"path", "logdir", "log_dir", "folder", "keep", "every", "append"})


class Difference(NamedTuple):
    """What two fits differ in.

    Attributes:
        what: Its name, such as `opt_hparams.lr`.
        was: Its value in the fit of the state; None where it had none.
        now: Its value in this one.
    """

    what: str
    was: Any
    now: Any

    def __str__(self) -> str:
        if isinstance(self.was, str) and isinstance(self.now, str) and "\n" in self.was + self.now:
            lines = self.was.splitlines(), self.now.splitlines()
            pairs = [(a.strip(), b.strip()) for a, b in zip(*lines, strict=False) if a != b]
            counts = [len(each) for each in lines]
            parts = [f"{a} → {b}" for a, b in pairs[:3]]
            if counts[0] != counts[1]:
                parts.append(f"{counts[0]} lines → {counts[1]} lines")
            return f"{self.what}: {', '.join(parts)}"
        was, now = ("nothing" if each is None else each for each in (self.was, self.now))
        return f"{self.what}: {was} → {now}"


def identity_of(ctx: RunState, ignored: tuple[type, ...]) -> dict[str, Any]:
    """Return what a run is made of, as it begins: plain values, to be compared with another's.

    Args:
        ctx: The run, once all callbacks but those that are ignored have begun.
        ignored: Classes of callbacks that are no part of it.

    Returns:
        `fit`, what must not differ; `told`, what may; `code`, digests of what is the user's;
        `groups` and `schedules`, the options with which optimizers and schedules begin.
    """
    model = ctx.accelerator.unwrap(ctx.model)
    callbacks = [(name, each) for name, each in named(ctx) if not isinstance(each, ignored)]
    kept = {name for name, each in callbacks if callback_state(each) is not None}
    fit: dict[str, Any] = {
        "module": qualified_name(type(model)),
        "model": shown(model, _LONG),
        "dtypes": ", ".join(sorted({str(each.dtype) for each in model.parameters()})),
        **{f"hparams.{name}": shown(each) for name, each in ctx.hparams.items()},
        **{f"opt_hparams.{name}": shown(each) for name, each in ctx.opt_hparams.items()},
        **{f"optimizer {n}": qualified_name(type(each)) for n, each in ctx.optimizers.items()},
        "loss": _loss(ctx.loss_fn),
        **_metrics(ctx),
        "precision": ctx.accelerator.mixed_precision,
        **_limits(ctx),
        **{
            f"{name} data{part}": each
            for name, loader in (("training", ctx.train_data), ("validation", ctx.valid_data))
            for part, each in described(loader).items()
        },
    }
    told: dict[str, Any] = {
        "device": str(ctx.device),
        "lumbre": __version__,
        "torch": str(torch.__version__),
        "Python": platform.python_version(),
        "training data.workers": getattr(ctx.train_data, "num_workers", 0),
        "validation data.workers": getattr(ctx.valid_data, "num_workers", 0),
    }
    for name, each in callbacks:
        (fit if name in kept else told).update(_callback(name, each))
    return {
        "fit": fit,
        "told": told,
        "code": _code(ctx, model, [each for _, each in callbacks]),
        "groups": {
            name: [_plain(group) for group in each.param_groups]
            for name, each in ctx.optimizers.items()
        },
        "schedules": {
            name: {opt: _plain(vars(each)) for opt, each in schedulers.items()}
            for name, callback in callbacks
            if (schedulers := _schedulers(callback))
        },
    }


def differences(was: Mapping[str, Any], now: Mapping[str, Any], part: str) -> list[Difference]:
    """Return what two fits differ in, in the order of their parts.

    Args:
        was: The identity of the one.
        now: That of the other.
        part: `fit`, `told` or `code`.
    """
    before, after = was[part], now[part]
    found = [
        Difference(name, before.get(name), after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name) and not _is_more(name, before, after)
    ]
    if part == "fit":
        known = {each.what.rpartition(".")[2] for each in found if "hparams." in each.what}
        found += _of_groups(was["groups"], now["groups"], known)
    return found


def _is_more(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """True if a limit has only been raised: more of the same is no difference."""
    if name == "min_epochs":
        return _is_more("max_epochs", was, now)
    if name not in ("max_epochs", "max_steps"):
        return False
    before, after = was.get(name), now.get(name)
    return after is None or (before is not None and after > before)


def _of_groups(was: Any, now: Any, known: set[str]) -> Iterator[Difference]:
    """Give the options of groups that differ, but for those that are known to."""
    pairs = [(name, was[name], now[name]) for name in was if name in now]
    for name, *both in pairs:
        for place, (before, after) in enumerate(zip(*both, strict=False)):
            what = f"optimizer {name}.group {place}"
            for key, value in before.items():
                is_known = key in known or (key == "initial_lr" and "lr" in known)
                if key in after and after[key] != value and not is_known:
                    yield Difference(f"{what}.{key}", value, after[key])


def _limits(ctx: RunState) -> dict[str, Any]:
    given = {} if ctx._limits is None else ctx._limits._asdict()
    given.pop("max_time", None)  # it is of a start, not of the fit
    return given


def _metrics(ctx: RunState) -> dict[str, str]:
    found = {}
    for set_, metrics in ctx.metrics.items():
        for each in metrics:
            made: Any = getattr(each, "_made_with", ((), {}))
            text = f"{qualified_name(type(each))} {shown(made)}"
            found[f"metric {set_}_{each.record_name}"] = text
    return found


def _loss(loss: Any) -> str:
    if not isinstance(loss, nn.Module):
        return shown(loss)
    buffers = {name: each for name, each in loss.named_buffers() if each is not None}
    return shown(loss, _LONG) + (f" with {shown(buffers)}" if buffers else "")


def _callback(name: str, callback: Any) -> dict[str, Any]:
    """Return the class of a callback, and what it was made with, as far as that is known."""
    found = {name: qualified_name(type(callback))}
    if is_foreign(type(callback)):
        parameters = [
            each.name
            for each in inspect.signature(type(callback)).parameters.values()
            if each.name not in _OF_FILES
        ]
    else:
        parameters = ["monitor", "mode"]
    attributes = ((each, getattr(callback, each, None)) for each in parameters)
    return found | {
        f"{name}.{each}": shown(value) for each, value in attributes if value is not None
    }


def _code(ctx: RunState, model: nn.Module, callbacks: list[Any]) -> dict[str, str]:
    metrics = [metric for each in ctx.metrics.values() for metric in each]
    owners = {
        "module": [*model.modules()],
        "loss": [ctx.loss_fn],
        "metrics": metrics,
        "callbacks": callbacks,
    }
    return {
        f"code of {what} {name}": digest
        for what, each in owners.items()
        for name, digest in code_of(each).items()
    }


def _schedulers(callback: Any) -> dict[str, Any]:
    found = getattr(callback, "schedulers", None) if is_foreign(type(callback)) else None
    return found if isinstance(found, dict) else {}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is plain of some options: numbers, texts, and lists of them."""
    found = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        items = value if isinstance(value, list | tuple) else [value]
        if all(each is None or type(each) in (bool, int, float, str) for each in items):
            found[name] = value
    return found


def shown(value: Any, longest: int = _LONG) -> str:
    """Return a value as a text that is equal for equal values, in any process.

    Args:
        value: Anything.
        longest: A longer text is replaced by its digest.
    """
    if isinstance(value, Tensor | np.ndarray):
        text = f"{type(value).__name__} {tuple(value.shape)} {value.dtype} {digest_of(value)}"
    elif isinstance(value, type) or inspect.isroutine(value):
        text = qualified_name(value)
    elif isinstance(value, functools.partial):
        text = f"partial({shown(value.func)}, {shown(value.args)}, {shown(value.keywords)})"
    elif isinstance(value, Mapping):
        text = ", ".join(f"{shown(key)}: {shown(each)}" for key, each in value.items())
        text = f"{{{text}}}"
    elif type(value) in (list, tuple):
        text = f"{'[' if type(value) is list else '('}{', '.join(map(shown, value))}"
        text += "]" if type(value) is list else ")"
    elif isinstance(value, set | frozenset):
        text = f"{{{', '.join(sorted(map(shown, value)))}}}"
    elif getattr(type(value), "__repr__", None) is getattr(object, "__repr__", None):
        text = qualified_name(type(value))
    else:
        text = _ADDRESS.sub("", repr(value))
    if len(text) <= longest:
        return text
    return f"{text[:60]}... {len(text)} characters, {digest_of(text)}"


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
