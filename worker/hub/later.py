"""Spares a process that loads from folders the import of the hub's client: 0.2 s and 7 MiB.

mlx-lm and transformers import it by name, and call it only to download and to publish. In its place stand names that
import it when they are used. Free of mlx and transformers: it must come before either.
"""

from types import ModuleType
from typing import Any

from worker.loading.import_hooks import after_import, import_when_used

# What they import and the hub's heavy modules define.
NAMES = ("CommitOperationAdd", "HfApi", "ModelCard", "ModelCardData", "snapshot_download")


def postpone_hub() -> None:
    """Before mlx-lm or transformers is imported."""
    after_import("huggingface_hub", _postpone)
    import_when_used("httpcore2")  # what the client sends its requests with
    import_when_used("asyncio")  # for progress bars of coroutines


def _postpone(module: ModuleType) -> None:
    for name in NAMES:
        setattr(module, name, _Later(name, (), {"module": module}))


class _Later(type):
    """A name of a module that finds its value when it is used. A type, because names of types stand in annotations."""

    module: ModuleType

    def _value(cls) -> Any:
        return cls.module.__getattr__(cls.__name__)

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        return cls._value()(*arguments, **named)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._value(), name)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls._value())
