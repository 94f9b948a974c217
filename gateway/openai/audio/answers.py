"""The JSON of OpenAI's answers about audio, whole and streamed, for documents and tests."""

from typing import Literal

from gateway.openai.answers import OpenAIAnswer


class DurationUsage(OpenAIAnswer):
    """Seconds of the file that have begun."""

    type: Literal["duration"]
    seconds: int


class TranscriptionAnswer(OpenAIAnswer):
    """With the response_format `json`."""

    text: str
    usage: DurationUsage


class WordAnswer(OpenAIAnswer):
    """Times in seconds."""

    word: str
    start: float
    end: float


class SegmentAnswer(OpenAIAnswer):
    """Times in seconds. Models other than Whisper know no more than the text and its times."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseAnswer(OpenAIAnswer):
    """With the response_format `verbose_json`. language: its English name; of a translation `english`."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    words: list[WordAnswer] | None = None
    segments: list[SegmentAnswer] | None = None
    usage: DurationUsage


class TranscriptDelta(OpenAIAnswer):
    """The next text."""

    type: Literal["transcript.text.delta"]
    delta: str


class TranscriptDone(OpenAIAnswer):
    """The whole text."""

    type: Literal["transcript.text.done"]
    text: str
    usage: DurationUsage


class SpeechDelta(OpenAIAnswer):
    """audio: the next bytes of the file, in base64."""

    type: Literal["speech.audio.delta"]
    audio: str


class SpeechUsage(OpenAIAnswer):
    """Tokens of the text and of the speech, 0 where the model does not tell."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class SpeechDone(OpenAIAnswer):
    """The end of the file."""

    type: Literal["speech.audio.done"]
    usage: SpeechUsage


class VoiceAnswer(OpenAIAnswer):
    """id: for `voice`."""

    id: str
    name: str


class VoiceList(OpenAIAnswer):
    """GET /v1/audio/voices, in the model's order."""

    voices: list[VoiceAnswer]
