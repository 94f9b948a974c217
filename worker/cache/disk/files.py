"""One file of arrays: safetensors whose header has a checksum over all of it. Knows no models and no caches.

A file appears under its name in one step, when it is whole; what is damaged later is found out by the checksum, and is
then as good as missing. Owner-only. Arrays are NumPy's, because they are written and read by threads that have no
stream of MLX: types that NumPy lacks travel as integers of their size.
"""

import fcntl
import json
import os
import secrets
import sys
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

# What keeps a file out of the system's page cache: called with a descriptor.
Uncached = Callable[[int], None]

PART_SUFFIX = ".part"
_MOST_HEADER_BYTES = 1 << 20
_BLANK = "0" * 8
_MARK = b'"checksum":"'

# Of one system call.
_MOST_PIECES = 512

# Names of types in safetensors -> NumPy's type that carries them.
CARRIERS = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "|b1",
    "C64": "<c8",
}


class DamagedError(Exception):
    """A file is torn, or not the one that its name says."""


@dataclass(slots=True, frozen=True)
class Tensor:
    """kind: the name of its type in safetensors; data: of the type that carries it, maybe part of a larger array."""

    kind: str
    data: "np.ndarray[Any, Any]"


def keep_out_of_page_cache(descriptor: int) -> None:
    """On macOS, where a long chat would push out what other programs have there."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)


class Scratch:
    """Memory that one file after the other is read into. Mutable state: it, as large as the largest so far."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def of(self, nbytes: int) -> "np.ndarray[Any, Any]":
        """The next file's; what the last one had is overwritten."""
        if self._memory.nbytes < nbytes:
            self._memory = np.empty(nbytes, np.uint8)  # no bytearray, which would be zeroed while Python stands still
        return self._memory[:nbytes]


def write_file(path: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str], uncached: Uncached) -> int:
    """Write the file in one step; its bytes. Raises OSError."""
    folder, name = os.path.split(path)
    parts = {name: np.ascontiguousarray(tensor.data) for name, tensor in tensors.items()}
    begin = 0
    header: dict[str, Any] = {"__metadata__": {"checksum": _BLANK, "name": name, **facts}}
    for place, part in parts.items():
        header[place] = {
            "dtype": tensors[place].kind,
            "shape": part.shape,
            "data_offsets": (begin, begin + part.nbytes),
        }
        begin += part.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    blank = text + b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8
    views = [part.reshape(-1).view(np.uint8).data for part in parts.values() if part.nbytes]
    encoded = blank.replace(_MARK + _BLANK.encode(), _MARK + _checksum(blank, views), 1)
    _write(folder, path, [len(encoded).to_bytes(8, "little"), encoded, *views], uncached)
    return 8 + len(encoded) + begin


def read_file(path: str, uncached: Uncached, scratch: Scratch) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The arrays, which lie in the scratch, and facts. Raises OSError or DamagedError."""
    content = _content(path, uncached, scratch)
    length = int.from_bytes(content[:8].tobytes(), "little")
    if content.nbytes < 8 or not 0 < length <= min(_MOST_HEADER_BYTES, content.nbytes - 8):
        raise DamagedError
    encoded = content[8 : 8 + length].tobytes()
    before, mark, after = encoded.partition(_MARK)
    checksum, rest = after[: len(_BLANK)], after[len(_BLANK) :]
    if checksum != _checksum(before + mark + _BLANK.encode() + rest, [content[8 + length :].data]):
        raise DamagedError
    try:
        header = json.loads(encoded)
        facts = header.pop("__metadata__")
        if facts["name"] != os.path.basename(path):
            raise DamagedError
        tensors = {name: _tensor(content, 8 + length, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError from error
    return tensors, facts


def _content(path: str, uncached: Uncached, scratch: Scratch) -> "np.ndarray[Any, Any]":
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        uncached(descriptor)
        content = scratch.of(os.fstat(descriptor).st_size)
        read = 0
        while read < content.nbytes and (got := os.readv(descriptor, [content[read:].data])):
            read += got
    finally:
        os.close(descriptor)
    if read < content.nbytes:
        raise DamagedError
    return content


def _checksum(header: bytes, views: list[memoryview]) -> bytes:
    """header: with a blank checksum in it."""
    checksum = zlib.crc32(header)
    for view in views:
        checksum = zlib.crc32(view, checksum)
    return f"{checksum:08x}".encode()


def _tensor(content: "np.ndarray[Any, Any]", begin: int, entry: dict[str, Any]) -> Tensor:
    kind, shape = entry["dtype"], entry["shape"]
    first, end = entry["data_offsets"]
    carrier = np.dtype(CARRIERS[kind])
    data = content[begin + first : begin + end].view(carrier)
    return Tensor(kind, data.reshape(shape))


def _write(folder: str, path: str, pieces: list[bytes | memoryview], uncached: Uncached) -> None:
    part = f"{folder}/{secrets.token_hex(16)}{PART_SUFFIX}"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            uncached(descriptor)
            _write_all(descriptor, pieces)
        finally:
            os.close(descriptor)
        os.replace(part, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _write_all(descriptor: int, pieces: list[bytes | memoryview]) -> None:
    rest = [memoryview(piece) for piece in pieces]
    while rest:
        done = os.writev(descriptor, rest[:_MOST_PIECES])
        while rest and done >= len(rest[0]):
            done -= len(rest.pop(0))
        if done:
            rest[0] = rest[0][done:]
