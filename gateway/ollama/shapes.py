"""Forms of JSON in Ollama's bodies that validators of their own read, for the document of the API. Pure."""

from typing import Annotated, Literal

from pydantic import Field

from gateway.core.shapes import JsonObject, Shape, Text

# Files in base64, or data URLs.
OllamaImages = list[str] | None
OllamaStops = Text | Annotated[list[Text], Field(max_length=64)] | None
OllamaFormat = Literal["", "json"] | JsonObject | None
OllamaThink = bool | Literal["low", "medium", "high", "max"] | None
OllamaInputs = str | Annotated[list[str], Field(max_length=2048)] | None


class OllamaToolFunction(Shape):
    """A function that the model may call. parameters: a JSON schema."""

    name: Text
    description: str | None = None
    parameters: JsonObject | None = None


class OllamaTool(Shape):
    """A tool."""

    type: Literal["function"] = "function"
    function: OllamaToolFunction


OllamaTools = Annotated[list[OllamaTool], Field(max_length=128)] | None
