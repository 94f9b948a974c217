"""Tool calls: from the result of a model's parser to the wire, and out of an answer that is forced to be calls.

A call on the wire is `{id, name, arguments}`, and `arguments` is JSON text. Must stay free of mlx.
"""

import json
import logging
import secrets
import string
from collections.abc import Callable
from typing import Any

from worker.process.log_events import concerned, concerning

log = logging.getLogger("worker")

_ID_CHARACTERS = string.ascii_letters + string.digits


Calls = list[dict[str, Any]]


def calls_reader(parse: Callable[[str], Any]) -> Callable[[str], Calls | None]:
    """Reads calls by `parse`, for the request that is being taken in now."""
    request_id = concerned()

    def read(text: str) -> Calls | None:
        with concerning(request_id):
            return read_calls(lambda: parse(text))

    return read


def read_calls(parse: Callable[[], Any]) -> Calls | None:
    """The calls that `parse` returns, one or a list of `{name, arguments}`; None if there is no well-formed call."""
    try:
        parsed = parse()
        calls = [_call_of(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
    except Exception as error:  # noqa: BLE001 # the input is model output: a parser may raise anything
        log.info("a tool call is malformed: %s", type(error).__name__)
        return None
    return calls or None


def _call_of(call: Any) -> dict[str, Any]:
    name, arguments = call["name"], call.get("arguments")
    if arguments in (None, ""):
        arguments = {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError("a call must have a name and an object of arguments")
    given = call.get("id")
    call_id = given if isinstance(given, str) and given else new_id()
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    # Raises for half a surrogate pair, which JSON can spell and UTF-8 cannot encode.
    f"{call_id}{name}{text}".encode()
    return {"id": call_id, "name": name, "arguments": text}


def new_id() -> str:
    """For a call: nine letters and digits: Mistral's templates take no other ids, and all others take these."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))


def text_of_json(quoted: str) -> str:
    """The text of a string of JSON."""
    return str(json.loads(quoted))


def whole_calls(text: str) -> list[Any]:
    """The calls in an answer that follows `constraints.calls.call_schema`, without one that was cut short."""
    read = json.JSONDecoder().raw_decode
    calls, begin = [], text.find("{")
    while begin >= 0:
        try:
            call, end = read(text, begin)
        except ValueError:
            break
        calls.append(call)
        begin = text.find("{", end)
    return calls
