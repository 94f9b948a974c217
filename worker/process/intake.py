"""Marks the request that this process is taking in, so that the broker knows which one ended it.

Taking in is everything that runs a client's input through native code before the first token: parsing, template,
tokenizer, grammar, images. Prefill and decode are not part of it: they run all requests together. A process has one
mark, with a place for its main thread and one for the thread that writes prompts ahead. Without a broker (in tests of
an engine alone) it has none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread

from broker.wire.intake import IntakeMark
from worker.process.log_events import concerning

_marks: list[IntakeMark] = []


def open_mark(fd: int) -> None:
    """Use the mark in the file of this descriptor, which the broker has made."""
    _marks[:] = [IntakeMark(fd)]


@contextmanager
def taking_in(request_id: bytes) -> Iterator[None]:
    """Everything inside belongs to this request alone."""
    place = int(current_thread() is not main_thread())
    for mark in _marks:
        mark.set(request_id, place)
    try:
        with concerning(request_id):
            yield
    finally:
        for mark in _marks:
            mark.clear(place)
