"""The intake mark: which request a worker is taking in at this moment (parsing, template, tokens, grammar, images).

It is a page of memory that the broker makes and the worker maps as well, so it survives whatever ends the worker; a
message would be lost with the process. The worker writes it, the broker reads it when the worker has exited.
"""

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from broker.wire.frames import REQUEST_ID_BYTES

_NOTHING = bytes(REQUEST_ID_BYTES)


@contextmanager
def intake_file() -> Iterator[int]:
    """The descriptor of a file without a name, as large as a mark needs, for the worker to inherit. Raises OSError."""
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        yield file.fileno()


class IntakeMark:
    """The mark in the file of this descriptor, which may be closed afterwards."""

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, mmap.PAGESIZE)

    @property
    def request_id(self) -> bytes | None:
        """The request that is being taken in; None between requests."""
        marked = self._page[:REQUEST_ID_BYTES]
        return None if marked == _NOTHING else marked

    def set(self, request_id: bytes) -> None:
        """From now on this request is being taken in. request_id: 16 bytes."""
        self._page[:REQUEST_ID_BYTES] = request_id

    def clear(self) -> None:
        """Nothing is being taken in."""
        self._page[:REQUEST_ID_BYTES] = _NOTHING

    def close(self) -> None:
        self._page.close()
