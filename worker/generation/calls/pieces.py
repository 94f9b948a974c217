"""Calls in pieces: what a model writes of a forced call is sent as it comes.

Only for answers that follow `constraints.calls.call_schema`: what has been written of such a call cannot turn out to be
none. Of a call in the model's own form only the end shows that.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from worker.generation.tools import new_id, text_of_json

_NAME = re.compile(r'[^{]*+\{\s*+"name"\s*+:\s*+(?P<name>"(?:[^"\\]|\\.)*+")')
_ARGUMENTS = re.compile(r'\s*+,\s*+"arguments"\s*+:\s*+(?=\{)')
# Up to the next character that counts: outside of a string, and inside.
_OUTSIDE = re.compile(r'[^"{}]*+')
_INSIDE = re.compile(r'(?:[^"\\]|\\.)*+', re.DOTALL)


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
    """Reads one answer. Mutable state: the text that belongs to no piece yet, the call that is open, and where its
    arguments are: how many braces are open, and whether a string is."""

    def __init__(self) -> None:
        self._held = ""
        self._call: CallPiece | None = None
        self._depth = 0
        self._in_string = False

    def push(self, text: str) -> Iterator[CallPiece]:
        """Take some text; the pieces that it makes."""
        self._held += text
        while True:
            if self._call is None:
                head = _NAME.match(self._held)
                if head is None:
                    return
                self._held = self._held[head.end() :]
                self._call = CallPiece(new_id(), text_of_json(head["name"]), "", starts=False, ends=False)
                self._depth = 0
                yield self._piece("", starts=True)
            if not self._depth:
                lead = _ARGUMENTS.match(self._held)
                if lead is None:
                    return
                self._held = self._held[lead.end() :]
            end = self._scanned()
            written, self._held = self._held[:end], self._held[end:]
            if not written:
                return
            yield self._piece(written, ends=not self._depth)
            if self._depth:
                return
            self._call = None

    def _piece(self, arguments: str, *, starts: bool = False, ends: bool = False) -> CallPiece:
        assert self._call is not None
        return CallPiece(self._call.id, self._call.name, arguments, starts, ends)

    def _scanned(self) -> int:
        """How much of the held text belongs to the arguments; counts the braces in it."""
        text, position = self._held, 0
        while position < len(text):
            found = (_INSIDE if self._in_string else _OUTSIDE).match(text, position)
            position = found.end() if found is not None else position
            if position == len(text):
                break
            mark = text[position]
            if mark == "\\":  # what it escapes has not come yet
                break
            position += 1
            if mark == '"':
                self._in_string = not self._in_string
            elif mark == "{":
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    break
        return position
