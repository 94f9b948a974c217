"""The parts of an answer as the wire has them -> the parts of OpenAI's objects. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.wire.body import ProtocolError


@dataclass(slots=True)
class Parts:
    """Some of one choice. tool_calls: `{id, name, arguments}`; logprobs: `{token, bytes, logprob, top}` per token."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, body: dict[str, Any]) -> None:
        """The next PARTIAL or FINAL. Raises ProtocolError where a field is missing or of another type."""
        self.text += _checked(body, "text", str)
        if "reasoning" in body:
            self.reasoning += _checked(body, "reasoning", str)
        if "tool_calls" in body:
            self.tool_calls += _checked(body, "tool_calls", list)
        if "logprobs" in body:
            self.logprobs += _checked(body, "logprobs", list)

    @property
    def is_empty(self) -> bool:
        """Nothing that a client would see."""
        return not (self.text or self.has_more)

    @property
    def has_more(self) -> bool:
        """More than text."""
        return bool(self.reasoning or self.tool_calls or self.logprobs)


def _checked(body: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value: Any = body.get(name)
    if type(value) is not kind or (kind is list and not all(isinstance(entry, dict) for entry in value)):
        raise ProtocolError(f"an output whose {name} is {value!r:.80}")
    return value


def message(parts: Parts) -> dict[str, Any]:
    """OpenAI's message of an answer that is not streamed."""
    content = None if parts.tool_calls and not parts.text else parts.text
    whole: dict[str, Any] = {"role": "assistant", "content": content}
    whole |= _reasoning(parts)
    if parts.tool_calls:
        whole["tool_calls"] = [_call(call) for call in parts.tool_calls]
    return whole


def delta(parts: Parts, calls_before: int) -> dict[str, Any]:
    """OpenAI's delta of a streamed chat, without the role; calls are numbered from `calls_before`."""
    changed: dict[str, Any] = _reasoning(parts)
    if parts.text or not (parts.reasoning or parts.tool_calls):
        changed["content"] = parts.text
    if parts.tool_calls:
        changed["tool_calls"] = [{"index": n, **_call(call)} for n, call in enumerate(parts.tool_calls, calls_before)]
    return changed


def _reasoning(parts: Parts) -> dict[str, Any]:
    """Under both of its names: DeepSeek's, and that of mlx_lm.server and vLLM."""
    return {"reasoning": parts.reasoning, "reasoning_content": parts.reasoning} if parts.reasoning else {}


def chat_logprobs(entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """OpenAI's logprobs of a chat; None without any."""
    if not entries:
        return None
    content = [{**_token(entry), "top_logprobs": [_token(other) for other in entry["top"]]} for entry in entries]
    return {"content": content, "refusal": None}


def text_logprobs(entries: Sequence[dict[str, Any]], offset: int) -> dict[str, Any] | None:
    """OpenAI's logprobs of a text completion; None without any. offset: characters of the tokens before."""
    if not entries:
        return None
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    tops = [{other["token"]: other["logprob"] for other in entry["top"]} for entry in entries]
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": offsets,
    }


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["arguments"]}
    return {"id": call["id"], "type": "function", "function": function}


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": entry["logprob"], "bytes": list(entry["bytes"])}
