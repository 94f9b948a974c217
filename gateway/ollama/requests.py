"""Ollama's requests for text and vectors -> work of the wire. Pure.

Unknown fields are ignored, as Ollama does; known ones that would change the answer and are not served are refused by
name, and those that cannot are named in a response header.
"""

from typing import Annotated, Any

from pydantic import Field, PlainValidator

from broker.wire.failure import invalid
from broker.wire.work import Embed, Generate
from gateway.core.integers import entries_of, refuse_rounded
from gateway.core.sampling import MAX_INT, Defaults
from gateway.core.validation import WHOLE, NotYet, RequestBody, example, object_of, refuse_not_yet, validated
from gateway.ollama.messages import Images, OllamaMessage, check_roles, read_by_models, tools_in, user_content
from gateway.ollama.options import OllamaOptions, sampling
from gateway.ollama.shapes import OllamaFormat, OllamaInputs, OllamaThink, OllamaTools
from gateway.ollama.stay import KeepAlive

# Reading a body holds up all streams of this gateway.
_MAX_MESSAGES = 4096
_MAX_PARTS = 16_384  # images and calls of all messages together
_MAX_INPUTS = 2048
_MAX_TOP_LOGPROBS = 20
_EFFORTS = ("low", "medium", "high", "max")

# Fields that would change the answer -> values that do not.
_NOT_YET_GENERATE: NotYet = {"template": ("",), "context": ([],), "width": (0,), "height": (0,), "steps": (0,)}


def _format_of(wanted: object) -> dict[str, Any] | None:
    """Raises ValueError."""
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return {"type": "object"}
    if not isinstance(wanted, dict):
        raise ValueError('must be "json" or a JSON schema')
    return wanted


def _variables_of(think: object) -> dict[str, Any]:
    """What a template gets to know of `think`. Raises ValueError."""
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"enable_thinking": think}
    if think not in _EFFORTS:
        raise ValueError('must be true, false, "low", "medium", "high" or "max"')
    return {"enable_thinking": True, "reasoning_effort": think}


def _inputs_of(inputs: object) -> list[str]:
    """Raises ValueError."""
    texts = [] if inputs in (None, "") else [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("must be a text or a list of texts")
    if len(texts) > _MAX_INPUTS:
        raise ValueError(f"{len(texts)} inputs in one request, at most {_MAX_INPUTS} are served")
    return texts


class OllamaBody(RequestBody):
    """What all requests to a model have. Without `model`, or with an empty one, the default model answers."""

    model: str | None = None
    options: OllamaOptions | None = None
    keep_alive: KeepAlive = None

    @property
    def named(self) -> str | None:
        """The model, None for the default one."""
        return self.model or None

    @property
    def chosen(self) -> OllamaOptions:
        """The options, all left out if there are none."""
        return self.options or OllamaOptions()


class OllamaVectorBody(OllamaBody):
    """What asks for vectors."""

    @property
    def ignored(self) -> list[str]:
        """How a model samples is nothing to vectors."""
        return self.chosen.stated


class OllamaTextBody(OllamaBody):
    """What chats and completions share. json_schema: Ollama's `format`; variables: its `think`."""

    stream: bool | None = None
    resume: bool | None = None
    json_schema: Annotated[
        dict[str, Any] | None, PlainValidator(_format_of, json_schema_input_type=OllamaFormat), Field(alias="format")
    ] = None
    variables: Annotated[
        dict[str, Any], PlainValidator(_variables_of, json_schema_input_type=OllamaThink), Field(alias="think")
    ] = Field(default_factory=dict)
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MAX_TOP_LOGPROBS), WHOLE] | None = None
    truncate: bool | None = None
    shift: bool | None = None

    @property
    def is_streamed(self) -> bool:
        """Unless the client says otherwise."""
        return self.stream is not False

    @property
    def ignored(self) -> list[str]:
        """Nothing of a chat is ever cut off: a prompt that is too long is refused."""
        cuts = [name for name, value in (("truncate", self.truncate), ("shift", self.shift)) if value]
        return [*self.chosen.left_out, *cuts]

    def work(self, defaults: Defaults) -> dict[str, Any]:
        """The fields of a Generate that both have."""
        return {
            "stream": self.is_streamed,
            "json_schema": self.json_schema,
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
            "chat_template_kwargs": defaults.chat_template_kwargs | self.variables,
            **sampling(self.chosen, defaults),
        }


class OllamaChatBody(OllamaTextBody):
    """The body of POST /api/chat."""

    model_config = example(
        {"messages": [{"role": "user", "content": "What is the capital of France?"}], "stream": False}
    )

    messages: Annotated[list[OllamaMessage], Field(max_length=_MAX_MESSAGES)] | None = None
    tools: Annotated[list[dict[str, Any]], PlainValidator(tools_in, json_schema_input_type=OllamaTools)] = Field(
        default_factory=list
    )


class OllamaGenerateBody(OllamaTextBody):
    """The body of POST /api/generate."""

    model_config = example({"prompt": "What is the capital of France?", "stream": False})

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: Images = Field(default_factory=list)

    @property
    def is_chat(self) -> bool:
        """Whether the model's template writes the prompt."""
        return not self.raw and not self.suffix

    @property
    def is_empty(self) -> bool:
        """Whether it only loads the model."""
        return not self.prompt and not self.suffix

    @property
    def ignored(self) -> list[str]:
        """Text around a gap has no system turn, and neither that nor a raw prompt has thinking before it."""
        unused: dict[str, object] = {"suffix": self.raw and self.suffix}
        if not self.is_chat:
            unused |= {"system": self.system, "think": self.variables}
        return [*super().ignored, *(name for name, value in unused.items() if value)]


class OllamaEmbedBody(OllamaVectorBody):
    """The body of POST /api/embed."""

    model_config = example({"input": ["a cat", "a dog"]})

    input: Annotated[list[str], PlainValidator(_inputs_of, json_schema_input_type=OllamaInputs)] = Field(
        default_factory=list
    )
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=0, le=MAX_INT), WHOLE] | None = None


class OllamaEmbeddingsBody(OllamaVectorBody):
    """The body of POST /api/embeddings, which came before /api/embed."""

    model_config = example({"prompt": "a cat"})

    prompt: str | None = None


def parse_ollama_chat(body: bytes) -> OllamaChatBody:
    """Raises FailureError `invalid_request` naming the field."""
    raw = object_of(body)
    _refuse_many(raw)
    request = validated(OllamaChatBody, raw)
    refuse_rounded(raw, body, read_by_models)  # after that, so that there are not too many of anything
    check_roles(request.messages or [])
    return request


def parse_ollama_generate(body: bytes) -> OllamaGenerateBody:
    """Raises FailureError `invalid_request` naming the field."""
    raw = object_of(body)
    refuse_not_yet(raw, _NOT_YET_GENERATE)
    _refuse_many(raw)
    request = validated(OllamaGenerateBody, raw)
    refuse_rounded(raw, body, lambda fields: iter([("format", fields.get("format"))]))
    if request.raw and request.system:
        raise invalid("system: a raw prompt has no system turn", "system")
    if request.images and not request.is_chat:
        raise invalid("images: a raw prompt, and one with a suffix, has no place for images", "images")
    return request


def _refuse_many(raw: dict[str, Any]) -> None:
    left = _MAX_PARTS
    for holder in (raw, *(message for _, message in entries_of(raw.get("messages")))):
        for name in ("images", "tool_calls"):
            parts = holder.get(name)
            left -= len(parts) if isinstance(parts, list) else 0
            if left < 0:
                raise invalid(f"{name}: more than {_MAX_PARTS} in one request", name)


def chat_unit(request: OllamaChatBody, images: list[bytes], defaults: Defaults) -> Generate:
    """images: the files of all messages, in their order."""
    return Generate(
        messages=[message.to_map() for message in request.messages or []],
        images=images,
        tools=request.tools,
        **request.work(defaults),
    )


def generate_unit(request: OllamaGenerateBody, images: list[bytes], defaults: Defaults) -> Generate:
    """A prompt is a user's turn, unless it is raw or has a suffix."""
    fields = request.work(defaults)
    prompt = request.prompt or ""
    if not request.is_chat:
        return Generate(prompt=prompt, suffix=None if request.raw else request.suffix, **fields)
    system = [{"role": "system", "content": request.system}] if request.system else []
    user = {"role": "user", "content": user_content(prompt, request.images)}
    return Generate(messages=[*system, user], images=images, **fields)


def embed_work(request: OllamaEmbedBody) -> Embed:
    """One unit of work for all inputs. What is too long is cut unless the client says otherwise, as Ollama has it."""
    cuts = request.truncate is not False
    return Embed(inputs=request.input, dimensions=request.dimensions or None, truncate=cuts)
