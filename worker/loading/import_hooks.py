"""Changes what importing a library does, before it is imported.

Free of mlx and transformers: it comes before either.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType


def after_import(name: str, change: Callable[[ModuleType], None]) -> None:
    """When the module of this name has been imported, `change` it."""
    _find(name, lambda loader: _Changing(loader, change))


def import_when_used(name: str) -> None:
    """`import name` gives a module that is imported once an attribute of it is asked for."""
    _find(name, LazyLoader)


def _find(name: str, wrapped: Callable[[Loader], Loader]) -> None:
    if name not in sys.modules:
        sys.meta_path.insert(0, _Finder(name, wrapped))


class _Finder(MetaPathFinder):
    """Finds one module as the system does, with another loader."""

    def __init__(self, name: str, wrapped: Callable[[Loader], Loader]) -> None:
        self._name = name
        self._wrapped = wrapped

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = self._wrapped(spec.loader)
        return spec


class _Changing(Loader):
    def __init__(self, inner: Loader, change: Callable[[ModuleType], None]) -> None:
        self._inner = inner
        self._change = change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        self._change(module)
