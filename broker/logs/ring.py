"""The last lines of one model's processes, bounded in lines and bytes. Pure: a line brings its time."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

MAX_LINES = 1000
MAX_BYTES = 262_144


class Line(NamedTuple):
    """at: Unix seconds. pid: of the process that it is about, 0 if that is not known. text: harmless, no line end."""

    at: float
    pid: int
    text: str

    @property
    def size(self) -> int:
        """About the bytes that it takes on the wire."""
        return len(self.text) + 32


class Ring:
    """Lines have numbers that grow; a reader who remembers the next one that it wants may find it gone."""

    def __init__(self, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self.end = 0  # the number of the next line

    @property
    def start(self) -> int:
        """The number of the oldest line that is left."""
        return self.end - len(self._lines)

    def add(self, line: Line) -> None:
        """One more; the oldest ones go where there is no room."""
        self._lines.append(line)
        self._bytes += line.size
        self.end += 1
        while len(self._lines) > self._max_lines or (self._bytes > self._max_bytes and len(self._lines) > 1):
            self._bytes -= self._lines.popleft().size

    def since(self, number: int) -> Iterator[Line]:
        """The lines from this number on, as far as they are left."""
        return islice(self._lines, max(number - self.start, 0), None)
