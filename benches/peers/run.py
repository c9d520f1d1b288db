"""What lumbre costs beside its peers: runs the programs in turn, and writes a table and a plot.

`run.py` measures everything and writes `benches/peers.md` and `benches/peers.png`. `run.py NAME...`
measures only the libraries and cases that are named, shows them, and writes nothing. `PASSES=1`
before it takes one pass. In a pass each library is imported once, by a program that runs each case
in a fork of its own; the libraries take turns within a case, so that what else the machine does
falls on all.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TIMEOUT = 120
PASSES = int(os.environ.get("PASSES", "2"))

LIBRARIES = {
    "lumbre": "lumbre",
    "hand": "by hand",
    "lightning": "Lightning",
    "ignite": "ignite",
    "skorch": "skorch",
    "keras": "Keras",
    "fastai": "fastai",
    "poutyne": "Poutyne",
    "transformers": "Trainer",
}
STEPS = {
    "step": "a step of training, no metric",
    "metrics": "loss and accuracy kept",
    "callbacks": "the same, 10 idle callbacks",
    "bar": "the same, progress bar",
    "loader": "shuffled DataLoader",
    "memory": "arrays in memory",
    "evaluate": "evaluate",
    "predict": "predict",
    "convnet": "convnet, Adam",
}
STARTS = {"import": "import, s", "first": "import and a first batch, s", "resident": "memory, MB"}
FOUND = {"import": "import_cpu", "resident": "import_memory"}  # told by every program
SCALES = {"import": 1.0, "first": 1.0, "resident": 1e-6, **dict.fromkeys(STEPS, 1e6)}

Line = dict[str, Any]
Lines = dict[tuple[str, str], list[Line]]  # by library and case
Values = dict[tuple[str, str], float]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TERM": "xterm"}


class PeerError(Exception):
    """A program failed, or came to another end than the loop by hand."""


# --- running ----------------------------------------------------------------------------------


def program(library: str) -> Path:
    """The file of a library; the trailing underscore keeps it apart from what it imports."""
    return HERE / ("hand.py" if library == "hand" else f"{library}_.py")


class Program:
    """A library's program, which waits for cases."""

    def __init__(self, library: str) -> None:
        self.library = library
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(program(library)), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=ENVIRONMENT,
            start_new_session=True,
        )

    def run(self, case: str) -> Line:
        """Run a case, and read its line."""
        late = threading.Timer(TIMEOUT, self.kill)
        late.start()
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(f"{case}\n")
            self.process.stdin.flush()
            return self.read(case)
        finally:
            late.cancel()

    def read(self, case: str) -> Line:
        """Read up to the line of the case: a library may print lines of its own."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            if text.startswith('{"case": '):
                line: Line = json.loads(text)
                if "failed" in line or not line.get("drawn", 1):
                    break
                return line
        self.errors.seek(0)
        reason = self.errors.read()[-2000:] or f"no bar, or not done after {TIMEOUT} s"
        raise PeerError(f"{self.library}, {case}: {reason}")

    def kill(self) -> None:
        """End it, with the fork that it waits for."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self.errors.close()


def measure(libraries: list[str], cases: list[str], passes: int) -> Lines:
    """Run all programs, pass by pass."""
    lines: Lines = {}
    number, all_of_them = 0, passes * len(cases) * len(libraries)
    for _ in range(passes):
        with contextlib.ExitStack() as stack:
            programs = []
            for library in libraries:
                programs.append(Program(library))
                stack.callback(programs[-1].close)
                # One by one: an import beside another would take longer.
                programs[-1].run("import")
            for case in cases:
                for each in programs:
                    number += 1
                    line = each.run(case)
                    lines.setdefault((each.library, case), []).append(line)
                    print(
                        f"{number}/{all_of_them} {each.library} {case}: {shown(line)}", flush=True
                    )
    return lines


def shown(line: Line) -> str:
    """A line for who waits."""
    return f"{line['cpu'] * 1e6:,.0f} µs"


def check(lines: Lines) -> None:
    """Refuse what came to another end than the loop by hand: then it did not do the same."""
    for (library, case), found in lines.items():
        expected = lines.get(("hand", case))
        if expected is None:
            continue
        for line in found:
            for name in ("loss", "acc", "kept_loss", "kept_acc", "kept_rows"):
                if name in line and name in expected[0]:
                    same(library, case, name, line[name], expected[0][name])


def same(library: str, case: str, name: str, value: float, expected: float) -> None:
    """Refuse a value that differs by more than 1e-5 of it."""
    if not math.isclose(value, expected, rel_tol=1e-5):
        raise PeerError(f"{library}, {case}: {name} is {value!r}, by hand {expected!r}")


# --- what came of it --------------------------------------------------------------------------


def values(lines: Lines, clock: str = "cpu") -> Values:
    """Medians, by library and case; seconds and bytes."""
    found: Values = {}
    for key, each in lines.items():
        times = [line[clock] for line in each if clock in line]
        if times:
            found[key] = statistics.median(times)
    for case, name in FOUND.items():
        for library in {library for library, _ in lines}:
            all_lines = (line for key, each in lines.items() if key[0] == library for line in each)
            told = [line[name] for line in all_lines if line.get(name)]
            if told:
                found[library, case] = statistics.median(told)
    return found


def number(value: float) -> str:
    """Three digits."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


def table(
    libraries: Iterable[str], cases: dict[str, str], cell: Callable[[str, str], float | None]
) -> list[str]:
    """A table of markdown."""
    rows = [["", *cases.values()], ["---", *["---:"] * len(cases)]]
    for library in libraries:
        cells = [cell(library, case) for case in cases]
        rows.append([LIBRARIES[library], *("-" if v is None else number(v) for v in cells)])
    return ["| " + " | ".join(row) + " |" for row in rows]


def scaled(found: Values) -> Callable[[str, str], float | None]:
    """Cells in the unit of the table."""

    def cell(library: str, case: str) -> float | None:
        value = found.get((library, case))
        return None if value is None else value * SCALES[case]

    return cell


def over_lumbre(found: Values) -> Callable[[str, str], float | None]:
    """Cells that are ratios to lumbre."""

    def cell(library: str, case: str) -> float | None:
        value, ours = found.get((library, case)), found.get(("lumbre", case))
        return value / ours if value is not None and ours else None

    return cell


def behind(found: Values) -> list[str]:
    """Where a peer is as fast as lumbre or faster, said plainly."""
    ratio = over_lumbre(found)
    sentences = []
    for case, what in {**STEPS, **STARTS}.items():
        ahead = {library: ratio(library, case) for library in LIBRARIES if library != "lumbre"}
        named = [f"{LIBRARIES[name]} ({number(r)})" for name, r in ahead.items() if r and r <= 1]
        if named:
            sentences.append(f"- {what}: {', '.join(named)}.")
    return sentences or ["- nowhere in this run."]


def spread(lines: Lines) -> float:
    """The median over all programs of how far the passes lie apart, as a part of their median."""
    parts = []
    for each in lines.values():
        times = [line["cpu"] for line in each if "cpu" in line]
        if len(times) > 1:
            parts.append((max(times) - min(times)) / statistics.median(times))
    return statistics.median(parts) if parts else 0.0


def waits(lines: Lines) -> list[str]:
    """Where the clock on the wall says something else than the processor's."""
    cpu, wall = values(lines), values(lines, "wall")
    far = [
        f"{LIBRARIES[library]}, {case}: {number(wall[library, case] * 1e6)} µs on the wall."
        for library, case in lines
        if case in STEPS
        and (library, case) in cpu
        and wall[library, case] > 1.15 * cpu[library, case]
    ]
    return ["", "The wall's clock differs by more than 15 %:", "", *(f"- {f}" for f in far)] * bool(
        far
    )


def versions(lines: Lines) -> str:
    """The versions of the libraries."""
    told = {library: each[0]["version"] for (library, _), each in lines.items()}
    return ", ".join(
        f"{LIBRARIES[name] if name != 'transformers' else 'transformers'} {version}"
        for name, version in told.items()
        if name != "hand"
    )


INTRODUCTION = """\
# lumbre beside its peers

Written by `make peers`; the programs are in [peers](peers), one a library. Each trains the same
model from the same weights on the same batches in the same order with the same optimizer, and one
whose end differs from the loop by hand by more than 1e-5 is refused: the loss of the trained model,
the loss and accuracy that were kept, those of `evaluate`, the sum of what `predict` gives. That is
asked after 200 steps, of the convnet after 5: Keras has Adam's epsilon elsewhere, which adds up.

The model is linear 16→4 on batches of 32 with SGD, and the convnet two convolutions on batches of
64 images of 28x28 with Adam. At this size nearly all that is measured is the library's own work;
the larger a model, the less any of this matters, as the convnet's column shows.

- *step* to *bar*, and *convnet*: batches that are ready in memory, through
  `DataLoader(batches, batch_size=None)`. *loader*: `DataLoader(TensorDataset(x, y), shuffle=True)`.
  *memory*: arrays, in order, where a library takes those (lumbre, skorch, Keras, Poutyne), else
  `DataLoader(TensorDataset(x, y))`. *evaluate* and *predict*: the latter as well.
- A step is a slope: a fit of 3n steps less one of n, so that set-up falls out. `evaluate` and
  `predict` are whole calls over BATCHES batches, divided by their number.
- An idle callback has a hook at the end of an epoch only. The bar is drawn on a pseudo-terminal.
- *import* is `import` in a fresh interpreter that has torch, with the names a training needs, and
  *memory* what that adds to the process. Some libraries load parts later, lumbre among them, so
  that *import and a first batch* is fairer. The dashes are those of the loop by hand, which has
  nothing to import.
- Every library is set as its documentation sets it for speed: no logger, no checkpoints, no bar.
  Those whose loss or metric cannot be left out keep it in *step* as well: lumbre, skorch, Keras,
  fastai, Poutyne and Trainer keep the loss. fastai's is a moving average, Trainer's accuracy is
  counted in `compute_loss`, as it has none in training, and skorch's `evaluate` is its `forward`
  with loss and accuracy by torch.
"""


def report(lines: Lines, passes: int) -> str:
    """The text of `peers.md`."""
    found = values(lines)
    about = lines["hand", "step"][0]
    apart = f"; in the middle of all cells the passes lie {spread(lines):.0%} apart"
    machine = (
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"torch {about['version']}, {versions(lines)}. "
        f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, one thread. "
        f"Passes: {passes}, of which the median is shown{apart if passes > 1 else ''}. Within a "
        "pass a cell is the median of 3 rounds or more."
    )
    parts = [
        INTRODUCTION.replace("BATCHES", str(lines["hand", "evaluate"][0]["steps"])),
        machine,
        "",
        "## Processor time of a batch, µs",
        "",
        *table(LIBRARIES, STEPS, scaled(found)),
        *waits(lines),
        "",
        "## The same over lumbre's",
        "",
        *table(LIBRARIES, STEPS, over_lumbre(found)),
        "",
        "## Start",
        "",
        *table(LIBRARIES, STARTS, scaled(found)),
        "",
        "## Where lumbre is not ahead",
        "",
        "Times over lumbre's, where that is 1 or less:",
        "",
        *behind(found),
        "",
        "![The times of the first table, each case a row, each library a dot](peers.png)",
    ]
    return "\n".join(parts) + "\n"


def plot(found: Values, path: Path) -> None:
    """Dots on a logarithmic axis: a row for each case, a color and a shape for each library."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    shapes = "os^vDPX<>"
    cases = list(STEPS)
    for i, (library, name) in enumerate(LIBRARIES.items()):
        # A little below each other, so that those that are alike can be told apart.
        low = (i - len(LIBRARIES) / 2) * 0.07
        rows = [
            (found[library, case] * 1e6, y + low)
            for y, case in enumerate(cases)
            if (library, case) in found
        ]
        if rows:
            ours = library == "lumbre"
            axes.plot(
                *zip(*rows, strict=True),
                shapes[i],
                color="black" if ours else f"C{i - 1}",
                markersize=10 if ours else 7,
                markeredgecolor="white",
                linestyle="none",
                label=name,
                zorder=3 if ours else 2,
            )
    axes.set_xscale("log")
    axes.set_yticks(range(len(cases)), [STEPS[case] for case in cases])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="x", which="major", color="0.85")
    axes.grid(axis="x", which="minor", color="0.94")
    for y in range(1, len(cases)):
        axes.axhline(y - 0.5, color="0.8", linewidth=0.8, zorder=1)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlabel("processor time of a batch, µs; farther left is faster")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def chosen(names: list[str]) -> tuple[list[str], list[str]]:
    """The libraries and cases that are named; all of a kind where none of it is."""
    cases = [*STEPS, "first"]
    unknown = set(names) - {*LIBRARIES, *cases}
    if unknown:
        known = ", ".join([*LIBRARIES, *cases])
        raise PeerError(f"There is no {', '.join(sorted(unknown))}. There are: {known}")
    some = [name for name in LIBRARIES if name in names] or list(LIBRARIES)
    return some, [case for case in cases if case in names] or cases


def main(names: list[str]) -> None:
    """Measure, check, and write or show."""
    start = time.monotonic()
    libraries, cases = chosen(names)
    lines = measure(libraries, cases, PASSES)
    found = values(lines)
    shown_cases = {case: case for case in [*cases, *FOUND]}
    print("\n".join(table(libraries, shown_cases, scaled(found))))
    check(lines)
    if not names:
        (HERE.parent / "peers.md").write_text(report(lines, PASSES))
        plot(found, HERE.parent / "peers.png")
    print(f"{(time.monotonic() - start) / 60:.1f} minutes.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PeerError as error:
        sys.exit(str(error))
