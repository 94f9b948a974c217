"""The objects of OpenAI's Responses: a response, the items of its output, and their parts. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.wire.work import Generate
from gateway.core.answer import Delta, End, TokenLogprob, ToolUse
from gateway.core.custom_tools import input_of
from gateway.responses.requests import ENCRYPTED, ResponsesRequest
from gateway.responses.sealed import sealed
from gateway.responses.tools import ClientTool

Object = dict[str, object]

IN_PROGRESS, COMPLETED, INCOMPLETE, FAILED = "in_progress", "completed", "incomplete", "failed"


@dataclass(slots=True, frozen=True)
class ResponseHead:
    """What an answer has from its beginning. key: of its ids; echo: the fields of a response that repeat the request;
    tools: by their names on the wire."""

    key: str
    echo: Object
    tools: Mapping[str, ClientTool]
    seals: bool

    def id_of(self, kind: str, index: int) -> str:
        """Of an item of the output. kind: how such ids begin."""
        return f"{kind}_{self.key}{index:04x}"


def head_of(
    key: str, model: str, created: int, request: ResponsesRequest, *, work: Generate, tools: Sequence[ClientTool]
) -> ResponseHead:
    """work: what became of the request, with the values of its sampling."""
    effort = request.reasoning.effort if request.reasoning else None
    form = (
        request.text.format.model_dump(by_alias=True, exclude_none=True) if request.text and request.text.format else {}
    )
    echo: Object = {
        "id": f"resp_{key}",
        "object": "response",
        "created_at": created,
        "model": model,
        "instructions": request.instructions,
        "tools": request.tools or [],
        "tool_choice": request.tool_choice or "auto",
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "text": {"format": form or {"type": "text"}},
        "reasoning": {"effort": effort, "summary": None},
        "temperature": work.temperature,
        "top_p": work.top_p,
        "presence_penalty": work.presence_penalty,
        "frequency_penalty": work.frequency_penalty,
        "top_logprobs": request.top_logprobs or 0,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "truncation": "disabled",
        "store": False,
        "background": False,
        "previous_response_id": None,
        "service_tier": "default",
        "metadata": request.metadata or {},
        "prompt_cache_key": request.prompt_cache_key,
        "safety_identifier": request.safety_identifier,
        "user": request.user,
    }
    return ResponseHead(key, echo, {tool.wire_name: tool for tool in tools}, ENCRYPTED in (request.include or ()))


def state(
    status: str,
    output: Sequence[Object] = (),
    *,
    end: End | None = None,
    error: Object | None = None,
    completed_at: int | None = None,
) -> Object:
    """The fields of a response that change. end: of its answer."""
    return {
        "status": status,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if status == INCOMPLETE else None,
        "completed_at": completed_at,
        "output": list(output),
        "usage": None if end is None else usage(end),
    }


def status_of(end: End) -> str:
    """Of a response that ends with this."""
    return INCOMPLETE if end.finish_reason == "length" else COMPLETED


def usage(end: End) -> Object:
    """OpenAI's usage. What is written to the prompt cache costs nobody anything, and is not counted."""
    return {
        "input_tokens": end.prompt_tokens,
        "input_tokens_details": {"cached_tokens": end.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": end.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": end.reasoning_tokens},
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }


def output_of(head: ResponseHead, end: End) -> list[Object]:
    """The items of a whole answer."""
    answer, status = end.rest, status_of(end)
    items: list[Object] = []
    if answer.reasoning:
        cut = status if not (answer.text or answer.tool_calls) else COMPLETED
        items.append(reasoning_item(head, head.id_of("rs", 0), answer.reasoning, cut))
    if answer.text or is_silent(end, has_said=bool(answer.tool_calls)):
        cut = status if not answer.tool_calls else COMPLETED
        logprobs = logprobs_of_text(answer)
        items.append(message_item(head.id_of("msg", len(items)), answer.text, logprobs, cut))
    for call in answer.tool_calls:
        items.append(call_item(head, len(items), call, COMPLETED))
    return items


def is_silent(end: End, *, has_said: bool) -> bool:
    """Whether the answer is complete without a text or a call: it then has an empty text."""
    return not has_said and status_of(end) == COMPLETED


def reasoning_item(head: ResponseHead, id_: str, text: str | None, status: str) -> Object:
    """text: None while there is none."""
    item: Object = {"id": id_, "type": "reasoning", "status": status, "summary": [], "content": []}
    if text is not None:
        item["content"] = [reasoning_part(text)]
        if head.seals:
            item["encrypted_content"] = sealed(text)
    return item


def reasoning_part(text: str) -> Object:
    """The one part of such an item."""
    return {"type": "reasoning_text", "text": text}


def message_item(id_: str, text: str | None, logprobs: Sequence[TokenLogprob], status: str) -> Object:
    """text: None while there is none."""
    content = [] if text is None else [text_part(text, logprobs)]
    return {"id": id_, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, logprobs: Sequence[TokenLogprob] = ()) -> Object:
    """The one part of such an item."""
    entries = [
        {**_with_bytes(entry), "top_logprobs": [_with_bytes(other) for other in entry.top]} for entry in logprobs
    ]
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": entries}


def call_item(head: ResponseHead, index: int, call: ToolUse, status: str) -> Object:
    """A call in the client's form: of a function, or of a custom tool."""
    tool = head.tools.get(call.name)
    is_custom = tool is not None and tool.is_custom
    kind = "custom_tool_call" if is_custom else "function_call"
    item: Object = {
        "id": head.id_of("ctc" if is_custom else "fc", index),
        "type": kind,
        "status": status,
        "call_id": call.id,
        "name": call.name if tool is None else tool.name,
    }
    if is_custom:
        item["input"] = input_of(call.arguments) if call.arguments else ""
    else:
        item["arguments"] = call.arguments
    if tool is not None and tool.namespace is not None:
        item["namespace"] = tool.namespace
    return item


def stream_logprobs(entries: Sequence[TokenLogprob]) -> list[Object]:
    """As events have them: without bytes."""
    return [
        {
            "token": entry.token,
            "logprob": entry.logprob,
            "top_logprobs": [{"token": other.token, "logprob": other.logprob} for other in entry.top],
        }
        for entry in entries
    ]


def logprobs_of_text(piece: Delta) -> Sequence[TokenLogprob]:
    """The entries of a piece's text: without those of the reasoning before it and of the calls behind it."""
    if not piece.reasoning and not piece.tool_calls:
        return piece.logprobs
    whole = b"".join(entry.bytes_ for entry in piece.logprobs)
    text = piece.text.encode()
    after = whole.find(piece.reasoning.encode())
    begin = whole.find(text, max(after, 0) + len(piece.reasoning.encode()))
    if not text or begin < 0:
        return piece.logprobs if text else ()
    return [entry for entry, start in _places(piece.logprobs) if begin <= start < begin + len(text)]


def _places(entries: Sequence[TokenLogprob]) -> Iterator[tuple[TokenLogprob, int]]:
    """Each token and the place where its bytes begin."""
    place = 0
    for entry in entries:
        yield entry, place
        place += len(entry.bytes_)


def _with_bytes(entry: TokenLogprob) -> Object:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.bytes_)}
