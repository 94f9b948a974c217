"""One file of arrays: safetensors whose header has a checksum over all of it. Knows no models and no caches.

A file appears under its name in one step, when it is whole; what is damaged later is found out by the checksum, and is
then as good as missing. Owner-only. Arrays are NumPy's, because they are written and read by threads that have no
stream of MLX: types that NumPy lacks travel as integers of their size.
"""

import fcntl
import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

# What keeps a file out of the system's page cache: called with a descriptor.
Uncached = Callable[[int], None]

PART_SUFFIX = ".part"
_NUMBERS = count()
_MOST_HEADER_BYTES = 1 << 20
_BLANK = "0" * 8

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


def write_file(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str], uncached: Uncached) -> int:
    """Write the file in one step; its bytes. Raises OSError."""
    parts = {name: np.ascontiguousarray(tensor.data) for name, tensor in tensors.items()}
    checksum, begin = 0, 0
    header: dict[str, Any] = {"__metadata__": {**facts, "name": path.name, "checksum": _BLANK}}
    for name, part in parts.items():
        header[name] = {"dtype": tensors[name].kind, "shape": part.shape, "data_offsets": (begin, begin + part.nbytes)}
        begin += part.nbytes
    blank = _encoded(header)
    checksum = zlib.crc32(blank)
    views = [part.reshape(-1).view(np.uint8).data for part in parts.values() if part.nbytes]
    for view in views:
        checksum = zlib.crc32(view, checksum)
    header["__metadata__"]["checksum"] = f"{checksum:08x}"
    encoded = _encoded(header)
    _write(path, [len(encoded).to_bytes(8, "little"), encoded, *views], uncached)
    return 8 + len(encoded) + begin


def read_file(path: Path, uncached: Uncached) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The arrays and facts. Raises OSError or DamagedError."""
    with path.open("rb", buffering=0) as file:
        uncached(file.fileno())
        size = os.fstat(file.fileno()).st_size
        content = bytearray(size)
        view, read = memoryview(content), 0
        while read < size and (got := file.readinto(view[read:])):
            read += got
    length = int.from_bytes(content[:8], "little")
    if read < size or size < 8 or not 0 < length <= min(_MOST_HEADER_BYTES, size - 8):
        raise DamagedError
    try:
        header = json.loads(content[8 : 8 + length])
        facts = dict(header.pop("__metadata__"))
        checksum, facts["checksum"] = int(facts["checksum"], 16), _BLANK
        computed = zlib.crc32(view[8 + length :], zlib.crc32(_encoded({"__metadata__": facts, **header})))
        if checksum != computed or facts["name"] != path.name:
            raise DamagedError
        tensors = {name: _tensor(content, 8 + length, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError from error
    return tensors, facts


def _tensor(content: bytearray, begin: int, entry: dict[str, Any]) -> Tensor:
    kind, shape = entry["dtype"], entry["shape"]
    first, end = entry["data_offsets"]
    carrier = np.dtype(CARRIERS[kind])
    data = np.frombuffer(content, carrier, (end - first) // carrier.itemsize, begin + first)
    return Tensor(kind, data.reshape(shape))


def _encoded(header: Mapping[str, Any]) -> bytes:
    """Padded, so that the arrays begin at a multiple of 8."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _write(path: Path, pieces: list[bytes | memoryview], uncached: Uncached) -> None:
    part = path.with_name(f"{os.getpid()}-{next(_NUMBERS)}{PART_SUFFIX}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            uncached(descriptor)
            _write_all(descriptor, pieces)
        finally:
            os.close(descriptor)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _write_all(descriptor: int, pieces: list[bytes | memoryview]) -> None:
    rest = [memoryview(piece) for piece in pieces]
    while rest:
        done = os.writev(descriptor, rest[:_MOST_PIECES])
        while rest and done >= len(rest[0]):
            done -= len(rest.pop(0))
        if done:
            rest[0] = rest[0][done:]
