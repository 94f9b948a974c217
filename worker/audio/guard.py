"""What surrounds the code of mlx-audio's families: what they print, what they would run, and what they do not find."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOBase

from worker.loading.foreign_code import no_foreign_code

log = logging.getLogger("worker")

# In errors of the hub's client.
_REPOSITORY = re.compile(r"/api/models/([\w.-]+/[\w.-]+)|://[^/ ]+/([\w.-]+/[\w.-]+)/resolve/")


@contextmanager
def guarded() -> Iterator[None]:
    """A family may run inside: it prints nothing, runs no code that comes with a model, and its errors name the
    repository that it needs and does not find."""
    with quiet(), no_foreign_code(), _naming_repositories():
        yield


@contextmanager
def _naming_repositories() -> Iterator[None]:
    """Some families need weights of other repositories. An error says which, where they are not on this machine."""
    try:
        yield
    except Exception as error:
        found = None
        cause: BaseException | None = error
        while found is None and cause is not None:
            found, cause = _REPOSITORY.search(str(cause)), cause.__cause__ or cause.__context__
        if found is None:
            raise
        raise ValueError(
            f"files of another repository are missing; fetch them: mlx-broker pull {found[1] or found[2]}"
        ) from error


class _Printed(TextIOBase):
    """What mlx-audio prints, as lines of the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug("mlx-audio: %s", text.strip())
        return len(text)


def quiet() -> "redirect_stdout[_Printed]":
    """Nothing inside prints: what a process prints is read as its log."""
    return redirect_stdout(_Printed())
