"""A file is there whole or not at all, and is read only if it is what was written."""

import errno
import json
import os
import pickle
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from disk import Disk
from lumbre._core import crc32
from lumbre.errors import ArgumentError, ArgumentTypeError, FileError, LumbreError, SaveError
from lumbre.files import container, form
from lumbre.files.path import as_path
from places import ROOT

TREE = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "epoch": 3, "lr": [0.1, float("nan")]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is there already."""
    target = tmp_path / "net.lumbre"
    form.write(target, TREE, "fitted")
    return target


def craft(path: Path, text: str, **tensors: torch.Tensor) -> None:
    """Write a file of any content with the checksum that it would have to have."""
    safetensors.torch.save_file(tensors or {"w": torch.ones(3)}, path, {"lumbre": text})
    whole, before = path.read_bytes(), b'"lumbre":"{\\"checksum\\":\\"'
    if (at := whole.find(before)) >= 0:
        at += len(before)
        checksum = b"%08x" % zlib.crc32(whole[:at] + b"0" * 8 + whole[at + 8 :])
        path.write_bytes(whole[:at] + checksum + whole[at + 8 :])


def head(**other: Any) -> str:
    known = {"checksum": "0" * 8, "format": 1, "kind": "fitted", "version": "0.1.0", "tree": {}}
    return json.dumps(known | other, separators=(",", ":"))


# --- writing ------------------------------------------------------------------------------------


def test_folders_are_made_and_nothing_else_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "1" / "net.lumbre"
    form.write(path, TREE, "fitted")
    form.write(str(path), {"epoch": 4}, "checkpoint")
    assert form.read(path) == {"epoch": 4}
    assert list(path.parent.iterdir()) == [path]


def test_a_file_in_the_working_folder_needs_no_folder_in_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    form.write("net.lumbre", {"a": 1}, "fitted")
    assert form.read("net.lumbre") == {"a": 1}


@pytest.mark.skipif(os.name == "nt", reason="this system has no such modes")
@pytest.mark.parametrize("mask", [0o022, 0o007, 0o077])
def test_the_mode_is_that_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        form.write(tmp_path / "net.lumbre", TREE, "fitted")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "net.lumbre").stat().st_mode) == 0o666 & ~mask


def test_a_link_stays_one_and_what_it_points_to_is_written(tmp_path: Path, path: Path) -> None:
    link = tmp_path / "links" / "latest"
    link.parent.mkdir()
    link.symlink_to(path)
    form.write(link, {"epoch": 9}, "fitted")
    assert link.is_symlink()
    assert form.read(path) == {"epoch": 9}
    path.unlink()
    form.write(link, {"epoch": 10}, "fitted")
    assert form.read(path) == {"epoch": 10}


class Cut(BaseException):
    """What is raised in the middle of things, as Ctrl-C is."""


@pytest.mark.parametrize("is_new", [False, True])
def test_after_a_failure_of_any_system_call_the_file_is_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    disk, before = Disk(monkeypatch), path.read_bytes()
    target = path.parent / "new" / "net.lumbre" if is_new else path
    form.write(path.parent / "other" / "net.lumbre" if is_new else path, TREE, "fitted")
    calls, new = list(disk.calls), {"epoch": 4, "w": torch.ones(1)}
    assert calls[is_new:] == ["open", *["write"] * 3, "fsync", "rename", "fsync_folder"]
    for at, name in enumerate(calls):
        for fault in (OSError, Cut):

            def raised(count: int, called: str, on: str) -> None:
                if count == at:  # noqa: B023 -- it is called in this turn
                    raise Cut if fault is Cut else OSError(errno.ENOSPC, "full", on)  # noqa: B023

            disk.heal()
            disk.fault = raised
            with pytest.raises(fault) as caught:
                form.write(target, new, "fitted")
            disk.heal()
            if isinstance(caught.value, OSError):
                assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(target))
            if name == "fsync_folder":
                assert form.read(target)["epoch"] == 4
                target.unlink()
            if is_new and target.parent.exists():
                target.parent.rmdir()
            if not is_new:
                assert name == "fsync_folder" or path.read_bytes() == before
                path.write_bytes(before)
            there = [each for each in path.parent.rglob("*") if each.is_file()]
            assert there == [path, *([path.parent / "other" / "net.lumbre"] if is_new else [])]


def test_the_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)

    def fault(count: int, name: str, on: str) -> None:
        if name == "rename":
            (made,) = path.parent.glob(".*.tmp")
            form.read(made)

    disk.fault = fault
    form.write(path, TREE, "fitted")
    assert disk.calls[-3:] == ["fsync", "rename", "fsync_folder"]


@pytest.mark.skipif(os.name == "nt", reason="this system cannot sync a folder")
def test_a_folder_that_cannot_be_synced_is_no_error_and_a_broken_disk_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    disk.refuse(name="fsync_folder", number=errno.EINVAL)
    form.write(path, {"epoch": 4}, "fitted")
    assert form.read(path) == {"epoch": 4}
    disk.refuse(name="fsync_folder", number=errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as caught:
        form.write(path, {"epoch": 5}, "fitted")
    assert caught.value.filename == str(path)


def test_a_full_disk_is_an_os_error_that_names_the_file(path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system limits no file's size")
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            form.write(path, {"w": torch.ones(100_000)}, "fitted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_more_text_than_can_be_read_again_is_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(container, "_MOST_HEADER", 3 << 20)
    form.write(path, {"long": [1] * 1_000_000}, "fitted")
    form.write(path, TREE, "fitted")
    with pytest.raises(SaveError, match="comes to 3 MiB of text; a file holds at most 3"):
        form.write(path, {"long": [1] * 2_000_000}, "fitted")
    assert path.read_bytes() == before


def test_several_may_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "net.lumbre"
    form.write(path, {"n": -1, "w": torch.full((1000,), -1.0)}, "fitted")
    faults: list[Exception] = []

    def write(n: int) -> None:
        try:
            for _ in range(10):
                form.write(path, {"n": n, "w": torch.full((1000,), float(n))}, "fitted")
        except Exception as error:
            faults.append(error)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        tree = form.read(path, "fitted")
        assert torch.equal(tree["w"], torch.full((1000,), float(tree["n"])))
    assert not faults
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, random, signal, sys, time
import torch
from lumbre.files import form

torch.set_num_threads(1)
path, chance = sys.argv[1], random.Random(0)

def write(step):
    tree = {"step": step, "parts": [torch.full((500_000,), float(step)) for _ in range(8)]}
    form.write(path, tree, "checkpoint")

write(0)
last = hits = 0
for _ in range(25):
    child = os.fork()
    if child == 0:
        while True:
            last += 1
            write(last)
    time.sleep(chance.uniform(0.02, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    hits += len(os.listdir(os.path.dirname(path))) > 1
    tree = form.read(path, "checkpoint")
    assert tree["step"] >= last, (tree["step"], last)
    assert all(bool((part == tree["step"]).all()) for part in tree["parts"])
    last = tree["step"]
assert last > 0, "no save was completed"
assert hits > 5, "the kills did not hit a save"
write(last)
assert len(os.listdir(os.path.dirname(path))) == 1, "half a file was left"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_killed_while_saving_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=True, timeout=300)
    form.read(path)


# --- what is found when a file is read ----------------------------------------------------------


def test_every_flipped_byte_is_found(path: Path) -> None:
    whole = path.read_bytes()
    assert 300 < len(whole) < 3000
    for at in range(len(whole)):
        for flip in (0x01, 0x20, 0x80, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            with pytest.raises(FileError, match=r"net\.lumbre "):
                form.read(path)
    path.write_bytes(whole)
    form.read(path)


def test_a_file_cut_off_anywhere_is_refused_without_its_checksum_too(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        for look in (form.read, form.read_meta):
            with pytest.raises(FileError, match=r"is truncated|is empty"):
                look(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(FileError, match="truncated or altered"):
        form.read_meta(path)


def test_two_parts_of_a_tensor_that_changed_places_are_found(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + whole[-4:] + whole[-8:-4])
    with pytest.raises(FileError, match="its checksum is not that of its contents"):
        form.read(path)
    assert form.read_meta(path).tree["epoch"] == 3


def test_the_page_on_files_tells_how_to_take_the_checksum(tmp_path: Path, path: Path) -> None:
    page = ROOT / "docs" / "files.md"
    block = page.read_text(encoding="utf-8").split("```python\n")[2].split("```")[0]
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102
    # Longer than what is read at a time, and not a multiple of it.
    form.write(tmp_path / "big", {"w": torch.randn(5_000_000)}, "weights")
    for each in (path, tmp_path / "big"):
        noted, found = names["checksum"](each)
        assert noted == found != "00000000"


@pytest.mark.parametrize("at", [9_000_000, 2**18, 2**18 - 1, -1])
def test_a_flipped_byte_in_a_large_file_is_found(tmp_path: Path, at: int) -> None:
    path = tmp_path / "big"
    form.write(path, {"w": torch.zeros(5_000_000)}, "weights")
    whole = bytearray(path.read_bytes())
    whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(FileError, match="its checksum is not that of its contents"):
        form.read(path)


@given(data=st.binary(max_size=300), more=st.binary(max_size=300))
def test_the_sum_is_that_of_zlib(data: bytes, more: bytes) -> None:
    assert crc32(data) == zlib.crc32(data)
    assert crc32(more, crc32(data)) == zlib.crc32(data + more)


def test_what_looks_like_the_checksum_elsewhere_is_not_taken_for_it(tmp_path: Path) -> None:
    lure = '"lumbre":"{\\"checksum\\":\\"00000000'
    plain = '"lumbre":"{"checksum":"00000000'
    tree = {lure: torch.ones(1), plain: torch.ones(1), "x": [lure, plain], "lumbre": torch.ones(1)}
    form.write(tmp_path / "net.lumbre", tree, "weights")
    got = form.read(tmp_path / "net.lumbre")
    assert list(got) == list(tree)
    assert got["x"] == tree["x"]


def test_no_file_is_the_error_it_always_is(tmp_path: Path) -> None:
    for look in (form.read, form.read_meta):
        with pytest.raises(FileNotFoundError, match=r"none\.lumbre"):
            look(tmp_path / "none.lumbre")


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def saved_by_torch(path: Path) -> None:
    torch.save({"w": torch.ones(2)}, path)


def saved_by_old_torch(path: Path) -> None:
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": 1}))


def text(path: Path) -> None:
    path.write_text("epoch,loss\n1,0.3\n")


def foreign(path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(2)}, path, {"format": "pt"})


def newer(path: Path) -> None:
    craft(path, head(format=2, version="9.0", tree=None))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def huge_header(path: Path) -> None:
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little") + b"{")
        file.truncate(300_000_000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (folder, "is a folder: pass the path of a file in it"),
        (empty, "is empty: what wrote it did not get to its end"),
        (saved_by_torch, "is a zip archive, as torch.save writes it. lumbre reads no pickle"),
        (saved_by_old_torch, "is a pickle. lumbre reads no pickle, as that can run any code"),
        (pickled, "is a pickle"),
        (text, "is no safetensors file, or is truncated or altered"),
        (foreign, r"not written; .* fitted, weights, checkpoint .*torch.load_file\(path\)"),
        (newer, "has the format 2, that of lumbre 9.0; this lumbre reads formats up to 1. Upgrade"),
        pytest.param(
            pipe,
            "is no regular file",
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here"),
        ),
        (huge_header, "is truncated or altered"),
    ],
)
def test_what_is_no_file_of_lumbres_is_refused_with_the_reason(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "thing.lumbre"
    make(path)
    for look in (form.read, form.read_meta):
        with pytest.raises(ValueError, match=r"thing\.lumbre .*" + message) as caught:
            look(path)
        assert isinstance(caught.value, LumbreError)


def test_another_kind_is_refused_with_the_function_that_reads_it(path: Path) -> None:
    message = "is a fitted file, where a checkpoint file is due; use lb.load.path, module="
    for look in (form.read, form.read_meta):
        with pytest.raises(FileError, match=message):
            look(path, "checkpoint")
    with pytest.raises(FileError, match="where a checkpoint or weights file is due"):
        form.read(path, ["checkpoint", "weights"])
    assert form.read(path, ["checkpoint", "fitted"])["epoch"] == 3
    form.write(path, {}, "checkpoint")
    with pytest.raises(FileError, match=r"is a checkpoint file, .*; use lb.load_checkpoint\("):
        form.read(path, "fitted")


@pytest.mark.parametrize(
    "content",
    [
        "{" * 10,
        '{"checksum":"00000000","tree":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"checksum":"00000000","tree":' + '{"a":' * 100_000 + "1" + "}" * 100_001,
        '{"checksum":"00000000","tree":' + "9" * 10_000 + "}",
        '{"checksum":"00000000","format":1}',
        head(format="1"),
        head(format=None),
        head(tree={"$tensor": "nobody"}),
        head(tree={"$tensor": ["w"]}),
        head(tree={"$tensor": "w", "dtype": "complex64"}),
        head(tree={"$code": "print(1)"}),
        head(tree=[[[{"$dict": [[[], 1]]}]]]),
        head(tree=json.loads("[" * 250 + "]" * 250)),
    ],
    ids=lambda content: content[:70],
)
def test_hostile_json_is_an_error_and_no_crash(tmp_path: Path, content: str) -> None:
    path = tmp_path / "evil.lumbre"
    if content.startswith('{"checksum":"00000000"'):
        craft(path, content)
    else:
        safetensors.torch.save_file({"w": torch.ones(3)}, path, {"lumbre": content})
    with pytest.raises(FileError, match=r"evil\.lumbre is altered"):
        form.read(path)


def test_nothing_is_imported_that_a_file_names(tmp_path: Path) -> None:
    path = tmp_path / "net.lumbre"
    assert "antigravity" not in sys.modules
    craft(path, head(tree={"hparams": {"f": {"$name": "antigravity.geohash"}}}))
    assert form.read(path)["hparams"]["f"].name == "antigravity.geohash"
    assert "antigravity" not in sys.modules


def test_parts_of_a_tree_can_be_read_alone(path: Path) -> None:
    assert list(form.read(path, parts=["epoch", "none"])) == ["epoch"]
    for tree in ([1], {1: 2}):
        form.write(path, tree, "fitted")
        with pytest.raises(FileError, match="its tree is not what lumbre writes"):
            form.read(path, parts=["epoch"])


def test_a_header_may_be_as_long_as_a_pickle_begins(tmp_path: Path) -> None:
    path = tmp_path / "net.lumbre"
    form.write(path, {"x": ""}, "fitted")
    length = int.from_bytes(path.read_bytes()[:8], "little")
    form.write(path, {"x": "x" * (0x280 - length)}, "fitted")
    assert path.read_bytes()[:2] == b"\x80\2"
    form.read(path)


def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = container._safetensors
    opened: list[str] = []

    def safetensors_of(name: str) -> Any:
        if not opened:
            form.write(path, {"epoch": 4, "w": torch.ones(5)}, "fitted")
        opened.append(name)
        return real(name)

    monkeypatch.setattr(container, "_safetensors", safetensors_of)
    assert form.read(path)["epoch"] == 4
    assert len(opened) == 2


# --- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [3, None, ["a"]])
def test_a_path_is_a_string_or_a_path(path: Any) -> None:
    message = f"path is of type {type(path).__name__}; expected a string or a pathlib.Path"
    with pytest.raises(ArgumentTypeError, match=message):
        form.write(path, {}, "fitted")
    with pytest.raises(ArgumentTypeError, match=message):
        form.read(path)


def test_a_kind_is_one_that_there_is(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="fitted, weights, checkpoint; got 'model'"):
        form.write(tmp_path / "net", {}, "model")


def test_a_folder_or_a_device_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder: pass the path of a file"):
        form.write(tmp_path, {}, "fitted")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FileError, match="is no regular file"):
            form.write(tmp_path / "pipe", {}, "fitted")


def test_a_parent_that_is_a_file_is_named(path: Path) -> None:
    with pytest.raises(OSError, match="inner"):
        form.write(path / "inner", {}, "fitted")


def test_a_path_of_bytes_is_one_too(tmp_path: Path) -> None:
    assert as_path(os.fsencode(tmp_path)) == str(tmp_path)
