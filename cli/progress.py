"""How far a load or a download is, on stderr and only in a terminal: answers for pipes stay clean.

Nothing is drawn before there is something to draw, so a model that is ready costs no import of rich.
"""

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from cli.errors import CliError
from cli.gateway import Gateway
from cli.output import bar, is_error_terminal
from cli.text import shown


class Bar:
    """One bar with a text before it. Calls come from one thread at a time."""

    def __init__(self, *, in_bytes: bool) -> None:
        self._in_bytes = in_bytes
        self._drawn: Any = None
        self._task: Any = None
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        """Whether nothing is drawn any more."""
        return self._closed

    def close(self) -> None:
        """Takes it from the screen; later updates draw nothing."""
        with self._lock:
            self._closed = True
            if self._drawn is not None:
                self._drawn.stop()

    def show(self, text: str, done: float, total: float | None) -> None:
        """total: None while it is not known."""
        if not is_error_terminal():
            return
        with self._lock:
            if self._closed:
                return
            if self._drawn is None:
                self._drawn = bar(in_bytes=self._in_bytes)
                self._task = self._drawn.add_task(text, total=total, completed=done)
                self._drawn.start()
            self._drawn.update(self._task, description=text, completed=done, total=total)


class PullBar(Bar):
    """Of one model, by the events of a pull."""

    def __init__(self, model: str) -> None:
        super().__init__(in_bytes=True)
        self._model = model

    def update(self, event: dict[str, Any]) -> None:
        """event: `{reason, fraction, done_bytes, total_bytes}`."""
        reason = event.get("reason")
        text = shown(self._model if not reason else f"{self._model}: {reason}")
        self.show(text, event.get("done_bytes") or 0, event.get("total_bytes") or None)


@contextlib.contextmanager
def watched(gateway: Gateway, model: str) -> Iterator[None]:
    """While the block waits for this model, its stages are shown. What goes wrong with that disturbs nothing: the block
    will hear of it itself."""
    with Bar(in_bytes=False) as stages:
        if is_error_terminal():
            threading.Thread(target=_follow, args=(gateway, model, stages), daemon=True).start()
        yield


def _follow(gateway: Gateway, model: str, stages: Bar) -> None:
    """Until the model is ready, has failed anew or the block has ended."""
    with contextlib.suppress(CliError):
        for number, event in enumerate(gateway.events("GET", f"/admin/models/{model}/progress")):
            state = event.get("state")
            if stages.is_closed or state == "ready" or (state == "failed" and number > 0):
                return
            if state in ("failed", "unloaded"):
                continue  # what the block asks for has not begun
            fraction = event.get("fraction")
            what = f"{state} {event['stage']}" if event.get("stage") else str(state)
            stages.show(shown(f"{model}: {what}"), fraction or 0.0, 1.0 if fraction is not None else None)
