"""Which architectures the worker's libraries can run, so that other models are refused before a process starts.

The libraries gave the answers themselves, into the table beside this file: worker/loading/architectures.py asks them,
`make architectures` writes the table anew after their versions have changed. Never imports them.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from broker.wire.audio_models import audio_family
from broker.wire.kinds import KINDS, TEXT, Task

_TABLE = Path(__file__).with_name("architectures.json")
_AUDIO = "audio"
# mlx-vlm reads names without regard to case, mlx-lm does not.
_ANY_CASE = ("vision", "embeddings")

logger = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Table:
    """names: kind of model -> the model types that can run. is_complete: whether a name that is nowhere in the table is
    one that no installed library knows. audio: task -> the families of mlx-audio that do it."""

    names: Mapping[str, frozenset[str]]
    is_complete: bool
    audio: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def unknown(self, config: Mapping[str, Any], kind: str) -> str | None:
        """See `unknown_architecture`."""
        name = audio_family(config) if kind == _AUDIO else config.get("model_type")
        if not isinstance(name, str) or kind not in self.names:
            return None  # the worker says more exactly what is wrong
        if self._can_run(name, config, kind):
            return None
        is_known = any(self._can_run(name, config, other) for other in self.names)
        return name if self.is_complete or is_known else None

    def knows(self, config: Mapping[str, Any], kind: str) -> bool:
        """See `knows_architecture`."""
        name = audio_family(config) if kind == _AUDIO else config.get("model_type")
        return isinstance(name, str) and kind in self.names and self._can_run(name, config, kind)

    def is_audio(self, config: Mapping[str, Any]) -> bool:
        """See `is_audio`."""
        if not self.knows(config, _AUDIO):
            return False
        is_shared = any(self.knows(config, kind) for kind in (TEXT, "vision"))
        return not is_shared or audio_family(config) != str(config["model_type"]).lower()

    def audio_tasks(self, family: str | None) -> frozenset[Task]:
        """See `audio_tasks`."""
        found = {Task(task) for task, families in self.audio.items() if family in families}
        if Task.SPEAK in found:
            found.add(Task.VOICES)
        return frozenset(found) or KINDS[_AUDIO].tasks

    def _can_run(self, name: str, config: Mapping[str, Any], kind: str) -> bool:
        if kind == _AUDIO or kind in _ANY_CASE:
            return name.lower() in self.names[kind]
        architectures = config.get("architectures")
        both = [f"{name}/{a}" for a in architectures] if isinstance(architectures, list) else []
        return not self.names[kind].isdisjoint([name, *both])


def unknown_architecture(config: Mapping[str, Any], kind: str) -> str | None:
    """The architecture that config.json names, if the libraries cannot run it as this kind of model (`text-gen`,
    `vision`, `embeddings`, `audio`); None if they can, or if only the worker can tell."""
    return _table().unknown(config, kind)


def knows_architecture(config: Mapping[str, Any], kind: str) -> bool:
    """Whether the libraries can run the architecture that config.json names as this kind of model."""
    return _table().knows(config, kind)


def is_audio(config: Mapping[str, Any]) -> bool:
    """Whether this is a model for mlx-audio and for no other library. Families that share their name with a text model,
    such as Orpheus with Llama, are not."""
    return _table().is_audio(config)


def audio_tasks(config: Mapping[str, Any]) -> frozenset[Task]:
    """What an audio model does by its configuration; all that the type can do if only the worker can tell."""
    return _table().audio_tasks(audio_family(config))


@cache
def _table() -> Table:
    content = json.loads(_TABLE.read_bytes())
    libraries: dict[str, str] = content["versions"]
    others = [f"{name} {_installed(name)}" for name, asked in libraries.items() if _installed(name) != asked]
    if others:
        logger.warning("%s does not cover %s: run `make architectures`", _TABLE.name, " and ".join(others))
    names = {kind: frozenset(names) for kind, names in content["model_types"].items()}
    audio = {task: frozenset(families) for task, families in content.get("audio_tasks", {}).items()}
    if audio:
        names[_AUDIO] = frozenset().union(*audio.values())
    return Table(names, not others, audio)


def _installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
