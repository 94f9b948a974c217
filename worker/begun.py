"""Answers that have begun in another process: what a request says about them, and what outputs tell for the next one.

docs/protocol.md has the fields. Must stay free of mlx.
"""

from dataclasses import dataclass, field
from typing import Any

from broker.wire.body import ProtocolError
from broker.wire.failure import Code, Failure, FailureError
from broker.wire.outputs import PARTIAL, Output
from broker.wire.work import Generate

# An answer that is not streamed tells its tokens after the first one, and after so many more.
TELL_EVERY = 16


@dataclass(slots=True, frozen=True)
class Begun:
    """What another process has said. ids: its tokens; characters: of all that they have said, as in `characters_of`;
    cached: tokens of the prompt that it found in its cache."""

    ids: list[int] = field(default_factory=list)
    characters: int = 0
    cached: int = 0


def begun_of(request: Generate) -> Begun | None:
    """None for an answer of which nothing has been said. Raises ProtocolError."""
    given = request.begun
    if given is None:
        return None
    ids, characters, cached = given.get("ids", []), given.get("characters", 0), given.get("cached", 0)
    if not isinstance(ids, list) or any(type(token) is not int or token < 0 for token in ids):
        raise ProtocolError("Generate.begun.ids must be a list of token ids")
    if type(characters) is not int or type(cached) is not int:
        raise ProtocolError("Generate.begun.characters and .cached must be whole numbers")
    return Begun(ids, characters, cached) if ids or characters else None


def cannot_go_on(why: str) -> FailureError:
    """The answer that has begun cannot go on here."""
    message = f"the model's process died, and its answer cannot go on: {why}"
    return FailureError(Failure(Code.WORKER_DIED, message, retryable=True))


def characters_of(outputs: list[Output]) -> int:
    """Of the text, reasoning and arguments of calls in these PARTIALs. Raises FailureError where they are the whole
    answer."""
    if any(output.kind != PARTIAL for output in outputs):
        raise cannot_go_on("its tokens end it")
    return sum(_characters(output.body) for output in outputs)


def _characters(body: dict[str, Any]) -> int:
    arguments = sum(len(call["arguments"]) for call in body.get("tool_calls", ()))
    return len(body["text"]) + len(body.get("reasoning", "")) + arguments


def check_characters(begun: Begun, said: int) -> None:
    """Raises FailureError if the text of its tokens is not what has been said."""
    if said != begun.characters:
        raise cannot_go_on(f"its tokens say {said} characters, and {begun.characters} have been sent")
