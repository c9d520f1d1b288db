"""What the documents show can be typed: code blocks, the example, the targets of make."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

README = ROOT / "README.md"


def test_the_code_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = README.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert len(blocks) > 1
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        # Moved down to where it stands, so that a traceback points into the file.
        above = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(above + block[1], README, "exec"), namespace)  # noqa: S102


def test_the_example_learns_and_leaves_its_files(tmp_path: Path) -> None:
    example = ROOT / "examples" / "digits.py"
    done = subprocess.run(
        [sys.executable, example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["Iteration 20", "Iteration 40", "Done!"]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["digits-metrics.csv", "digits-metrics.png"]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_that_is_named_exists(document: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / document).read_text(encoding="utf-8")))
    assert {"demo", "test"} <= named
    assert named <= targets
