"""The payloads of requests. A gateway writes them, one worker reads them; the broker forwards the bytes unread."""

from dataclasses import dataclass, field
from typing import Any

from broker.wire.body import Body

# Tokens and alternatives of one answer whose log-probabilities a worker tells before its end, where that is not
# streamed; the gateway keeps them, up to 4 MiB.
MAX_TOLD_LOGPROBS = 1 << 14


@dataclass(slots=True)  # not frozen: one per request, and freezing so many fields takes four times as long
class Generate(Body):
    """The payload of a REQUEST to a text model, with the task generate or count.

    Exactly one of `messages` (chat, rendered by the model's template) and `prompt` (text or token ids) is given.
    images: image files as the client gave them. Where a message has images its content is a list of parts in the
    client's order, `{type: text, text}` and `{type: image}`; the k-th image part over all messages is images[k].
    audios: sound files in the same way, `{type: audio}`; the k-th of these is audios[k].
    max_tokens None: to the end of the context. max_tokens_is_default: the client has not stated it, so that the answer
    may end earlier where memory is short. stream False: all text is in the FINAL. The sampling fields mean what they
    mean to mlx-lm, 0 is off; logit_bias: decimal token id -> what is added. logprobs: how many alternatives per token,
    None for none at all.
    tools: OpenAI's; required_tools: names, at least one of which has to be called; one_call: the answer ends with the
    first call. json_schema, grammar (Lark, as llguidance reads it): what the answer must be; at most one of them. With
    tools it may be calls instead, with required_tools it must be calls. strict: json_schema is enforced as a whole or
    refused, otherwise what of it cannot be enforced is left out and named. input_grammars: name of a tool -> Lark
    grammar that the text of its only parameter, `input`, must follow. thinking_budget: tokens of reasoning at most.
    suffix: text that follows the answer, for models that fill in the middle. echo: the answer begins with the prompt.
    min_pixels, max_pixels: of each image. tells_tokens: outputs name the tokens that they say. key: ids of tool calls
    derive from it, so that another process gives the same ones; empty: they are random. begun: the answer has begun in
    another process: `{ids, characters, cached}`.
    PARTIAL: `{text}` and, where there are any, `reasoning`, `tool_calls`, `logprobs`; in the first output `ignored` and
    `prompt`. See docs/protocol.md.
    FINAL: the same of what no PARTIAL held, and `{finish_reason, prompt_tokens, completion_tokens, cached_tokens}`;
    where they are not the rule `stop_string`, `context_full`, `reasoning_tokens`. Of a count: `{prompt_tokens}`.
    """

    messages: list[dict[str, Any]] | None = None
    images: list[bytes] = field(default_factory=list)
    audios: list[bytes] = field(default_factory=list)
    prompt: str | list[int] | None = None
    stream: bool = False
    max_tokens: int | None = None
    max_tokens_is_default: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repetition_penalty: float = 0.0
    repetition_context_size: int = 20
    presence_penalty: float = 0.0
    presence_context_size: int = 20
    frequency_penalty: float = 0.0
    frequency_context_size: int = 20
    logit_bias: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] = field(default_factory=list)
    required_tools: list[str] = field(default_factory=list)
    one_call: bool = False
    json_schema: dict[str, Any] | None = None
    strict: bool = False
    grammar: str | None = None
    input_grammars: dict[str, str] = field(default_factory=dict)
    thinking_budget: int | None = None
    top_n_sigma: float = 0.0
    typical_p: float = 1.0
    suffix: str | None = None
    echo: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    tells_tokens: bool = False
    key: str = ""
    begun: dict[str, Any] | None = None


@dataclass(slots=True, frozen=True)
class Embed(Body):
    """The payload of a REQUEST with the task embed.

    inputs: texts, or lists of token ids that are taken as they are; each becomes one vector. dimensions: the leading
    ones of each vector, scaled to length 1 again; None for all. truncate: an input that is longer than the model reads
    is cut at its end, not refused.
    FINAL: `{vectors, size, prompt_tokens}`; `vectors`: little-endian float32, `size` of them for each input in order.
    """

    inputs: list[Any]
    dimensions: int | None = None
    truncate: bool = False


@dataclass(slots=True, frozen=True)
class Rerank(Body):
    """The payload of a REQUEST with the task rerank: how well each document answers the query.

    FINAL: `{scores, prompt_tokens}`; `scores`: little-endian float32 from 0 to 1, one for each document in order.
    """

    query: str
    documents: list[str]


@dataclass(slots=True, frozen=True)
class Transcribe(Body):
    """The payload of a REQUEST with the task transcribe: what is said in an audio file.

    path: the file, which the gateway removes when the request has ended; only the worker reads it. field: what the
    client calls it, for errors. language: a code such as `en`, None: the model finds out. prompt: a text that precedes
    the first words. temperature: None: as the model's library has it. translate: into English. words: with the times of
    each word. stream: PARTIALs come; otherwise there is a FINAL alone. begun: the `place` of the last PARTIAL that came
    of another process: what follows it is asked for.
    PARTIAL: `{text, segments, seconds, place}`: the next text, its segments, how much of the file has been heard, and
    what another process needs to go on behind it.
    FINAL: `{text, segments, language, duration, completion_tokens}`: of text and segments what no PARTIAL held.
    duration: of the file, in seconds. A segment: `{id, seek, start, end, text, tokens, temperature, avg_logprob,
    compression_ratio, no_speech_prob}`, and with `words` a list of `{word, start, end, probability}`; times in seconds.
    A number that is not known is 0.
    """

    path: str
    field: str = "file"
    language: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    translate: bool = False
    words: bool = False
    stream: bool = False
    begun: dict[str, Any] | None = None


@dataclass(slots=True, frozen=True)
class Speak(Body):
    """The payload of a REQUEST with the task speak: a text, spoken.

    voice: one of the model's, None: its first. instructions: how to speak, for models that take them. speed: 1.0 is the
    model's own. encoding: wav, flac, mp3 or pcm (16 bits, little-endian, one channel). stream: PARTIALs come, otherwise
    there is a FINAL alone.
    PARTIAL: `{audio}`: the next bytes of the file. In the first output `sample_rate`, in Hz.
    FINAL: `{audio, seconds, prompt_tokens, completion_tokens}`: the rest of the file, and how long it lasts.
    """

    text: str
    voice: str | None = None
    instructions: str | None = None
    speed: float = 1.0
    encoding: str = "wav"
    seed: int | None = None
    stream: bool = False


@dataclass(slots=True, frozen=True)
class Voices(Body):
    """The payload of a REQUEST with the task voices: which ones the model has. FINAL: `{voices}`: names, in order."""
