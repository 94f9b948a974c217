"""OpenAI's chats and completions -> messages of the wire. Pure.

The models below say what is valid. Unknown fields are ignored, as OpenAI-compatible servers do; a known field that
would change the answer and is not implemented yet is refused by name, because ignoring it would give a wrong answer.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator

from broker.wire.failure import invalid
from broker.wire.work import Generate
from gateway.core.content import Image, Part, SoundFile
from gateway.core.integers import entries_of, refuse_rounded
from gateway.core.sampling import MAX_INT, Defaults, SamplingFields, effort_variables
from gateway.core.shapes import Prompts, Stops
from gateway.core.validation import (
    WHOLE,
    NotYet,
    RequestBody,
    example,
    object_of,
    prompts_of,
    refuse_not_yet,
    validated,
)
from gateway.openai.messages import ChatMessage, check_roles, fields_that_models_read
from gateway.openai.shapes import ChatFunctionChoice, ChatFunctions, ChatToolChoice, ChatTools
from gateway.openai.tools import (
    NamedTool,
    ResponseFormat,
    ToolChoice,
    Tools,
    choice_of,
    function_choice_of,
    functions_of,
    no_tools,
    offered,
    required_names,
    tools_of,
)

MAX_CHOICES = 128  # of one request: prompts x n, each a request to the broker
_MAX_BEST_OF = 20
_MAX_STOPS = 16
_MAX_GRAMMAR = 100_000  # characters
_MAX_TOP_LOGPROBS = 20
# Reading a body holds up all streams of this gateway: a million small messages or parts would take ten seconds.
_MAX_MESSAGES = 4096
_MAX_PARTS = 16_384  # and calls, of all messages together

# Not implemented yet: fields of OpenAI, mlx_lm.server and mlx_vlm.server, with the values that change nothing.
_NOT_YET: NotYet = {
    "adapter_path": (),
    "adapters": ("default_model",),
    "draft_model": ("default_model",),
    "num_draft_tokens": (),
    "p_less": (False,),
}
_NOT_YET_CHAT = _NOT_YET | {
    "audio": (),
    "context_management": ([],),
    "modalities": (["text"],),
    "reasoning": ({},),
    "resize_shape": (),
    "role_mapping": ({},),
    "thinking_end_token": (),
    "thinking_start_token": (),
    "tool_parser": (),
    "web_search_options": (),
}
_NOT_YET_COMPLETION = _NOT_YET | {"top_logprobs": (-1, 0)}


def _stops_of(stop: object) -> list[str]:
    stops = [] if stop in (None, "") else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise ValueError(f"must be a string or a list of up to {_MAX_STOPS} strings that are not empty")
    return stops


def _number_of_logprobs(logprobs: object) -> object:
    """OpenAI's number for text completions; mlx_lm.server has true and false, as for chats."""
    return (0 if logprobs else None) if isinstance(logprobs, bool) else logprobs


_TopLogprobs = Annotated[int, Field(ge=0, le=_MAX_TOP_LOGPROBS), WHOLE]


class StreamOptions(RequestBody):
    """include_usage: a last chunk without choices carries the usage."""

    include_usage: bool | None = None


class Sampling(SamplingFields):
    """What chat and text completions share. None is the default, as if the field were not there."""

    model: Annotated[str, Field(min_length=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    resume: bool | None = None
    seed: Annotated[int, Field(ge=-MAX_INT - 1, le=MAX_INT), WHOLE] | None = None
    stop: Annotated[list[str], PlainValidator(_stops_of, json_schema_input_type=Stops)] = Field(default_factory=list)
    n: Annotated[int, Field(ge=1, le=8), WHOLE] | None = None
    response_format: ResponseFormat | None = None
    grammar: Annotated[str, Field(min_length=1, max_length=_MAX_GRAMMAR)] | None = None

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """The schema that the answer must follow; None for free text."""
        return None if self.response_format is None else self.response_format.schema_wanted

    @property
    def choices_per_prompt(self) -> int:
        """How often each prompt is answered."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Sampling):
    """The body of POST /v1/chat/completions."""

    model_config = example(
        {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 100}
    )

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_INT), WHOLE] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Annotated[str, Field(min_length=1)] | None = None
    thinking_budget: Annotated[int, Field(ge=0, le=MAX_INT), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: _TopLogprobs | None = None
    tools: Annotated[Tools, PlainValidator(tools_of, json_schema_input_type=ChatTools)] = Field(
        default_factory=no_tools
    )
    tool_choice: Annotated[ToolChoice, PlainValidator(choice_of, json_schema_input_type=ChatToolChoice)] = "auto"
    parallel_tool_calls: bool | None = None
    functions: Annotated[Tools, PlainValidator(functions_of, json_schema_input_type=ChatFunctions)] = Field(
        default_factory=no_tools
    )
    function_call: Annotated[
        ToolChoice, PlainValidator(function_choice_of, json_schema_input_type=ChatFunctionChoice)
    ] = "auto"
    min_pixels: Annotated[int, Field(ge=1, le=MAX_INT), WHOLE] | None = None
    max_pixels: Annotated[int, Field(ge=1, le=MAX_INT), WHOLE] | None = None

    @property
    def is_legacy(self) -> bool:
        """Whether it has `functions`, which were before `tools`: an answer then has one call at most."""
        return bool(self.functions.functions)

    @property
    def all_tools(self) -> Tools:
        """Under either name."""
        return self.functions if self.is_legacy else self.tools

    @property
    def choice(self) -> ToolChoice:
        """Among them."""
        return self.function_call if self.is_legacy else self.tool_choice

    @property
    def one_call(self) -> bool:
        """Whether the answer ends with its first call."""
        return self.is_legacy or self.parallel_tool_calls is False or isinstance(self.choice, NamedTool)

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """For the model's template. The more specific field wins."""
        kwargs = effort_variables(self.reasoning_effort)
        if self.enable_thinking is not None:
            kwargs["enable_thinking"] = self.enable_thinking
        return kwargs | (self.chat_template_kwargs or {})

    @property
    def images(self) -> list[Image]:
        """All images in their order."""
        return [part for part in self._parts() if isinstance(part, Image)]

    @property
    def sounds(self) -> list[bytes]:
        """All sound files in their order."""
        return [part.source for part in self._parts() if isinstance(part, SoundFile)]

    def _parts(self) -> Iterator[Part]:
        for message in self.messages:
            if not isinstance(message.said.content, str):
                yield from message.said.content


class CompletionRequest(Sampling):
    """The body of POST /v1/completions. best_of: so many answers are made, and the `n` likeliest of them sent. With
    echo max_tokens may be 0."""

    model_config = example({"prompt": "The capital of France is", "max_tokens": 20})

    prompt: Annotated[list[str | list[int]], PlainValidator(prompts_of, json_schema_input_type=Prompts)]
    max_tokens: Annotated[int, Field(ge=0, le=MAX_INT), WHOLE] | None = None
    suffix: str | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=_MAX_BEST_OF), WHOLE] | None = None
    logprobs: Annotated[
        _TopLogprobs | None, BeforeValidator(_number_of_logprobs, json_schema_input_type=_TopLogprobs | bool | None)
    ] = None

    @property
    def answers_per_prompt(self) -> int:
        """How many are made."""
        return self.best_of or self.choices_per_prompt


def parse_chat(body: bytes) -> ChatRequest:
    """Raises FailureError `invalid_request` naming the field."""
    raw = object_of(body)
    refuse_not_yet(raw, _NOT_YET_CHAT)
    _refuse_many_parts(raw.get("messages"))
    refuse_rounded(raw, body, fields_that_models_read)
    request = validated(ChatRequest, raw)
    check_roles(request.messages)
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs needs logprobs", "top_logprobs")
    if request.is_legacy and request.tools.functions:
        raise invalid("give either tools or functions", "functions")
    if isinstance(request.function_call, NamedTool) and not request.is_legacy:
        raise invalid("function_call needs functions", "function_call")
    try:
        required_names(request.all_tools, request.choice)
    except ValueError as error:
        name = "function_call" if request.is_legacy else "tool_choice"
        raise invalid(f"{name}: {error}", name) from None
    if (request.min_pixels or 0) > (request.max_pixels or MAX_INT):
        raise invalid("min_pixels must not be more than max_pixels", "min_pixels")
    _refuse_several(request)
    return request


def _refuse_many_parts(messages: Any) -> None:
    left = _MAX_PARTS
    for _, message in entries_of(messages):
        for name in ("content", "tool_calls"):
            parts = message.get(name)
            left -= len(parts) if isinstance(parts, list) else 0
    if left < 0:
        raise invalid(f"the messages have more than {_MAX_PARTS} parts and calls", "messages")


def _refuse_several(request: Sampling) -> None:
    """At most one of these can constrain an answer."""
    if request.grammar is not None and request.json_schema is not None:
        raise invalid("give either grammar or response_format", "grammar")


def parse_completion(body: bytes) -> CompletionRequest:
    """Raises FailureError `invalid_request` naming the field."""
    raw = object_of(body)
    refuse_not_yet(raw, _NOT_YET_COMPLETION)
    request = validated(CompletionRequest, raw)
    if request.max_tokens == 0 and not request.echo:
        raise invalid("max_tokens must be at least 1 without echo", "max_tokens")
    if request.answers_per_prompt < request.choices_per_prompt:
        raise invalid("best_of must be at least n", "best_of")
    if request.stream and request.answers_per_prompt > request.choices_per_prompt:
        raise invalid("best_of cannot be streamed: which answer is the best is known at the end", "best_of")
    if request.answers_per_prompt > request.choices_per_prompt and request.echo and request.suffix:
        raise invalid("best_of needs logprobs, which a prompt with a suffix does not have with echo", "best_of")
    if len(request.prompt) * request.answers_per_prompt > MAX_CHOICES:
        raise invalid(f"more than {MAX_CHOICES} choices in one request, counting n for each prompt", "prompt")
    _refuse_several(request)
    return request


def chat_work(request: ChatRequest, images: list[bytes], defaults: Defaults) -> list[Generate]:
    """One unit of work per choice. images: the files of `request.images`, in their order."""
    stated = request.max_completion_tokens or request.max_tokens
    messages = [message.to_map() for message in request.messages]
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    tools = offered(request.all_tools, request.choice)
    return [
        Generate(
            messages=messages,
            images=images,
            audios=request.sounds,
            max_tokens=stated or defaults.max_tokens,
            max_tokens_is_default=not stated,
            logprobs=logprobs,
            tools=tools.functions,
            required_tools=required_names(tools, request.choice),
            one_call=request.one_call,
            input_grammars=tools.grammars,
            min_pixels=request.min_pixels,
            max_pixels=request.max_pixels,
            chat_template_kwargs=defaults.chat_template_kwargs | request.template_kwargs,
            thinking_budget=request.thinking_budget,
            **_sampling(request, defaults, choice),
        )
        for choice in range(request.choices_per_prompt)
    ]


def completion_work(request: CompletionRequest, defaults: Defaults) -> list[Generate]:
    """One unit of work per answer: all answers to the first prompt, then those to the second, ..."""
    ranks = request.answers_per_prompt > request.choices_per_prompt
    return [
        Generate(
            prompt=prompt,
            suffix=request.suffix or None,
            echo=bool(request.echo),
            max_tokens=defaults.max_tokens if request.max_tokens is None else request.max_tokens,
            max_tokens_is_default=request.max_tokens is None,
            logprobs=0 if ranks and request.logprobs is None else request.logprobs,
            **_sampling(request, defaults, choice),
        )
        for prompt in request.prompt
        for choice in range(request.answers_per_prompt)
    ]


def _sampling(request: Sampling, defaults: Defaults, choice: int) -> dict[str, Any]:
    # Choices of one prompt differ by their seed; after the largest seed comes the smallest.
    seed = None if request.seed is None else (request.seed + choice + MAX_INT + 1) % 2**64 - MAX_INT - 1
    return {
        "stream": bool(request.stream),
        "seed": seed,
        "stop": request.stop,
        "json_schema": request.json_schema,
        "strict": bool(request.response_format and request.response_format.is_strict),
        "grammar": request.grammar,
        **request.over(defaults),
    }
