"""What audio models answer, as types: what they have heard, what they say, and their voices. Pure."""

from pydantic import Field

from gateway.core.administration import Report


class HeardWord(Report):
    """One word; its times in seconds."""

    word: str
    start: float
    end: float


class HeardSegment(Report):
    """Some words that belong together; its times in seconds. Models other than Whisper know only the first four."""

    id: int
    start: float
    end: float
    text: str
    seek: int = 0
    tokens: list[int] = Field(default_factory=list)
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    words: list[HeardWord] = Field(default_factory=list)


class HeardPiece(Report):
    """A PARTIAL of `Transcribe`: the next text, and how many seconds of the file have been heard."""

    text: str
    segments: list[HeardSegment] = Field(default_factory=list)
    seconds: float = 0.0

    @property
    def weight(self) -> int:
        """Bytes that it occupies while it waits, roughly."""
        return len(self.text) + len(self.segments) * 1024


class Transcript(Report):
    """The FINAL of `Transcribe`: what no PARTIAL held, and facts about the whole file. duration: seconds."""

    text: str
    segments: list[HeardSegment] = Field(default_factory=list)
    language: str | None = None
    duration: float
    completion_tokens: int = 0


class SpokenPiece(Report):
    """A PARTIAL of `Speak`: the next bytes of the file. sample_rate: in the first output, Hz."""

    audio: bytes
    sample_rate: int | None = None

    @property
    def weight(self) -> int:
        """Bytes that it occupies while it waits, roughly."""
        return len(self.audio)


class Spoken(Report):
    """The FINAL of `Speak`: the rest of the file, and how many seconds the whole of it lasts."""

    audio: bytes
    sample_rate: int | None = None
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class VoiceNames(Report):
    """The FINAL of `Voices`, in the model's order."""

    voices: list[str]
