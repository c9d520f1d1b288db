"""What holds of the package as a whole: how many files a batch walks through, and who owns what."""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre.callbacks import GradientAccumulation, GradientClip

PACKAGE = Path(lb.__file__).parent
CPU = lb.Accelerator(cpu=True)


class Traced:
    """Ready batches; from the third one on it writes down the files that Python code runs in."""

    def __init__(self) -> None:
        self.files: set[Path] = set()

    def __iter__(self) -> Iterator[Any]:
        for number in range(1, 9):
            if number == 3:
                sys.setprofile(self.see)
            yield torch.ones(4, 2), torch.zeros(4, 1)
        sys.setprofile(None)

    def __len__(self) -> int:
        return 8

    def see(self, frame: Any, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            self.files.add(path)


def looks(ctx: Any) -> None:
    """Be there, and do nothing."""


INSIDE: dict[str, Any] = {
    "alone": list,
    "a callback inside": lambda: [lb.on("on_train_batch_after_loss")(looks)],
    "GradientClip": lambda: [GradientClip()],
    "GradientAccumulation": lambda: [GradientAccumulation(2)],
}


@pytest.mark.parametrize("road", ["0", "1"])
@pytest.mark.parametrize("inside", INSIDE)
def test_a_batch_walks_through_five_files_at_most(
    inside: str, road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMBRE_FAST_STEP", road)
    lb.as_dataloader.register(Traced)(lambda data, **options: data)
    loader, callbacks = Traced(), INSIDE[inside]()
    net = lb.setup(nn.Linear(2, 1), nn.MSELoss(), torch.optim.SGD, lb.metrics.MAE())
    net = net.set_opt_hparams(lr=0.1)
    try:
        net.fit(loader, epochs=1, callbacks=callbacks, accelerator=CPU, verbose=False)
    finally:
        sys.setprofile(None)
    own = {Path(sys.modules[type(each).__module__].__file__ or "") for each in callbacks}
    walked = sorted(str(path.relative_to(PACKAGE)) for path in loader.files - own)
    assert {"engine/loop.py", "engine/parts.py"} <= set(walked)
    assert len(walked) <= 5, walked


def texts_in(function: ast.AST) -> Iterator[ast.expr]:
    """The strings in a function, those that describe it left aside."""
    for node in ast.walk(function):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text or isinstance(node, ast.JoinedStr):
            yield cast(ast.expr, node)


def is_docstring(node: ast.expr, tree: ast.AST) -> bool:
    bodies = (each.body for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))
    return any(isinstance(body[0], ast.Expr) and body[0].value is node for body in bodies)


def test_no_text_of_more_than_two_lines_stands_in_the_way_of_the_code() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for node in (text for function in functions for text in texts_in(function)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > 2 and not is_docstring(node, tree):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert sorted(set(found)) == []


def test_what_is_private_of_ctx_is_known_to_two_packages_at_most() -> None:
    touched: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
                continue
            owner = ast.unparse(node.value).rpartition(".")[2].removeprefix("_")
            if node.attr.startswith("_") and owner in ("ctx", "run"):
                touched[node.attr].add(path.relative_to(PACKAGE).parts[0])
    assert {"_now", "_step", "_next_end", "_pass"} <= set(touched)
    assert {name: who for name, who in touched.items() if len(who) > 2} == {}
