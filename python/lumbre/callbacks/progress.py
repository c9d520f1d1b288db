"""The progress of a run, in a terminal or a notebook."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lumbre._core import NativeCallback
from lumbre.arguments import flag
from lumbre.callbacks.throughput import Throughput
from lumbre.hooks.callback import Callback
from lumbre.output import is_terminal, say, write

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class Progress(Callback):
    """A bar for the pass under way, and a line for each epoch.

    Acts at the begin, batch end and end of every pass and at `on_epoch_end`, at weight 0. When to
    draw is decided in Rust: ten times a second at most, however short the batches are.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._set: str | None = None
        self._is_drawn = False
        self._streams: list[tuple[str, Any, Any]] = []

    _native = property(lambda self: NativeCallback.progress())

    def on_train_begin(self, ctx: Context) -> None:
        """A new bar."""
        self._open(ctx, f"{_epoch(ctx)} train", "train")

    def on_valid_begin(self, ctx: Context) -> None:
        """A new bar."""
        is_of_fit = ctx.epoch or ctx._is_before_epochs
        self._open(ctx, f"{_epoch(ctx)} valid" if is_of_fit else "evaluate", "valid")

    def on_predict_begin(self, ctx: Context) -> None:
        """A new bar."""
        self._open(ctx, "predict", None)

    def on_train_end(self, ctx: Context) -> None:
        """The bar goes."""
        self._close()

    on_predict_end = on_interrupt = on_exception = on_train_end

    def on_valid_end(self, ctx: Context) -> None:
        """The bar goes; what is measured before the first epoch has a line of its own."""
        self._close()
        if ctx._is_before_epochs:
            say(f"{_epoch(ctx)} · valid {_values(ctx, 'valid')}")

    def on_epoch_end(self, ctx: Context) -> None:
        """One line with the values of the epoch."""
        shown = [
            f"{set_} {_values(ctx, set_)}" for set_ in ("train", "valid") if ctx.get_metrics(set_)
        ]
        say(" · ".join([_epoch(ctx), *shown]))

    def draw(self, ctx: Context) -> None:
        """Bring the bar up to date; called when Rust says that it is time."""
        if self._bar is None:
            return
        self._bar.n = ctx.iter
        # On a device a value would have to be waited for: there the bar shows the batches alone.
        if ctx.device.type == "cpu" and self._set is not None:
            # In the middle of a pass a metric may not be able to give a value yet.
            with contextlib.suppress(Exception):
                shown = f"{_values(ctx, self._set)} {_speed(ctx) if ctx.training else ''}"
                self._bar.set_postfix_str(shown.strip(), refresh=False)
        self._bar.refresh()
        self._is_drawn = True

    def _open(self, ctx: Context, title: str, set_: str | None) -> None:
        from tqdm.auto import tqdm

        self._close()
        self._set = set_
        # disable=None: no bar where nobody could see it move. When to draw is ours to say.
        bar: Any = tqdm(
            total=ctx._pass_length,
            desc=title,
            leave=False,
            disable=None,
            dynamic_ncols=True,
            mininterval=0,
            file=_Lenient(sys.stderr),
        )
        if bar.disable:
            return
        self._bar, self._is_drawn = bar, True
        if is_terminal(sys.stderr):
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if stream is None:
                    continue
                clearing = _Clearing(stream, self._clear)
                self._streams.append((name, stream, clearing))
                setattr(sys, name, clearing)

    def _clear(self) -> None:
        """Take the bar away, once, until it is drawn again: a line may be written in pieces."""
        if self._is_drawn and self._bar is not None:
            self._is_drawn = False
            self._bar.clear()

    def _close(self) -> None:
        for name, stream, clearing in self._streams:
            if getattr(sys, name) is clearing:
                setattr(sys, name, stream)
        self._streams = []
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Lenient:
    """The stream of a bar: what it cannot take is left out, and what cannot say so no terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        write("stderr", self._stream, text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def isatty(self) -> bool:
        return is_terminal(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Clearing:
    """A stream of the terminal while a bar is open: the bar goes before anything is written."""

    def __init__(self, stream: Any, clear: Callable[[], None]) -> None:
        self._stream = stream
        self._clear = clear

    def write(self, text: str) -> Any:
        self._clear()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def shown(verbose: bool | None) -> bool:
    """True if a run is to show its progress; unless told, if somebody looks.

    Raises:
        ArgumentTypeError: when `verbose` is neither True, False nor None.
    """
    return is_shown() if verbose is None else flag(None, "verbose", verbose)


def is_shown() -> bool:
    """True if somebody looks: in a terminal or a notebook."""
    return is_terminal(sys.stdout) or "ipykernel" in sys.modules


def _epoch(ctx: Context) -> str:
    """The epoch of how many; of a run that is measured in steps, its last step of how many."""
    if ctx.max_epochs is not None:
        width = len(str(ctx.max_epochs))
        return f"epoch {ctx.epoch:{width}}/{ctx.max_epochs}"
    most = "" if ctx.max_steps is None else f"/{ctx.max_steps}"
    return f"epoch {ctx.epoch} step {ctx.step_count}{most}"


def _speed(ctx: Context) -> str:
    """Return what a Throughput has measured by now."""
    shown = []
    for each in ctx.callbacks:
        if isinstance(each, Throughput):
            for name, rate in each.rates().items():
                what = name.partition("_per_second")[0]
                is_share = name == "waiting"
                shown.append(f"{what} {rate:.0%}" if is_share else f"{rate:.3g} {what}/s")
    return " ".join(shown)


def _values(ctx: Context, set_: str) -> str:
    # Vectors and matrices are left out: a line has no room for them.
    shown = ctx._formatted(set_, ctx.get_metrics(set_), short=True)
    return " ".join(f"{name} {value}" for name, value in shown.items())
