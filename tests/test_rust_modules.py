"""Which file of the Rust crates uses which: the arrows run one way."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

RUST = Path(__file__).parents[1] / "rust"
# The functions of a call take the run as it is lent, which begins with the table of them.
PAIR = {"foreign::answers", "foreign::lent"}
# The root names each module; what only tests use may use everything.
SKIPPED = {"lib", "testing", "tests"}
PATH = re.compile(r"\b((?:super::)+|crate::)([\w:]*(?:(?<=::)\{[^;]*\})?)")


def sources(crate: str) -> dict[str, str]:
    """The code of a crate by module: no comments, no tests."""
    root = RUST / crate / "src"
    code = {}
    for file in root.rglob("*.rs"):
        name = "::".join(file.relative_to(root).with_suffix("").parts)
        text = re.sub(r"//.*", "", file.read_text(encoding="utf-8"))
        code[name.removesuffix("::mod")] = text.split("#[cfg(test)]\nmod tests {")[0]
    return {name: text for name, text in code.items() if name.split("::")[-1] not in SKIPPED}


def spelt_out(path: str) -> list[str]:
    """The paths that a tree such as `a::{b, c::{d, e}}` stands for."""
    head, brace, rest = path.partition("{")
    if not brace:
        return [path]
    parts = re.findall(r"[\w:]+(?:\{[^{}]*\})?", rest[: rest.rindex("}")])
    return [head + each for part in parts for each in spelt_out(part)]


def used(module: str, text: str, modules: set[str]) -> set[str]:
    """The modules of the crate that a module uses."""
    found = set()
    for start, tree in PATH.findall(text):
        ups = start.count("super::")
        base = module.split("::")[:-ups] if ups else []
        for path in spelt_out(tree):
            parts = [*base, *path.split("::")]
            longest = ["::".join(parts[:n]) for n in range(len(parts), 0, -1)]
            found |= {*[each for each in longest if each in modules][:1]}
    return found - {module}


def arrows(crate: str) -> dict[str, set[str]]:
    code = sources(crate)
    return {module: used(module, text, {*code}) for module, text in code.items()}


@pytest.mark.parametrize(
    ("crate", "some"), [("core", ("monitor", "records")), ("py", ("run", "meter"))]
)
def test_no_files_use_each_other_in_a_ring(crate: str, some: tuple[str, str]) -> None:
    graph = arrows(crate)
    assert sum(map(len, graph.values())) > 50
    assert some[1] in graph[some[0]]
    for module in PAIR & {*graph}:
        graph[module] -= PAIR
    list(TopologicalSorter(graph).static_order())


def test_the_pair_that_is_let_through_is_a_ring() -> None:
    graph = arrows("py")
    assert all(graph[module] & PAIR for module in PAIR)


def test_a_ring_is_found_through_trees_and_parents() -> None:
    code = {
        "a": "use crate::{d::{One, Two}, b::c};",
        "b": "use std::fmt;",
        "b::c": "fn f() { super::super::a::g() }",
        "d": "",
    }
    graph = {module: used(module, text, {*code}) for module, text in code.items()}
    assert graph == {"a": {"b::c", "d"}, "b": set(), "b::c": {"a"}, "d": set()}
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph).static_order())
