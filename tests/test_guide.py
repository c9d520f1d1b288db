"""What the guides for authors quote is what is compiled, and they tell of everything there is."""

import ctypes
import re
from collections.abc import Callable
from textwrap import indent
from types import SimpleNamespace
from typing import Any

import pytest

from forge import library
from places import ROOT
from runs import Scale, fit

GUIDE = ROOT / "docs" / "write-a-callback-in-rust.md"
TEMPLATE = ROOT / "examples" / "rust-callback"
DOCUMENTS = ["docs/write-a-callback-in-rust.md", "README.md", "rust/abi/README.md"]
# Blocks that show code of ours; those in sh and text are for reading.
CODE = {"rust", "toml", "c"}

BLOCK = re.compile(
    r"(?:^<!-- (?P<source>\S+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def blocks(document: str) -> list[re.Match[str]]:
    return list(BLOCK.finditer((ROOT / document).read_text(encoding="utf-8")))


def in_docs(source: str) -> str:
    """What the documentation in a Rust file says, without the lines that rustdoc hides."""
    lines = re.findall(r"^ *//[/!] ?(.*)$", source, flags=re.MULTILINE)
    return "".join(f"{line}\n" for line in lines if not re.match(r"# |#$", line))


def stands_in(text: str, source: str) -> bool:
    """Whether whole lines of the source say this, at whatever depth."""
    places = [f"\n{source}", f"\n{in_docs(source)}"]
    depths = [indent(text, " " * depth) for depth in (0, 4, 8)]
    return any(f"\n{lines}" in place for lines in depths for place in places)


QUOTES = [
    pytest.param(block["source"], block["text"], id=f"{document}-{place}")
    for document in DOCUMENTS
    for place, block in enumerate(blocks(document))
    if block["source"]
]


def test_every_guide_quotes() -> None:
    assert len(QUOTES) > 12
    quoting = {str(param.id).rpartition("-")[0] for param in QUOTES}
    assert quoting == set(DOCUMENTS)


@pytest.mark.parametrize(("source", "text"), QUOTES)
def test_a_quote_is_what_is_compiled(source: str, text: str) -> None:
    assert text.strip()
    assert stands_in(text, (ROOT / source).read_text(encoding="utf-8")), (
        f"{source} says something else by now than this quote of it:\n{text}"
    )


def test_a_quote_that_has_gone_stale_is_seen() -> None:
    source = "fn main() {\n    let a = 1;\n}\n/// let b = 2;\n/// # hidden\n/// let c = 3;\n"
    assert stands_in("let a = 1;\n", source)
    assert stands_in("let b = 2;\nlet c = 3;\n", source)
    assert not stands_in("let a = 2;\n", source)
    assert not stands_in("let a\n", source)
    assert not stands_in("a = 1;\n", source)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_code_is_shown_that_nobody_compiles(document: str) -> None:
    shown = [block for block in blocks(document) if block["language"] in CODE]
    assert shown
    assert [block["text"] for block in shown if not block["source"]] == []


def test_the_links_lead_somewhere() -> None:
    documents = [GUIDE, TEMPLATE / "README.md", ROOT / "docs/adr/0011-an-abi-for-callbacks.md"]
    for document in documents:
        text = document.read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
        for link in links:
            path, _, anchor = link.partition("#")
            assert path or anchor in anchors, link
            assert (document.parent / path).exists(), link


def named(file: str, pattern: str) -> list[str]:
    found = re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(found) > 2
    return found


@pytest.mark.parametrize(
    ("file", "pattern", "shown"),
    [
        ("rust/abi/src/ctx.rs", r"^    pub fn (\w+)", "`{}("),
        ("rust/abi-macros/src/attributes.rs", r'^ +\("(\w+)", Meta::', "`{}"),
        ("rust/abi-macros/src/attributes.rs", r'"(every|once|epochs|defaults)"', "#[{}"),
    ],
)
def test_the_guide_tells_of_everything(file: str, pattern: str, shown: str) -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    for name in named(file, pattern):
        ways = {shown.format(name), f" `{name}", f"`{name}("}
        assert any(way in guide for way in ways), name


def test_the_guide_says_what_may_run_python() -> None:
    [sentence] = re.findall(r"that may run Python take `&mut self`: ([^.]+)\.", GUIDE.read_text())
    mutable = named("rust/abi/src/ctx.rs", r"pub fn (\w+)(?:<T>)?\(\s*&mut self")
    assert re.findall(r"`(\w+)`", sentence) == mutable


def test_the_template_is_as_small_as_it_is_said_to_be() -> None:
    code = (TEMPLATE / "src" / "lib.rs").read_text(encoding="utf-8")
    struct = code[code.index("pub struct") :]
    callback = struct[: struct.index("\n}\n\n#[cfg") + 2].splitlines()
    assert callback[-1] == "}"
    assert 10 < len(callback) <= 30
    assert "unsafe" not in code


def test_the_template_shows_the_commands_of_the_guide() -> None:
    guide, readme = (path.read_text(encoding="utf-8") for path in (GUIDE, TEMPLATE / "README.md"))
    for command in ("cargo test", "pip install .", "maturin develop", "maturin build --release"):
        assert command in guide
        assert command in readme


def test_the_capsule_by_ctypes_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = [
        block
        for block in blocks("docs/write-a-callback-in-rust.md")
        if block["language"] == "python" and not block["source"]
    ]
    plain = library("lumbre_test_plain")
    plain.plain_new.restype = ctypes.c_void_p

    # The library of the guide is not there; this one is made in the same way.
    def steps_new() -> Any:
        return plain.plain_new(2)

    load: Callable[[str], Any] = lambda name: SimpleNamespace(steps_new=steps_new)  # noqa: E731
    monkeypatch.setattr(ctypes, "CDLL", load)
    shown: dict[str, Any] = {}
    exec(block["text"], shown)  # noqa: S102
    fitted = fit(Scale, shown["steps"], epochs=5)
    assert fitted.stop_reason == "PlainCounter: 2 batches are enough"
