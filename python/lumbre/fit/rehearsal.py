"""`Trainable.explain`: one batch of each pass, on a copy, and nothing is left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lumbre.accelerator import Accelerator, as_accelerator
from lumbre.callbacks.default import default_callbacks
from lumbre.callbacks.progress import shown
from lumbre.data.counts import length_of
from lumbre.data.draws import draws_of_pass, restore_draws_of_pass, rng_state, set_rng_state
from lumbre.data.loaders import loaders
from lumbre.engine import loop
from lumbre.engine.guard import RunGuard
from lumbre.engine.parts import step_of
from lumbre.fit.limits import Limits
from lumbre.fit.recipe import Recipe
from lumbre.fit.rehearsal_files import files_of, losses_of_a_kill
from lumbre.fit.rehearsal_report import Group, Parameters, Part, Pass, Rehearsal
from lumbre.fit.start import start
from lumbre.hooks.callback import Callback
from lumbre.hooks.foreign import Callbacks, as_callbacks
from lumbre.hooks.schedule import compile_schedule
from lumbre.nested import parts_of
from lumbre.text import name_of

if TYPE_CHECKING:
    from lumbre.engine.context import Context


def rehearse(
    recipe: Recipe,
    data: Any,
    callbacks: Callbacks,
    valid_data: Any,
    accelerator: Accelerator | None,
    verbose: bool | None,
    dataloader_options: Mapping[str, Any] | None,
    limits: Limits,
) -> Rehearsal:
    """Do what `Trainable.explain` says."""
    own = as_callbacks(callbacks)
    accelerator = as_accelerator(accelerator)
    plan = compile_schedule([*default_callbacks(progress=shown(verbose)), *own])
    with _untouched(accelerator.device) as keep:
        train, valid = loaders(data, valid_data, dataloader_options)
        keep(train)
        keep(valid)
        copied = recipe.copied("explain")
        watch = _Watch()
        ctx = start(
            "fit",
            copied,
            [watch],
            accelerator,
            False,
            # The run is over after one batch of each pass.
            limits=limits._replace(max_steps=1, valid_steps=1, valid_every=1, valid_first=False),
            train_data=train,
            valid_data=valid,
        )
        watch.see_model(ctx)
        step_of(ctx).unchecked.clear()  # the report says what a first step would warn of
        with RunGuard(ctx, "fit"), watch.saving():
            loop.fit(ctx)
        if ctx.interrupted:
            raise KeyboardInterrupt
        lengths = {"train": length_of(train), "valid": length_of(valid)}
    return Rehearsal(
        module=name_of(recipe.module),
        device=str(accelerator.device),
        precision=accelerator.mixed_precision,
        passes={
            name: Pass(lengths[name], parts, losses)
            for name, (parts, losses) in watch.passes.items()
        },
        parameters=watch.parameters(),
        memory=watch.memory(),
        plan=plan,
        files=files_of(own),
        kill=losses_of_a_kill(own, recipe.metrics.copies()),
    )


class _Watch(Callback):
    """Sees a batch of each pass, and lets no optimizer step.

    Acts at `on_train_batch_end` and `on_valid_batch_end`, at weight 0. Replaces the method `step`
    of the copy's optimizers, which a step of the module's own may call, too.
    """

    def __init__(self) -> None:
        self.passes: dict[str, tuple[list[Part], dict[str, float]]] = {}
        self._reached: set[int] = set()
        self._saved: dict[int, int] = {}

    def see_model(self, ctx: Context) -> None:
        """Note what is trained, and keep it as it is."""
        model = ctx.accelerator.unwrap(ctx.model)
        loss = ctx.loss_fn if isinstance(ctx.loss_fn, nn.Module) else nn.Module()
        self._optimizers = dict(ctx.optimizers)
        self._names: dict[int, str] = {}
        self._tensors: dict[int, Tensor] = {}
        for prefix, module in (("", model), ("loss.", loss)):
            for name, each in module.named_parameters():
                self._names.setdefault(id(each), f"{prefix}{name}")
                self._tensors.setdefault(id(each), each)
        self._buffers = {id(each): each for part in (model, loss) for each in part.buffers()}
        for name, number, group in self._groups():
            for place, each in enumerate(group["params"]):
                # A parameter may be of neither, as of a module that set_optimizers has made.
                self._names.setdefault(id(each), f"{name}.{number}.{place}")
                self._tensors.setdefault(id(each), each)
        self._frozen = {key for key, each in self._tensors.items() if not each.requires_grad}
        for key, each in self._tensors.items():
            if each.requires_grad:
                each.register_hook(self._noting(key))  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers.values():
            optimizer.step = self._in_place_of_step(optimizer)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Count what the forward pass keeps for the backward pass."""
        known = {*map(_place_of, (*self._tensors.values(), *self._buffers.values()))}

        def keep(tensor: Tensor) -> Tensor:
            if (place := _place_of(tensor)) is not None and place not in known:
                self._saved[place] = tensor.untyped_storage().nbytes()
            return tensor.detach()  # with its graph it would hold itself

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield

    def on_train_batch_end(self, ctx: Context) -> None:
        """See the batch."""
        self._see(ctx, "train")

    def on_valid_batch_end(self, ctx: Context) -> None:
        """See the batch."""
        self._see(ctx, "valid")

    def parameters(self) -> Parameters:
        """Return who holds which parameters, and what reaches them."""
        held: set[int] = set()
        groups = []
        for name, number, group in self._groups():
            own = {id(each): each for each in group["params"]}
            held |= own.keys()
            kind = type(self._optimizers[name]).__name__
            count = sum(each.numel() for each in own.values())
            options = {key: value for key, value in group.items() if key == "lr"}
            groups.append(Group(name, kind, number, len(own), count, options))
        trained = [key for key in self._tensors if key not in self._frozen]
        return Parameters(
            tensors=len(self._tensors),
            elements=sum(each.numel() for each in self._tensors.values()),
            groups=groups,
            frozen=[self._names[key] for key in self._tensors if key in self._frozen],
            held_by_none=[self._names[key] for key in trained if key not in held],
            without_gradient=[self._names[key] for key in trained if key not in self._reached],
        )

    def memory(self) -> dict[str, int]:
        """Return how many bytes there are of each kind."""
        reached = [each for key, each in self._tensors.items() if key in self._reached]
        return {
            "parameters": _bytes(self._tensors.values()),
            "buffers": _bytes(self._buffers.values()),
            "gradients": _bytes(reached),
            "kept for backward": sum(self._saved.values()),
        }

    def _groups(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        for name, optimizer in self._optimizers.items():
            for number, group in enumerate(optimizer.param_groups):
                yield name, number, group

    def _see(self, ctx: Context, name: str) -> None:
        parts = [*_parts("input", ctx.input), *_parts("target", ctx.target)]
        losses = {key: float(each) for key, each in ctx.loss.items()}
        self.passes[name] = ([*parts, *_parts("pred", ctx.pred)], losses)

    def _noting(self, key: int) -> Callable[[Tensor], None]:
        def note(gradient: Tensor) -> None:
            self._reached.add(key)

        return note

    def _in_place_of_step(self, optimizer: Any) -> Callable[..., Any]:
        def step(closure: Callable[[], Any] | None = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for group in optimizer.param_groups:
                self._reached |= {id(each) for each in group["params"] if each.grad is not None}
            return loss

        # What torch's schedulers ask for.
        optimizer._opt_called = step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
        return step


def _parts(name: str, tree: Any) -> list[Part]:
    """Return the tensors of a part of a batch, by their names in it."""
    if isinstance(tree, Tensor):
        return [Part(name, str(tree.dtype).removeprefix("torch."), tuple(tree.shape))]
    if tree is None:
        return []
    parts = parts_of(tree)
    if parts is None:
        shape = getattr(tree, "shape", ())
        return [Part(name, type(tree).__name__, tuple(shape) if shape else ())]
    return [part for key, each in parts.items() for part in _parts(f"{name}[{key!r}]", each)]


def _bytes(tensors: Any) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def _place_of(tensor: Tensor) -> int | None:
    """Return where the storage of a tensor lies; None of what has none, as a sparse or lazy one."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError, ValueError):
        return None


@contextlib.contextmanager
def _untouched(device: torch.device) -> Iterator[Callable[[Any], None]]:
    """Put back what random numbers are drawn from; gives what a loader is made known by."""
    state = rng_state(device)
    known: list[tuple[Any, dict[str, Any]]] = []

    def keep(loader: Any) -> None:
        if loader is not None:
            known.append((loader, draws_of_pass(loader, device)))

    try:
        yield keep
    finally:
        for loader, draws in known:
            restore_draws_of_pass(loader, draws, device)
        set_rng_state(state, device)
