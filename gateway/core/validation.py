"""From the bytes of a body to a model of what is valid, and what the models of several endpoints share. Pure.

Every error names its field as clients write it: `messages[0].content`.
"""

from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from broker.wire.failure import invalid


class RequestBody(BaseModel):
    """No field is guessed from another type; unknown ones are ignored, as OpenAI-compatible servers do."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


# Some clients know one kind of number only and write 16.0 for 16.
Whole = Annotated[int, BeforeValidator(lambda n: int(n) if type(n) is float and n.is_integer() else n)]

# Fields that are not implemented yet -> the values that change nothing.
NotYet = dict[str, tuple[Any, ...]]

Model = TypeVar("Model", bound=BaseModel)


def at(path: str, message: str) -> PydanticCustomError:
    """For a validator of a whole field: the error is at `path` within it, such as `[1].image_url`."""
    return PydanticCustomError("at", "{message}", {"message": message, "path": path})


def validated(model: type[Model], raw: dict[str, Any]) -> Model:
    """Raises FailureError `invalid_request` naming the first field that is wrong."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        param += first.get("ctx", {}).get("path", "") if first["type"] == "at" else ""
        raise invalid(f"{param}: {first['msg'].removeprefix('Value error, ')}", param) from None


def object_of(body: bytes) -> dict[str, Any]:
    """Raises FailureError `invalid_request`."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise invalid("the body must be a JSON object")
    return raw


def refuse_not_yet(raw: dict[str, Any], fields: NotYet) -> None:
    """Raises FailureError `invalid_request` for a field that would change the answer if it were implemented."""
    for name in raw.keys() & fields.keys():
        if raw[name] is not None and raw[name] not in fields[name]:
            raise invalid(f"{name} is not supported yet", name)


def prompts_of(prompt: object) -> list[str | list[int]]:
    """A string, strings, token ids or lists of them -> a list of prompts. Raises ValueError."""
    is_one = isinstance(prompt, str) or (isinstance(prompt, list) and prompt and _is_token(prompt[0]))
    prompts = [prompt] if is_one else prompt
    if not isinstance(prompts, list) or not prompts or not all(_is_prompt(p) for p in prompts):
        raise ValueError("must be a string, a list of strings, token ids or a list of lists of token ids, none empty")
    return prompts


def _is_prompt(prompt: object) -> bool:
    if isinstance(prompt, str):
        return bool(prompt)
    return isinstance(prompt, list) and bool(prompt) and all(_is_token(token) for token in prompt)


def _is_token(token: object) -> bool:
    return type(token) is int and 0 <= token < 2**31
