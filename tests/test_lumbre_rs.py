"""Rust asks lumbre's Python for what is there, by names that stand in one file."""

import importlib
import inspect
import re
from pathlib import Path

import lumbre._core
from lumbre._core import python_names

SOURCES = Path(__file__).parents[1] / "rust" / "py" / "src"


def is_there(module: str, name: str) -> bool:
    """True if a module has it; `Class.name` may also be set in the `__init__` of the class."""
    owner, _, attribute = name.rpartition(".")
    found = importlib.import_module(module)
    if not owner:
        return hasattr(found, attribute)
    kind = getattr(found, owner)
    return hasattr(kind, attribute) or f"self.{attribute} = " in inspect.getsource(kind.__init__)


def test_every_name_that_rust_asks_for_is_there() -> None:
    names = python_names()
    assert len(names) == len(set(names)) > 50
    assert [name for name in names if not is_there(*name)] == []


def test_no_other_file_of_rust_names_a_module_of_lumbre() -> None:
    named = re.compile(r'(?<!module = )"lumbre\.')
    files = [
        file.relative_to(SOURCES).as_posix()
        for file in sorted(SOURCES.rglob("*.rs"))
        if named.search(re.sub(r"//.*", "", file.read_text(encoding="utf-8")))
    ]
    assert files == ["lumbre.rs"]


def docstrings() -> dict[str, str]:
    """What Rust says of itself, by name."""
    found = {}
    for name, value in vars(lumbre._core).items():
        members = vars(value).items() if isinstance(value, type) else ()
        for path, each in [(name, value), *((f"{name}.{key}", member) for key, member in members)]:
            doc = getattr(each, "__doc__", None)
            if doc and not path.rpartition(".")[2].startswith("__") and callable(value):
                found[path] = doc
    return found


def test_every_docstring_has_a_subject() -> None:
    found = docstrings()
    assert len(found) > 60
    first = re.compile(r"(What|Whether|Who|Where|As)\b")
    assert [path for path, doc in found.items() if first.match(doc)] == []
