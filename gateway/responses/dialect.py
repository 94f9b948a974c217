"""The dialect of OpenAI's Responses: its errors, and its names of the wire's fields. Pure."""

import re
from collections.abc import Sequence

from broker.wire.failure import Code, Failure
from gateway.core.dialect import Json
from gateway.core.failure import STATUS, ErrorAnswer, error_object
from gateway.responses.tools import ClientTool
from gateway.responses.turns import PlacedTurn

STREAM_TYPE = "text/event-stream; charset=utf-8"

_NAMES = {
    "json_schema": "text.format.schema",
    "required_tools": "tool_choice",
    "one_call": "parallel_tool_calls",
    "max_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "messages": "input",
}
_MESSAGE = re.compile(r"messages\[(\d+)\]")
_PART = re.compile(r"\.(?:parts|content)\[(\d+)\]")
_CALL = re.compile(r"\.tool_calls\[(\d+)\](?:\.function)?")
_IMAGE = re.compile(r"images\[(\d+)\]")
_TOOL = re.compile(r"tools\[(\d+)\](?:\.function)?(?=\.|$)")

# Codes of errors within a response that clients know; any other one is `server_error`. Clients that compact a long
# conversation do so when they read the first of these.
_CODES = {
    Code.CONTEXT_LENGTH_EXCEEDED: "context_length_exceeded",
    Code.RATE_LIMIT_EXCEEDED: "rate_limit_exceeded",
    Code.INVALID_REQUEST: "invalid_prompt",
}


class ResponsesDialect:
    """A Dialect."""

    name = "Responses"
    error_answer = ErrorAnswer

    def status(self, failure: Failure) -> int:
        """That of the common table."""
        return STATUS[failure.code]

    def error(self, failure: Failure) -> Json:
        """`{"error": {message, type, param, code, retryable}}`."""
        return error_object(failure)


RESPONSES = ResponsesDialect()


def failed_error(failure: Failure) -> dict[str, object]:
    """The `error` of a response that fails after its start. type: our code."""
    return {
        "code": _CODES.get(failure.code, "server_error"),
        "message": failure.message,
        "param": failure.param,
        "type": failure.code,
    }


def field_name(field: str, turns: Sequence[PlacedTurn], tools: Sequence[ClientTool]) -> str:
    """OpenAI's name of a field of the wire. turns, tools: the messages and tools that the wire has."""
    if (message := _MESSAGE.match(field)) and int(message[1]) < len(turns):
        return _in_turn(turns[int(message[1])], field[message.end() :])
    if image := _IMAGE.fullmatch(field):
        places = [path for turn in turns for _, path in turn.images]
        return places[int(image[1])] if int(image[1]) < len(places) else "input"
    if (tool := _TOOL.match(field)) and int(tool[1]) < len(tools):
        return tools[int(tool[1])].path + field[tool.end() :]
    return _NAMES.get(field, field)


def _in_turn(turn: PlacedTurn, rest: str) -> str:
    """rest: of the name, behind the message."""
    if (part := _PART.match(rest)) and int(part[1]) < len(turn.part_paths):
        return turn.part_paths[int(part[1])] + rest[part.end() :]
    if (call := _CALL.match(rest)) and int(call[1]) < len(turn.calls):
        path, arguments = turn.call_paths[int(call[1])]
        after = rest[call.end() :]
        return arguments if after.startswith(".arguments") else path + after
    if rest.startswith(".reasoning_content"):
        return turn.reasoning_path
    if rest.startswith(".content"):
        return turn.content_path or turn.path
    if rest == ".tool_call_id":
        return f"{turn.path}.call_id"
    return turn.path + rest
