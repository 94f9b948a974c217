"""The messages of a request -> the turns that chat templates take. Must stay free of mlx.

Every mistake that a client can make raises FailureError naming the field.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from broker.wire.failure import invalid
from worker.chat.client_json import client_object

Turn = dict[str, Any]

# Roles of the turns that instruct.
INSTRUCTING = ("system", "developer")

# What templates call the reasoning of a turn; none writes it twice.
THOUGHT_NAMES = ("reasoning_content", "reasoning", "thinking")


def text_of(content: Any, where: str) -> str:
    """A message's content as one string, the form of most chat templates. where: the message. Raises FailureError
    naming the part."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"{where}.content must be a string or a list of parts", param=f"{where}.content")
    return "".join(text_of_part(part, f"{where}.parts[{index}]") for index, part in enumerate(content))


def text_of_part(part: Any, where: str) -> str:
    """The text of one part of a content. where: the part. Raises FailureError."""
    if isinstance(part, dict) and part.get("type") == "image":
        # The first one of the request, since it is refused.
        raise invalid("images[0]: this model reads text only, it takes no images", param="images[0]")
    if isinstance(part, dict) and part.get("type") == "audio":
        raise invalid("audios[0]: this model does not hear, it takes no audio", param="audios[0]")
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise invalid(f"{where} is not a text part", param=where)
    return str(part["text"])


def plain_messages(messages: list[Any], read: Callable[[Any, str], Any] = text_of) -> list[Turn]:
    """The messages in the form of chat templates: each with a role and a content that is never None; arguments of calls
    as objects; each call with an id, each result with the id and the name of its call. read: (content, name of its
    message) -> content for the template. Raises FailureError."""
    if not messages:
        raise invalid("messages is empty", param="messages")
    turns = [_turn(message, f"messages[{index}]", read) for index, message in enumerate(messages)]
    _pair(turns)
    return turns


def _turn(message: Any, where: str, read: Callable[[Any, str], Any]) -> Turn:
    if not isinstance(message, dict):
        raise invalid(f"{where} must be an object", param=where)
    if not isinstance(message.get("role"), str):
        raise invalid(f"{where}.role must be a string", param=f"{where}.role")
    turn = {**message, "content": read(message.get("content"), where)}
    if thought := turn.get("reasoning_content"):
        if not isinstance(thought, str):
            raise invalid(f"{where}.reasoning_content must be a string", param=f"{where}.reasoning_content")
        turn |= dict.fromkeys(THOUGHT_NAMES, thought)
    if calls := turn.pop("tool_calls", None):
        turn["tool_calls"] = _calls(calls, f"{where}.tool_calls")
    return turn


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Clients send arguments as JSON text, templates iterate over objects."""
    if not isinstance(calls, list):
        raise invalid(f"{where} must be a list", param=where)
    plain = []
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            param = f"{where}[{index}].function"
            raise invalid(f"{param} must be an object with a name", param=param)
        arguments = client_object(function.get("arguments"), f"{where}[{index}].function.arguments")
        plain.append({**call, "type": "function", "function": {**function, "arguments": arguments}})
    return plain


def _pair(turns: list[Turn]) -> None:
    """Give each call an id that no other waiting call has, and each result the id and the name of its call."""
    given = {_text_or_none(call.get("id")) for turn in turns for call in turn.get("tool_calls", ())}
    given |= {_text_or_none(turn.get("tool_call_id")) for turn in turns}
    fresh = (made for made in map("call{:05d}".format, count()) if made not in given)
    waiting: list[_OpenCall] = []
    names: dict[str, str] = {}
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            sent = _text_or_none(call.get("id"))
            if not sent or any(other.sent == sent for other in waiting):
                call["id"] = next(fresh)
            names[call["id"]] = call["function"]["name"]
            waiting.append(_OpenCall(sent, call["id"], call["function"]["name"]))
        if turn["role"] == "tool":
            sent = _text_or_none(turn.get("tool_call_id"))
            if answered := _answered(waiting, sent, turn.get("name")):
                waiting.remove(answered)
                turn["tool_call_id"] = answered.id
            elif not sent:
                turn["tool_call_id"] = next(fresh)
            if name := names.get(turn["tool_call_id"]):
                turn.setdefault("name", name)


def _text_or_none(identity: Any) -> str | None:
    return identity if isinstance(identity, str) and identity else None


@dataclass(slots=True, frozen=True)
class _OpenCall:
    """A call without a result. sent: the client's id."""

    sent: str | None
    id: str
    name: str


def _answered(waiting: list[_OpenCall], sent: str | None, name: str | None) -> _OpenCall | None:
    """The first call with this id; for a result without an id, the first of its name, or just the first."""
    if sent:
        return next((call for call in waiting if call.sent == sent), None)
    named = (call for call in waiting if call.name == name)
    return next(named, waiting[0] if waiting else None)
