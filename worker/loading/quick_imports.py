"""Spares a process the quarter of a second in which transformers reads its own sources to learn what it has.

On import it opens all of its 3,300 files, twice, for a table of names by module (its `define_import_structure`). The
table depends on nothing but these files, so it is remembered for their version. Free of mlx and transformers: it must
come before either.
"""

import json
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from worker.loading.memo_files import folder_of, write

# What must be there for a name -> module -> names.
Structure = dict[frozenset[str], dict[str, set[str]]]
Define = Callable[..., Structure]

_MODULE = "transformers.utils.import_utils"


def remember_import_structure(folder: Path | None = None) -> None:
    """Before transformers is imported. folder: of the files, None for the user's cache."""
    if _MODULE not in sys.modules:
        sys.meta_path.insert(0, _Finder(folder or folder_of("imports")))


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


class _Finder(MetaPathFinder):
    """Finds one module as the system does, and changes it once it is there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._folder)
        return spec


class _Loader(Loader):
    def __init__(self, inner: Loader, folder: Path) -> None:
        self._inner = inner
        self._folder = folder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        define: Define | None = getattr(module, "define_import_structure", None)
        if define is not None:
            names: Any = module
            names.define_import_structure = remembered(define, self._folder, version("transformers"))
