"""A short form of `make torture`, and the example that kills itself."""

import runpy
from pathlib import Path

import pytest

from forge import in_a_process_of_its_own

ROOT = Path(__file__).parent.parent


def test_no_kill_loses_anything() -> None:
    # In a process of its own: it forks, which a process with many threads should not do.
    source = (
        "import warnings, torture\n"
        "warnings.simplefilter('ignore')\n"
        "total = torture.main(12, step=90)\n"
        "assert total.kills >= 12 and total.is_clean, total.told\n"
    )
    in_a_process_of_its_own("-c", source)


def test_the_example_kills_itself_and_ends_as_if_it_had_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "resume.py"))
    kills, whole, again = example["main"]()
    assert kills >= 3
    assert whole.returncode == again.returncode == 0
    assert again.stdout == whole.stdout
    assert "the end is the same: True" in capsys.readouterr().out
