"""Forms of JSON in OpenAI's bodies that validators of their own read, for the document of the API. Pure."""

from typing import Annotated, Literal

from pydantic import Field

from gateway.core.shapes import CustomShape, FunctionShape, NameShape, Shape

_MAX_TOOLS = 128


class TextPart(Shape):
    """A text."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(Shape):
    """What the model said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class PlainText(Shape):
    """A piece of reasoning."""

    type: Literal["text"]
    text: str


class ThinkingPart(Shape):
    """Reasoning of an earlier answer, a text or texts."""

    type: Literal["thinking"]
    thinking: str | list[PlainText]


class ImageUrl(Shape):
    """url: http, https or a data URL of an image. detail: accepted and ignored."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Shape):
    """An image of a user's message."""

    type: Literal["image_url", "input_image"]
    image_url: ImageUrl | str


class InputAudio(Shape):
    """data: a file in base64."""

    data: str
    format: Literal["wav", "mp3", "flac"]


class AudioPart(Shape):
    """A sound of a user's message, for models that hear."""

    type: Literal["input_audio"]
    input_audio: InputAudio


ChatContent = str | list[TextPart | ImagePart | AudioPart | RefusalPart | ThinkingPart] | None


class FunctionTool(Shape):
    """A function."""

    type: Literal["function"]
    function: FunctionShape


class CustomTool(Shape):
    """A custom tool."""

    type: Literal["custom"]
    custom: CustomShape


class BareFunction(FunctionShape):
    """A function without its wrapper."""

    type: Literal["function"] = "function"


class BareCustom(CustomShape):
    """A custom tool without its wrapper."""

    type: Literal["custom"]


ChatTools = Annotated[list[FunctionTool | CustomTool | BareFunction | BareCustom], Field(max_length=_MAX_TOOLS)] | None
ChatFunctions = Annotated[list[FunctionShape], Field(max_length=_MAX_TOOLS)] | None


class FunctionChoice(Shape):
    """This function must be called."""

    type: Literal["function"]
    function: NameShape


class CustomChoice(Shape):
    """This custom tool must be called."""

    type: Literal["custom"]
    custom: NameShape


class AllowedList(Shape):
    """Which tools may be called, or must be."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice | CustomChoice], Field(max_length=_MAX_TOOLS)]


class AllowedChoice(Shape):
    """Only some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedList


ChatToolChoice = Literal["none", "auto", "required"] | FunctionChoice | CustomChoice | AllowedChoice | None
ChatFunctionChoice = Literal["none", "auto"] | NameShape | None
