"""The one form of file that lumbre writes: a safetensors file with a tree in its metadata.

The tensors of the tree are the tensors of the file; all the rest stands as JSON beside them, with
the kind of file, the version of the format and a checksum of the whole file. Neither writing nor
reading runs code that a file brings along. docs/files.md has the format for strangers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from typing import Any, NamedTuple

from torch import Tensor

from lumbre.errors import ArgumentError, FileError
from lumbre.files import container
from lumbre.files import tensor as saved_tensor
from lumbre.files.atomic import replacing
from lumbre.files.container import BLANK, FORMAT, KINDS, Kinds, Opened, opened
from lumbre.files.path import as_path
from lumbre.files.tree import Encoder, decode
from lumbre.version import __version__

# Under these, a file of a kind keeps classes and functions by name.
_HPARAMS = frozenset({"hparams", "opt_hparams"})
_NAMED = {"fitted": _HPARAMS, "checkpoint": _HPARAMS}

Pathlike = str | os.PathLike[str]


class Meta(NamedTuple):
    """The words of a file about itself.

    Attributes:
        kind: "fitted", "weights" or "checkpoint".
        format: The version of the format.
        version: The lumbre that wrote it.
        tree: What was saved, with None in the place of every tensor and array.
    """

    kind: str
    format: int
    version: str
    tree: Any


def check(tree: Any, kind: str = "checkpoint") -> None:
    """Refuse a tree that cannot be saved, without copying a tensor.

    Args:
        tree: As in `write`.
        kind: The kind of file it is meant for.

    Raises:
        SaveError: with the path of the value in the tree.

    Example:
        >>> check({"best": {"epoch": 3, "model": object()}})
        Traceback (most recent call last):
        ...
        lumbre.errors.SaveError: best.model cannot be saved: it is of type object; ...
    """
    Encoder(_NAMED.get(kind, frozenset())).encode(tree)


class Snapshot:
    """A tree as it is now, to be written later, in any thread, whatever becomes of its tensors.

    Args:
        tree: As in `write`.
        kind: As in `write`.
        copies: Whether tensors are copied; if not, they must stay as they are until it is written.

    Raises:
        SaveError: when a value cannot be saved.
    """

    def __init__(self, tree: Any, kind: str, copies: bool = True) -> None:
        if kind not in KINDS:
            raise ArgumentError(f"kind is one of {', '.join(KINDS)}; got {kind!r}.")
        encoder = Encoder(_NAMED.get(kind, frozenset()))
        self._head = {"checksum": BLANK, "format": FORMAT, "kind": kind, "version": __version__}
        self._body = encoder.encode(tree)
        make = saved_tensor.copied if copies else saved_tensor.storable
        self._tensors = {name: make(each) for name, each in encoder.tensors.items()}

    def write(self, path: Pathlike) -> None:
        """Write it to a file, as the function `write` does."""
        text = json.dumps(self._head | {"tree": self._body}, separators=(",", ":"), allow_nan=False)
        with replacing(as_path(path)) as file:
            container.write(file, self._tensors, text)


def write(path: Pathlike, tree: Any, kind: str) -> None:
    """Write a tree to a file, so that at any moment the path holds the old file or the new one.

    Args:
        path: The file; folders that are missing are made, a link is followed.
        tree: Nested dicts (with keys of type str or int), lists and tuples of tensors, numpy
            arrays, None, bool, int, float, str and bytes; `torch.Size`, `dtype` and `device`, numpy
            scalars and `Counter` too. Tensors come back on the CPU without gradient, ordered and
            default dicts as dicts, all else as it was.
        kind: "fitted", "weights" or "checkpoint".

    Raises:
        SaveError: when a value cannot be saved; nothing is written.
        FileError: when the path is something else than a file.
        OSError: when the system refuses; the path holds what it held before.
    """
    path = as_path(path)
    Snapshot(tree, kind, copies=False).write(path)


def read(path: Pathlike, kind: Kinds = None, *, parts: Collection[str] | None = None) -> Any:
    """Read the tree of a file, once its checksum is found to be right.

    Args:
        path: The file.
        kind: The kind or the kinds of file that will do; None for any.
        parts: The top-level keys to read, those that are not there being left out; None for all.

    Returns:
        The tree; what was one tensor in memory under two names is one tensor again.

    Raises:
        FileNotFoundError: when there is no such file.
        FileError: when it is of another kind, truncated, altered, or not lumbre's.
    """
    with opened(as_path(path), kind) as it:
        container.verify(it)
        tensors: dict[str, Tensor] = {}

        def tensor(name: str) -> Tensor:
            if name not in tensors:
                # What safetensors gives is a view of the file, which would hold it open.
                tensors[name] = it.tensors.get_tensor(name).clone()
            return tensors[name]

        return _tree(it, tensor, parts)


def read_meta(path: Pathlike, kind: Kinds = None) -> Meta:
    """Read what a file holds besides tensors: fast, and without looking at the checksum.

    A file that was truncated is found all the same.

    Raises:
        FileNotFoundError: when there is no such file.
        FileError: as `read` does, but for what only the checksum tells.
    """
    with opened(as_path(path), kind) as it:
        tree = _tree(it, lambda name: None)
        return Meta(it.head["kind"], it.head["format"], it.head["version"], tree)


def _tree(it: Opened, tensor: Any, parts: Collection[str] | None = None) -> Any:
    from safetensors import SafetensorError

    tree, altered = it.head["tree"], f"{it.path} is altered: its tree is not what lumbre writes."
    if parts is not None:
        if not isinstance(tree, dict) or any(key.startswith("$") for key in tree):
            raise FileError(altered)
        tree = {key: tree[key] for key in parts if key in tree}
    try:
        return decode(tree, tensor)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise FileError(altered) from error
