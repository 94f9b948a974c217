"""What a model answered, as types: the bodies of outputs are read here, once, where they leave the link. Pure.

Every reader raises ProtocolError for a body that is not what docs/protocol.md says. Renderers get these types and
never see a map of the wire.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Never

from broker.wire.body import ProtocolError

Map = dict[str, Any]

_FLOAT_BYTES = 4
_ENTRY_BYTES = 256  # what an output, or an entry of a list in it, occupies beside its text


@dataclass(slots=True, frozen=True)
class ToolUse:
    """A call of a tool, or a piece of one. arguments: JSON text.

    A complete call starts and ends. Of a call in pieces the first one starts it, the last one ends it; all have its id
    and name, and their arguments are to be joined. Whole answers have complete calls only.
    """

    id: str
    name: str
    arguments: str
    starts: bool = True
    ends: bool = True


@dataclass(slots=True, frozen=True)
class PromptUsage:
    """Tokens of a prompt, and how many of them the prompt cache had."""

    tokens: int
    cached: int


@dataclass(slots=True)
class TokenLogprob:
    """How likely one token was, and (`top`) which were the likeliest in its place. bytes_: those of the token."""

    token: str
    bytes_: bytes
    logprob: float
    top: "Sequence[TokenLogprob]" = ()


@dataclass(slots=True)  # not frozen: one per token, and freezing triples what it takes to make
class Delta:
    """The next piece of one answer. Only the first one of a stream has `prompt`, and `ignored`: the parts of the
    request that this answer does without, in the wire's names."""

    text: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolUse] = ()
    logprobs: Sequence[TokenLogprob] = ()
    ignored: Sequence[str] = ()
    prompt: PromptUsage | None = None

    @property
    def has_more(self) -> bool:
        """More than text."""
        return bool(self.reasoning or self.tool_calls or self.logprobs)


@dataclass(slots=True, frozen=True)
class End:
    """The end of one answer. rest: what no Delta before it held. finish_reason: stop, length or tool_calls.

    stop_string: the client's stop string that ended it. context_full: it ended with `length` because the model's
    context is full, not by max_tokens. reasoning_tokens: those of the completion tokens that are reasoning.
    """

    rest: Delta
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    stop_string: str | None = None
    context_full: bool = False
    reasoning_tokens: int = 0


@dataclass(slots=True, frozen=True)
class Counted:
    """The answer to a count: tokens of the prompt."""

    prompt_tokens: int


@dataclass(slots=True, frozen=True)
class Vectors:
    """What an `Embed` gives: float32, little-endian, one vector for each input in order."""

    packed: bytes
    size: int
    prompt_tokens: int

    def split(self) -> list[bytes]:
        """Each vector alone."""
        step = self.size * _FLOAT_BYTES
        return [self.packed[start : start + step] for start in range(0, len(self.packed), step)]


@dataclass(slots=True, frozen=True)
class Scores:
    """What a `Rerank` gives: one number from 0 to 1 for each document in order."""

    scores: list[float]
    prompt_tokens: int


def delta_of(body: Map) -> Delta:
    """The PARTIAL of a `Generate`, or what its FINAL has of the same."""
    if len(body) == 1 and type(text := body.get("text")) is str:  # nearly always
        return Delta(text)
    text = checked(body, "text", str)
    reasoning: str = checked(body, "reasoning", str) if "reasoning" in body else ""
    calls = [_tool_use(entry) for entry in checked(body, "tool_calls", list)] if "tool_calls" in body else ()
    logprobs = [_logprob(entry) for entry in checked(body, "logprobs", list)] if "logprobs" in body else ()
    ignored = [_name(entry) for entry in checked(body, "ignored", list)] if "ignored" in body else ()
    return Delta(text, reasoning, calls, logprobs, ignored, _prompt(body["prompt"]) if "prompt" in body else None)


def end_of(body: Map) -> End:
    """The FINAL of a `Generate`."""
    return End(
        delta_of(body),
        finish_reason=checked(body, "finish_reason", str),
        prompt_tokens=checked(body, "prompt_tokens", int),
        completion_tokens=checked(body, "completion_tokens", int),
        cached_tokens=checked(body, "cached_tokens", int),
        stop_string=checked(body, "stop_string", str) if "stop_string" in body else None,
        context_full=checked(body, "context_full", bool) if "context_full" in body else False,
        reasoning_tokens=checked(body, "reasoning_tokens", int) if "reasoning_tokens" in body else 0,
    )


def counted_of(body: Map) -> Counted:
    """The FINAL of a count."""
    return Counted(checked(body, "prompt_tokens", int))


def vectors_of(body: Map, count: int) -> Vectors:
    """The FINAL of an `Embed` with `count` inputs."""
    packed: bytes = checked(body, "vectors", bytes)
    size: int = checked(body, "size", int)
    if size < 1 or len(packed) != count * size * _FLOAT_BYTES:
        raise ProtocolError(f"an output without {count} vectors")
    return Vectors(packed, size, checked(body, "prompt_tokens", int))


def scores_of(body: Map, count: int) -> Scores:
    """The FINAL of a `Rerank` with `count` documents."""
    packed: bytes = checked(body, "scores", bytes)
    if len(packed) != count * _FLOAT_BYTES:
        raise ProtocolError(f"an output without {count} scores")
    return Scores(floats_of(packed), checked(body, "prompt_tokens", int))


def no_partial(_body: Map) -> Never:
    """The PARTIAL of work that has none."""
    raise ProtocolError("PARTIAL for work that is not streamed")


def floats_of(packed: bytes) -> list[float]:
    """float32 -> numbers. The wire's byte order is that of every machine that MLX runs on."""
    return array("f", packed).tolist()


def joined(deltas: Sequence[Delta]) -> Delta:
    """Several pieces of one answer as one, in which each call is one entry."""
    if len(deltas) == 1:
        return deltas[0]
    return Delta(
        "".join([delta.text for delta in deltas]),
        "".join([delta.reasoning for delta in deltas]),
        _joined_calls([call for delta in deltas for call in delta.tool_calls]),
        [entry for delta in deltas for entry in delta.logprobs],
        [name for delta in deltas for name in delta.ignored],
        next((delta.prompt for delta in deltas if delta.prompt is not None), None),
    )


def _joined_calls(pieces: list[ToolUse]) -> list[ToolUse]:
    """The pieces of one call follow each other."""
    calls: list[list[ToolUse]] = []
    for piece in pieces:
        if piece.starts or not calls:
            calls.append([piece])
        else:
            calls[-1].append(piece)
    return [_joined_call(call) if len(call) > 1 else call[0] for call in calls]


def _joined_call(pieces: list[ToolUse]) -> ToolUse:
    first = pieces[0]
    return replace(first, arguments="".join([piece.arguments for piece in pieces]), ends=pieces[-1].ends)


def by_choice(items: Iterable[tuple[int, Delta | End]]) -> tuple[dict[int, Delta], dict[int, End]]:
    """All that waits for one stream: for each choice one Delta, what its End held included; and the Ends."""
    pieces: dict[int, list[Delta]] = {}
    ends: dict[int, End] = {}
    for index, output in items:
        if isinstance(output, End):
            ends[index] = output
            output = output.rest  # noqa: PLW2901 # the rest is one more piece
        pieces.setdefault(index, []).append(output)
    return {index: joined(deltas) for index, deltas in pieces.items()}, ends


def ignored_in(outputs: Iterable[object]) -> list[str]:
    """What these outputs name as ignored, each name once."""
    names: dict[str, None] = {}
    for output in outputs:
        delta = output.rest if isinstance(output, End) else output
        if isinstance(delta, Delta) and delta.ignored:
            names |= dict.fromkeys(delta.ignored)
    return list(names)


def weight_of(output: object) -> int:
    """Roughly the bytes that an output occupies while it waits. Ends count little: an answer has one."""
    if not isinstance(output, Delta):
        return _ENTRY_BYTES + int(getattr(output, "weight", 0))
    entries = 1 + len(output.tool_calls) + len(output.logprobs)
    return len(output.text) + len(output.reasoning) + entries * _ENTRY_BYTES


def checked(body: Map, name: str, kind: type[Any]) -> Any:
    """This field of an output. Raises ProtocolError for one of another type."""
    value: Any = body.get(name)
    if type(value) is not kind:
        raise ProtocolError(f"an output whose {name} is {value!r:.80}")
    return value


def _tool_use(entry: Any) -> ToolUse:
    match entry:
        case {"id": str(id_), "name": str(name), "arguments": str(arguments), **more}:
            # A piece says which one it is; a complete call says nothing.
            piece = more.get("piece")
            if piece in (None, "first", "middle", "last"):
                return ToolUse(id_, name, arguments, piece in (None, "first"), piece in (None, "last"))
    raise ProtocolError(f"an output whose tool_calls have {entry!r:.80}")


def _prompt(entry: object) -> PromptUsage:
    if isinstance(entry, dict):
        tokens, cached = entry.get("tokens"), entry.get("cached")
        if type(tokens) is int and type(cached) is int:
            return PromptUsage(tokens, cached)
    raise ProtocolError(f"an output whose prompt is {entry!r:.80}")


def _name(entry: object) -> str:
    if not isinstance(entry, str):
        raise ProtocolError(f"an output whose ignored has {entry!r:.80}")
    return entry


def _logprob(entry: Any) -> TokenLogprob:
    likely = []
    try:
        for one in (entry, *entry["top"]):
            token, bytes_, logprob = one["token"], one["bytes"], one["logprob"]
            if type(token) is not str or type(bytes_) is not bytes or type(logprob) is not float:
                raise TypeError
            likely.append(TokenLogprob(token, bytes_, logprob))
    except (KeyError, TypeError):
        raise ProtocolError(f"an output whose logprobs have {entry!r:.80}") from None
    found, *found.top = likely
    return found
