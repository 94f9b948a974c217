"""The messages and tools of a chat as Ollama's clients send them -> those of the wire. Pure."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from broker.wire.failure import invalid
from gateway.core.content import Image, image_at, image_in, wire_content
from gateway.core.integers import entries_of
from gateway.core.validation import RequestBody, at
from gateway.ollama.shapes import OllamaImages

# Newer models' name for a system turn.
_ROLES = {"developer": "system"}
_MAX_TOOLS = 128


def _images_of(images: object) -> list[Image]:
    """Files in base64; a data URL, which programs for other servers send, is one too. Raises ValueError."""
    if images is None:
        return []
    if not isinstance(images, list):
        raise ValueError("must be a list of images in base64")
    found = []
    for number, image in enumerate(images):
        if not isinstance(image, str):
            raise at(f"[{number}]", "must be an image in base64")
        try:
            found.append(image_at(image) if image[:5].lower() == "data:" else image_in(image))
        except ValueError as error:
            raise at(f"[{number}]", str(error)) from None
    return found


Images = Annotated[list[Image], PlainValidator(_images_of, json_schema_input_type=OllamaImages)]


def _lower(role: object) -> object:
    return role.lower() if isinstance(role, str) else role


class OllamaFunction(RequestBody):
    """arguments: an object; JSON text, as OpenAI has it, is one too."""

    name: Annotated[str, Field(min_length=1)]
    arguments: dict[str, Any] | str | None = None


class OllamaCall(RequestBody):
    """A call in an assistant's turn that is sent back."""

    id: str | None = None
    function: OllamaFunction

    def to_map(self) -> dict[str, Any]:
        """As the wire has it."""
        identity = {} if self.id is None else {"id": self.id}
        function = {"name": self.function.name, "arguments": self.function.arguments or {}}
        return {**identity, "type": "function", "function": function}


class OllamaMessage(RequestBody):
    """One turn. tool_name, or name: of the function whose result this is."""

    role: Annotated[Literal["system", "developer", "user", "assistant", "tool"], BeforeValidator(_lower)]
    content: str | None = None
    thinking: str | None = None
    images: Images = Field(default_factory=list)
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    name: str | None = None
    tool_call_id: str | None = None

    def to_map(self) -> dict[str, Any]:
        """As the wire has it, the images before the text."""
        message = {
            "role": _ROLES.get(self.role, self.role),
            "content": user_content(self.content or "", self.images),
            "name": self.tool_name or self.name,
            "reasoning_content": self.thinking,
            "tool_calls": [call.to_map() for call in self.tool_calls or []] or None,
            "tool_call_id": self.tool_call_id,
        }
        return {name: value for name, value in message.items() if value is not None}


def user_content(text: str, images: list[Image]) -> str | list[dict[str, str]]:
    """As the wire has it: images come before the text that speaks of them."""
    return wire_content([*images, text] if images else text)


def check_roles(messages: list[OllamaMessage]) -> None:
    """Raises FailureError for a message that has what its role cannot have."""
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if message.tool_calls and message.role != "assistant":
            raise invalid(f"{where}.tool_calls: only an assistant's message may have calls", f"{where}.tool_calls")
        if message.images and message.role != "user":
            raise invalid(f"{where}.images: only a user's message may have images", f"{where}.images")


def tools_in(tools: object) -> list[dict[str, Any]]:
    """Function tools, checked. Raises ValueError."""
    if tools is None:
        return []
    if not isinstance(tools, list) or len(tools) > _MAX_TOOLS:
        raise ValueError(f"must be a list of up to {_MAX_TOOLS} tools")
    names = set()
    for position, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type", "function") != "function":
            raise at(f"[{position}]", 'must be {"type": "function", "function": {...}}')
        name, parameters = function.get("name"), function.get("parameters")
        if not isinstance(name, str) or not name or name in names:
            raise at(f"[{position}].function.name", "must be a name that no other tool has")
        if parameters is not None and not isinstance(parameters, dict):
            raise at(f"[{position}].function.parameters", "must be a JSON schema")
        names.add(name)
    return [{"type": "function", "function": tool["function"]} for tool in tools]


def read_by_models(raw: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parts of a chat whose integers a model reads. Nobody has checked the body."""
    yield "format", raw.get("format")
    for index, tool in entries_of(raw.get("tools")):
        yield f"tools[{index}]", tool
    for index, message in entries_of(raw.get("messages")):
        for number, call in entries_of(message.get("tool_calls")):
            function = call.get("function")
            arguments = function.get("arguments") if isinstance(function, dict) else None
            yield f"messages[{index}].tool_calls[{number}].function.arguments", arguments
