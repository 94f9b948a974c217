"""How far one answer has come, so that it can go on in another process when its own has ended. Pure.

With `tells_tokens` every PARTIAL names the tokens that it says. They are kept here, four bytes each, until the answer
ends; with the payload of the request they are what the next process needs. Of an answer that is not streamed the
log-probabilities of these tokens are kept too, and are put before those of the FINAL. docs/protocol.md has the fields.
"""

from array import array
from collections.abc import Sequence
from typing import Any, Protocol

from broker.wire.body import ProtocolError
from broker.wire.packing import pack_map, unpack_map
from broker.wire.work import MAX_TOLD_LOGPROBS
from gateway.core.answer import Delta, End, Map, TokenLogprob, delta_of, end_of
from gateway.core.audio import HeardPiece, heard_of

# Tokens of one answer, 256 KiB; a longer one cannot go on.
MAX_TOKENS = 1 << 16

# The PARTIAL of a stream whose first tokens say nothing yet.
_NOTHING: Map = {"text": ""}


class GoesOn(Protocol):
    """How far a unit of work has come."""

    @property
    def can_go_on(self) -> bool:
        """Whether another process can go on from there."""

    def begun(self, payload: bytes) -> bytes:
        """The payload of the request with what has come of it."""


class HeardProgress:
    """A streamed transcript: the worker says in each PARTIAL what another one needs. Mutable state: the last that it
    said."""

    __slots__ = ("_place",)

    def __init__(self) -> None:
        self._place: Any = None

    @property
    def can_go_on(self) -> bool:
        """Whether a PARTIAL has come."""
        return self._place is not None

    def partial(self, body: Map) -> HeardPiece:
        """The PARTIAL of a `Transcribe`. Raises ProtocolError."""
        self._place = body.pop("place", None)
        return heard_of(body)

    def begun(self, payload: bytes) -> bytes:
        """See GoesOn."""
        return pack_map(unpack_map(payload, "Transcribe") | {"begun": self._place})


class AnswerProgress:
    """One answer. streams: its PARTIALs are for the client; else they have nothing but tokens and log-probabilities.

    Mutable state: the tokens that outputs have told, the characters of text, reasoning and arguments that came, and how
    many cached tokens the first output has named; for an answer that is not streamed its log-probabilities, and how
    many they are.
    """

    __slots__ = ("_cached", "_characters", "_entries", "_ids", "_is_too_long", "_logprobs", "_streams")

    def __init__(self, *, streams: bool) -> None:
        self._streams = streams
        self._ids = array("I")
        self._characters = 0
        self._cached = 0
        self._is_too_long = False
        self._logprobs: list[TokenLogprob] = []
        self._entries = 0

    @property
    def can_go_on(self) -> bool:
        """Whether all its tokens are known, and no more log-probabilities than a worker tells."""
        return not self._is_too_long

    def partial(self, body: Map) -> Delta | None:
        """The PARTIAL of a `Generate`; None if nothing of it is for the client. Raises ProtocolError."""
        told, text = body.get("ids"), body.get("text")
        if len(body) == 2 and type(told) is int and type(text) is str and self._streams:  # nearly always
            self._add(told)
            self._characters += len(text)
            return Delta(text)
        self._take(body)
        delta = delta_of(body)
        if self._streams:
            self._characters += len(delta.text) + len(delta.reasoning)
            self._characters += sum([len(call.arguments) for call in delta.tool_calls])
            return None if body == _NOTHING else delta
        if delta.text or delta.reasoning or delta.tool_calls:
            raise ProtocolError("text in a PARTIAL of an answer that is not streamed")
        self._keep(delta.logprobs)
        return None

    def final(self, body: Map) -> End:
        """The FINAL of a `Generate`, with what came before. Raises ProtocolError."""
        end = end_of(body)
        if self._logprobs:
            end.rest.logprobs = [*self._logprobs, *end.rest.logprobs]
        return end

    def begun(self, payload: bytes) -> bytes:
        """The payload of the request with what has come of its answer."""
        begun = {"ids": self._ids.tolist(), "characters": self._characters, "cached": self._cached}
        return pack_map(unpack_map(payload, "Generate") | {"begun": begun})

    def _take(self, body: Map) -> None:
        told = body.pop("ids", [])
        for token in told if isinstance(told, list) else [told]:
            self._add(token)
        if isinstance(prompt := body.get("prompt"), dict) and type(cached := prompt.get("cached")) is int:
            self._cached = cached

    def _keep(self, told: Sequence[TokenLogprob]) -> None:
        """The client gets all of them; beyond the bound the answer cannot go on."""
        self._logprobs += told
        self._entries += sum([1 + len(entry.top) for entry in told])
        self._is_too_long = self._is_too_long or self._entries > MAX_TOLD_LOGPROBS

    def _add(self, token: Any) -> None:
        if len(self._ids) == MAX_TOKENS:
            self._is_too_long = True
            return
        try:
            self._ids.append(token)
        except (TypeError, OverflowError):
            raise ProtocolError(f"an output whose ids have {token!r:.80}") from None
