"""Predictions of many batches, looked at as they come and joined into one at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lumbre.data.batch import size_of
from lumbre.data.counts import samples_of
from lumbre.errors import JoinError
from lumbre.nested import parts_of, rebuilt
from lumbre.text import shape_of

if TYPE_CHECKING:
    from lumbre.engine.context import Context

# The numbers that may be a batch's size: of a list of images it is not known which one is.
_Sizes = tuple[int, int]
_Cat = Callable[[list[Any]], Tensor]


class Joined:
    """The predictions of a run, batch by batch.

    Plain tensors are written into one for all samples, where it is known how many there will be.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._batches: list[Any] = []
        self._sizes: list[_Sizes] = []
        self._row: torch.Size | None = None
        self._whole: _Whole | None = None

    @property
    def batches(self) -> list[Any]:
        """The predictions so far, on the CPU."""
        return self._batches if self._whole is None else self._whole.batches()

    def add(self, pred: Any) -> None:
        """Take the prediction of the batch under way.

        Raises:
            JoinError: when it cannot be joined with the first one.
        """
        if self._whole is not None:
            if self._whole.takes(pred):
                return
            self._batches, self._whole = self._whole.batches(), None
        self._batches.append(pred)
        # The common case: one more tensor, with rows like those of the first.
        row = self._row
        if row is not None and type(pred) is Tensor and pred.dim() and pred.shape[1:] == row:
            return
        self._sizes.append(_sizes_of(self._ctx, pred))
        if len(self._batches) > 1:
            self._join([self._batches[0], pred], [self._sizes[0], self._sizes[-1]], _first)
            return
        self._join([pred], self._sizes, _first)
        if isinstance(pred, Tensor):
            self._row = pred.shape[1:]
            self._begin(pred)

    def _begin(self, pred: Tensor) -> None:
        """Make the tensor for all predictions, where the first has a row for each sample."""
        count = samples_of(self._ctx.data)
        is_plain = type(pred) is Tensor and pred.layout is torch.strided and pred.is_contiguous()
        if count is None or not is_plain or not pred.dim() or len(pred) != size_of(self._ctx.input):
            return
        most = self._ctx._valid_steps
        try:
            whole = _Whole(pred, count if most is None else min(count, most * len(pred)))
        except RuntimeError as error:  # more than there is memory for
            raise self._refusal(f"pred ends in {type(error).__name__}: {error}") from error
        if whole.takes(pred):
            self._batches, self._whole = [], whole

    def result(self) -> Any:
        """Return all of them as one, in the form of the first.

        Raises:
            JoinError: when they cannot be joined.
        """
        if self._whole is not None:
            return self._whole.result()
        return self._join(self._batches, self._sizes, _rows) if self._batches else torch.empty(0)

    def _join(self, preds: list[Any], sizes: list[_Sizes], cat: _Cat) -> Any:
        try:
            # Of plain tensors not all sizes are there.
            is_plain = cat is _rows and self._row is not None
            return cat(preds) if is_plain else _joined(preds, sizes, "pred", cat)
        except _UnlikeError as error:
            raise self._refusal(error) from None
        except Exception as error:
            raise self._refusal(f"pred ends in {type(error).__name__}: {error}") from error

    def _refusal(self, why: object) -> JoinError:
        error = JoinError(
            f"The predictions cannot be joined: {why}. Take them batch by batch, "
            "predict(..., stack=False); those made so far are in `batches` of this error."
        )
        error.batches = self.batches
        return error


class _Whole:
    """The predictions of all samples as one tensor, filled batch by batch.

    Args:
        first: The first ones, shape (n, ...), on the CPU.
        count: How many samples there are.
    """

    def __init__(self, first: Tensor, count: int) -> None:
        self._row, self._dtype = first.shape[1:], first.dtype
        self._tensor = torch.empty((count, *self._row), dtype=self._dtype, device="cpu")
        self._sizes: list[int] = []
        self._filled, self._count = 0, count

    def takes(self, pred: Any) -> bool:
        """Write those of a batch, if they are like the first and there is room for them."""
        if type(pred) is not Tensor or pred.dtype is not self._dtype or not pred.dim():
            return False
        size, start = len(pred), self._filled
        if pred.shape[1:] != self._row or start + size > self._count:
            return False
        if not pred.is_cpu or pred.layout is not torch.strided:
            return False
        self._tensor.narrow(0, start, size).copy_(pred)
        self._sizes.append(size)
        self._filled = start + size
        return True

    def batches(self) -> list[Tensor]:
        """Return them batch by batch."""
        return list(torch.split(self._tensor.narrow(0, 0, self._filled), self._sizes))

    def result(self) -> Tensor:
        """Return those there are: fewer than samples where batches were skipped."""
        if self._filled == self._count:
            return self._tensor
        return self._tensor.narrow(0, 0, self._filled).clone()


class _UnlikeError(Exception):
    """A place in the predictions that cannot be joined, and the reason."""


def _sizes_of(ctx: Context, pred: Any) -> _Sizes:
    """Return what may be the size of the batch under way: the input's rows, or its items."""
    if isinstance(pred, Tensor) and pred.dim():
        return len(pred), len(pred)  # nothing depends on it
    given = ctx.input
    rows = size_of(given)
    if rows is None:
        rows = ctx.batch_size
    return rows, len(given) if isinstance(given, list | tuple) else ctx.batch_size


def _first(tensors: list[Any]) -> Tensor:
    """Return the first one: what is asked is whether they could be joined."""
    return tensors[0]  # type: ignore[no-any-return]


def _rows(tensors: list[Any]) -> Tensor:
    """Return the rows of all; a batch of one sample that was squeezed to a number is one row."""
    return torch.cat([each if each.dim() else each.reshape(1) for each in tensors])


def _joined(preds: list[Any], sizes: list[_Sizes], place: str, cat: _Cat, rule: str = "") -> Any:
    """Return predictions as one, tensor by tensor.

    Args:
        preds: One a batch.
        sizes: The size of each batch.
        place: Where they stand in what the model gives.
        cat: What joins tensors.
        rule: What holds inside of a list, where each tensor has to have a row for each sample.

    Raises:
        _UnlikeError: when they cannot be joined.
    """
    first = preds[0]
    if all(isinstance(each, Tensor) for each in preds):
        _check_tensors(preds, sizes, place, rule)
        return cat(preds)
    other = next((each for each in preds if type(each) is not type(first)), first)
    if other is not first:
        raise _UnlikeError(_unlike(place, _shown(first), _shown(other)) + rule)
    if isinstance(first, list):
        if _is_by_sample(preds, sizes):
            return rebuilt(first, dict(enumerate(item for each in preds for item in each)))
        rule = _rule_of_lists(preds, sizes, place)
    columns = [parts for each in preds if (parts := _parts(each)) is not None]
    if not columns or (rule and not columns[0]):
        raise _UnlikeError(f"{place} is {_shown(first)}, which has no rows{rule}")
    keys = list(columns[0])
    for each, parts in zip(preds, columns, strict=True):
        if parts.keys() != columns[0].keys():
            was, now = _made_of(first, keys), _made_of(each, list(parts))
            raise _UnlikeError(_unlike(place, was, now) + rule)
    places = [place + _step(first, key) for key in keys]
    joined = [
        _joined([each[key] for each in columns], sizes, inside, cat, rule)
        for key, inside in zip(keys, places, strict=True)
    ]
    return rebuilt(first, dict(zip(keys, joined, strict=True)))


def _check_tensors(tensors: list[Tensor], sizes: list[_Sizes], place: str, rule: str) -> None:
    first = tensors[0]
    for each, size in zip(tensors, sizes, strict=True):
        shape = each.shape or (1,)
        if not each.dim() and 1 not in size:
            raise _UnlikeError(
                f"{place} is one number, a tensor of shape (), for {_samples(size)}{rule}"
            )
        if len(shape) != max(first.dim(), 1) or shape[1:] != first.shape[1:]:
            mend = ". If the model squeezes a batch of one sample, let it squeeze(1)"
            was, now = (f"of shape {tuple(one.shape)}" for one in (first, each))
            raise _UnlikeError(_unlike(place, was, now) + mend * (each.dim() < first.dim()))
        if rule and shape[0] not in size:
            raise _UnlikeError(f"{place} is of shape {tuple(shape)}{rule}")


def _is_by_sample(lists: list[list[Any]], sizes: list[_Sizes]) -> bool:
    """True if each list has an item for each sample, and they are no outputs of the whole batch."""
    return all(len(each) in size for each, size in zip(lists, sizes, strict=True)) and not all(
        isinstance(item, Tensor) and item.dim() and len(item) in size
        for each, size in zip(lists, sizes, strict=True)
        for item in each
    )


def _parts(tree: Any) -> dict[Any, Any] | None:
    parts = None if isinstance(tree, PackedSequence) else parts_of(tree)
    if parts is None or isinstance(tree, tuple | list | Mapping):
        return parts
    # A field of a dataclass that is not in use, as it is left out of an output of transformers.
    return {name: part for name, part in parts.items() if part is not None}


def _step(tree: Any, key: Any) -> str:
    """Return how a part of a container is written."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return f".{tree._fields[key]}"
    return f"[{key!r}]" if isinstance(tree, tuple | list | Mapping) else f".{key}"


def _rule_of_lists(lists: list[list[Any]], sizes: list[_Sizes], place: str) -> str:
    pairs = list(zip(lists, sizes, strict=True))
    items, size = next((each for each in pairs if len(each[0]) not in each[1]), pairs[0])
    return (
        f"; {place} is a list of {len(items)} for {_samples(size)}, and a list has to hold one "
        "item a sample, or tensors with one row a sample"
    )


def _samples(size: _Sizes) -> str:
    numbers = " or ".join(str(each) for each in sorted({*size}))
    return f"a batch of {numbers} sample{'s' * (numbers != '1')}"


def _unlike(place: str, first: object, other: object) -> str:
    return f"{place} is {first} in the first batch and {other} in another"


def _made_of(tree: Any, keys: list[Any]) -> str:
    if isinstance(tree, tuple | list):
        return _shown(tree)
    return f"made of {', '.join(map(repr, keys)) or 'nothing'}"


def _shown(value: Any) -> str:
    if value is None:
        return "None"
    is_known = isinstance(value, Tensor | tuple | list) and not isinstance(value, PackedSequence)
    return shape_of(value) if is_known else f"of type {type(value).__qualname__}"
