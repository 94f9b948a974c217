"""Forms of JSON that several dialects take, for the document of the API. Validators of their own read them. Pure."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """A form of JSON. Unknown fields are ignored, as in bodies."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), defer_build=True)


Text = Annotated[str, Field(min_length=1)]
Stops = str | Annotated[list[Text], Field(max_length=16)] | None
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
# A text, token ids, or a list of these.
Prompts = Text | TokenIds | Annotated[list[Text | TokenIds], Field(min_length=1)]
JsonObject = dict[str, Any]


class GrammarShape(Shape):
    """What the input of a custom tool must follow."""

    syntax: Literal["lark", "regex"]
    definition: Text


class FreeText(Shape):
    """A custom tool's input is any text."""

    type: Literal["text"]


class PlainGrammar(GrammarShape):
    """As OpenAI's Responses have it."""

    type: Literal["grammar"]


class NestedGrammar(Shape):
    """As OpenAI's chats have it."""

    type: Literal["grammar"]
    grammar: GrammarShape


CustomFormat = FreeText | PlainGrammar | NestedGrammar | None


class FunctionShape(Shape):
    """A function that the model may call. parameters: a JSON schema."""

    name: Text
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class CustomShape(Shape):
    """A tool whose input is a text."""

    name: Text
    description: str | None = None
    format: CustomFormat = None


class NameShape(Shape):
    """A tool by its name."""

    name: str
