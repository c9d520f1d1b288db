"""A safetensors file of lumbre's: how it is opened and refused, and its checksum."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import stat
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lumbre._core import crc32
from lumbre.errors import FileError, SaveError
from lumbre.files.door import File

FORMAT = 1
KINDS = {
    "fitted": "lb.load(path, module=...)",
    "weights": "lb.load_model_weights(fitted, path)",
    "checkpoint": "lb.load_checkpoint(fitted_or_ctx, path)",
}
# The checksum comes first, so that its place in the file is found without parsing. Inside of any
# string these quotes would be escaped once more: nothing else in a header looks like this.
_BEFORE_CHECKSUM = b'"lumbre":"{\\"checksum\\":\\"'
BLANK = "00000000"
_MOST_HEADER = 100_000_000  # safetensors reads no longer one
_CHUNK = 1 << 18

Kinds = str | Collection[str] | None
# The names of dtypes in the format.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_WRITTEN = 1 << 20  # at once


class Opened(NamedTuple):
    """A file that is open.

    Attributes:
        path: Its path, for messages.
        file: Its bytes.
        tensors: Its tensors, as safetensors gives them.
        head: The JSON in it.
    """

    path: str
    file: io.BufferedReader
    tensors: Any
    head: dict[str, Any]


@contextlib.contextmanager
def opened(path: str, kind: Kinds) -> Iterator[Opened]:
    """Open a file and read its head, but not its tensors.

    Raises:
        FileNotFoundError: when there is no such file.
        FileError: when it is of another kind, truncated, or not lumbre's.
    """
    with contextlib.ExitStack() as stack:
        while True:
            _refuse_what_is_no_file(path)
            file = stack.enter_context(open(path, "rb"))
            seen = os.fstat(file.fileno())
            _refuse_foreign(path, file.read(16), seen.st_size)
            tensors = stack.enter_context(_safetensors(path))
            # Another process may have replaced the file between the two openings.
            if os.path.samestat(seen, os.stat(path)):
                break
        yield Opened(path, file, tensors, _head(path, tensors.metadata() or {}, kind))


def verify(it: Opened) -> None:
    """Read all of a file for its checksum.

    Raises:
        FileError: when it is another one than the file says.
    """
    header = _header(it.file)
    at = _checksum_place(header)
    if at is None or _checksum(it.file, at) != header[at : at + len(BLANK)]:
        raise FileError(
            f"{it.path} is altered: its checksum is not that of its contents. Take another copy."
        )


def write(file: File, tensors: dict[str, Tensor], text: str) -> None:
    """Write a file, with the checksum in the place of `BLANK`.

    Args:
        file: An empty file.
        tensors: Its tensors by name, contiguous, on the CPU, of dtypes that the format has.
        text: The JSON in it, which begins with the checksum.

    Raises:
        SaveError: when there is more text than can be read again.
    """
    # The widest first, so that each lies at a multiple of its width.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header = _header_of({name: tensors[name] for name in names}, text)
    if len(header) - 8 > _MOST_HEADER:
        raise SaveError(
            f"What is no tensor comes to {len(header) >> 20} MiB of text; a file holds at most "
            f"{_MOST_HEADER >> 20}. Save long lists of numbers as tensors."
        )
    checksum = crc32(header)
    file.write(header)
    for name in names:
        if not tensors[name].numel():
            continue
        data = tensors[name].reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(data), _WRITTEN):
            part = bytes(data[start : start + _WRITTEN])
            checksum = crc32(part, checksum)
            file.write(part)
    # What is summed up has zeros in the place of the sum.
    file.seek(header.index(_BEFORE_CHECKSUM) + len(_BEFORE_CHECKSUM))
    file.write(b"%08x" % checksum)


def _header_of(tensors: dict[str, Tensor], text: str) -> bytes:
    """Return the length of the header and the header, filled up to a multiple of 8 bytes."""
    parts: dict[str, Any] = {"__metadata__": {"lumbre": text}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        dtype = _DTYPES[tensor.dtype]
        parts[name] = {"dtype": dtype, "shape": [*tensor.shape], "data_offsets": [start, end]}
    body = json.dumps(parts, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body


def _refuse_what_is_no_file(path: str) -> None:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise FileError(f"{path} is a folder: pass the path of a file in it.")
    if not stat.S_ISREG(mode):
        raise FileError(f"{path} is no regular file.")


def _refuse_foreign(path: str, start: bytes, size: int) -> None:
    """Refuse what cannot be lumbre's, as far as its first bytes tell."""
    if not start:
        raise FileError(f"{path} is empty: what wrote it did not get to its end.")
    if start[8:9] != b"{":
        # Only here, since the length of a header may begin with any bytes.
        if start.startswith(b"PK\3\4") or re.match(rb"\x80[\2-\5]", start):
            form = "a zip archive, as torch.save writes it" if start[0] == ord("P") else "a pickle"
            raise FileError(
                f"{path} is {form}. lumbre reads no pickle, as that can run any code. If you trust "
                "it, read it with torch, and write it anew: lb.save_model_weights(fitted, path)."
            )
        raise FileError(
            f"{path} is no safetensors file, or is truncated or altered; lumbre reads files that "
            "it has written itself."
        )
    length = int.from_bytes(start[:8], "little")
    if length > size - 8:
        raise FileError(
            f"{path} is truncated or altered: its header is to have {length} bytes, and the whole "
            f"file has {size}."
        )


def _safetensors(path: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise FileError(f"{path} is truncated or altered: {error}.") from error


def _head(path: str, metadata: dict[str, str], kind: Kinds) -> dict[str, Any]:
    if "lumbre" not in metadata:
        raise FileError(
            f"{path} is a safetensors file that lumbre has not written; it reads the kinds "
            f"{', '.join(KINDS)} of its own. For its tensors: safetensors.torch.load_file(path)."
        )
    try:
        head = json.loads(metadata["lumbre"])
        version, format_, found, _ = (head[key] for key in ("version", "format", "kind", "tree"))
        newer = format_ > FORMAT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileError(f"{path} is altered: its metadata is not what lumbre writes.") from error
    if newer:
        raise FileError(
            f"{path} has the format {format_}, that of lumbre {version}; this lumbre reads "
            f"formats up to {FORMAT}. Upgrade it: pip install -U lumbre."
        )
    wanted = [kind] if isinstance(kind, str) else kind
    if wanted is not None and found not in wanted:
        use = next((f"; use {use}" for name, use in KINDS.items() if name == found), "")
        raise FileError(
            f"{path} is a {found} file, where a {' or '.join(wanted)} file is due{use}."
        )
    return dict(head)


def _header(file: io.BufferedReader) -> bytes:
    """The length of the header and the header, as they lie in the file."""
    file.seek(0)
    length = file.read(8)
    # One byte more than there may be tells that there are too many.
    return length + file.read(min(int.from_bytes(length, "little"), _MOST_HEADER + 1))


def _checksum_place(header: bytes) -> int | None:
    at = header.find(_BEFORE_CHECKSUM)
    return None if at < 0 else at + len(_BEFORE_CHECKSUM)


def _checksum(file: io.BufferedReader, at: int) -> bytes:
    """CRC-32 of the file with zeros in the place of the checksum, in hexadecimal digits."""
    file.seek(0)
    value = crc32(BLANK.encode(), crc32(file.read(at)))
    file.seek(at + len(BLANK))
    while chunk := file.read(_CHUNK):
        value = crc32(chunk, value)
    return b"%08x" % value
