"""Calls in pieces: what a model writes of a call that follows a grammar is sent as it comes.

Only for JSON objects as `constraints.calls.call_schema` has them: what has been written of such a call cannot turn out
to be none. Of a call that nothing binds only the end shows that.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from worker.generation.tools import CallIds, new_id, text_of_json

_HEAD = re.compile(r'[^{]*+\{\s*+"name"\s*+:\s*+(?P<name>"(?:[^"\\]|\\.)*+")')
_LEAD = re.compile(r'\s*+,\s*+"arguments"\s*+:\s*+(?=\{)')
# The last brace of the arguments, and that of the call.
_END = re.compile(r"(?P<last>\})\s*+\}")
# Up to the next character that counts: outside of a string, and inside.
_OUTSIDE = re.compile(r'[^"{}]*+')
_INSIDE = re.compile(r'(?:[^"\\]|\\.)*+', re.DOTALL)


class _Stage(Enum):
    """Of the text, as to the next call: before its name, before its arguments, in them, or behind all but their end."""

    BEFORE = "before"
    NAMED = "named"
    INSIDE = "inside"
    BEHIND = "behind"


@dataclass(slots=True)
class CallPiece:
    """A piece of a call, or all of it. arguments: JSON text, to be joined."""

    id: str
    name: str
    arguments: str
    starts: bool
    ends: bool

    def body(self) -> dict[str, Any]:
        """As on the wire."""
        call = {"id": self.id, "name": self.name, "arguments": self.arguments}
        if self.starts and self.ends:
            return call
        return {**call, "piece": "first" if self.starts else "last" if self.ends else "middle"}


_NO_CALL = CallPiece("", "", "", starts=False, ends=False)


def add_piece(pieces: list[CallPiece], piece: CallPiece) -> None:
    """Add it, to the last one if that is of the same call."""
    if not pieces or piece.starts:
        pieces.append(piece)
        return
    pieces[-1].arguments += piece.arguments
    pieces[-1].ends = piece.ends


def joined_calls(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls of these entries of the wire, in order, without one that was cut short."""
    calls: list[dict[str, Any]] = []
    begun: list[dict[str, Any]] = []
    for entry in entries:
        begun = [entry] if entry.get("piece", "first") == "first" else [*begun, entry]
        if entry.get("piece", "last") == "last":
            whole = "".join(piece["arguments"] for piece in begun)
            calls.append({"id": entry["id"], "name": entry["name"], "arguments": whole})
    return calls


class CallPieces:
    """Reads one answer. Mutable state: the text that belongs to no piece yet; the call that is open, as a piece
    without arguments; where in it the text is; of its arguments how many braces are open, and whether a string is."""

    def __init__(self, ids: CallIds = new_id) -> None:
        self._ids = ids
        self._held = ""
        self._call = _NO_CALL
        self._stage = _Stage.BEFORE
        self._depth = 0
        self._in_string = False

    def push(self, text: str) -> Iterator[CallPiece]:
        """Take some text; the pieces that it makes."""
        self._held += text
        if self._stage is _Stage.BEFORE and (head := self._matched(_HEAD)) is not None:
            self._stage = _Stage.NAMED
            self._call = CallPiece(self._ids(), text_of_json(head["name"]), "", starts=False, ends=False)
            yield replace(self._call, starts=True)
        if self._stage is _Stage.NAMED and self._matched(_LEAD) is not None:
            self._stage = _Stage.INSIDE
        if self._stage is _Stage.INSIDE and (written := self._written()):
            yield replace(self._call, arguments=written)
        if self._stage is _Stage.BEHIND and (end := self._matched(_END)) is not None:
            self._stage = _Stage.BEFORE
            yield replace(self._call, arguments=end["last"], ends=True)
            yield from self.push("")

    def _matched(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The held text from its beginning on, of which it is then no part."""
        found = pattern.match(self._held)
        if found is not None:
            self._held = self._held[found.end() :]
        return found

    def _written(self) -> str:
        """What has been written of the arguments, without their last brace: the call is complete with its own."""
        text, position = self._held, 0
        while position < len(text):
            found = (_INSIDE if self._in_string else _OUTSIDE).match(text, position)
            position = position if found is None else found.end()
            mark = text[position : position + 1]
            if mark in ("", "\\"):  # what it escapes has not come yet
                break
            if mark == "}" and self._depth == 1:
                self._stage, self._depth = _Stage.BEHIND, 0
                break
            position += 1
            if mark == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if mark == "{" else -1
        self._held = text[position:]
        return text[:position]
