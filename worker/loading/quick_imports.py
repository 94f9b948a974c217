"""Spares a process the quarter of a second in which transformers reads its own sources to learn what it has.

On import it opens all of its 3,300 files, twice, for a table of names by module (its `define_import_structure`). The
table depends on nothing but these files, so it is remembered for their version. Free of mlx and transformers: it must
come before either.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from worker.loading.import_hooks import after_import
from worker.loading.memo_files import folder_of, write

# What must be there for a name -> module -> names.
Structure = dict[frozenset[str], dict[str, set[str]]]
Define = Callable[..., Structure]

_MODULE = "transformers.utils.import_utils"


def remember_import_structure(folder: Path | None = None) -> None:
    """Before transformers is imported. folder: of the files, None for the user's cache."""

    def remember(module: ModuleType) -> None:
        define: Define | None = getattr(module, "define_import_structure", None)
        if define is not None:
            quick = remembered(define, folder or folder_of("imports"), version("transformers"))
            setattr(module, "define_import_structure", quick)  # noqa: B010 # of a module that no type describes

    after_import(_MODULE, remember)


def remembered(define: Define, folder: Path, release: str) -> Define:
    """As transformers' function `define`, with files in `folder` for this release."""

    def quick(module_path: Any, prefix: str | None = None) -> Structure:
        sources = Path(module_path)
        sources = sources.parent if sources.is_file() else sources
        # The time tells a checkout that somebody works on.
        facts = f"{release} {sources} {sources.stat().st_mtime_ns} {prefix}"
        file = folder / sha256(facts.encode()).hexdigest()[:32]
        try:
            return _read(file.read_text())
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # not known yet, or not one of ours
        found = define(module_path, prefix)
        write(file, _written(found))
        return found

    return quick


def _written(structure: Structure) -> str:
    return json.dumps(
        [
            [sorted(backends), {module: sorted(names) for module, names in modules.items()}]
            for backends, modules in structure.items()
        ]
    )


def _read(text: str) -> Structure:
    return {
        frozenset(backends): {module: set(names) for module, names in modules.items()}
        for backends, modules in json.loads(text)
    }
