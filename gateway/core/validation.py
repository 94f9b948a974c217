"""From the bytes of a body to a model of what is valid, and what the models of several endpoints share. Pure.

Every error names its field as clients write it: `messages[0].content`.
"""

from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, ValidationError
from pydantic_core import PydanticCustomError

from broker.wire.failure import invalid


class RequestBody(BaseModel):
    """No field is guessed from another type; unknown ones are ignored, as OpenAI-compatible servers do."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, defer_build=True)


def example(body: dict[str, JsonValue]) -> ConfigDict:
    """For a body's `model_config`: what readers of the document may try first."""
    return ConfigDict(json_schema_extra={"examples": [body]})


def whole(number: object) -> object:
    """16 for 16.0, which clients write that know one kind of number only; anything else as it is."""
    return int(number) if type(number) is float and number.is_integer() else number


# Of every whole number of a request, behind its bounds: Annotated[int, Field(ge=1), WHOLE]. Bounds behind it are in
# no document.
WHOLE = BeforeValidator(whole)

# Fields that are not implemented yet -> the values that change nothing.
NotYet = dict[str, tuple[Any, ...]]

_NO_PROMPT = "must be a string, a list of strings, token ids or a list of lists of token ids, none empty"

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
    is_one = isinstance(prompt, str) or (isinstance(prompt, list) and prompt and _is_token(whole(prompt[0])))
    prompts = [prompt] if is_one else prompt
    if not isinstance(prompts, list) or not prompts:
        raise ValueError(_NO_PROMPT)
    return [_prompt_of(one) for one in prompts]


def _prompt_of(prompt: object) -> str | list[int]:
    if isinstance(prompt, str) and prompt:
        return prompt
    tokens = [whole(token) for token in prompt] if isinstance(prompt, list) else []
    if not tokens or not all(_is_token(token) for token in tokens):
        raise ValueError(_NO_PROMPT)
    return tokens  # type: ignore[return-value] # all of them are tokens


def _is_token(token: object) -> bool:
    return type(token) is int and 0 <= token < 2**31
