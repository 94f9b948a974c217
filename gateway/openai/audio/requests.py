"""OpenAI's requests for transcriptions, translations and speech -> messages of the wire. Pure."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from broker.wire.failure import invalid
from broker.wire.work import Speak, Transcribe
from gateway.core.failure import root_of
from gateway.core.query import Flag, Query
from gateway.core.sampling import MAX_INT
from gateway.core.shapes import Shape
from gateway.core.validation import WHOLE, RequestBody, example, object_of, validated
from gateway.openai.audio.languages import code_of

FILE = "file"
LISTS = frozenset({"timestamp_granularities"})  # fields of forms that may have several values
# OpenAI's fields that no model here heeds; they are named in a header.
UNHEEDED = frozenset(
    {"chunking_strategy", "include", "keywords", "known_speaker_names", "known_speaker_references", "languages"}
)

# Characters.
MAX_INPUT = 32_768
_MAX_INSTRUCTIONS = 4096
_MAX_VOICE = 256
_MAX_PROMPT = 32_768
_MAX_LANGUAGE = 100
ENCODINGS = ("mp3", "wav", "flac", "pcm")

Fields = Mapping[str, list[str]]  # of a form
TextFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
_STREAMED = ("json", "text")


def _has_bytes(size: int) -> int:
    """Raises ValueError."""
    if size == 0:
        raise ValueError("has 0 bytes")
    return size


class TranslationRequest(BaseModel):
    """The form of POST /v1/audio/translations. file: wav, mp3, flac or ogg; to this model the number of its bytes. An
    empty field means its default. stream: this project's, as in transcriptions."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        defer_build=True,
        json_schema_extra={"examples": [{"file": "(the bytes of a file)", "response_format": "srt"}]},
    )

    file: Annotated[int, AfterValidator(_has_bytes), WithJsonSchema({"type": "string", "format": "binary"})]
    model: str | None = None
    prompt: Annotated[str, Field(max_length=_MAX_PROMPT)] | None = None
    response_format: TextFormat = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    stream: Flag = False

    @property
    def words(self) -> bool:
        """Whether the times of words are wanted."""
        return False

    @property
    def segments(self) -> bool:
        """Whether the segments are wanted."""
        return True


class TranscriptionRequest(TranslationRequest):
    """The form of POST /v1/audio/transcriptions. language: a code such as `en`. timestamp_granularities: may also be
    named `timestamp_granularities[]`; `word` only with `verbose_json`."""

    language: Annotated[str, Field(max_length=_MAX_LANGUAGE)] | None = None
    timestamp_granularities: list[Literal["word", "segment"]] = ["segment"]

    @property
    def words(self) -> bool:
        """Whether the times of words are wanted."""
        return "word" in self.timestamp_granularities

    @property
    def segments(self) -> bool:
        """Whether the segments are wanted."""
        return "segment" in self.timestamp_granularities


def parse_form(form: type[TranslationRequest], values: Mapping[str, str | list[str]], size: int) -> TranslationRequest:
    """values: of the fields; size: of the file. Raises FailureError `invalid_request` naming the field."""
    wanted = validated(form, {**values, FILE: size})
    _check_format(wanted)
    return wanted


def check_form(form: type[TranslationRequest], values: Mapping[str, str | list[str]]) -> None:
    """Check the fields that have come so far. Raises, as `parse_form` does, what no later field can put right."""
    wanted = validated(form, {**values, FILE: 1})
    if "response_format" in values:
        _check_format(wanted)


def _check_format(wanted: TranslationRequest) -> None:
    if wanted.stream and wanted.response_format not in _STREAMED:
        raise invalid(
            f"response_format must be json or text for a stream, not {wanted.response_format}", "response_format"
        )
    if wanted.words and wanted.response_format != "verbose_json":
        raise invalid(
            "timestamp_granularities must be segment alone unless response_format is verbose_json",
            "timestamp_granularities",
        )


def heeded(fields: Fields) -> tuple[Fields, list[str]]:
    """The fields that say something here, and the names of OpenAI's that the answer does without, which clients write
    with their parts too: `chunking_strategy[type]`, `known_speaker_names[]`."""
    kept = {name: given for name, given in fields.items() if root_of(name) not in UNHEEDED}
    return kept, sorted(UNHEEDED.intersection(map(root_of, fields)))


def transcription_work(wanted: TranslationRequest, path: str) -> Transcribe:
    """path: of the file."""
    language = wanted.language if isinstance(wanted, TranscriptionRequest) else None
    return Transcribe(
        path=path,
        field=FILE,
        language=None if language is None else code_of(language),
        prompt=wanted.prompt,
        temperature=wanted.temperature,
        translate=not isinstance(wanted, TranscriptionRequest),
        words=wanted.words,
        stream=bool(wanted.stream),
    )


_TRANSCRIPTION_NAMES = {"path": FILE, "words": "timestamp_granularities", "translate": "model"}


def transcription_field(field: str) -> str:
    """OpenAI's name of a field of the wire."""
    return _TRANSCRIPTION_NAMES.get(field, field)


Voice = Annotated[str, Field(min_length=1, max_length=_MAX_VOICE)]


class VoiceId(Shape):
    """A voice by its id."""

    id: Voice


def _voice_of(voice: object) -> object:
    """`{"id": "a"}` means `a`. Raises ValueError."""
    if not isinstance(voice, dict):
        return voice
    if not isinstance(voice.get("id"), str):
        raise ValueError("must be the name of a voice, or an object with its id")
    return voice["id"]


def _encoding_of(encoding: object) -> object:
    """Raises ValueError: opus and aac, which OpenAI has too, have no encoder here."""
    if encoding is not None and encoding not in ENCODINGS:
        raise ValueError(f"must be one of {', '.join(ENCODINGS)}, not {encoding!r:.80}")
    return encoding


class SpeechRequest(RequestBody):
    """The body of POST /v1/audio/speech. voice: the model's first one if none is named. None is the default, as if the
    field were not there."""

    model_config = example({"input": "Good morning.", "response_format": "wav"})

    model: Annotated[str, Field(min_length=1)] | None = None
    input: Annotated[str, Field(min_length=1, max_length=MAX_INPUT)]
    voice: Annotated[Voice | None, BeforeValidator(_voice_of, json_schema_input_type=Voice | VoiceId | None)] = None
    instructions: Annotated[str, Field(max_length=_MAX_INSTRUCTIONS)] | None = None
    response_format: Annotated[Literal["mp3", "wav", "flac", "pcm"] | None, BeforeValidator(_encoding_of)] = None
    speed: Annotated[float, Field(ge=0.25, le=4)] | None = None
    stream_format: Literal["audio", "sse"] | None = None
    seed: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT), WHOLE] | None = None


def parse_speech(body: bytes) -> SpeechRequest:
    """Raises FailureError `invalid_request` naming the field."""
    raw: dict[str, Any] = object_of(body)
    return validated(SpeechRequest, raw)


def speech_work(wanted: SpeechRequest) -> Speak:
    """It is always streamed: the first bytes come before the last sentence is spoken."""
    return Speak(
        text=wanted.input,
        voice=wanted.voice,
        instructions=wanted.instructions or None,
        speed=1.0 if wanted.speed is None else wanted.speed,
        encoding=wanted.response_format or "mp3",
        seed=wanted.seed,
        stream=True,
    )


_SPEECH_NAMES = {"text": "input", "encoding": "response_format"}


def speech_field(field: str) -> str:
    """OpenAI's name of a field of the wire."""
    return _SPEECH_NAMES.get(field, field)


class VoicesQuery(Query):
    """The parameters of GET /v1/audio/voices."""

    model: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="The model; the default one without it."
    )
