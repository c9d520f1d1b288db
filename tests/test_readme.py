"""What the documents show can be typed: code blocks, the example, the targets of make."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lumbre as lb
from places import ROOT

README = ROOT / "README.md"


def run_blocks(page: Path, names: dict[str, object]) -> int:
    """Run the code of a page in its order, warnings being errors; returns how many blocks."""
    text = page.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    for block in blocks:
        # Moved down to where it stands, so that a traceback points into the file.
        above = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(above + block[1], page, "exec"), names)  # noqa: S102
    return len(blocks)


def test_the_code_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_blocks(README, {"__name__": "readme"}) > 1


@pytest.mark.parametrize(
    ("page", "count"), [("context", 1), ("files", 2), ("hooks", 1), ("resume", 3)]
)
def test_the_code_of_a_page_runs_with_what_it_takes_for_granted(
    page: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = torch.randn(20, 3), torch.arange(20) % 2
    model = nn.Sequential(nn.Linear(3, 2))
    trainable = lb.setup(model, nn.CrossEntropyLoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
    data = lb.as_dataloader([x, y])
    trainable.fit(data, epochs=1, verbose=False).save("net.lumbre")
    names = {
        "lb": lb,
        "trainable": trainable,
        "data": [x, y],
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "metrics": [lb.metrics.Accuracy()],
        "callbacks": [],
        "loss_fn": nn.CrossEntropyLoss(),
        "train_data": data,
        "valid_data": data,
    }
    assert run_blocks(ROOT / "docs" / f"{page}.md", names) == count


def test_the_example_learns_and_leaves_its_files(tmp_path: Path) -> None:
    example = ROOT / "examples" / "digits.py"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", example],
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


def test_the_table_of_peers_is_the_one_that_was_measured() -> None:
    """The README shows what `make peers` has written, row by row and not by hand."""
    rows = [line for line in README.read_text("utf-8").splitlines() if line.startswith("| ")]
    measured = (ROOT / "benches" / "peers.md").read_text("utf-8").splitlines()
    names = [row.split("|")[1].strip() for row in rows if row in measured]
    assert {"lumbre", "by hand", "Lightning", "Keras", "Trainer"} <= set(names)


def test_the_peers_are_pinned_and_each_has_a_program() -> None:
    peers = ROOT / "benches" / "peers"
    pins = [line for line in (peers / "requirements.lock").read_text("utf-8").splitlines() if line]
    pins = [line.split("#")[0].strip() for line in pins if not line.startswith("#")]
    assert len(pins) > 10
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    libraries = re.findall(r'^    "(\w+)": ".+",$', (peers / "run.py").read_text("utf-8"), re.M)
    programs = {path.stem.removesuffix("_") for path in peers.glob("*.py")} - {"run", "problem"}
    assert len(programs) == 9
    assert programs <= set(libraries)
