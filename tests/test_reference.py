"""Every public name has its line in the reference, and every error of the core its class."""

import builtins
import inspect
import re
from types import ModuleType

import pytest

import lumbre
from lumbre import callbacks, errors, metrics, nn
from places import ROOT

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def rows(title: str) -> list[str]:
    """The names in the table under a heading."""
    section = REFERENCE.split(f"## `{title}`\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)


@pytest.mark.parametrize("module", [lumbre, callbacks, metrics, nn])
def test_every_public_name_has_one_line_in_the_reference(module: ModuleType) -> None:
    names = module.__all__
    assert len(names) > 2
    assert sorted(rows(module.__name__)) == sorted(names)
    assert all(inspect.getdoc(getattr(module, name)) for name in names)


@pytest.mark.parametrize("module", [callbacks, metrics])
def test_every_callback_and_metric_shows_an_example(module: ModuleType) -> None:
    default = {"Profile", "TrainValid", "Metrics", "Progress", "Interrupt"}
    shown = {n for n in module.__all__ if ">>> " in (inspect.getdoc(getattr(module, n)) or "")}
    assert shown >= {*module.__all__} - default


def own_classes() -> list[type[BaseException]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == errors.__name__
    ]


def test_every_error_is_in_the_reference_and_is_a_built_in_that_one_would_catch() -> None:
    classes = own_classes()
    assert len(classes) > 10
    assert rows("lumbre.errors") == [each.__name__ for each in classes]
    for each in classes:
        assert issubclass(each, errors.LumbreError | errors.LumbreWarning)
        caught = [base for base in each.__mro__ if base.__module__ == builtins.__name__]
        if each is not errors.LumbreError:
            assert caught[0] is not Exception


def test_every_error_of_the_core_has_a_class() -> None:
    core = (ROOT / "rust" / "core" / "src" / "error.rs").read_text(encoding="utf-8")
    face = (ROOT / "rust" / "py" / "src" / "error.rs").read_text(encoding="utf-8")
    variants = re.findall(r"^    (\w+)\(", core.split("pub enum Error {")[1], flags=re.MULTILINE)
    assert len(variants) > 5
    mapped = dict(re.findall(r"Error::(\w+)\(message\) => \(Class::(\w+), message\)", face))
    assert set(variants) == {*mapped, "Host"}, "Host carries an exception of Python as it is"
    assert all(issubclass(getattr(errors, name), errors.LumbreError) for name in mapped.values())


def test_every_warning_of_the_core_has_a_class() -> None:
    core = (ROOT / "rust" / "core" / "src" / "callback.rs").read_text(encoding="utf-8")
    face = (ROOT / "rust" / "py" / "src" / "error.rs").read_text(encoding="utf-8")
    body = core.split("pub enum Warning {")[1].split("\n}")[0]
    variants = re.findall(r"^    (\w+),", body, flags=re.MULTILINE)
    assert len(variants) > 1
    mapped = dict(re.findall(r"Warning::(\w+) => Class::(\w+)", face))
    assert set(variants) == set(mapped)
    assert all(issubclass(getattr(errors, name), errors.LumbreWarning) for name in mapped.values())


def test_every_callback_is_found_in_its_file_when_it_is_asked_for() -> None:
    for name in callbacks.__all__:
        assert getattr(callbacks, name).__name__ == name
    assert dir(callbacks) == sorted(callbacks.__all__)
    with pytest.raises(AttributeError, match=r"'lumbre.callbacks' has no attribute 'EarlyStoping'"):
        callbacks.EarlyStoping  # noqa: B018
