"""Code that comes with a model is never run, whatever a library asks for while it loads the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import dynamic_module_utils


@contextmanager
def no_foreign_code() -> Iterator[None]:
    """Keeps transformers from running code that comes with a model: some processors of mlx-vlm and some families of
    mlx-audio ask for it regardless of their arguments (`trust_remote_code=True`)."""

    def refuse(_folder: Any, file: str, *_: Any, **__: Any) -> None:
        raise ValueError(f"{file} is code that comes with the model, which is never run")

    find: Any = dynamic_module_utils.get_cached_module_file
    dynamic_module_utils.get_cached_module_file = refuse
    try:
        yield
    finally:
        dynamic_module_utils.get_cached_module_file = find
