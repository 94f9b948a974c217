"""Marks the request that this process is taking in, so that the broker knows which one ended it.

Taking in is everything that runs a client's input through native code before the first token: parsing, template,
tokenizer, grammar, images. Prefill and decode are not part of it: they run all requests together. A process has one
mark, and without a broker (in tests of an engine alone) it has none.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from broker.wire.intake import IntakeMark
from worker.process.log_events import concerning

_marks: list[IntakeMark] = []


def open_mark(fd: int) -> None:
    """Use the mark in the file of this descriptor, which the broker has made."""
    _marks[:] = [IntakeMark(fd)]


@contextmanager
def taking_in(request_id: bytes) -> Iterator[None]:
    """Everything inside belongs to this request alone."""
    for mark in _marks:
        mark.set(request_id)
    try:
        with concerning(request_id):
            yield
    finally:
        for mark in _marks:
            mark.clear()
