"""explain: what a fit would do is said, and everything is as it was before."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lumbre as lb
from lumbre.callbacks import AutoResume, CSVLogger, JSONLogger, ModelCheckpoint, TensorBoard
from lumbre.errors import ArgumentError, ArgumentTypeError

CPU = lb.Accelerator(cpu=True)
SGD = torch.optim.SGD


class Net(nn.Sequential):
    """With dropout and running statistics: random numbers and buffers."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
        )


class Unused(nn.Module):
    """One layer is frozen, one has no part in the prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.used, self.spare = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(3, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.used(self.frozen(x))
        return y


class Two(nn.Module):
    """Two optimizers, and a layer that neither of them holds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.left = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(self.b(self.a(x)))
        return y

    def set_optimizers(self, lr: float = 0.1) -> dict[str, Any]:
        return {"a": SGD(self.a.parameters(), lr), "b": torch.optim.Adam(self.b.parameters(), lr)}


class Own(Two):
    """Steps by itself: one optimizer by ctx, the other one directly."""

    stepped: list[Any] = []  # noqa: RUF012

    def step(self, ctx: Any) -> None:
        ctx.pred = self(ctx.input)
        loss = nn.functional.mse_loss(ctx.pred, ctx.target)
        ctx.loss = {"a": loss, "b": loss}
        if ctx.training:
            before = [p.detach().clone() for p in self.parameters()]
            loss.backward()  # type: ignore[no-untyped-call]
            ctx.step_optimizer("a")
            ctx.optimizers["b"].step()
            Own.stepped += [
                not torch.equal(p, q) for p, q in zip(before, self.parameters(), strict=True)
            ]


class OfDict(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        return {"out": super().forward(batch["x"])}


class Stream(IterableDataset[Any]):
    def __init__(self) -> None:
        self.generator = np.random.default_rng(3)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(20):
            x = torch.from_numpy(self.generator.random(3, dtype=np.float32))
            yield x, x.sum().reshape(1)


def data() -> list[Tensor]:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(5))
    return [x, x.sum(1, keepdim=True)]


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data()), batch_size=8, **options)


def net(module: Any = Net, optimizer: Any = SGD, **options: Any) -> lb.Trainable:
    made = lb.setup(module, nn.MSELoss(), optimizer, **options)
    return made if optimizer is None else made.set_opt_hparams(lr=0.1)


def explain(trainable: lb.Trainable, given: Any = None, **options: Any) -> Any:
    return trainable.explain(data() if given is None else given, accelerator=CPU, **options)


def draws() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]


def weights(model: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in model.state_dict().values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_module_that_is_there_stays_as_it_is_bit_for_bit() -> None:
    module = Net()
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    x, y = data()
    nn.functional.mse_loss(module(x), y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    module[3].eval()
    before, modes = weights(module), [each.training for each in module.modules()]
    grads = [p.grad for p in module.parameters()]
    values = [g.clone() for g in grads if g is not None]
    state, step = copy.deepcopy(optimizer.state_dict()), optimizer.step
    report = explain(lb.setup(module, nn.MSELoss(), optimizer), valid_data=0.25)
    assert set(report.passes) == {"train", "valid"}
    assert same(before, weights(module))
    assert modes == [each.training for each in module.modules()]
    assert all(p.grad is g for p, g in zip(module.parameters(), grads, strict=True))
    assert same(values, [g for g in grads if g is not None])
    assert str(state) == str(optimizer.state_dict())
    assert optimizer.step == step
    assert not module._forward_hooks
    assert not hasattr(module, "ctx")
    assert all(not p._backward_hooks for p in module.parameters())


@pytest.mark.parametrize("options", [{}, {"num_workers": 1, "persistent_workers": True}])
def test_random_numbers_stay_where_they_are(options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(1)
    source = loader(shuffle=True, generator=generator, **options)
    before, own = draws(), generator.get_state()
    explain(net(), source)
    assert draws() == before
    assert torch.equal(own, generator.get_state())
    assert source._iterator is None


def test_a_stream_goes_on_with_the_generator_as_it_was() -> None:
    stream = Stream()
    before = str(stream.generator.bit_generator.state)
    report = explain(net(), stream)
    assert str(stream.generator.bit_generator.state) == before
    assert report.passes["train"].batches is None
    assert "1 batch of an unknown number" in str(report)


@pytest.mark.parametrize("is_class", [True, False])
@pytest.mark.parametrize("source", ["tensors", "loader", "stream"])
def test_a_fit_behind_it_ends_in_the_same_bits(source: str, is_class: bool) -> None:
    def fitted(explained: bool) -> lb.Fitted:
        torch.manual_seed(2)
        given = {"tensors": data(), "loader": loader(shuffle=True), "stream": Stream()}[source]
        made = net(Net if is_class else Net())
        options: dict[str, Any] = {"valid_data": 0.25 if source == "tensors" else loader()}
        if explained:
            explain(made, given, **options)
        return made.fit(given, epochs=2, accelerator=CPU, verbose=False, **options)

    one, other = fitted(False), fitted(True)
    assert same(weights(one.model), weights(other.model))
    assert one.get_metrics().equals(other.get_metrics())


def test_after_an_error_in_the_batch_all_is_as_it_was() -> None:
    generator = torch.Generator().manual_seed(1)
    source, module = loader(shuffle=True, generator=generator), nn.Linear(5, 1)
    before, own = draws(), generator.get_state()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        explain(net(module), source)
    assert draws() == before
    assert torch.equal(own, generator.get_state())


def test_no_callback_is_called_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    called: list[str] = []
    for_all = [lb.on(hook)(lambda ctx, hook=hook: called.append(hook)) for hook in lb.HOOKS]
    callbacks = [
        AutoResume("state.safetensors", every=["epoch", 100, "10m"]),
        ModelCheckpoint("run/{epoch}.safetensors"),
        CSVLogger(tmp_path / "log.csv"),
        JSONLogger("log.jsonl"),
        TensorBoard("board"),
        *for_all,
    ]
    report = explain(net(), valid_data=0.25, callbacks=callbacks)
    assert called == []
    assert list(tmp_path.iterdir()) == []
    names = "state.safetensors", "run/{epoch}.safetensors", "log.csv", "log.jsonl", "board"
    assert [each.path for each in report.files] == [str(tmp_path / name) for name in names]
    assert ("on_epoch_end", "AutoResume") in {row[:2] for row in report.plan.rows}


def test_a_state_that_is_there_is_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_text("")
    report = explain(net(), callbacks=[AutoResume(path), CSVLogger(path)])
    assert [each.what for each in report.files] == [
        "is there, and the fit goes on from it",
        "is there, and a new fit begins it anew",
    ]
    assert path.read_text() == ""


def test_parameters_that_are_frozen_or_get_no_gradient_are_named() -> None:
    own = explain(net(Unused)).parameters
    assert own.frozen == ["frozen.weight", "frozen.bias"]
    assert own.without_gradient == ["spare.weight", "spare.bias"]
    assert own.held_by_none == []
    assert (own.tensors, own.elements) == (6, 12 + 4 + 4)


@pytest.mark.parametrize("module", [Two, Two(), Own, Own()])
def test_two_optimizers_hold_their_own_and_none_steps(module: Any) -> None:
    Own.stepped.clear()
    report = explain(lb.setup(module, nn.MSELoss()), valid_data=0.25)
    groups = report.parameters.groups
    assert [(g.optimizer, g.kind, g.number, g.tensors, g.elements) for g in groups] == [
        ("a", "SGD", 0, 2, 12),
        ("b", "Adam", 0, 2, 4),
    ]
    assert groups[0].options == {"lr": 0.1}
    assert report.parameters.held_by_none == ["left.weight", "left.bias"]
    assert {"a.weight", "b.weight"}.isdisjoint(report.parameters.without_gradient)
    assert set(report.passes["train"].losses) == {"a", "b"}
    assert not any(Own.stepped)
    assert len(Own.stepped) == (6 if module is Own or type(module) is Own else 0)


@pytest.mark.parametrize("optimizer", [SGD, torch.optim.Adam, torch.optim.LBFGS])
@pytest.mark.parametrize("road", ["0", "1"])
def test_the_copy_is_not_stepped_either(
    road: str, optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMBRE_FAST_STEP", road)
    seen: list[Tensor] = []

    class Seen(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.weight.detach().clone())
            return super().forward(x)

    explain(net(Seen(3, 1), optimizer), valid_data=0.25)
    assert len(seen) == 2
    assert torch.equal(*seen)


def test_an_optimizer_that_takes_a_closure_does_not_step() -> None:
    module = nn.Linear(3, 1)
    before = weights(module)
    report = explain(net(module, torch.optim.LBFGS))
    assert report.parameters.without_gradient == []
    assert same(before, weights(module))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_half_precision_is_seen(precision: str) -> None:
    accelerator = lb.Accelerator(cpu=True, mixed_precision=precision)
    report = net(nn.Linear(3, 1)).explain(data(), accelerator=accelerator)
    assert report.precision == precision
    assert (
        report.passes["train"].parts[-1].dtype == {"bf16": "bfloat16", "fp16": "float16"}[precision]
    )
    assert report.parameters.without_gradient == []


def test_the_parts_of_a_batch_are_told_by_their_names() -> None:
    x, y = data()
    made = lb.setup(OfDict, lambda pred, target: pred["out"].sub(target["y"]).square().mean(), SGD)
    report = explain(made, [{"x": x}, {"y": y}], valid_data=0.25)
    parts = [tuple(each) for each in report.passes["train"].parts]
    assert parts == [
        ("input['x']", "float32", (30, 3)),
        ("target['y']", "float32", (30, 1)),
        ("pred['out']", "float32", (30, 1)),
    ]
    assert report.passes["valid"].parts[0].shape == (10, 3)


def test_memory_is_counted_in_bytes() -> None:
    memory = explain(net(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)))).memory
    count = 4 * (3 * 8 + 8 + 8 + 8 + 8 + 1)
    assert (memory["parameters"], memory["gradients"]) == (count, count)
    assert memory["buffers"] == 4 * (8 + 8) + 8
    # What the linear layers and the normalization were given: the input is among it.
    assert memory["kept for backward"] >= 4 * 32 * (3 + 8 + 8)


class Unkept(lb.Metric):
    def __init__(self) -> None:
        self.seen = object()

    def update(self, pred: Any, target: Any) -> None:
        """Count nothing."""

    def compute(self) -> float:
        return 0.0


def test_what_a_kill_loses_is_said(tmp_path: Path) -> None:
    def kill(*callbacks: Any, **options: Any) -> str:
        return "\n".join(explain(net(**options), callbacks=callbacks).kill)

    path = tmp_path / "state.safetensors"
    assert "loses the whole fit" in kill()
    checkpoints = kill(ModelCheckpoint(tmp_path / "a", monitor="train_loss"))
    assert "loses the whole fit" in checkpoints
    assert "ResumeFromCheckpoint" in checkpoints
    kept = kill(AutoResume(path, every=["epoch", 100, "10m"]))
    assert str(path) in kept
    assert (
        "at the end of each epoch, after each 100 training batches, after each 10 minutes" in kept
    )
    assert "A pause by Ctrl-C or SIGTERM loses nothing" in kept
    assert "ends of epochs only" in kill(AutoResume(path), metrics=Unkept())


def test_the_report_fits_a_terminal_and_a_notebook(tmp_path: Path) -> None:
    path = Path("<b>.csv")
    report = explain(net(), valid_data=0.25, callbacks=[CSVLogger(path), AutoResume("s")])
    text = str(report)
    assert text == repr(report)
    titles = "Training, 1 batch of 1", "Validation", "Parameters: 57 in 6", "Memory", "Plan"
    found = [text.index(each) for each in (*titles, "Files", "If the process is killed")]
    assert found == sorted(found)
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= 100
    html = report._repr_html_()
    assert "&lt;b&gt;.csv" in html
    assert "<b>.csv" not in html


def test_arguments_are_refused_as_in_fit() -> None:
    with pytest.raises(ArgumentTypeError, match="batch_size"):
        explain(net(), batch_size=3)
    with pytest.raises(ArgumentError, match="valid_steps is about the validation data"):
        explain(net(), valid_steps=3)
    with pytest.raises(ArgumentError, match="epochs"):
        explain(net(), epochs=0)
