"""What a family of models that transcribe is to the engine."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from broker.wire.work import Transcribe
from worker.sound.resampling import Samples


@dataclass(slots=True, frozen=True)
class Heard:
    """What has been understood next. segments: as in Transcribe; seconds: of the file, until here; language: a code, as
    far as it is known."""

    text: str
    segments: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    language: str | None = None
    tokens: int = 0
    place: dict[str, Any] = field(default_factory=dict)


class Transcriber(Protocol):
    """A loaded model."""

    @property
    def bytes_per_second(self) -> int:
        """What a request keeps in memory for each second of its file, until it ends."""

    def step_bytes(self) -> int:
        """What a step takes and gives back, at most. Measured, by a step."""

    def check(self, asked: Transcribe) -> None:
        """Raises FailureError for what this model cannot do."""

    def listen(self, asked: Transcribe, samples: Iterator[Samples]) -> Iterator[Heard | None]:
        """What is said, in bounded steps; None after a step that has understood nothing."""
