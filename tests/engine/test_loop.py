"""The loop fires every breakpoint where the tree has it, and trains in the bits of a plain loop."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from lumbre.engine import ends, loop, parts
from places import ROOT
from runs import Pair, Scale, Trace, at, fit, numbered

# The tree, the breakpoints in a step, and those of what ends early.
FIRING = [loop, parts, ends]
HOOKS = list(lb.HOOKS)
ANYWHERE = {"on_early_stopping", "on_interrupt", "on_exception", "on_checkpoint"}


# --- the tree in the source ---------------------------------------------------------------------


def fired_name(node: ast.AST) -> str | None:
    """The breakpoint that a call fires by its name in letters."""
    if not (isinstance(node, ast.Call) and len(node.args) == 1):
        return None
    function, (name,) = node.func, node.args
    fires = isinstance(function, ast.Name) and function.id == "fire"
    fires = fires or (isinstance(function, ast.Attribute) and function.attr == "call_callbacks")
    if fires and isinstance(name, ast.Constant) and isinstance(name.value, str):
        return name.value
    return None


class Tree:
    """Reads the breakpoints of the engine in the order of the source, functions inlined."""

    def __init__(self) -> None:
        sources = [ast.parse(inspect.getsource(module)) for module in FIRING]
        found = [node for source in sources for node in ast.walk(source)]
        self.functions = {f.name: f for f in found if isinstance(f, ast.FunctionDef)}

    def of(self, name: str) -> list[str]:
        return list(self.call(name, False, []))

    def call(self, name: str, training: bool, body: list[ast.stmt]) -> Iterator[str]:
        training = {"train": True, "valid": False}.get(name, training)
        yield from self.block(self.functions[name].body, training, body)

    def block(self, nodes: list[Any], training: bool, body: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "training":
                chosen = node.body if training else node.orelse
                yield from self.block(chosen, training, body)
                if chosen and isinstance(chosen[-1], ast.Return):
                    return
            elif isinstance(node, ast.AST):  # of `nonlocal` it is a name
                yield from self.walk(node, training, body)

    def walk(self, node: ast.AST, training: bool, body: list[ast.stmt]) -> Iterator[str]:
        name = self.inlined(node.iter, training) if isinstance(node, ast.For) else None
        if isinstance(node, ast.For) and name and self.is_generator(name):
            # A pass is a generator: the body of the loop over it runs at its `yield`.
            yield from self.call(name, training, node.body)
            return
        if isinstance(node, ast.Yield | ast.YieldFrom):
            kind = "valid" if not training else "train"
            yield from self.block(body, kind == "train", [])
            return
        for _, value in ast.iter_fields(node):
            if isinstance(value, list):
                yield from self.block(value, training, body)
            elif isinstance(value, ast.AST):
                yield from self.walk(value, training, body)
        if (event := fired_name(node)) is not None:
            yield event
        elif name := self.inlined(node, training):
            yield from self.call(name, training, [])

    def is_generator(self, name: str) -> bool:
        return any(isinstance(node, ast.Yield) for node in ast.walk(self.functions[name]))

    def inlined(self, node: ast.AST, training: bool) -> str | None:
        if not isinstance(node, ast.Call):
            return None
        if ast.unparse(node.func) in ("now.step", "ctx.step"):
            return "train_step" if training else "valid_step"
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        # The last steps of a pass are those of a batch, where several batches make a step; and a
        # step is where it is taken, not where its parts are made. What is measured before the first
        # epoch is the same pass once more.
        others = ("finish_windows", "parts_of", "validate_first")
        is_read = name in self.functions and name not in others
        return name if is_read else None


def test_the_source_reads_as_the_tree_of_breakpoints() -> None:
    tree = Tree()
    in_fit = [hook for hook in HOOKS if "predict" not in hook and hook not in ANYWHERE]
    assert len(in_fit) == 19
    assert [hook for hook in tree.of("fit") if hook not in ANYWHERE] == in_fit
    in_valid = [hook for hook in in_fit if "valid" in hook]
    assert [hook for hook in tree.of("evaluate") if hook not in ANYWHERE] == in_valid
    in_predict = [hook for hook in HOOKS if "predict" in hook]
    assert [hook for hook in tree.of("predict") if hook not in ANYWHERE] == in_predict


def test_early_stopping_and_interrupt_have_their_place_in_the_tree() -> None:
    events = Tree().of("fit")
    assert events[events.index("on_epoch_end") + 1] == "on_early_stopping"
    assert events[events.index("on_train_end") - 1] == "on_interrupt"
    assert events[events.index("on_valid_end") - 1] == "on_interrupt"


@pytest.mark.parametrize("name", ["fit", "evaluate", "predict"])
def test_every_begin_in_the_tree_has_its_end_around_what_is_inside(name: str) -> None:
    open_scopes: list[str] = []
    events = Tree().of(name)
    assert events
    for event in events:
        if event.endswith("_begin"):
            open_scopes.append(event.removesuffix("_begin"))
        elif event.endswith("_end"):
            assert open_scopes.pop() == event.removesuffix("_end")
    assert open_scopes == []


def test_every_breakpoint_is_fired_at_one_place_of_the_source() -> None:
    fired: list[str] = []
    package = Path(inspect.getfile(lb)).parent
    for path in package.rglob("*.py"):
        names = [fired_name(node) for node in ast.walk(ast.parse(path.read_text("utf-8")))]
        if path not in {Path(inspect.getfile(module)) for module in FIRING}:
            assert [name for name in names if name] == [], f"{path.name} fires a breakpoint"
        fired += [name for name in names if name]
    assert sorted(fired) == sorted(HOOKS)


def test_the_docs_page_has_the_tree_and_a_line_for_every_breakpoint() -> None:
    page = (ROOT / "docs" / "hooks.md").read_text("utf-8")
    tree = page.split("```")[1]
    words = [word for word in re.findall(r"\bon_\w+", tree) if word not in ANYWHERE]
    assert words == [hook for hook in HOOKS if hook not in ANYWHERE]
    rows = re.findall(r"^\| `(on_\w+)` \| (.+?) \|$", page, re.MULTILINE)
    assert dict(rows) == lb.HOOKS
    assert len(rows) == len(HOOKS)


# --- the tree as it runs ------------------------------------------------------------------------

FIT = [
    "on_fit_begin",
    "on_epoch_begin",
    "on_train_begin",
    "on_train_batch_begin",
    "on_train_batch_after_pred",
    "on_train_batch_after_loss",
    "on_train_batch_before_backward",
    "on_train_batch_before_step",
    "on_train_batch_after_step",
    "on_train_batch_end",
    "on_train_end",
    "on_valid_begin",
    "on_valid_batch_begin",
    "on_valid_batch_after_pred",
    "on_valid_batch_after_loss",
    "on_valid_batch_end",
    "on_valid_end",
    "on_epoch_end",
    "on_fit_end",
]


def test_a_fit_fires_the_tree() -> None:
    trace = Trace()
    fit(Scale, trace, data=numbered(1), epochs=1)
    assert trace.events == FIT


def test_without_validation_data_there_is_no_validation_pass() -> None:
    trace = Trace()
    fit(Scale, trace, data=numbered(1), epochs=1, valid_data=None)
    assert trace.events == [hook for hook in FIT if "valid" not in hook]


def test_epochs_batches_and_optimizers_repeat_their_part_of_the_tree() -> None:
    trace = Trace()
    fit(Pair, trace, loss=nn.MSELoss(), optimizer=None, epochs=2, valid_data=numbered(2))
    train_step = FIT[4:9]
    train_batch = ["on_train_batch_begin", *train_step, *train_step, "on_train_batch_end"]
    valid_step = FIT[13:15]
    valid_batch = ["on_valid_batch_begin", *valid_step, *valid_step, "on_valid_batch_end"]
    epoch = [
        *["on_epoch_begin", "on_train_begin", *train_batch, *train_batch, "on_train_end"],
        *["on_valid_begin", *valid_batch, *valid_batch, "on_valid_end", "on_epoch_end"],
    ]
    assert trace.events == ["on_fit_begin", *epoch, *epoch, "on_fit_end"]


def test_evaluate_fires_the_validation_part_and_predict_its_own() -> None:
    fitted = fit()
    trace = Trace()
    fitted.evaluate(numbered(1), callbacks=trace, verbose=False)
    assert trace.events == FIT[11:17]
    trace = Trace()
    fitted.predict(numbered(2), callbacks=trace, verbose=False)
    batch = ["on_predict_batch_begin", "on_predict_batch_end"]
    assert trace.events == ["on_predict_begin", *batch, *batch, "on_predict_end"]


def test_counters_count_from_one_and_belong_to_what_is_under_way() -> None:
    trace = Trace(lambda hook, ctx: (hook, ctx.epoch, ctx.iter, ctx.step_count, ctx.training))
    fit(Scale, trace)
    seen = [event for event in trace.events if event[0].endswith("batch_end")]
    assert seen == [
        ("on_train_batch_end", 1, 1, 1, True),
        ("on_train_batch_end", 1, 2, 2, True),
        ("on_valid_batch_end", 1, 1, 2, False),
        ("on_train_batch_end", 2, 1, 3, True),
        ("on_train_batch_end", 2, 2, 4, True),
        ("on_valid_batch_end", 2, 1, 4, False),
    ]
    assert trace.events[0] == ("on_fit_begin", 0, 0, 0, False)


def test_the_optimizer_under_way_is_named() -> None:
    trace = Trace(lambda hook, ctx: (hook, ctx.opt_name, ctx.opt is ctx.optimizers[ctx.opt_name]))
    fit(Pair, trace, loss=nn.MSELoss(), optimizer=None, data=numbered(1), epochs=1)
    names = [event[1:] for event in trace.events if event[0] in FIT[4:9]]
    assert names == [("a", True)] * 5 + [("b", True)] * 5
    names = [event[1] for event in trace.events if event[0] in FIT[13:15]]
    assert names == ["a", "a", "b", "b"]


WITH_GRADIENTS = {
    "on_train_batch_after_pred",
    "on_train_batch_after_loss",
    "on_train_batch_before_backward",
}


@pytest.mark.parametrize("module", [Scale, Pair])
def test_gradients_are_on_where_a_graph_is_wanted_and_off_elsewhere(module: Any) -> None:
    trace = Trace(lambda hook, ctx: (hook, torch.is_grad_enabled()))
    optimizer = None if module is Pair else torch.optim.SGD
    loss = nn.MSELoss() if module is Pair else None
    fitted = fit(module, trace, loss=loss, optimizer=optimizer)
    fitted.evaluate(numbered(1), callbacks=trace, verbose=False)
    fitted.predict(numbered(1), callbacks=trace, verbose=False)
    assert {hook for hook, _ in trace.events} == set(HOOKS) - ANYWHERE
    assert {hook for hook, on in trace.events if on} == WITH_GRADIENTS
    assert {hook for hook, on in trace.events if not on} == set(HOOKS) - ANYWHERE - WITH_GRADIENTS


def test_the_grad_mode_of_the_caller_is_put_back() -> None:
    with torch.no_grad():
        fitted = fit()
        assert not torch.is_grad_enabled()
    assert fitted.model.weight.requires_grad


# --- bit for bit --------------------------------------------------------------------------------


class Net(nn.Module):
    """Dropout and batch statistics: whoever draws or counts otherwise ends in other bits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture(params=["0", "1"], ids=["public", "fast"])
def _road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMBRE_FAST_STEP", request.param)


def classes(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(count, 5, generator=generator), torch.randint(3, (count,), generator=generator)
    )


def assert_same(left: nn.Module, right: nn.Module) -> None:
    state, other = left.state_dict(), right.state_dict()
    assert list(state) == list(other)
    for name in state:
        assert torch.equal(state[name], other[name]), name


OPTIMIZERS = [
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}),
    (torch.optim.Adam, {"lr": 1e-2}),
    (torch.optim.AdamW, {"lr": 1e-2, "fused": True}),
]


@pytest.mark.usefixtures("_road")
@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_training_ends_in_the_bits_of_a_plain_loop(optimizer: Any, options: Any) -> None:
    train, valid = classes(50, seed=1), classes(20, seed=2)

    torch.manual_seed(3)
    plain = Net()
    loss_fn = nn.CrossEntropyLoss()
    opt = optimizer(plain.parameters(), **options)
    valid_losses = []
    train_loader, valid_loader = DataLoader(train, 8, shuffle=True), DataLoader(valid, 8)
    for _ in range(3):
        plain.train()
        for x, y in train_loader:
            opt.zero_grad()
            loss_fn(plain(x), y).backward()
            opt.step()
        plain.eval()
        with torch.no_grad():
            losses = [(loss_fn(plain(x), y).item(), len(y)) for x, y in valid_loader]
        valid_losses.append(sum(loss * size for loss, size in losses) / len(valid))

    torch.manual_seed(3)
    fitted = (
        lb.setup(Net, nn.CrossEntropyLoss(), optimizer, metrics=lb.metrics.Accuracy())
        .set_opt_hparams(**options)
        .fit(DataLoader(train, 8, shuffle=True), 3, valid_data=DataLoader(valid, 8), verbose=False)
    )
    assert_same(fitted.model, plain)
    recorded = [values["loss"] for values in fitted.records["metrics"]["valid"]]
    assert recorded == pytest.approx(valid_losses, rel=1e-6)


class Gan(nn.Module):
    """Two networks and a third that belongs to nobody; which loss it is, `ctx.opt_name` says."""

    def __init__(self) -> None:
        super().__init__()
        self.gen = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5))
        self.disc = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.2), nn.ReLU(), nn.Linear(6, 1))
        self.free = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gen(x)

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return self.loss_of(self.ctx.opt_name, pred, target)

    def loss_of(self, name: str, fake: Tensor, real: Tensor) -> Tensor:
        if name == "gen":
            return F.softplus(-self.disc(fake)).mean() * self.free.squeeze()
        return F.softplus(self.disc(fake)).mean() + F.softplus(-self.disc(real)).mean()

    def set_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "disc": torch.optim.Adam(self.disc.parameters(), 1e-2),
            "gen": torch.optim.SGD(self.gen.parameters(), 1e-1, momentum=0.9),
        }


def gan_data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x, real = (torch.randn(40, 5, generator=generator) for _ in range(2))
    return DataLoader(TensorDataset(x, real), 8, shuffle=True)


def plain_gan() -> Gan:
    torch.manual_seed(3)
    model = Gan()
    optimizers = model.set_optimizers()
    loader = gan_data()
    model.train()
    for _ in range(3):
        for x, real in loader:
            for name, opt in optimizers.items():
                own = list(getattr(model, name).parameters())
                loss = model.loss_of(name, model(x), real)
                for p, grad in zip(own, torch.autograd.grad(loss, own), strict=True):
                    p.grad = grad
                opt.step()
                opt.zero_grad()
    return model


def fitted_gan(*callbacks: lb.Callback, backward: Any = None) -> lb.Fitted:
    torch.manual_seed(3)
    trainable = lb.setup(Gan, backward=backward)
    return trainable.fit(gan_data(), 3, callbacks=callbacks, verbose=False)


@pytest.mark.usefixtures("_road")
@pytest.mark.parametrize("backward", [None, Tensor.backward], ids=["default", "own backward"])
def test_two_optimizers_end_in_the_bits_of_a_plain_loop(backward: Any) -> None:
    assert_same(fitted_gan(backward=backward).model, plain_gan())


@pytest.mark.usefixtures("_road")
@pytest.mark.parametrize("backward", [None, Tensor.backward], ids=["default", "own backward"])
def test_a_loss_leaves_gradients_on_its_own_optimizers_parameters_only(backward: Any) -> None:
    seen = []

    @lb.on("on_train_batch_before_step")
    def look(ctx: Any) -> None:
        for name in ("disc", "gen"):
            grads = [p.grad for p in getattr(ctx.model, name).parameters()]
            has_some = all(grad is not None for grad in grads)
            assert has_some or all(grad is None for grad in grads)
            seen.append((ctx.opt_name, name, has_some))

    fitted_gan(look, backward=backward)
    assert len(seen) == 3 * 5 * 4
    assert all(has_some == (own == name) for own, name, has_some in seen)


@pytest.mark.parametrize("backward", [None, Tensor.backward], ids=["default", "own backward"])
def test_a_loss_leaves_no_gradients_on_parameters_of_no_optimizer(backward: Any) -> None:
    assert fitted_gan(backward=backward).model.free.grad is None


def test_with_several_optimizers_a_loss_is_recorded_for_each() -> None:
    fitted = fitted_gan()
    assert all(list(e) == ["loss_disc", "loss_gen"] for e in fitted.records["metrics"]["train"])


@pytest.mark.usefixtures("_road")
def test_gradients_that_were_there_before_do_not_count() -> None:
    model = nn.Linear(1, 1)
    model(torch.ones(1, 1)).sum().backward()
    twin = nn.Linear(1, 1)
    twin.load_state_dict(model.state_dict())
    for each in (model, twin):
        opt = torch.optim.SGD(each.parameters(), 0.1)
        lb.setup(each, nn.MSELoss(), opt).fit(numbered(2), 1, verbose=False)
    assert_same(model, twin)


# --- what callbacks may replace -----------------------------------------------------------------


@pytest.mark.usefixtures("_road")
def test_a_penalty_is_added_to_the_loss_in_three_lines() -> None:
    @lb.on("on_train_batch_after_loss")
    def penalty(ctx: Any) -> None:
        ctx.loss_grad = ctx.loss_grad + 0.5 * (ctx.model.weight**2).sum()

    fitted = fit(Scale, penalty, data=numbered(1), epochs=1)
    # Without the penalty the loss of Scale has no gradient; with it, it is the weight: 1 - 0.1 * 1.
    assert fitted.model.weight.item() == pytest.approx(0.9)
    assert fitted.records["metrics"]["train"][0]["loss"] == pytest.approx(2.5)


@pytest.mark.usefixtures("_road")
def test_a_replaced_prediction_is_what_the_loss_and_the_metrics_see() -> None:
    seen = []

    @lb.on("on_train_batch_after_pred")
    def double(ctx: Any) -> None:
        ctx.pred = ctx.pred * 2

    fit(
        Scale,
        double,
        at("on_train_batch_end", lambda ctx: seen.append(ctx.pred.item())),
        loss=lambda pred, target: pred.mean(),
        data=numbered(1),
        epochs=1,
    )
    assert seen == [2.0]


def test_a_replaced_loss_function_is_used_and_the_setup_keeps_its_own() -> None:
    def replace(ctx: Any) -> None:
        ctx.loss_fn = lambda pred, target: 7 + 0 * pred.mean()

    trainable = lb.setup(Scale, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    losses = []
    for callbacks in ([at("on_fit_begin", replace)], []):
        fitted = trainable.fit(numbered(1), 1, callbacks, verbose=False)
        losses.append(fitted.records["metrics"]["train"][0]["loss"])
    assert losses == [7.0, 2.0]


@pytest.mark.usefixtures("_road")
def test_a_replaced_step_opt_is_what_steps() -> None:
    stepped = []

    def replace(ctx: Any) -> None:
        inner = ctx.step_opt

        def step_opt(optimizer: Any) -> None:
            stepped.append(optimizer is ctx.opt)
            inner(optimizer)

        ctx.step_opt = step_opt

    plain = fit(loss=lambda pred, target: pred.mean())
    other = fit(Scale, at("on_fit_begin", replace), loss=lambda pred, target: pred.mean())
    assert stepped == [True] * 4
    assert_same(plain.model, other.model)
    frozen = at("on_fit_begin", lambda ctx: setattr(ctx, "step_opt", lambda optimizer: None))
    assert fit(Scale, frozen, loss=lambda p, t: p.mean()).model.weight.item() == 1.0


@pytest.mark.parametrize("form", ["batch", "target", "input"])
def test_a_replaced_batch_is_what_the_model_and_the_loss_get(form: str) -> None:
    seen = []

    def replace(ctx: Any) -> None:
        if form == "batch":
            ctx.batch = [torch.full((1, 1), 3.0), torch.full((1, 1), 5.0)]
        elif form == "target":
            ctx.target = torch.full((1, 1), 5.0)
        else:
            ctx.input = torch.full((1, 1), 3.0)

    def loss(pred: Tensor, target: Tensor) -> Tensor:
        seen.append((pred.item(), target.item()))
        return pred.mean()

    fit(
        Scale,
        at("on_train_batch_begin", replace),
        loss=loss,
        data=numbered(1),
        epochs=1,
        valid_data=None,
    )
    assert seen == [{"batch": (3.0, 5.0), "target": (1.0, 5.0), "input": (3.0, 2.0)}[form]]


def test_the_batch_size_weighs_the_loss_and_callbacks_may_set_it() -> None:
    @lb.on("on_train_batch_begin")
    def weigh(ctx: Any) -> None:
        assert ctx.batch_size == 1
        ctx.batch_size = 3 if ctx.iter == 1 else 1

    fitted = fit(Scale, weigh, epochs=1)
    assert fitted.records["metrics"]["train"][0]["loss"] == pytest.approx((3 * 2 + 4) / 4)


# --- steps of one's own -------------------------------------------------------------------------


class OwnStep(Scale):
    def step(self, ctx: Any) -> None:
        ctx.pred = self(ctx.input)
        ctx.loss = ((ctx.pred - ctx.target) ** 2).mean()
        if ctx.training:
            ctx.backward(((self(ctx.input) - ctx.target) ** 2).mean())
            ctx.step_optimizer()


def test_a_step_of_the_modules_own_is_the_whole_step_in_training_and_validation() -> None:
    trace = Trace()
    fitted = fit(OwnStep, trace, data=numbered(1), epochs=1)
    left_out = {"after_pred", "after_loss"}
    assert trace.events == [h for h in FIT if not any(h.endswith(each) for each in left_out)]
    # (1 - 2)^2 before the step; the weight then is 1 + 0.1 * 2 = 1.2, and (1.2 - 2)^2 is left.
    assert fitted.records["metrics"]["train"][0]["loss"] == pytest.approx(1.0)
    assert fitted.records["metrics"]["valid"][0]["loss"] == pytest.approx(0.64)


def test_the_parts_of_a_step_make_the_default_step() -> None:
    class InParts(Net):
        def step(self, ctx: Any) -> None:
            ctx.forward()
            loss = ctx.compute_loss()
            if ctx.training:
                ctx.backward(loss)
                ctx.step_optimizer()

    fits = []
    for module in (Net, InParts):
        torch.manual_seed(3)
        trace = Trace()
        trainable = lb.setup(module, nn.CrossEntropyLoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
        data = DataLoader(classes(40, seed=1), 8, shuffle=True)
        fitted = trainable.fit(data, 2, [trace], valid_data=classes(9, seed=2), verbose=False)
        fits.append((fitted, trace.events))
    (default, events), (own, own_events) = fits
    assert_same(default.model, own.model)
    assert events == own_events
    assert default.records["metrics"] == own.records["metrics"]


def test_a_step_of_plain_torch_needs_no_optimizer_of_lumbre() -> None:
    class Plain(Scale):
        def __init__(self) -> None:
            super().__init__()
            self.opt = torch.optim.SGD(self.parameters(), 0.1)

        def step(self, ctx: Any) -> None:
            ctx.pred = self(ctx.input)
            loss = ctx.pred.mean()
            if ctx.training:
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
            ctx.loss = loss

    fitted = lb.setup(Plain).fit(numbered(2), 1, verbose=False)
    assert fitted.model.weight.item() == pytest.approx(0.8)
    assert fitted.records["metrics"]["train"][0]["loss"] == pytest.approx(0.95)
    assert not torch.is_tensor(fitted.records["metrics"]["train"][0]["loss"])


def test_ctx_loss_is_a_detached_dict_by_optimizer() -> None:
    seen = []

    @lb.on("on_train_batch_end")
    def look(ctx: Any) -> None:
        seen.append({name: (loss.requires_grad, loss.dim()) for name, loss in ctx.loss.items()})

    fit(Scale, look, data=numbered(1), epochs=1)
    fit(Pair, look, loss=nn.MSELoss(), optimizer=None, data=numbered(1), epochs=1)
    assert seen == [{"opt": (False, 0)}, {"a": (False, 0), "b": (False, 0)}]


# --- the quiet step is the step -----------------------------------------------------------------


@pytest.mark.parametrize("road", ["0", "1"])
def test_a_replaced_step_opt_runs_with_gradients_off(
    road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMBRE_FAST_STEP", road)
    modes = []
    take = at(
        "on_fit_begin",
        lambda ctx: setattr(ctx, "step_opt", lambda opt: modes.append(torch.is_grad_enabled())),
    )
    fit(Scale, take, epochs=1)
    assert modes
    assert not any(modes)


def test_a_target_that_the_model_sets_is_the_one_compared() -> None:
    class Teacher(Scale):
        def forward(self, x: Tensor) -> Tensor:
            pred = super().forward(x)
            self.ctx.target = pred.detach() + 7
            return pred

    def losses(*listeners: lb.Callback) -> Any:
        return fit(Teacher, *listeners, epochs=2).records["metrics"]["train"]

    listened = losses(at("on_train_batch_after_pred", lambda ctx: None))
    assert losses() == listened
    assert losses() != fit(Scale, epochs=2).records["metrics"]["train"]


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_train_begin"])
def test_an_optimizer_put_in_place_before_a_pass_steps_from_then_on(hook: str) -> None:
    steps = []

    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            steps.append(1)
            return super().step(closure)

    @lb.on(hook, epochs=(2, 2))
    def swap(ctx: Any) -> None:
        ctx.optimizers["opt"] = Counting(ctx.model.parameters(), lr=0.1)

    data = numbered(3)
    fit(Scale, swap, data=data, epochs=3)
    assert len(steps) == 6


@pytest.mark.parametrize("hook", [None, "on_fit_begin", "on_epoch_begin", "on_epoch_end"])
def test_a_batch_is_left_by_the_model_and_no_other_by_a_wish_outside(hook: str | None) -> None:
    class Choosy(Scale):
        def forward(self, x: Tensor) -> Tensor:
            if hook is None and self.ctx.training and self.ctx.iter == 2:
                self.ctx.skip_batch()
            return super().forward(x)

    steps: list[int] = []

    def count(ctx: Any) -> None:
        def step(optimizer: Any) -> None:
            steps.append(ctx.step_count)
            optimizer.step()

        ctx.step_opt = step

    wish = [at(hook, lambda ctx: ctx.skip_batch())] if hook else []
    fit(Choosy, at("on_fit_begin", count), *wish, data=numbered(3), epochs=2)
    assert steps == ([1, 3, 4, 6] if hook is None else [1, 2, 3, 4, 5, 6])
