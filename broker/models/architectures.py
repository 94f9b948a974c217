"""Which architectures the worker's libraries can run, so that other models are refused before a process starts.

The libraries gave the answers themselves, into the table beside this file: worker/loading/architectures.py asks them,
`make architectures` writes the table anew after their versions have changed. Never imports them.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_name("architectures.json")
# mlx-vlm reads names without regard to case, mlx-lm does not.
_ANY_CASE = ("vision", "embeddings")

logger = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Table:
    """names: kind of model -> the model types that can run. is_complete: whether a name that is nowhere in the table is
    one that no installed library knows."""

    names: Mapping[str, frozenset[str]]
    is_complete: bool

    def unknown(self, config: Mapping[str, Any], kind: str) -> str | None:
        """See `unknown_architecture`."""
        name = config.get("model_type")
        if not isinstance(name, str) or kind not in self.names:
            return None  # the worker says more exactly what is wrong
        if self._can_run(name, config, kind):
            return None
        is_known = any(self._can_run(name, config, other) for other in self.names)
        return name if self.is_complete or is_known else None

    def _can_run(self, name: str, config: Mapping[str, Any], kind: str) -> bool:
        if kind in _ANY_CASE:
            return name.lower() in self.names[kind]
        architectures = config.get("architectures")
        both = [f"{name}/{a}" for a in architectures] if isinstance(architectures, list) else []
        return not self.names[kind].isdisjoint([name, *both])


def unknown_architecture(config: Mapping[str, Any], kind: str) -> str | None:
    """The architecture that config.json names, if the libraries cannot run it as this kind of model (`text-gen`,
    `vision`, `embeddings`); None if they can, or if only the worker can tell."""
    return _table().unknown(config, kind)


@cache
def _table() -> Table:
    content = json.loads(_TABLE.read_bytes())
    libraries: dict[str, str] = content["versions"]
    others = [f"{name} {_installed(name)}" for name, asked in libraries.items() if _installed(name) != asked]
    if others:
        logger.warning("%s does not cover %s: run `make architectures`", _TABLE.name, " and ".join(others))
    return Table({kind: frozenset(names) for kind, names in content["model_types"].items()}, is_complete=not others)


def _installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
