"""Lets typer take texts and flags as they are.

typer has pydantic convert every value, and importing pydantic takes as long as all the rest of `ps`. Texts and flags
are what they should be without it, so only a command with an option of another type waits for it.
"""

from typing import Any

from typer import _coercion, core


def take_texts_as_they_are() -> None:
    """Once, before a command is run."""
    core.build_runtime_param = _conversion  # type: ignore[attr-defined] # private


def _conversion(descriptor: Any) -> Any:
    if descriptor.annotation in (str, bool):
        return _coercion.PassThroughRuntimeParam(descriptor.parameter_info, descriptor.annotation)
    return _coercion.build_runtime_param(descriptor)
