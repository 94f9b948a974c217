"""A download's progress as Ollama's clients show it: a line for each step. No sockets, no clock. Pure."""

from collections.abc import Sequence
from hashlib import sha256

from broker.wire.failure import Failure
from gateway.core.administration import PullProgress, PullReport
from gateway.core.dialect import Json
from gateway.ollama.dialect import OLLAMA, STREAM_TYPE, line

SUCCESS: Json = {"status": "success"}

_FIRST: Json = {"status": "pulling manifest"}
_LAST: tuple[Json, ...] = ({"status": "verifying sha256 digest"}, {"status": "writing manifest"}, SUCCESS)


class PullLines:
    """The Renderer of POST /api/pull. All files of a model are one layer to Ollama's clients, with one bar."""

    content_type = STREAM_TYPE

    def __init__(self, model: str) -> None:
        digest = sha256(model.encode()).hexdigest()
        self.is_complete = False
        self._bar = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}"}
        self._has_begun = False
        self._total = 0
        self._last = line(_FIRST)

    def render(self, items: Sequence[tuple[int, PullProgress | PullReport]]) -> bytes:
        """One line for each."""
        lines = [] if self._has_begun else [line(_FIRST)]
        self._has_begun = True
        for _index, step in items:
            if isinstance(step, PullReport):
                self.is_complete = True
                lines += [line(self._progress(self._total))] if self._total else []
                lines += map(line, _LAST)
            else:
                self._total = step.total_bytes
                lines.append(line(self._step(step)))
        self._last = lines[-1]
        return b"".join(lines)

    def keepalive(self) -> bytes:
        """The last line again."""
        self._has_begun = True
        return self._last

    def error(self, failure: Failure) -> bytes:
        """The last line."""
        return line(OLLAMA.error(failure))

    def _step(self, step: PullProgress) -> Json:
        if step.reason is not None:
            return {"status": step.reason}
        return self._progress(step.done_bytes) if step.total_bytes else _FIRST

    def _progress(self, done: int) -> Json:
        return {**self._bar, "total": self._total, "completed": min(done, self._total)}
