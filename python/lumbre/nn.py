"""Helpers for models and losses that are plain torch: they work outside of lumbre too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from lumbre.arguments import is_number
from lumbre.errors import ArgumentError, ArgumentTypeError, ShapeError
from lumbre.text import name_of

__all__ = ["MixedTarget", "MixupLoss", "mixup"]


class MixedTarget(NamedTuple):
    """The targets of samples that are mixtures of two: `(first, second, weight)`.

    `weight` is the share of the first: a number, a tensor without dimensions, or one of shape (n,)
    with a weight for each sample.
    """

    first: Any
    second: Any
    weight: float | Tensor


def mixup(x: Any, y: Any, weight: float | Tensor) -> tuple[Any, MixedTarget]:
    """Mix each sample of a batch with one that is drawn from the same batch.

    Drawn is a permutation of the batch, by torch's generator of the device on which `x` lies. The
    mixture is `weight * x + (1 - weight) * x[permutation]`, and exactly `x` where the weight is 1.

    Args:
        x: The input, shape (n, ...), floating point or complex; or a list, tuple or mapping of such
            tensors, in which one that is `y` itself stays as it is.
        y: The target, shape (n, ...), any dtype; or a list, tuple or mapping of tensors.
        weight: The share of the first sample, from 0 to 1: a number or a tensor without dimensions
            for the whole batch, or a tensor of shape (n,).

    Returns:
        The mixed input, and `MixedTarget(y, y[permutation], weight)`, which `MixupLoss` takes.

    Raises:
        ArgumentTypeError: when the input is no tensor, or one of whole numbers.
        ArgumentError: when the weight is not between 0 and 1; of a tensor that is not looked at.
        ShapeError: when the parts of the batch differ in length, or the weight does not fit.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([3, 4])
        >>> mixed, target = mixup(x, y, 1.0)
        >>> mixed.tolist(), target.first.tolist(), target.weight
        ([[0.0], [1.0]], [3, 4], 1.0)

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412.
    """
    tensors = [*_tensors(x, "x"), *_tensors(y, "y")]
    lengths = {tensor.shape[:1] for _, tensor in tensors}
    if len(lengths) != 1 or () in lengths:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors)
        raise ShapeError(
            "mixup needs tensors whose first dimension is the batch, the same for all; "
            f"got the shapes {shapes}."
        )
    if not isinstance(weight, Tensor) and not (is_number(weight) and 0 <= weight <= 1):
        raise ArgumentError(
            f"mixup: weight is a number from 0 to 1, or a tensor of them; got {weight!r}."
        )
    first = tensors[0][1]
    count = len(first)
    if isinstance(weight, Tensor) and tuple(weight.shape) not in ((), (count,)):
        raise ShapeError(
            f"mixup: weight is one number, or a tensor of shape ({count},), one for each sample; "
            f"got the shape {tuple(weight.shape)}."
        )
    order = torch.randperm(count, device=first.device)

    def mixed(tensor: Tensor, name: str) -> Tensor:
        is_target = tensor is y and x is not y
        if is_target:
            return tensor
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise ArgumentTypeError(
                f"mixup mixes floating-point numbers; {name} is {tensor.dtype}. Make it so, "
                f"{name}.float(), or if it counts words or classes, mix what they are embedded in."
            )
        return _between(tensor[order], tensor, weight)

    second = _mapped(y, "y", lambda tensor, _: tensor[order])
    return _mapped(x, "x", mixed), MixedTarget(y, second, weight)


class MixupLoss(nn.Module):
    """A loss for mixed targets: `weight * loss(pred, first) + (1 - weight) * loss(pred, second)`.

    A target that is no `MixedTarget` goes to `loss` as it is, so that one loss serves training and
    validation. The result is a scalar: it is reduced as `loss` reduces, and by the mean where
    `loss` does not.

    With one weight for the batch, any loss will do. With a weight for each sample, `loss` has to
    tell the samples apart: a module with an attribute `reduction` or a function with a parameter
    `reduction`, as torch's are, or one that gives a value for each sample. Their mean is taken as
    `CrossEntropyLoss` and `NLLLoss` take it, whose class weights and `ignore_index` count in the
    denominator too, each target with its share; of other losses it is the mean of all values.
    `loss` itself is not changed.

    Args:
        loss: Called as `loss(pred, target)`.

    Raises:
        ArgumentTypeError: when `loss` is a class, or cannot be called.
        ArgumentError: when called, if `reduction` is none that is known.
        ShapeError: when called, if there is a weight for each sample, and the loss has no values
            for each.

    Example:
        >>> loss = MixupLoss(nn.MSELoss())
        >>> pred, one, two = torch.zeros(2, 1), torch.ones(2, 1), torch.full((2, 1), 2.0)
        >>> loss(pred, one), loss(pred, MixedTarget(one, two, torch.tensor([0.5, 1.0])))
        (tensor(1.), tensor(1.7500))
    """

    def __init__(self, loss: Callable[..., Any]) -> None:
        if isinstance(loss, type):
            raise ArgumentTypeError(
                f"MixupLoss: loss is the class {loss.__name__} where an instance is due: "
                f"write {loss.__name__}()."
            )
        if not callable(loss):
            raise ArgumentTypeError(f"MixupLoss: loss is a function or a module; got {loss!r}.")
        super().__init__()
        self.loss = loss
        self._of_function = None if isinstance(loss, nn.Module) else _default_reduction(loss)

    @property
    def reduction(self) -> str | None:
        """How `loss` reduces; None when it cannot be asked not to."""
        if isinstance(self.loss, nn.Module):
            return getattr(self.loss, "reduction", None)
        return self._of_function

    def forward(self, pred: Any, target: Any) -> Any:
        """The loss of predictions, a scalar."""
        if not isinstance(target, MixedTarget):
            return _mean(self.loss(pred, target))
        weight = target.weight
        if not isinstance(weight, Tensor) or weight.ndim == 0:
            return _lerp(target, lambda y: _mean(self.loss(pred, y)))
        reduction = self.reduction
        values = _lerp(target, lambda y: self._each(pred, y, len(weight)))
        if reduction == "sum":
            return values.sum()
        if reduction == "batchmean":
            return values.sum() / len(values)
        options = _class_options(self.loss)
        if reduction != "mean" or options is None or target.first.is_floating_point():
            return values.mean()
        return values.sum() / _lerp(target, lambda y: _shares(y, *options, values.dtype)).sum()

    def _each(self, pred: Any, target: Any, count: int) -> Tensor:
        """The loss without its reduction."""
        reduction, loss = self.reduction, self.loss
        if reduction not in (None, "mean", "sum", "none", "batchmean"):
            raise ArgumentError(
                f'MixupLoss: the reduction of {name_of(loss)} is "mean", "sum", "none" or '
                f'"batchmean"; got {reduction!r}.'
            )
        if reduction is None:
            values = loss(pred, target)
        elif isinstance(loss, nn.Module):
            # A copy that keeps its values would lack what is hooked to the module, or compiled.
            holder: Any = loss
            holder.reduction = "none"
            try:
                values = loss(pred, target)
            finally:
                holder.reduction = reduction
        else:
            values = loss(pred, target, reduction="none")
        if isinstance(values, Tensor) and values.shape[:1] == (count,):
            return values
        got = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else values
        raise ShapeError(_NOT_OF_EACH.format(count, name_of(loss), got))


def _lerp(target: MixedTarget, of: Callable[[Any], Any]) -> Any:
    first, second = of(target.first), of(target.second)
    if _has_parts(first) and _has_parts(second):
        parts = {
            name: _between(torch.as_tensor(second[1][name]), torch.as_tensor(part), target.weight)
            for name, part in first[1].items()
            if name in second[1]
        }
        return _between(second[0], first[0], target.weight), parts
    return _between(second, first, target.weight)


def _between(second: Tensor, first: Tensor, weight: Any) -> Tensor:
    if isinstance(weight, Tensor):
        weight = weight.to(first.device, first.dtype)
        weight = weight.reshape(-1, *[1] * (first.ndim - 1)) if weight.ndim else weight
    mixed: Tensor = torch.lerp(second, first, weight)
    return mixed


def _has_parts(value: Any) -> bool:
    """True if a loss gives `(total, {"name": part})`."""
    return type(value) is tuple and len(value) == 2 and isinstance(value[1], Mapping)


def _mean(value: Any) -> Any:
    if _has_parts(value):
        return _mean(value[0]), value[1]
    return value.mean() if isinstance(value, Tensor) and value.ndim else value


def _class_options(loss: Any) -> tuple[Tensor | None, int] | None:
    """Class weights and `ignore_index` of those losses that divide by them."""
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return loss.weight, loss.ignore_index
    function, options = loss, {}
    if isinstance(loss, functools.partial):
        function, options = loss.func, loss.keywords
    if function is functional.cross_entropy or function is functional.nll_loss:
        return options.get("weight"), options.get("ignore_index", -100)
    return None


def _shares(target: Tensor, weight: Tensor | None, ignored: int, dtype: torch.dtype) -> Tensor:
    """Return what each target adds to the denominator of the mean."""
    counted = target != ignored
    if weight is None:
        return counted.to(dtype)
    return weight[target.where(counted, 0)].to(dtype) * counted


def _default_reduction(loss: Callable[..., Any]) -> str | None:
    try:
        parameter = inspect.signature(loss).parameters.get("reduction")
    except ValueError:  # some that are written in C do not tell
        return None
    default = None if parameter is None else parameter.default
    return default if isinstance(default, str) else None


def _tensors(tree: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree, each with its place in it."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, each in tree.items():
            yield from _tensors(each, f"{name}[{key!r}]")
    elif isinstance(tree, list | tuple) and not isinstance(tree, PackedSequence):
        for i, each in enumerate(tree):
            yield from _tensors(each, f"{name}[{i}]")
    else:
        raise ArgumentTypeError(
            f"mixup takes tensors, and lists, tuples and mappings of them; {name} is of type "
            f"{type(tree).__name__}. Leave it out of the batch, or make a tensor of it."
        )


def _mapped(tree: Any, name: str, of: Callable[[Tensor, str], Tensor]) -> Any:
    """The tree with other tensors in it."""
    if isinstance(tree, Tensor):
        return of(tree, name)
    if isinstance(tree, Mapping):
        return {key: _mapped(each, f"{name}[{key!r}]", of) for key, each in tree.items()}
    parts = [_mapped(each, f"{name}[{i}]", of) for i, each in enumerate(tree)]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


_NOT_OF_EACH = (
    "MixupLoss: with a weight for each of {} samples, {} has to give a value for each; it gave {}. "
    "Let it take `reduction`, as torch's losses do, or mix with one weight for the batch."
)
