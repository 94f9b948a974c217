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

# Threads of one worker that take requests in.
_PLACES = 2


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
        """The request that is being taken in; None between requests, and while there are two, either of which may have
        ended the process: that one will come again, and seldom beside another."""
        marked = {self._page[_part(place)] for place in range(_PLACES)} - {_NOTHING}
        return marked.pop() if len(marked) == 1 else None

    def set(self, request_id: bytes, place: int = 0) -> None:
        """From now on this request is being taken in. request_id: 16 bytes. place: 0 for the main thread, or 1."""
        self._page[_part(place)] = request_id

    def clear(self, place: int = 0) -> None:
        """Nothing is being taken in by this thread."""
        self._page[_part(place)] = _NOTHING

    def close(self) -> None:
        self._page.close()


def _part(place: int) -> slice:
    return slice(place * REQUEST_ID_BYTES, (place + 1) * REQUEST_ID_BYTES)
