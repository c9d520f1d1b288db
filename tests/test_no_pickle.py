"""The package reads and writes no pickle, and runs nothing that it has read."""

import ast
import re
from collections.abc import Iterator

import pytest

from places import ROOT

MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy"}
BUILT_IN = {"eval", "exec", "compile", "__import__"}
CALLS = {"torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "numpy.load", "np.load"}
CALLS |= {"pd.read_pickle", "pandas.read_pickle", "importlib.import_module"}


def misuse(source: str) -> Iterator[str]:
    """What a source does that it may not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} & CALLS
            yield from names
            if node.module.partition(".")[0] in MODULES:
                yield node.module
        elif isinstance(node, ast.Name) and node.id in BUILT_IN:
            yield node.id
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in CALLS:
            yield ast.unparse(node)
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            yield node.arg


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, torch.nn as nn, dill.source",
        "from pickle import loads",
        "from torch import load",
        "def f(path):\n    return torch.load(path, 'cpu')",
        "save = torch.save",
        "x = eval('1')",
        "np.lib.format.read_array(f, allow_pickle=True)",
        "importlib.import_module(name)",
    ],
)
def test_the_search_finds_each_of_them(source: str) -> None:
    assert list(misuse(source))


def test_the_search_takes_a_model_in_evaluation_mode_for_what_it_is() -> None:
    assert not list(misuse("model.eval(); torch.compile(model); '''pickle eval( torch.load('''"))


def test_the_package_uses_none_of_them() -> None:
    files = sorted((ROOT / "python").rglob("*.py"))
    assert len(files) > 20
    found = {file.name: list(misuse(file.read_text(encoding="utf-8"))) for file in files}
    assert not {name: uses for name, uses in found.items() if uses}


def test_the_core_uses_none_of_them() -> None:
    files = sorted((ROOT / "rust").rglob("src/**/*.rs"))
    assert len(files) > 20
    banned = re.compile(
        r"pickle|marshal|\beval(_bound)?\(|\bpy\.run\(|PyModule::from_code|\bc\"exec"
    )
    assert banned.search('py.import("pickle")')
    assert banned.search("py.eval(code, None, None)")
    for file in files:
        code = re.sub(r"//.*", "", file.read_text(encoding="utf-8"))
        assert not banned.search(code), file
