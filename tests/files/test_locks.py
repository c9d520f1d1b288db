"""One writer of a path, and temporary files that go when their writer has."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from disk import Disk
from lumbre.errors import FileError
from lumbre.files import form, locks
from lumbre.files.locks import Lock

pytestmark = pytest.mark.skipif(locks.fcntl is None, reason="this system has no flock")


def other(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


TAKE = """
import sys
from pathlib import Path
from lumbre.files.locks import Lock
Lock(Path(sys.argv[1]), sys.argv[1])
"""


def test_a_path_has_one_writer_and_another_one_hears_who_that_is(tmp_path: Path) -> None:
    path = tmp_path / "state"
    lock = Lock(path, "run/state")
    with pytest.raises(
        FileError, match=rf"^run/state is in use .*: process {os.getpid()} on \S+\. W"
    ):
        Lock(path, "run/state")
    done = other(TAKE, path)
    assert f"state is in use by a fit that is under way: process {os.getpid()} on " in done.stderr
    lock.release()
    lock.release()
    assert not list(tmp_path.iterdir())
    Lock(path, "run/state").release()


def test_a_lock_goes_with_its_process_and_not_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed = other(TAKE + "\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)", path)
    assert killed.returncode == -9
    assert os.listdir(tmp_path) == [".state.lock"]
    Lock(path, "state").release()
    assert not os.listdir(tmp_path)


OUTLIVED = (
    TAKE
    + """
import os, signal, time
child = os.fork()
if child == 0:
    os.close(1)
    os.close(2)
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
)


def test_a_worker_that_outlives_its_killed_process_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "state"
    done = other(OUTLIVED, path)
    worker = int(done.stdout)
    try:
        assert done.returncode == -9
        Lock(path, "state").release()
        os.kill(worker, 0)  # it is alive, or this would raise
    finally:
        os.kill(worker, signal.SIGKILL)


def test_where_a_system_has_no_locks_that_is_told_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.warns(UserWarning, match="has no locks: that no other fit writes there"):
        Lock(tmp_path / "state", "state").release()
    form.write(tmp_path / "file", {}, "fitted")
    assert os.listdir(tmp_path) == ["file"]


def test_a_lock_that_its_owner_deletes_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, taken = tmp_path / "state", 0
    take = locks.take

    def slow(number: int) -> bool | None:
        nonlocal taken
        taken += 1
        if taken == 1:  # the one before lets go between opening and locking
            (tmp_path / ".state.lock").unlink()
        return take(number)

    monkeypatch.setattr(locks, "take", slow)
    lock = Lock(path, "state")
    assert taken == 2
    assert (tmp_path / ".state.lock").exists()
    lock.release()


def test_what_a_killed_writer_has_left_is_deleted_by_the_next_and_by_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = """
import sys
sys.path.insert(0, sys.argv[2])
from disk import Disk
from lumbre.files import form
Disk().kill(2)
form.write(sys.argv[1], {"epoch": 1}, "checkpoint")
"""
    path = tmp_path / "state"
    assert other(write, path, Path(__file__).parents[1]).returncode == -9
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".state.")
    (tmp_path / ".state.notes.tmp").touch()  # somebody else's
    form.write(tmp_path / "other", {}, "fitted")
    assert left in os.listdir(tmp_path)
    disk = Disk(monkeypatch)

    def fault(count: int, name: str, on: str) -> None:
        if name == "rename":  # one that is being written stays
            disk.heal()
            form.write(path, {"epoch": 3}, "checkpoint")

    disk.fault = fault
    form.write(path, {"epoch": 2}, "checkpoint")
    assert form.read(path) == {"epoch": 2}
    assert sorted(os.listdir(tmp_path)) == [".state.notes.tmp", "other", "state"]
