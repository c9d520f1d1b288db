"""Measure lumbre against its budgets.

    python benches/run.py           the whole table, also written to benches/results.json
    python benches/run.py NAME      one row, or those below a name: step.linear, step

Each row compares two sides within one run; no number here means anything beside one of another run.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import torch

import measure
import rows_core
import rows_files
import rows_limit
import rows_loader
import rows_logging
import rows_native
import rows_resume
import rows_step
from measure import Row, text

ROWS = {
    **rows_core.ROWS,
    **rows_files.ROWS,
    **rows_resume.ROWS,
    **rows_native.ROWS,
    **rows_step.ROWS,
    **rows_loader.ROWS,
    **rows_logging.ROWS,
    **rows_limit.ROWS,
}


def line(row: Row) -> str:
    """A row as it is printed."""
    share = row.ratio is not None
    cells = (
        text(row.this, row.unit),
        text(row.other, row.unit),
        f"{row.ratio:.3f}" if share else "-",
        "-" if row.budget is None else f"{row.budget:.2f}" if share else text(row.budget, row.unit),
        {None: "", True: "yes", False: "NO"}[row.holds],
    )
    return f"{row.name:32}" + "".join(f"{cell:>11}" for cell in cells)


def below(name: str, top: str) -> bool:
    """Whether a dotted name is the other one or lies below it; all lie below the empty one."""
    return f"{name}.".startswith(f"{top}." if top else "")


def main(wanted: str) -> None:
    """Measure and print; write what a whole table came to."""
    torch.set_num_threads(1)
    # A group is taken for the name of one of its rows, too.
    groups = {n: rows for n, rows in ROWS.items() if below(n, wanted) or below(wanted, n)}
    if not groups:
        sys.exit(f"There is no row {wanted!r}. The rows begin with:\n  " + "\n  ".join(ROWS))
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    print(measure.__doc__)
    print(", ".join(f"{name} {value}" for name, value in environment.items()))
    titles = ("this", "other", "ratio", "budget", "holds")
    print(f"\n{'name':32}" + "".join(f"{title:>11}" for title in titles))
    start = time.monotonic()
    done: list[Row] = []
    for measure_rows in groups.values():
        for row in measure_rows():
            if below(row.name, wanted):
                done.append(row)
                print(line(row), flush=True)
    kept = [row.holds for row in done if row.holds is not None]
    print(f"\n{sum(kept)} of {len(kept)} budgets hold; {time.monotonic() - start:.0f} s")
    if not wanted:
        rows = [row._asdict() | {"holds": row.holds} for row in done]
        target = Path(__file__).with_name("results.json")
        target.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
