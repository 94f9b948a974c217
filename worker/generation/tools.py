"""Tool calls: from the result of a model's parser to the wire, and out of an answer that is forced to be calls.

A call on the wire is `{id, name, arguments}`, and `arguments` is JSON text. Must stay free of mlx.
"""

import json
import logging
import secrets
import string
from collections.abc import Callable
from hashlib import blake2b
from itertools import count
from typing import Any

from worker.process.log_events import concerned, concerning

log = logging.getLogger("worker")

_ID_CHARACTERS = string.ascii_letters + string.digits


Calls = list[dict[str, Any]]

# Makes the ids of one answer's calls.
CallIds = Callable[[], str]


def new_id() -> str:
    """For a call: nine letters and digits: Mistral's templates take no other ids, and all others take these."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))


def call_ids(key: str) -> CallIds:
    """Ids of this form; with a key always the same ones, in their order."""
    if not key:
        return new_id
    numbers = count()

    def derived() -> str:
        digest = blake2b(f"{key}/{next(numbers)}".encode(), digest_size=18).digest()
        size = len(_ID_CHARACTERS)
        return "".join(_ID_CHARACTERS[int.from_bytes(digest[i : i + 2]) % size] for i in range(0, 18, 2))

    return derived


def calls_reader(parse: Callable[[str], Any], ids: CallIds = new_id) -> Callable[[str], Calls | None]:
    """Reads calls by `parse`, for the request that is being taken in now."""
    request_id = concerned()

    def read(text: str) -> Calls | None:
        with concerning(request_id):
            return read_calls(lambda: parse(text), ids)

    return read


def read_calls(parse: Callable[[], Any], ids: CallIds = new_id) -> Calls | None:
    """The calls that `parse` returns, one or a list of `{name, arguments}`; None if there is no well-formed call. ids:
    of those that bring none."""
    try:
        parsed = parse()
        calls = [_call_of(call, ids) for call in (parsed if isinstance(parsed, list) else [parsed])]
    except Exception as error:  # noqa: BLE001 # the input is model output: a parser may raise anything
        log.info("a tool call is malformed: %s", type(error).__name__)
        return None
    return calls or None


def _call_of(call: Any, ids: CallIds) -> dict[str, Any]:
    name, arguments = call["name"], call.get("arguments")
    if arguments in (None, ""):
        arguments = {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError("a call must have a name and an object of arguments")
    given = call.get("id")
    call_id = given if isinstance(given, str) and given else ids()
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    # Raises for half a surrogate pair, which JSON can spell and UTF-8 cannot encode.
    f"{call_id}{name}{text}".encode()
    return {"id": call_id, "name": name, "arguments": text}


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
