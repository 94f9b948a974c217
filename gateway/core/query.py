"""Query parameters as a model, so that what is valid and what the document says about it cannot disagree. Pure."""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway.core.validation import validated

_MAX_DIGITS = 15


class Query(BaseModel):
    """The parameters of a route, each with a default and a description. Unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


Q = TypeVar("Q", bound=Query)


def query_of(model: type[Q], parameters: Mapping[str, str]) -> Q:
    """Raises FailureError `invalid_request` naming the parameter."""
    return validated(model, dict(parameters))


def _flag(text: object) -> bool:
    """Raises ValueError."""
    if not isinstance(text, str) or text.lower() not in ("true", "1", "false", "0"):
        raise ValueError(f"must be true or false, not {text!r:.80}")
    return text.lower() in ("true", "1")


def _seconds(text: object) -> float:
    """Raises ValueError."""
    try:
        seconds = float(text) if isinstance(text, str) else -1.0
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"must be a number of seconds from 0 on, not {text!r:.80}")
    return seconds


def _whole(text: object) -> int:
    """Raises ValueError."""
    if not isinstance(text, str) or not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        raise ValueError(f"must be a whole number, not {text!r:.80}")
    return int(text)


Flag = Annotated[bool, BeforeValidator(_flag)]
Seconds = Annotated[float, Field(ge=0), BeforeValidator(_seconds)]
# Of a whole number, behind its bounds: Annotated[int, Field(ge=1, le=1000), DIGITS].
DIGITS = BeforeValidator(_whole)
