"""The collector of garbage of this process."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """For imports: nearly all that they make stays, so that looking for garbage in it takes time for nothing."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
