"""What fit gives back: predictions, evaluations, records as frames and figures, and its text."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from lumbre.errors import ArgumentTypeError, DataWarning
from lumbre.text import format_value
from runs import Pair, Scale, Trace, at, fit, numbered

TEN = torch.arange(10.0).reshape(10, 1)


# --- predict ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["predict", "evaluate"])
@pytest.mark.parametrize("value", ["no", 1, torch.tensor(True)])
def test_what_only_counts_as_true_is_no_flag(kind: str, value: Any) -> None:
    run = getattr(fit(), kind)
    with pytest.raises(ArgumentTypeError, match="verbose is True or False; got"):
        run(numbered(1), verbose=value)
    with pytest.raises(ArgumentTypeError, match="predict: stack is True or False; got 'no'"):
        fit().predict(TEN, stack="no")


def test_predictions_come_in_order_stacked_and_on_the_cpu() -> None:
    fitted = fit(loss=lambda pred, target: 0 * pred.mean())
    pred = fitted.predict(TEN, dataloader_options={"batch_size": 4})
    assert torch.equal(pred, TEN)
    assert pred.device.type == "cpu"
    assert not pred.requires_grad
    batches = fitted.predict(TEN, dataloader_options={"batch_size": 4}, stack=False)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat(batches), TEN)


def test_of_pairs_the_input_is_predicted() -> None:
    assert torch.equal(fit().predict([TEN, torch.zeros(10)]), TEN)
    assert torch.equal(fit().predict(DataLoader(TensorDataset(TEN, TEN + 5), 3)), TEN)


def test_nothing_is_shuffled_or_dropped_and_asking_for_it_is_a_warning() -> None:
    fitted = fit()
    with pytest.warns(DataWarning, match="shuffle in dataloader_options.*no effect"):
        pred = fitted.predict(TEN, dataloader_options={"batch_size": 4, "shuffle": True})
    assert torch.equal(pred, TEN)
    with pytest.warns(DataWarning, match="shuffle in"):
        fitted.evaluate([TEN, TEN], dataloader_options={"shuffle": True})
    with pytest.warns(DataWarning, match="drop_last in"):
        pred = fitted.predict(TEN, dataloader_options={"batch_size": 4, "drop_last": True})
    assert torch.equal(pred, TEN)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(TEN), shuffle=True)
    with pytest.warns(DataWarning, match="predict gives what its DataLoader does, which shuffles"):
        fitted.predict(loader)


class Two(NamedTuple):
    left: Tensor
    right: Tensor


@pytest.mark.parametrize(
    "form",
    [
        lambda x: (x, x + 1),
        lambda x: [x, (x + 1, x + 2)],
        lambda x: {"a": x, "b": {"c": x + 1}},
        lambda x: Two(x, x + 1),
    ],
    ids=["tuple", "nested list", "nested dict", "named tuple"],
)
def test_predictions_keep_the_form_that_the_model_gives_them(form: Any) -> None:
    class Forms(Scale):
        def predict(self, x: Tensor) -> Any:
            return form(x)

    def equal(left: Any, right: Any) -> bool:
        if isinstance(left, Tensor):
            return torch.equal(left, right)
        assert type(left) is type(right)
        if isinstance(left, dict):
            assert list(left) == list(right)
            left, right = list(left.values()), list(right.values())
        return all(equal(a, b) for a, b in zip(left, right, strict=True))

    fitted = fit(Forms)
    assert equal(fitted.predict(TEN, dataloader_options={"batch_size": 4}), form(TEN))
    batches = fitted.predict(TEN, dataloader_options={"batch_size": 5}, stack=False)
    assert equal(batches, [form(TEN[:5]), form(TEN[5:])])


def test_callbacks_may_change_the_batch_and_the_prediction() -> None:
    def input_(ctx: Any) -> None:
        ctx.input = ctx.input + 1

    def pred(ctx: Any) -> None:
        ctx.pred = ctx.pred * 10

    callbacks = [lb.on("on_predict_batch_begin")(input_), lb.on("on_predict_batch_end")(pred)]
    assert torch.equal(fit().predict(TEN, callbacks), (TEN + 1) * 10)


@pytest.mark.parametrize("kind", ["predict", "evaluate"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_predicts_in_eval_mode_and_gets_its_mode_back(kind: str, training: bool) -> None:
    modes = []

    class Modes(Scale):
        def forward(self, x: Tensor) -> Tensor:
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(x)

    fitted = fit(Modes)
    assert not fitted.model.training
    assert modes[0] == (True, True)
    modes.clear()
    fitted.model.train(training)
    getattr(fitted, kind)(numbered(2))
    assert modes == [(False, False)] * 2
    assert fitted.model.training == training


def test_evaluating_from_a_callback_leaves_the_training_alone() -> None:
    class Evaluates(lb.Callback):
        def on_train_batch_end(self, ctx: Any) -> None:
            twin = fit(
                ctx.model, epochs=1, optimizer=lambda params, lr: torch.optim.SGD(params, 0.0)
            )
            twin.evaluate(numbered(1))
            assert ctx.model.ctx is ctx

    fitted = fit(Scale, Evaluates(), loss=lambda pred, target: pred.mean(), epochs=1)
    assert fitted.records["metrics"]["train"] == [{"loss": pytest.approx(0.95)}]


# --- evaluate -----------------------------------------------------------------------------------


def test_evaluate_measures_as_the_validation_does() -> None:
    fitted = fit(metrics=[lb.metrics.MAE(), lb.metrics.RMSE()], valid_data=numbered(3))
    evaluation = fitted.evaluate(numbered(3))
    assert evaluation.metrics == fitted.records["metrics"]["valid"][-1]
    frame = evaluation.get_metrics()
    assert list(frame.columns) == ["metric", "value"]
    assert list(frame["metric"]) == ["loss", "mae", "rmse"]
    assert list(frame["value"]) == list(evaluation.metrics.values())


def test_evaluate_takes_other_metrics() -> None:
    fitted = fit(metrics=lb.metrics.MAE())
    assert list(fitted.evaluate(numbered(2), metrics=lb.metrics.MSE()).metrics) == ["loss", "mse"]
    assert list(fitted.evaluate(numbered(2), metrics=[]).metrics) == ["loss"]
    assert list(fitted.evaluate(numbered(2)).metrics) == ["loss", "mae"]


def test_evaluate_of_several_optimizers_has_a_loss_for_each() -> None:
    fitted = fit(Pair, loss=nn.MSELoss(), optimizer=None)
    assert list(fitted.evaluate(numbered(2)).metrics) == ["loss_a", "loss_b"]


def test_evaluate_and_predict_change_nothing() -> None:
    fitted = fit(metrics=lb.metrics.MAE())
    records, state = copy.deepcopy(fitted.records), copy.deepcopy(fitted.model.state_dict())
    fitted.evaluate(numbered(3))
    fitted.predict(numbered(3))
    assert fitted.records == records
    assert state == fitted.model.state_dict()
    assert all(p.grad is None for p in fitted.model.parameters())


# --- wrapped models -----------------------------------------------------------------------------


class Counts:
    """A backend of torch.compile that counts the calls of what it has compiled."""

    calls = 0

    def __call__(self, graph: Any, example: Any) -> Any:
        def run(*args: Any) -> Any:
            self.calls += 1
            return graph(*args)

        return run


def test_predict_and_evaluate_run_the_compiled_model_that_was_trained() -> None:
    counts, model = Counts(), nn.Linear(1, 1)
    fitted = fit(torch.compile(model, backend=counts), loss=nn.MSELoss())
    assert fitted.model is model
    before = counts.calls
    pred = fitted.predict(TEN, dataloader_options={"batch_size": 5})
    assert counts.calls == before + 2
    assert torch.allclose(pred, model(TEN))
    fitted.evaluate(numbered(3))
    assert counts.calls == before + 5
    fitted.model = nn.Linear(1, 1)  # what was compiled is not this one
    assert torch.equal(fitted.predict(TEN), fitted.model(TEN))
    assert counts.calls == before + 5


def test_predict_runs_the_data_parallel_wrapper_that_was_trained() -> None:
    class Wrapper(nn.DataParallel):
        calls = 0

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return super().forward(x)

    wrapped = Wrapper(nn.Linear(1, 1))
    fitted = fit(wrapped, loss=nn.MSELoss())
    before = wrapped.calls
    fitted.predict(TEN)
    fitted.evaluate(numbered(1))
    assert wrapped.calls == before + 2


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_the_predict_of_a_module_is_found_in_its_wrapper(wrap: Any) -> None:
    class Own(Scale):
        def predict(self, x: Tensor) -> Tensor:
            return x + 100

    fitted = fit(wrap(Own()), loss=nn.MSELoss())
    assert torch.equal(fitted.predict(TEN), TEN + 100)


def test_the_file_of_a_compiled_model_has_the_plain_names(tmp_path: Path) -> None:
    fitted = fit(torch.compile(nn.Linear(1, 1), backend="eager"), loss=nn.MSELoss())
    fitted.save(tmp_path / "net.lumbre")
    loaded = lb.load(tmp_path / "net.lumbre", nn.Linear(1, 1))
    assert torch.equal(loaded.predict(TEN), fitted.model(TEN))


# --- records, frames and figures ----------------------------------------------------------------


def test_the_metrics_are_a_long_frame() -> None:
    frame = fit(metrics=lb.metrics.MAE()).get_metrics()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["set", "metric", "epoch", "value"]
    rows = [tuple(row) for row in frame.itertuples(index=False)]
    assert rows[:4] == [
        ("train", "loss", 1, 3.0),
        ("train", "mae", 1, 2.0),
        ("train", "loss", 2, 3.0),
        ("train", "mae", 2, 2.0),
    ]
    assert rows[4:] == [
        ("valid", name, epoch, value)
        for epoch in (1, 2)
        for name, value in (("loss", 2.0), ("mae", 1.0))
    ]
    assert frame["value"].dtype == "float64"
    assert frame["epoch"].dtype == "int64"


def test_the_frame_of_a_fit_without_values_has_its_columns() -> None:
    frame = fit(Scale, lb.on("on_epoch_begin")(lambda ctx: ctx.skip_epoch())).get_metrics()
    assert list(frame.columns) == ["set", "metric", "epoch", "value"]
    assert len(frame) == 0


def test_plot_gives_a_figure_with_a_panel_a_metric_and_a_line_a_set() -> None:
    figure = fit(metrics=lb.metrics.MAE()).plot()
    assert isinstance(figure, Figure)
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == ["loss", "mae"]
    for axis in panels:
        assert [line.get_label() for line in axis.lines] == ["train", "valid"]
        assert [list(line.get_xdata()) for line in axis.lines] == [[1, 2], [1, 2]]
        assert axis.get_xlabel() == "epoch"
    assert [list(line.get_ydata()) for line in panels[0].lines] == [[3.0, 3.0], [2.0, 2.0]]
    figure.canvas.draw()
    plt.close(figure)


def test_plot_of_one_set_one_epoch_or_no_values_works_too() -> None:
    for fitted in (
        fit(valid_data=None),
        fit(epochs=1),
        fit(Scale, lb.on("on_epoch_begin")(lambda ctx: ctx.skip_epoch())),
    ):
        figure = fitted.plot()
        figure.canvas.draw()
        plt.close(figure)
    assert mpl.get_backend().lower() == "agg"


def by_class(*values: Any) -> list[lb.Metric]:
    """Metrics whose values are these, one each."""
    made = []
    for k, value in enumerate(values):
        kind = lb.metric("Value", update=lambda *_: None, compute=lambda _, value=value: value)
        made.append(kind())
        made[-1].name = f"value_{k}"
    return made


def test_plot_has_a_line_for_each_place_of_a_vector() -> None:
    fitted = fit(metrics=by_class([0.1, 0.2, math.nan], np.arange(12.0), math.nan))
    figure = fitted.plot()
    _, few, many, none = (axis for axis in figure.axes if axis.get_visible())
    assert len(few.lines) == 2 * 3
    assert [list(line.get_ydata()) for line in few.lines[:2]] == [[0.1, 0.1], [0.2, 0.2]]
    assert [line.get_linestyle() for line in few.lines] == ["-"] * 3 + ["--"] * 3
    legend = [text.get_text() for text in few.get_legend().get_texts()]
    assert legend == ["train", "valid", "0", "1", "2"]
    assert (few.get_title(), many.get_title()) == ("value_0", "value_1, 12 values")
    assert [text.get_text() for text in many.get_legend().get_texts()] == ["train", "valid"]
    assert len(none.lines) == 2
    figure.canvas.draw()
    plt.close(figure)


def test_plot_shows_the_last_matrix_as_an_image() -> None:
    small, large = np.array([[1.0, 0.25], [0.125, 4.0]]), np.full((11, 11), math.nan)
    fitted = fit(metrics=by_class(small, large, np.zeros((2, 2, 2)), np.zeros(0)))
    fitted.records["metrics"]["valid"][-1]["value_0"] = small + 1
    figure = fitted.plot()
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    # The last one is the colors' scale beside the large matrix.
    assert titles == ["loss", "value_0, valid, epoch 2", "value_1, valid, epoch 2", ""]
    panel = figure.axes[1]
    np.testing.assert_array_equal(panel.images[0].get_array(), small + 1)
    assert [text.get_text() for text in panel.texts] == ["2", "1.25", "1.12", "5"]
    assert (panel.get_xlabel(), figure.axes[2].texts[:]) == ("", [])
    figure.canvas.draw()
    plt.close(figure)


def test_plot_of_a_metric_whose_shape_varies_works_too() -> None:
    fitted = fit(metrics=by_class(np.ones((2, 2)), np.ones(2)))
    for entries in fitted.records["metrics"].values():
        entries[-1] |= {"value_0": math.nan, "value_1": np.ones(3)}
    fitted.records["metrics"]["valid"] = [{"value_0": math.nan, "value_1": math.nan}]
    figure = fitted.plot()
    assert figure.axes[1].get_title() == "value_0, valid: nothing was measured"
    assert np.isnan(figure.axes[2].lines[2].get_ydata()[0])
    figure.canvas.draw()
    plt.close(figure)


def test_of_a_confusion_matrix_the_axes_have_names() -> None:
    data = torch.eye(3).repeat(4, 1), torch.arange(12) % 3
    matrix = lb.metrics.ConfusionMatrix(name="m")
    setup = lb.setup(Scale, nn.functional.cross_entropy, torch.optim.SGD, matrix)
    fitted = setup.set_opt_hparams(lr=0.1).fit(data, 1, verbose=False)
    panel = fitted.plot().axes[1]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("predicted", "true")
    plt.close(panel.figure)
    assert "<tr><th>train</th>" in fitted._repr_html_()
    assert "<table><tr><td>4</td><td>0</td><td>0</td></tr>" in fitted._repr_html_()
    evaluation = fitted.evaluate(data, verbose=False)
    assert "<th>m</th><td><table><tr><td>4</td>" in evaluation._repr_html_()
    assert "m       array of shape (3, 3)" in repr(evaluation)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.array([0.5, 1e-9]), "[0.5000 1.000e-09]"),
        (np.arange(6.0), "[0.0000 1.0000 2.0000 3.0000 4.0000 5.0000]"),
        (np.arange(7.0), "[0.0000 1.0000 2.0000 ... 5.0000 6.0000]"),
        (torch.tensor([0.5]), "[0.5000]"),
        (np.zeros((2, 3)), "array of shape (2, 3)"),
        ("text", "text"),
    ],
    ids=str,
)
def test_a_vector_is_shown_in_short_and_a_matrix_by_its_shape(value: Any, text: str) -> None:
    assert format_value(value) == text


def test_the_fitted_says_what_it_was_made_of() -> None:
    fitted = fit()
    assert fitted.hparams == {}
    assert fitted.opt_hparams == {"lr": 0.1}
    assert fitted.stop_reason is None
    assert fitted.profile is fitted.records["profile"]
    assert isinstance(fitted.model, Scale)


def test_the_fitted_shows_as_text_and_html() -> None:
    fitted = fit(Scale, metrics=lb.metrics.MAE())
    lines = repr(fitted).splitlines()
    assert lines[0].startswith("Scale, fitted for 2 epochs in ")
    assert lines[1].split() == ["train", "loss", "3.0000", "mae", "2.0000"]
    assert lines[2].split() == ["valid", "loss", "2.0000", "mae", "1.0000"]
    html = fitted._repr_html_()
    for part in ("<th>loss</th>", "<th>mae</th>", "<td>3.0000</td>", "Scale, fitted for 2 epochs"):
        assert part in html


def test_the_text_says_why_the_fit_stopped_and_html_is_escaped() -> None:
    fitted = fit(Scale, at("on_epoch_end", lambda ctx: ctx.stop("a <b> & c"), name="Judge"))
    assert "1 epoch" in repr(fitted)
    assert "Judge: a <b> & c" in repr(fitted)
    assert "Judge: a &lt;b&gt; &amp; c" in fitted._repr_html_()
    assert "<b> & c" not in fitted._repr_html_()


def test_the_text_of_a_fit_without_epochs_works_too() -> None:
    fitted = fit(Scale, at("on_fit_begin", lambda ctx: ctx.stop("at once")))
    assert repr(fitted).startswith("Scale, fitted for 0 epochs")
    assert "at once" in fitted._repr_html_()


# --- verbose ------------------------------------------------------------------------------------


def test_verbose_prints_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    fit(metrics=lb.metrics.MAE(), verbose=True, epochs=2)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/2 · train loss 3.0000 mae 2.0000 · valid loss 2.0000 mae 1.0000",
        "epoch 2/2 · train loss 3.0000 mae 2.0000 · valid loss 2.0000 mae 1.0000",
    ]


@pytest.mark.parametrize("verbose", [False, None])
def test_nothing_is_printed_where_nobody_looks(
    verbose: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = fit(verbose=verbose)
    fitted.evaluate(numbered(2), verbose=verbose)
    fitted.predict(numbered(2), verbose=verbose)
    assert tuple(capsys.readouterr()) == ("", "")


def test_verbose_is_passed_on_to_callbacks() -> None:
    seen = []
    look = lb.on("on_fit_begin")(lambda ctx: seen.append(ctx.verbose))
    for verbose in (True, False, None):
        fit(Scale, look, verbose=verbose)
    assert seen == [True, False, False]


# --- a fitted model leaves ----------------------------------------------------------------------


def test_a_fitted_model_trains_on_and_can_be_fitted_again() -> None:
    fitted = fit(loss=lambda pred, target: pred.mean())
    weight = fitted.model.weight.item()
    again = fit(fitted.model, loss=lambda pred, target: pred.mean(), epochs=1)
    assert again.model is fitted.model
    assert fitted.model.weight.item() == pytest.approx(weight - 0.2)
    fitted.model(torch.ones(1)).sum().backward()
    assert fitted.model.weight.grad is not None


def test_a_fitted_may_be_pickled() -> None:
    fitted = fit(metrics=[lb.metrics.MAE(), lb.metrics.RMSE()], data=rows(), valid_data=None)
    twin = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    assert twin.records == fitted.records
    assert torch.equal(twin.predict(TEN), fitted.predict(TEN))
    assert twin.evaluate(rows()).metrics == fitted.evaluate(rows()).metrics


def rows() -> list[Tensor]:
    return [torch.ones(4, 1), torch.ones(4, 1)]


def test_callbacks_of_a_fit_do_not_run_in_evaluate_and_predict() -> None:
    trace = Trace()
    fitted = fit(Scale, trace)
    count = len(trace.events)
    fitted.evaluate(numbered(1))
    fitted.predict(numbered(1))
    assert len(trace.events) == count
