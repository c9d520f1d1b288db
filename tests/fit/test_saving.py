"""Fitted models and weights that are saved and loaded, here and in another process."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import lumbre as lb
from lumbre.errors import (
    ArgumentError,
    ArgumentTypeError,
    FileError,
    LumbreError,
    LumbreWarning,
    SaveError,
)
from lumbre.files import form
from lumbre.files.tree import QualifiedName
from places import TESTS
from runs import at, without_pickle

X, Y = torch.randn(24, 4), torch.arange(24) % 3
CPU = lb.Accelerator(cpu=True)


class Net(nn.Module):
    """Batch statistics, tied weights and code among its hparams."""

    def __init__(self, width: int = 5, act: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), act())
        self.tied = nn.Linear(width, width)
        self.again = nn.Linear(width, width)
        self.again.weight = self.tied.weight
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.tied(self.body(x))))


def setup(**hparams: Any) -> lb.Trainable:
    made = lb.setup(Net, nn.CrossEntropyLoss(), torch.optim.Adam, lb.metrics.Accuracy())
    return made.set_hparams(**hparams).set_opt_hparams(lr=0.01, betas=(0.9, 0.99))


def fit(**hparams: Any) -> lb.Fitted:
    return setup(**hparams).fit([X, Y], 2, valid_data=[X, Y], accelerator=CPU, verbose=False)


@pytest.fixture(scope="module")
def fitted() -> lb.Fitted:
    return fit(width=7)


@pytest.fixture
def path(tmp_path: Path, fitted: lb.Fitted) -> Path:
    fitted.save(tmp_path / "net.lumbre")
    return tmp_path / "net.lumbre"


def assert_same_weights(left: nn.Module, right: nn.Module) -> None:
    one, other = left.state_dict(), right.state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- save and load ------------------------------------------------------------------------------


def test_a_loaded_model_is_the_one_that_was_saved(path: Path, fitted: lb.Fitted) -> None:
    loaded = lb.load(path, Net, loss=nn.CrossEntropyLoss(), metrics=lb.metrics.Accuracy())
    assert_same_weights(loaded.model, fitted.model)
    assert loaded.model.again.weight is loaded.model.tied.weight
    assert not loaded.model.training
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.records == fitted.records
    assert loaded.hparams == {"width": 7}
    assert loaded.opt_hparams == {"lr": 0.01, "betas": (0.9, 0.99)}
    assert loaded.stop_reason is None
    assert torch.equal(loaded.predict(X, verbose=False), fitted.predict(X, verbose=False))
    mine = loaded.evaluate([X, Y], verbose=False).metrics
    assert mine == fitted.evaluate([X, Y], verbose=False).metrics
    assert list(mine) == ["loss", "acc"]
    assert loaded.get_metrics().equals(fitted.get_metrics())
    assert repr(loaded) == repr(fitted)


def test_a_loaded_model_can_be_saved_again_to_the_same_file(path: Path, tmp_path: Path) -> None:
    lb.load(path, Net).save(tmp_path / "again.lumbre")
    assert (tmp_path / "again.lumbre").read_bytes() == path.read_bytes()


def test_records_of_any_form_and_the_reason_to_stop_come_back(tmp_path: Path) -> None:
    values = {"nan": float("nan"), "vector": [1.0, 2.0], "tensor": torch.ones(2), "np": np.ones(2)}

    def log(ctx: Any) -> None:
        for name, value in values.items():
            ctx.log_metric(name, value)
        ctx.stop("enough")

    fitted = setup().fit([X, Y], 3, at("on_train_end", log), accelerator=CPU, verbose=False)
    fitted.save(tmp_path / "net.lumbre")
    loaded = lb.load(tmp_path / "net.lumbre", Net)
    got, put = (each.records["metrics"]["train"][0] for each in (loaded, fitted))
    assert list(got) == list(put)
    assert repr(got) == repr(put)
    assert got["nan"] != got["nan"]
    assert loaded.records["profile"] == fitted.records["profile"]
    assert loaded.stop_reason == fitted.stop_reason
    assert "enough" in str(loaded.stop_reason)


def test_a_trainable_brings_loss_and_metrics_along(path: Path, fitted: lb.Fitted) -> None:
    loaded = lb.load(path, setup(width=3))
    assert loaded.hparams == {"width": 7}
    measured = loaded.evaluate([X, Y], verbose=False).metrics
    assert measured == fitted.evaluate([X, Y], verbose=False).metrics
    other = lb.load(path, setup(), loss=nn.MultiMarginLoss(), metrics=[])
    assert list(other.evaluate([X, Y], verbose=False).metrics) == ["loss"]
    assert other.evaluate([X, Y], verbose=False).metrics["loss"] != measured["loss"]


def test_weights_are_loaded_into_a_module_that_is_there(path: Path, fitted: lb.Fitted) -> None:
    model = Net(7)
    loaded = lb.load(path, model)
    assert loaded.model is model
    assert_same_weights(model, fitted.model)
    assert loaded.hparams == {"width": 7}
    with pytest.raises(ArgumentError, match=r"one is there already. Pass the class: module=Net"):
        lb.load(path, model, hparams={"width": 7})


def test_without_a_loss_a_model_predicts_and_evaluate_says_what_to_pass(path: Path) -> None:
    loaded = lb.load(path, Net)
    assert loaded.predict(X, verbose=False).shape == (24, 3)
    with pytest.raises(ArgumentError, match=r"no way to a loss.*lb.load\(..., loss=nn.MSELoss"):
        loaded.evaluate([X, Y], verbose=False)


def test_a_factory_is_called_with_the_hparams(path: Path, fitted: lb.Fitted) -> None:
    seen: dict[str, Any] = {}

    def make(**hparams: Any) -> Net:
        seen.update(hparams)
        return Net(7)

    assert_same_weights(lb.load(path, make, hparams={"more": 1}).model, fitted.model)
    assert seen == {"width": 7, "more": 1}


def test_a_fresh_process_loads_the_same_predictions(path: Path, fitted: lb.Fitted) -> None:
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], f'{sys.argv[1]}/fit'];"
        "import torch, lumbre as lb, test_saving as t;"
        "x = torch.linspace(-1, 1, 8).reshape(2, 4);"
        "print(lb.load(sys.argv[2], t.Net).predict(x, verbose=False).numpy().tobytes().hex())"
    )
    command = [sys.executable, "-c", code, str(TESTS), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    mine = fitted.predict(torch.linspace(-1, 1, 8).reshape(2, 4), verbose=False)
    assert done.stdout.strip() == mine.numpy().tobytes().hex()


def test_a_model_that_was_wrapped_is_saved_under_its_own_names(
    tmp_path: Path, fitted: lb.Fitted
) -> None:
    inside = Net(7)
    inside.load_state_dict(fitted.model.state_dict())
    wrapped = lb.load(_saved(tmp_path, fitted), Net)
    wrapped.model = torch.compile(nn.DataParallel(inside))  # type: ignore[assignment]
    wrapped.save(tmp_path / "wrapped.lumbre")
    assert_same_weights(lb.load(tmp_path / "wrapped.lumbre", Net).model, inside)
    assert form.read_meta(tmp_path / "wrapped.lumbre").tree["module"].endswith(".Net")
    nn.init.zeros_(inside.head.weight)
    lb.load_model_weights(wrapped, tmp_path / "wrapped.lumbre")
    assert_same_weights(inside, fitted.model)


def _saved(folder: Path, fitted: lb.Fitted) -> Path:
    fitted.save(folder / "net.lumbre")
    return folder / "net.lumbre"


# --- what load asks for -------------------------------------------------------------------------


def test_without_a_module_load_imports_nothing_and_names_the_class(path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"holds a \S*test_saving.Net, .*, module=Net\)\.$"):
        lb.load(path)


def test_code_among_the_hparams_has_to_be_given_again(tmp_path: Path) -> None:
    fitted = fit(act=nn.Tanh)
    path = _saved(tmp_path, fitted)
    message = (
        r"net\.lumbre has classes and functions by name only, as they are code "
        r"\(act: torch.nn.modules.activation.Tanh\). Pass these hparams: .*hparams=\{'act': ...\}"
    )
    with pytest.raises(ArgumentError, match=message):
        lb.load(path, Net)
    with pytest.raises(ArgumentError, match=message):
        lb.load(path, Net, hparams={"width": 5})
    given = lb.load(path, Net, hparams={"act": nn.Tanh})
    known = lb.load(path, setup(act=nn.Tanh))
    for loaded in (given, known):
        assert loaded.hparams == {"act": nn.Tanh}
        assert torch.equal(loaded.predict(X, verbose=False), fitted.predict(X, verbose=False))
    there = lb.load(path, Net(act=nn.Tanh))
    assert there.hparams == {"act": QualifiedName("torch.nn.modules.activation.Tanh")}


def test_other_code_than_what_was_saved_is_warned_about(tmp_path: Path) -> None:
    path = _saved(tmp_path, fit(act=nn.Tanh))
    words = r"net\.lumbre was saved with act=torch\S*Tanh and is loaded with torch\S*ReLU: "
    with pytest.warns(LumbreWarning, match=words):
        lb.load(path, Net, hparams={"act": nn.ReLU})

    class Tanh(nn.Tanh):
        """One that may be the same, moved."""

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lb.load(path, Net, hparams={"act": Tanh})


def test_code_inside_of_an_hparam_is_found_there(tmp_path: Path) -> None:
    def make(layers: dict[str, Any]) -> Net:
        return Net(act=layers["kinds"][1][0])

    hparams = {"layers": {"kinds": [3, (nn.Tanh, torch.relu)]}}
    lb.setup(make, nn.CrossEntropyLoss(), torch.optim.SGD).set_hparams(**hparams).fit(
        [X, Y], 1, accelerator=CPU, verbose=False
    ).save(tmp_path / "net.lumbre")
    with pytest.raises(ArgumentError, match=r"\(layers: torch\S*Tanh, \S*relu\)"):
        lb.load(tmp_path / "net.lumbre", make)
    assert lb.load(tmp_path / "net.lumbre", make, hparams=hparams).hparams == hparams


def test_code_among_the_options_of_the_optimizer_stays_a_name(tmp_path: Path) -> None:
    fitted = fit()
    fitted.opt_hparams["rule"] = nn.ReLU
    loaded = lb.load(_saved(tmp_path, fitted), Net)
    assert loaded.opt_hparams["rule"] == QualifiedName("torch.nn.modules.activation.ReLU")
    loaded = lb.load(tmp_path / "net.lumbre", setup().set_opt_hparams(rule=nn.ReLU))
    assert loaded.opt_hparams["rule"] is nn.ReLU


def test_an_hparam_that_is_no_data_is_refused_at_save(tmp_path: Path) -> None:
    fitted = fit()
    fitted.hparams["layer"] = nn.Linear(1, 1)
    with pytest.raises(
        SaveError, match=r"^hparams\.layer cannot be saved: it is of type torch\.nn"
    ):
        fitted.save(tmp_path / "net.lumbre")
    assert not list(tmp_path.iterdir())


def test_what_the_class_raises_keeps_its_type_and_says_for_which_file(path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'") as caught:
        lb.load(path, nn.ReLU)
    assert caught.value.__notes__ == [
        "in ReLU, built with the hparams width=7",
        f"making the module of {path}, a {Net.__module__}.Net, with its hparams",
    ]


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (3, {}, "module is a subclass of torch.nn.Module, a function"),
        (Net, {"loss": nn.MSELoss}, r"is the class MSELoss .* write MSELoss\(\)"),
        (lambda **_: 3, {}, "has to give a torch.nn.Module; it gave 3"),
    ],
)
def test_arguments_are_checked(path: Path, module: Any, options: Any, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        lb.load(path, module, **options)


def test_weights_that_do_not_fit_are_listed_and_the_model_is_untouched(path: Path) -> None:
    class Other(nn.Module):
        def __init__(self, width: int = 7) -> None:
            super().__init__()
            self.head = nn.Linear(width, 4)
            self.register_buffer("seen", torch.zeros(2))
            self.tied = nn.Linear(width, width)

    model = Other()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"net\.lumbre does not fit the model, a \S*Other:"
    ) as caught:
        lb.load(path, model)
    assert isinstance(caught.value, FileError)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  missing in the state: seen"
    assert lines[2].startswith("  not in the model: body.0.weight, body.0.bias, ")
    assert lines[3] == (
        "  different: head.weight (state: (3, 7) float32, model: (4, 7) float32), "
        "head.bias (state: (3,) float32, model: (4,) float32)"
    )
    assert lines[4] == "Pass the class and the hparams that it was saved with."
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_long_list_of_names_is_cut(tmp_path: Path) -> None:
    fitted = fit()
    fitted.model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(30)))
    with pytest.raises(FileError, match=r"9\.bias, and 40 more\n"):
        lb.load(_saved(tmp_path, fitted), nn.Sequential)


def test_numbers_that_would_lose_what_they_are_do_not_fit(
    tmp_path: Path, fitted: lb.Fitted
) -> None:
    def with_model(dtype: torch.dtype) -> lb.Fitted:
        loaded = lb.load(_saved(tmp_path, fitted), Net(7))
        loaded.model = nn.Linear(2, 1).requires_grad_(False).to(torch.float64)
        loaded.model.register_buffer("n", torch.ones(2).to(dtype))
        return loaded

    lb.save_model_weights(with_model(torch.complex64), tmp_path / "weights")
    with pytest.raises(FileError, match=r"n \(state: \(2,\) complex64, model: \(2,\) float32\)"):
        lb.load_model_weights(with_model(torch.float32), tmp_path / "weights")
    lb.save_model_weights(with_model(torch.float32), tmp_path / "weights")
    lb.load_model_weights(with_model(torch.bfloat16), tmp_path / "weights")


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_module_takes_its_shapes_from_the_file(tmp_path: Path) -> None:
    made = lb.setup(nn.LazyLinear, nn.CrossEntropyLoss(), torch.optim.SGD)
    module = nn.LazyLinear(3)
    module(X)
    fitted = lb.setup(module, nn.CrossEntropyLoss(), torch.optim.SGD).fit(
        [X, Y], 1, accelerator=CPU, verbose=False
    )
    loaded = lb.load(_saved(tmp_path, fitted), made, hparams={"out_features": 3})
    assert torch.equal(loaded.predict(X, verbose=False), fitted.predict(X, verbose=False))


def test_a_module_without_memory_is_refused(path: Path) -> None:
    with torch.device("meta"):
        model = Net(7)
    with pytest.raises(ArgumentError, match=r"on the meta device .* module.to_empty\(device="):
        lb.load(path, model)


def test_extra_state_of_a_module_is_kept(tmp_path: Path, fitted: lb.Fitted) -> None:
    class Extra(nn.Linear):
        extra: Any = None

        def get_extra_state(self) -> Any:
            return self.extra

        def set_extra_state(self, state: Any) -> None:
            self.extra = state

    loaded = lb.load(_saved(tmp_path, fitted), Net(7))
    loaded.model = Extra(1, 1)
    loaded.model.extra = {"seen": [(1, 2)], "t": torch.ones(1)}
    lb.save_model_weights(loaded, tmp_path / "weights")
    loaded.model.extra = {}
    lb.load_model_weights(loaded, tmp_path / "weights")
    assert loaded.model.extra == {"seen": [(1, 2)], "t": torch.ones(1)}
    loaded.model.extra = torch.ones(1)
    with pytest.raises(FileError, match=r"_extra_state \(state: dict, model: \(1,\) float32\)"):
        lb.load_model_weights(loaded, tmp_path / "weights")


# --- weights ------------------------------------------------------------------------------------


def test_weights_go_to_a_file_and_back_in_place(tmp_path: Path, fitted: lb.Fitted) -> None:
    lb.save_model_weights(fitted, tmp_path / "runs" / "weights.safetensors")
    with safe_open(tmp_path / "runs" / "weights.safetensors", "pt") as file:
        names = {f"model.{name}" for name in fitted.model.state_dict()}
        assert set(file.keys()) == names - {"model.again.weight"}
    other = fit(width=7)
    model, weight = other.model, other.model.head.weight
    other.model.train()
    lb.load_model_weights(other, str(tmp_path / "runs" / "weights.safetensors"))
    assert other.model is model
    assert other.model.head.weight is weight
    assert other.model.training
    assert_same_weights(other.model, fitted.model)


def test_weights_are_taken_from_any_file_that_holds_a_model(
    tmp_path: Path, path: Path, fitted: lb.Fitted
) -> None:
    checkpoint = tmp_path / "checkpoint"
    form.write(
        checkpoint, {"model": fitted.model.state_dict(), "epoch": 3, "opt": {0: X}}, "checkpoint"
    )
    for source in (path, checkpoint):
        other = lb.load(path, Net)
        nn.init.zeros_(other.model.head.weight)
        lb.load_model_weights(other, source)
        assert_same_weights(other.model, fitted.model)
    form.write(checkpoint, {"epoch": 3}, "checkpoint")
    with pytest.raises(FileError, match="checkpoint holds no model; expected a file with one"):
        lb.load_model_weights(fitted, checkpoint)


def test_weights_belong_to_what_is_fitted(path: Path) -> None:
    for use in (lb.save_model_weights, lb.load_model_weights):
        with pytest.raises(ArgumentTypeError, match="fitted is of type Net; expected what fit"):
            use(Net(), path)  # type: ignore[arg-type]


# --- refusals -----------------------------------------------------------------------------------


def test_another_kind_of_file_names_the_function_to_use(tmp_path: Path, fitted: lb.Fitted) -> None:
    lb.save_model_weights(fitted, tmp_path / "weights")
    with pytest.raises(FileError, match=r"a weights file, .* use lb.load_model_weights\(fitted"):
        lb.load(tmp_path / "weights", Net)
    form.write(tmp_path / "state", {}, "checkpoint")
    with pytest.raises(FileError, match=r"a checkpoint file, .* use lb.load_checkpoint\("):
        lb.load(tmp_path / "state")


def test_a_fitted_file_that_lacks_something_is_refused(tmp_path: Path) -> None:
    form.write(tmp_path / "net", {"model": {}, "module": "a.B"}, "fitted")
    with pytest.raises(FileError, match="net is altered: it does not hold what a fitted file"):
        lb.load(tmp_path / "net", Net)
    with pytest.raises(FileNotFoundError, match="none"):
        lb.load(tmp_path / "none", Net)
    assert issubclass(FileError, LumbreError)


# --- no pickle ----------------------------------------------------------------------------------


def test_no_pickle_and_no_code_is_used_on_the_way(tmp_path: Path, fitted: lb.Fitted) -> None:
    with without_pickle():
        fitted.save(tmp_path / "net")
        loaded = lb.load(tmp_path / "net", Net)
        lb.save_model_weights(loaded, tmp_path / "weights")
        lb.load_model_weights(loaded, tmp_path / "weights")
        lb.load_model_weights(loaded, tmp_path / "net")
    assert_same_weights(loaded.model, fitted.model)
