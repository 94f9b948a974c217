"""The messages of a chat as OpenAI's clients send them, old forms included -> messages of the wire. Pure."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from broker.wire.failure import invalid
from gateway.core.content import wire_content
from gateway.core.integers import entries_of
from gateway.core.validation import RequestBody
from gateway.openai.content import Said, said_in
from gateway.openai.shapes import ChatContent
from gateway.openai.tools import CalledFunction, ToolCall

# What newer models call a system turn, and what calls were before there were tools.
_ROLES = {"developer": "system", "function": "tool"}


def _no_audio(audio: object) -> None:
    """Raises ValueError for what OpenAI's servers have kept of an answer, and nobody else has."""
    if audio is not None:
        raise ValueError("is not supported: no model here has spoken; send the transcript as content")


class ChatMessage(RequestBody):
    """One turn. said: its `content`. `reasoning` is what others call `reasoning_content`; function_call, and the role
    `function` for its result: what OpenAI had before tool_calls."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    said: Annotated[Said, PlainValidator(said_in, json_schema_input_type=ChatContent), Field(alias="content")] = Said()
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    audio: Annotated[None, PlainValidator(_no_audio, json_schema_input_type=None)] = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None

    def to_map(self) -> dict[str, Any]:
        """As the wire has it."""
        content = wire_content(self.said.content)
        if self.refusal is not None and isinstance(content, str):
            # What the model said instead of an answer; without files, which no assistant sends.
            content += self.refusal
        # Some clients send both, one of them empty.
        reasoning = self.reasoning_content or self.reasoning or self.reasoning_content
        message: dict[str, Any] = {
            "role": _ROLES.get(self.role, self.role),
            "content": content,
            "name": self.name,
            "reasoning_content": ((reasoning or "") + self.said.reasoning) or reasoning,
            "tool_calls": self._calls() or None,
            "tool_call_id": self.tool_call_id,
        }
        return {name: value for name, value in message.items() if value is not None}

    def _calls(self) -> list[dict[str, Any]]:
        calls = [call.to_map() for call in self.tool_calls or []]
        if self.function_call is not None:
            calls.append({"type": "function", "function": self.function_call.model_dump()})
        return calls


def check_roles(messages: list[ChatMessage]) -> None:
    """Raises FailureError for a message that has what its role cannot have."""
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if message.role != "assistant":
            for name in ("tool_calls", "function_call", "refusal"):
                if getattr(message, name):
                    raise invalid(f"only an assistant's message may have {name}", f"{where}.{name}")
            if message.said.reasoning:
                raise invalid("only an assistant's message may have parts of the type thinking", f"{where}.content")
        if message.role != "user" and not isinstance(message.said.content, str):
            raise invalid("only a user's message may have images or audio", f"{where}.content")


def fields_that_models_read(raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values of a chat that a model reads, with their paths. raw: the body, which nobody has checked."""
    for name in ("chat_template_kwargs", "response_format"):
        yield name, raw.get(name)
    for index, tool in entries_of(raw.get("tools")):
        yield f"tools[{index}]", tool
    for index, message in entries_of(raw.get("messages")):
        where = f"messages[{index}]"
        for number, call in entries_of(message.get("tool_calls")):
            yield f"{where}.tool_calls[{number}].function.arguments", _arguments(call.get("function"))
        yield f"{where}.function_call.arguments", _arguments(message.get("function_call"))


def _arguments(function: Any) -> Any:
    return function.get("arguments") if isinstance(function, dict) else None
