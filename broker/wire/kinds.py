"""The kinds of models and of work: one table. A new kind of model is one row here and one folder in worker/.

Settings, catalog, broker and worker read this table; none of them has a list of its own.
"""

from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """The work that a request asks for; each has its own payload (work.py)."""

    GENERATE = "generate"
    COUNT = "count"
    EMBED = "embed"
    RERANK = "rerank"
    TRANSCRIBE = "transcribe"
    SPEAK = "speak"
    VOICES = "voices"


@dataclass(slots=True, frozen=True)
class Kind:
    """One type of model. tasks: the work it does; engine: `module:Class` in the worker."""

    name: str
    tasks: frozenset[Task]
    engine: str


# Families of vision models that hear too, if their configuration has a part for it.
HEARING = frozenset({"gemma3n", "gemma4", "gemma4_unified", "qwen3_omni_moe"})

# What a model is unless its files or the settings say otherwise.
TEXT = "text-gen"
_KINDS = (
    Kind(TEXT, frozenset({Task.GENERATE, Task.COUNT}), "worker.text.engine:TextEngine"),
    Kind("vision", frozenset({Task.GENERATE, Task.COUNT}), "worker.vision.engine:VisionEngine"),
    Kind("embeddings", frozenset({Task.EMBED, Task.RERANK}), "worker.embeddings.engine:EmbeddingEngine"),
    Kind("audio", frozenset({Task.TRANSCRIBE, Task.SPEAK, Task.VOICES}), "worker.audio.engine:audio_engine"),
    Kind("echo", frozenset({Task.GENERATE, Task.COUNT}), "worker.echo.engine:EchoEngine"),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _KINDS}
