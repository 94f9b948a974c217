"""A chat on its way to a template: its turns, its tools, and the template's variables. Must stay free of mlx."""

from dataclasses import dataclass
from typing import Any

from broker.wire.failure import invalid
from broker.wire.work import Generate
from worker.chat.client_json import check_json
from worker.chat.messages import Turn

_RESERVED_KWARGS = frozenset(
    {
        *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length"),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)


@dataclass(slots=True, frozen=True)
class Chat:
    """tools: None where the template gets none; kwargs: its other variables."""

    turns: list[Turn]
    tools: list[dict[str, Any]] | None
    kwargs: dict[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        """All of the template's variables but the turns."""
        return self.kwargs if self.tools is None else {**self.kwargs, "tools": self.tools}

    @property
    def has_calls(self) -> bool:
        """Whether something was called or has a result."""
        return any(turn.get("tool_calls") or turn["role"] == "tool" for turn in self.turns)


def chat_of(request: Generate, turns: list[Turn]) -> Chat:
    """Raises FailureError for tools and variables that no template can take."""
    kwargs = request.chat_template_kwargs
    for name in kwargs:
        # `chat_template` would let a client bring a template of its own, `tokenize` would change the result's type.
        if name in _RESERVED_KWARGS or not name.isidentifier():
            raise invalid(f"chat_template_kwargs must not set {name!r}", param="chat_template_kwargs")
    check_json(kwargs, "chat_template_kwargs")
    tools = [_filled(tool, f"tools[{index}]") for index, tool in enumerate(request.tools)]
    return Chat(turns, tools or None, kwargs)


def _filled(tool: Any, where: str) -> dict[str, Any]:
    """With a description and parameters, which clients may leave out and many templates read without asking."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise invalid(f"{where}.function must be an object with a name", param=where)
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise invalid(f"{where}.function.parameters must be an object", param=where)
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise invalid(f"{where}.function.description must be text", param=where)
    check_json(tool, where)
    whole = {"type": "object", "properties": {}, **(parameters or {})}
    return {**tool, "function": {**function, "description": description or "", "parameters": whole}}
