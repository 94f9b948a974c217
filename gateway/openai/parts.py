"""Pieces of answers -> the parts of OpenAI's objects. Pure."""

from collections.abc import Sequence
from math import isnan

from gateway.core.answer import Delta, TokenLogprob
from gateway.openai.calls import CallStyle, CallWriter, Object


def message(answer: Delta, style: CallStyle) -> Object:
    """OpenAI's message of an answer that is not streamed."""
    content = None if answer.tool_calls and not answer.text else answer.text
    whole: Object = {"role": "assistant", "content": content, **_reasoning(answer)}
    return {**whole, **style.whole(answer.tool_calls)} if answer.tool_calls else whole


def delta(piece: Delta, calls: CallWriter) -> Object:
    """OpenAI's delta of a streamed chat, without the role. calls: of this choice."""
    changed = _reasoning(piece)
    if piece.text or not (piece.reasoning or piece.tool_calls):
        changed["content"] = piece.text
    return {**changed, **calls.pieces(piece.tool_calls)} if piece.tool_calls else changed


def chat_logprobs(entries: Sequence[TokenLogprob]) -> Object | None:
    """OpenAI's logprobs of a chat; None without any."""
    if not entries:
        return None
    return {"content": [_chosen(entry) for entry in entries], "refusal": None}


def text_logprobs(entries: Sequence[TokenLogprob], offset: int) -> Object | None:
    """OpenAI's logprobs of a text completion; None without any. offset: characters of the tokens before."""
    if not entries:
        return None
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    # The first token of a prompt has none: NaN, which is null in JSON.
    tops = [None if isnan(entry.logprob) else {one.token: one.logprob for one in entry.top} for entry in entries]
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": offsets,
    }


def _reasoning(piece: Delta) -> Object:
    """Under both of its names: DeepSeek's, and that of mlx_lm.server and vLLM."""
    return {"reasoning": piece.reasoning, "reasoning_content": piece.reasoning} if piece.reasoning else {}


def _chosen(entry: TokenLogprob) -> Object:
    chosen = _token(entry)
    chosen["top_logprobs"] = [_token(other) for other in entry.top]
    return chosen


def _token(entry: TokenLogprob) -> Object:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.bytes_)}
