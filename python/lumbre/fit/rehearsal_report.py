"""`Rehearsal`: what a fit is going to do, as `Trainable.explain` has seen it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from lumbre.text import format_value

if TYPE_CHECKING:
    from lumbre._core import Schedule

_WIDTH = 100


class Part(NamedTuple):
    """A tensor of a batch, or what is in its place: `input`, `target['x']`, `pred[0]`."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Pass(NamedTuple):
    """A batch of a pass; `batches` is None where the data do not say how many there are."""

    batches: int | None
    parts: list[Part]
    losses: dict[str, float]


class Group(NamedTuple):
    """A parameter group of an optimizer."""

    optimizer: str
    kind: str
    number: int
    tensors: int
    elements: int
    options: dict[str, Any]


class Parameters(NamedTuple):
    """The parameters: who holds them, and by name those that are not going to be trained."""

    tensors: int
    elements: int
    groups: list[Group]
    frozen: list[str]
    held_by_none: list[str]
    without_gradient: list[str]


class File(NamedTuple):
    """What a callback will write: the path is absolute, its fields such as {epoch} are left."""

    callback: str
    path: str
    what: str


class _Section(NamedTuple):
    """A heading with a table below it, or with sentences."""

    title: str
    head: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    sentences: Sequence[str] = ()


class Rehearsal:
    """What a fit will do: its repr is a text, in a notebook a table.

    Attributes:
        module: The name of the module.
        device: Where the batches ran.
        precision: "no", "bf16" or "fp16".
        passes: `{"train": ..., "valid": ...}`, each with `batches`, `parts` and `losses`.
        parameters: `tensors`, `elements`, `groups`, and the names of those that are `frozen`, of
            those that take gradients and are `held_by_none`, and of those `without_gradient`.
        memory: Bytes of `parameters`, `buffers`, `gradients`, and what is `kept for backward`.
        plan: The plan of callbacks, as `lb.schedule` gives it.
        files: What callbacks will write, each with `callback`, `path` and `what`.
        kill: Sentences on what a kill will and will not lose.
    """

    def __init__(
        self,
        module: str,
        device: str,
        precision: str,
        passes: dict[str, Pass],
        parameters: Parameters,
        memory: dict[str, int],
        plan: Schedule,
        files: list[File],
        kill: list[str],
    ) -> None:
        self.module, self.device, self.precision = module, device, precision
        self.passes, self.parameters, self.memory = passes, parameters, memory
        self.plan, self.files, self.kill = plan, files, kill

    def __str__(self) -> str:
        blocks = [self._title(), *map(_text, self._sections())]
        return "\n\n".join(blocks)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        body = "".join(map(_html, self._sections()))
        return f"<div><p><b>{escape(self._title())}</b></p>{body}</div>"

    def _title(self) -> str:
        precision = "" if self.precision == "no" else f" in {self.precision}"
        return f"{self.module} on {self.device}{precision}: one batch of each pass, no step"

    def _sections(self) -> Iterator[_Section]:
        for name, seen in self.passes.items():
            count = "of an unknown number" if seen.batches is None else f"of {seen.batches:,}"
            title = {"train": "Training", "valid": "Validation"}[name]
            parts = [(part.name, part.dtype, _shape(part.shape)) for part in seen.parts]
            for key, value in seen.losses.items():
                label = "loss" if len(seen.losses) == 1 else f"loss of {key}"
                parts.append((label, format_value(value), ""))
            yield _Section(f"{title}, 1 batch {count}", ("", "dtype", "shape"), parts)
        yield from self._of_parameters()
        rows = [(name, _size(count)) for name, count in self.memory.items()]
        yield _Section("Memory, without the state that optimizers make", ("", "size"), rows)
        yield _Section("Plan", ("breakpoint", "callbacks, in their order"), self._plan_rows())
        files = [(each.callback, each.what, each.path) for each in self.files]
        if files:
            yield _Section("Files that will be written", ("callback", "what", "path"), files)
        else:
            yield _Section("Files that will be written", sentences=["None by lumbre's callbacks."])
        yield _Section("If the process is killed", sentences=self.kill)

    def _of_parameters(self) -> Iterator[_Section]:
        own = self.parameters
        head = ("optimizer", "class", "group", "tensors", "elements", "lr")
        rows = [
            (
                each.optimizer,
                each.kind,
                str(each.number),
                f"{each.tensors:,}",
                f"{each.elements:,}",
                f"{float(each.options['lr']):g}" if "lr" in each.options else "",
            )
            for each in own.groups
        ]
        title = f"Parameters: {own.elements:,} in {own.tensors:,} tensors"
        none = [] if rows else ["No optimizer that lumbre knows: the module steps them itself."]
        yield _Section(title, head if rows else (), rows, none)
        named = [
            ("frozen", own.frozen),
            ("held by no optimizer", own.held_by_none),
            ("without gradient", own.without_gradient),
        ]
        kinds = [(what, f"{len(names):,}", _listed(names)) for what, names in named]
        yield _Section("Parameters that this batch does not train", ("", "tensors", "names"), kinds)

    def _plan_rows(self) -> list[tuple[str, str]]:
        found: dict[str, list[str]] = {}
        for hook, callback, _, _, filter_ in self.plan.rows:
            shown = f"{callback} ({filter_})" if filter_ else callback
            found.setdefault(hook, []).append(shown)
        return [(hook, ", ".join(names)) for hook, names in found.items()]


def _text(section: _Section) -> str:
    lines = [section.title]
    for sentence in section.sentences:
        lines += _wrapped(sentence, "  ", "    ")
    if section.rows:
        table = [section.head, *section.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            start = "  ".join(f"{cell:{w}}" for cell, w in zip(row[:-1], widths, strict=False))
            lines += _wrapped(row[-1], f"  {start}  ", " " * (len(start) + 4))
    return "\n".join(line.rstrip() for line in lines)


def _wrapped(text: str, first: str, others: str) -> list[str]:
    """Break a text between words; a path stays whole."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first]


def _html(section: _Section) -> str:
    title = f"<p><b>{escape(section.title)}</b></p>"
    said = "".join(f"<p>{escape(each)}</p>" for each in section.sentences)
    if not section.rows:
        return title + said
    head = "".join(f"<th>{escape(each)}</th>" for each in section.head)
    rows = (
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in section.rows
    )
    body = f"<tbody>{''.join(rows)}</tbody>"
    return f"{title}{said}<table><thead><tr>{head}</tr></thead>{body}</table>"


def _shape(shape: tuple[int, ...]) -> str:
    return str(shape) if shape else "a single value"


def _listed(names: Sequence[str]) -> str:
    """Return the first names; all of them are in the attribute."""
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000  # type: ignore[assignment]
    return f"{count} B" if unit == "B" else f"{count:.1f} {unit}"
