"""Paths: what is taken for one, and which file it means."""

import os
from pathlib import Path
from typing import Any

import pytest

from lumbre.errors import ArgumentError, ArgumentTypeError, FileError
from lumbre.files.atomic import check_folder, check_writable, naming, remove
from lumbre.files.path import absolute, as_path, file_of, is_there, path_of, safe_name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "^path is empty; expected the name of a file or folder, such as 'run/net.lumbre'"),
        ("a\0b", r"^path 'a\\x00b' has a NUL in it, which no path can have: remove it"),
        (
            "s3://bucket/x",
            "^path 's3://bucket/x' is a URL, .*: pass the path of one, such as",
        ),
        ("file:///x", "is a URL"),
        (Path("gs://bucket/x"), "is a URL"),
        (b"https://a.b/x", "is a URL"),
    ],
)
def test_what_no_file_can_be_called_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        path_of(None, "path", value)


@pytest.mark.parametrize("value", ["C://x", "a b", "run:1/x", "~", "a/b://c", " ", ".", "ä{epoch}"])
def test_what_a_file_may_be_called_stays_as_it_was_written(value: str) -> None:
    assert path_of(None, "path", value) == value
    assert path_of(None, "path", os.fsencode(value)) == value
    assert path_of(None, "path", Path(value)) == str(Path(value))


def test_what_is_no_path_is_refused_by_the_name_of_the_argument() -> None:
    with pytest.raises(ArgumentTypeError, match=r"^object: there is of type int; expected a str"):
        path_of(object(), "there", 3)


def test_a_folder_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (str(tmp_path), "new/", "~"):
        with pytest.raises(ArgumentError, match=r"path is one file; got the folder .*Use one in i"):
            file_of(None, "path", folder, "log")
    assert file_of(None, "path", "~/log", "log") == "~/log"


def test_a_path_is_absolute_from_the_folder_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    assert absolute("a/../b/") == f"{tmp_path}/a/../b/"
    assert absolute("~/x") == as_path("~/x") == "/home/me/x"
    assert absolute("/x") == "/x"
    assert as_path("x") == "x"


def test_only_what_is_not_found_is_absent(tmp_path: Path) -> None:
    assert is_there(str(tmp_path))
    assert not is_there(str(tmp_path / "none"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop") as caught:
        is_there(str(tmp_path / "loop"))
    assert any("cannot be seen: make the path readable" in note for note in caught.value.__notes__)


def test_a_name_is_made_safe_for_every_system() -> None:
    assert safe_name('../a\\b:c*d?e"f<g>h|i\0j\n') == ".._a_b_c_d_e_f_g_h_i_j_"
    assert safe_name("valid_loss é {x}") == "valid_loss é {x}"


def test_where_a_file_can_be_written_the_folder_is_made_and_nothing_is_left(tmp_path: Path) -> None:
    check_writable(f"{tmp_path}/a/b/file")
    check_folder(f"{tmp_path}/c/")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / each for each in ("a", "a/b", "c")]
    (tmp_path / "old").write_text("old")
    check_writable(f"{tmp_path}/old")
    assert (tmp_path / "old").read_text() == "old"


def test_where_none_can_be_written_the_path_and_the_mend_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for check, path in [(check_writable, f"{tmp_path}/file/x"), (check_folder, f"{tmp_path}/file")]:
        with pytest.raises(NotADirectoryError) as caught:
            check(path)
        assert caught.value.filename == path
        assert caught.value.__notes__ == [
            "Nothing can be written there: pass a path in a folder that can be used."
        ]
    for path in (f"{tmp_path}", f"{tmp_path}/new/"):
        with pytest.raises(FileError, match="is a folder: pass the path of a file"):
            check_writable(path)


def test_a_link_is_followed_for_deleting_as_for_writing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").touch()
    remove(str(tmp_path / "link"))
    remove(str(tmp_path / "link"))
    assert os.listdir(tmp_path) == ["link"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        remove(str(tmp_path / "folder"))


def test_what_the_system_says_without_a_number_keeps_its_text_and_gains_the_path() -> None:
    with pytest.raises(OSError, match="odd") as caught, naming("here"):
        raise OSError("odd")
    assert caught.value.__notes__ == ["writing here"]
