"""ctx.state_dict() and ctx.load_state_dict(): what is in a state, and what one does not fit."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lumbre as lb
from lumbre.errors import ArgumentError
from lumbre.files import form
from lumbre.files.tree import QualifiedName
from runs import Pair, Scale, at, fit

PARTS = ["model", "optimizers", "callbacks", "records", "progress", "rng"]


def state_of(module: Any = Scale, *callbacks: lb.Callback, **options: Any) -> dict[str, Any]:
    """The state at the end of a fit."""
    found: dict[str, Any] = {}
    take = lb.on("on_fit_end", weight=math.inf)(
        lambda ctx: found.update(copy.deepcopy(ctx.state_dict()))
    )
    fit(module, *callbacks, take, **options)
    return found


def resumed(state: Any, module: Any = Scale, *callbacks: lb.Callback, **options: Any) -> lb.Fitted:
    parts = {name: options.pop(name) for name in PARTS if name in options}
    load = lb.on("on_fit_begin", weight=math.inf)(lambda ctx: ctx.load_state_dict(state, **parts))
    return fit(module, *callbacks, load, **options)


def test_a_state_holds_all_and_can_be_saved() -> None:
    state = state_of(Pair, optimizer=None, loss=nn.MSELoss())
    assert list(state) == [
        "model", "module", "hparams", "opt_hparams", "optimizers", "optimizer_kinds", "scalers",
        "callbacks", "records", "steps", "progress", "gradients", "open", "data", "rng",
        "generators", "samplers", "splits", "workers",
    ]  # fmt: skip
    assert list(state["optimizers"]) == ["a", "b"]
    assert state["optimizer_kinds"] == {"a": "SGD", "b": "SGD"}
    assert state["progress"]["epoch"] == 2
    assert state["progress"]["step_count"] == 4
    assert set(state["rng"]) == {"python", "numpy", "torch"}
    form.check(state)


def test_tensors_are_the_runs_own() -> None:
    @lb.on("on_fit_begin")
    def look(ctx: Any) -> None:
        own = ctx.model.weight
        assert ctx.state_dict()["model"]["weight"].data_ptr() == own.data_ptr()

    fit(Scale, look)


def test_callbacks_are_in_it_by_name_where_they_have_something_to_say() -> None:
    class Keeps(lb.Callback):
        def __init__(self, value: int) -> None:
            self.value = value

        def state_dict(self) -> dict[str, Any]:
            return {"value": self.value}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.value = state["value"]

    class Silent(lb.Callback):
        pass

    named = Keeps(3)
    named.name = "mine"
    state = state_of(Scale, Keeps(1), Silent(), Keeps(2), named)
    assert state["callbacks"] == {"Keeps": {"value": 1}, "Keeps_2": {"value": 2},
                                  "mine": {"value": 3}}  # fmt: skip
    others = [Keeps(0), Keeps(0)]
    with pytest.warns(lb.LumbreWarning, match="holds one of mine, and no callback of this run"):
        resumed(state, Scale, *others, epochs=3)
    assert [each.value for each in others] == [1, 2]


def test_a_ctrl_c_ends_the_run_it_was_pressed_in_and_a_stop_is_kept() -> None:
    state = state_of(Scale, at("on_train_batch_end", lambda ctx: ctx._interrupt()))
    assert state["progress"]["stop_reason"] is None
    state = state_of(Scale, at("on_epoch_end", lambda ctx: ctx.stop("enough")))
    fitted = resumed(state, epochs=5)
    assert len(fitted.records["metrics"]["train"]) == 1
    assert fitted.stop_reason == state["progress"]["stop_reason"]
    assert "enough" in str(fitted.stop_reason)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_asked_for_is_left_alone(part: str) -> None:
    state = state_of(Moving, optimizer=torch.optim.Adam)
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    options: dict[str, Any] = {"epochs": 3, "optimizer": torch.optim.Adam}
    torch.manual_seed(123)
    first = lb.on("on_fit_begin")(lambda ctx: before.update(copy.deepcopy(ctx.state_dict())))
    last = lb.on("on_fit_begin", weight=math.inf)(
        lambda ctx: after.update(copy.deepcopy(ctx.state_dict()))
    )
    first.name, last.name = "first", "last"

    @lb.on("on_fit_begin", weight=1)
    def load(ctx: Any) -> None:
        ctx.load_state_dict(state, **{part: False})

    fit(Moving, first, load, last, **options)
    assert str(after[part]) == str(before[part])
    others = [name for name in ("model", "records", "progress", "optimizers") if name != part]
    assert all(str(after[name]) != str(before[name]) for name in others)


def test_scalers_of_half_precision_go_on() -> None:
    half = lb.callbacks.MixedPrecision("fp16")
    cpu = lb.Accelerator(cpu=True)
    state = state_of(Scale, half, accelerator=cpu)
    state["scalers"]["opt"]["scale"] = 64.0
    scales: list[float] = []
    see = at("on_epoch_begin", lambda ctx: scales.append(
        ctx.state_dict()["scalers"]["opt"]["scale"]))  # fmt: skip
    resumed(state, Scale, lb.callbacks.MixedPrecision("fp16"), see, accelerator=cpu, epochs=3)
    assert scales == [64.0]


class Moving(Scale):
    """Its weight changes."""

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return -pred.mean()


class Wide(Scale):
    """Other weights than its base."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.more = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.sum() + self.more.sum()


class Grouped(Scale):
    """The same optimizer in another form."""

    def set_optimizers(self, lr: float) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": [self.weight]},
            {"params": [torch.zeros(1, requires_grad=True)]},
        ]
        return torch.optim.SGD(groups, lr)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Wide, {}, r"model than this Wide:\n  missing in the state: more\n  different: weight "
                   r"\(state: \(\) float32, model: \(2,\) float32\)\nBuild the model as it was"),
        (Grouped, {"optimizer": None}, r"optimizer 'opt' is that of SGD of 1 parameters, and this "
                                       r"run has SGD of 1 \+ 1 parameters"),
        (Scale, {"optimizer": torch.optim.Adam}, "is that of SGD of 1 .* run has Adam of 1 param"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_changed(
    module: Any, options: dict[str, Any], message: str
) -> None:
    state = state_of()
    state["model"]["weight"].fill_(77)
    model = module()
    before = model.weight.detach().clone()
    with pytest.raises(ArgumentError, match=message):
        resumed(state, lambda: model, **options)
    assert torch.equal(model.weight, before)


def test_an_epoch_that_no_run_reaches_is_refused_before_anything_is_changed() -> None:
    state = state_of()
    state["model"]["weight"].fill_(77)
    state["progress"]["epoch"] = 2**40
    model = Scale()
    with pytest.raises(ArgumentError, match="10000000 epochs, got epoch 1099511627776"):
        resumed(state, lambda: model, epochs=2**41)
    assert model.weight != 77


def test_what_was_called_once_is_still_known_when_the_run_is_over() -> None:
    class Once(lb.Callback):
        @lb.once
        def on_train_begin(self, ctx: Any) -> None:
            kept.append(ctx)

    kept: list[Any] = []
    fit(Scale, Once())
    assert kept[0].state_dict()["progress"]["used_once"] == [["Once", "on_train_begin"]]


def test_a_name_that_the_model_does_not_have_is_named() -> None:
    state = state_of(Wide)
    with pytest.raises(ArgumentError, match="not in the model: more\n  different: weight"):
        resumed(state)
    names = {f"w{i:02}": torch.ones(1) for i in range(30)}
    with pytest.raises(ArgumentError, match=r"not in the model: w00, .*, w19, and 11 more"):
        resumed({**state, "model": {**names, **state["model"]}})


def test_a_state_that_is_not_whole_is_refused() -> None:
    state = state_of()
    del state["rng"], state["progress"]
    with pytest.raises(ArgumentError, match="The state has no progress, rng; it has 'model', "):
        resumed(state)
    resumed(state, progress=False, rng=False)


def test_a_checkpoint_says_what_the_model_was_built_with(tmp_path: Path) -> None:
    class Made(nn.Linear):
        def __init__(self, width: int, activation: Any) -> None:
            super().__init__(width, 1)

    path = str(tmp_path / "state.safetensors")
    x = torch.ones(4, 3)
    trainable = lb.setup(Made, nn.MSELoss(), torch.optim.SGD)
    trainable.set_hparams(width=3, activation=nn.ReLU).set_opt_hparams(lr=0.1).fit(
        [x, x[:, :1]],
        epochs=1,
        callbacks=lb.callbacks.ModelCheckpoint(path),
        verbose=False,
    )
    tree = form.read(path, "checkpoint")
    assert tree["module"].endswith("Made")
    assert tree["hparams"]["width"] == 3
    assert tree["hparams"]["activation"] == QualifiedName("torch.nn.modules.activation.ReLU")
    assert tree["opt_hparams"] == {"lr": 0.1}


def test_hparams_that_no_file_can_hold_are_refused_when_the_fit_begins(tmp_path: Path) -> None:
    trainable = lb.setup(lambda what: nn.Linear(1, 1), nn.MSELoss(), torch.optim.SGD)
    x = torch.ones(4, 1)
    with pytest.raises(lb.errors.SaveError, match=r"hparams.what cannot be saved"):
        trainable.set_hparams(what=object()).fit(
            [x, x], callbacks=lb.callbacks.AutoResume(str(tmp_path / "a")), verbose=False
        )
