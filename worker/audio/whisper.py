"""Whisper, window by window: mlx-audio decodes each one, and this decides what the next one is.

The windows, thresholds and temperatures are those of mlx-audio's `generate`, so the tokens are the same. A step is one
attempt at one window, where `generate` goes on to the end of the file. Attempts at a window share its encoded sound.
"""

from collections.abc import Callable, Iterator
from functools import cache, cached_property
from math import isfinite
from typing import Any

import mlx.core as mx
from mlx_audio.stt.models.whisper.decoding import DecodingOptions
from mlx_audio.stt.models.whisper.timing import add_word_timestamps
from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE
from mlx_audio.stt.models.whisper.whisper import HFTokenizerWrapper

from broker.wire.failure import invalid
from broker.wire.work import Transcribe
from worker.audio.course import Course, next_seed, rest_of, seed_of
from worker.audio.mel import FRAMES_PER_SECOND, WINDOW_FRAMES, Spectrogram
from worker.audio.transcriber import Heard
from worker.sound.resampling import Samples

# Tried one after the other: what is unlikely or repeats itself is drawn again, more freely.
_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_MOST_COMPRESSION = 2.4
_LEAST_LOGPROB = -1.0
_NO_SPEECH = 0.6
# Tokens around the text of a window, at most.
_FRAME_TOKENS = 8
# Text that was drawn more freely than this does not lead the next window.
_LEADING_TEMPERATURE = 0.5


class _Tokenizer(HFTokenizerWrapper):  # type: ignore[misc] # mlx-audio has no types
    """Looks its marks up once. mlx-audio looks through the whole vocabulary for them several times at each attempt."""

    eot = cached_property(HFTokenizerWrapper.eot.fget)
    timestamp_begin = cached_property(HFTokenizerWrapper.timestamp_begin.fget)
    no_timestamps = cached_property(HFTokenizerWrapper.no_timestamps.fget)
    no_speech = cached_property(HFTokenizerWrapper.no_speech.fget)
    non_speech_tokens = cached_property(HFTokenizerWrapper.non_speech_tokens.fget)


def _remembering(model: Any) -> Callable[[str, str], Any]:
    """The tokenizers of a model by language and task, which it uses itself from now on."""
    make = model.get_tokenizer

    @cache
    def tokenizer(language: str | None = None, task: str = "transcribe") -> _Tokenizer:
        made = make(language=language, task=task)
        return _Tokenizer(made.hf_tokenizer, made.multilingual, made.num_languages, made.language, made.task)

    model.get_tokenizer = tokenizer
    return tokenizer


class WhisperTranscriber:
    """`model`: mlx-audio's, with its tokenizer."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._tokenizer = _remembering(model)
        self._vocabulary: dict[str, int] = self._tokenizer("en", "transcribe").hf_tokenizer.get_vocab()
        # Frames for each position of the encoder, and seconds.
        self._stride = WINDOW_FRAMES // model.dims.n_audio_ctx
        self._precision = self._stride / FRAMES_PER_SECOND

    @property
    def bytes_per_second(self) -> int:
        return int(self._model.dims.n_mels) * FRAMES_PER_SECOND * 4

    def step_bytes(self) -> int:
        """Of a window with as many tokens as there can be, all at once, as the times of words take them."""
        dims = self._model.dims
        tokens = mx.zeros((1, min(dims.n_text_ctx // 2 + _FRAME_TOKENS, dims.n_text_ctx)), mx.int32)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        sound = mx.zeros((1, WINDOW_FRAMES, dims.n_mels), self._model.dtype)
        mx.eval(self._model.forward_with_cross_qk(sound, tokens))
        del sound
        return max(0, mx.get_peak_memory() - before)

    def check(self, asked: Transcribe) -> None:
        if asked.translate and not self._model.is_multilingual:
            raise invalid("this model hears English only: it cannot translate", param="model")
        temperature = asked.temperature
        if temperature is not None and not 0 <= temperature <= 1:
            raise invalid(f"temperature must be from 0 to 1, not {temperature}", param="temperature")
        if asked.language is None:
            return
        code = _code_of(asked.language)
        if code is None or (self._model.is_multilingual and f"<|{code}|>" not in self._vocabulary):
            raise invalid(f"language must be one that the model knows, such as en, not {asked.language!r}", "language")
        if code != "en" and not self._model.is_multilingual:
            raise invalid(f"this model hears English only, not the language {code!r}", param="language")

    def listen(self, asked: Transcribe, samples: Iterator[Samples]) -> Iterator[Heard | None]:
        sound = Spectrogram(self._model.dims.n_mels)
        at = Course(seed=seed_of(asked, ()))
        for piece in samples:
            at.seed = next_seed(at.seed, piece)
            sound.add(piece)
            yield None
        sound.end()
        language = asked.begun["language"] if asked.begun else self._language(asked, sound)
        at.tokenizer = self._tokenizer(language, _task(asked))
        if asked.begun:
            at.go_on(asked.begun)
        elif asked.prompt is not None:
            at.tokens.extend(at.tokenizer.encode(" " + asked.prompt.strip()))
            at.prompt = at.told_tokens = len(at.tokens)
        while at.seek < sound.frames:
            size = min(WINDOW_FRAMES, sound.frames - at.seek)
            window = self._padded(sound.window(at.seek, size))
            result: Any = None
            for attempt in self._attempts(asked, window, language, at):
                result = attempt
                yield None
            began = at.seek
            segments = [] if _is_silence(result) else self._segments(result, at, size)
            if _is_silence(result):
                at.seek += size
            elif asked.words:
                self._add_words(segments, window, at, size)
            if at.seek <= began:  # it would be heard again for ever
                at.seek = began + size
            seconds = min(at.seek, sound.frames) / FRAMES_PER_SECOND
            text = self._keep(segments, result, at)
            tokens = sum(len(segment["tokens"]) for segment in segments)
            place = {"language": language, **at.place(self._model.dims.n_text_ctx // 2 - 1)}
            yield Heard(text, segments, seconds, language, tokens, place)
        rest = rest_of(at.text, at.told)
        yield Heard(rest, [], sound.frames / FRAMES_PER_SECOND, language)

    def _attempts(self, asked: Transcribe, window: mx.array, language: str, at: Course) -> Iterator[Any]:
        """Results of one window, until one is good enough: the last."""
        for temperature in (asked.temperature,) if asked.temperature else _TEMPERATURES:
            options = DecodingOptions(
                task=_task(asked), language=language, temperature=temperature, prompt=at.tokens[at.leads_from :]
            )
            with at.drawing():
                result = self._model.decode(window, options)
            yield result
            is_unlikely = result.avg_logprob < _LEAST_LOGPROB
            is_silence = result.no_speech_prob > _NO_SPEECH and is_unlikely
            if is_silence or not (is_unlikely or result.compression_ratio > _MOST_COMPRESSION):
                return
            window = result.audio_features

    def _segments(self, result: Any, at: Course, size: int) -> list[dict[str, Any]]:
        """The segments of a window; moves on to the next one. Two marks of time in a row divide segments, and what
        follows the last two is heard again, with the next window."""
        tokens: list[int] = result.tokens
        begin = at.tokenizer.timestamp_begin
        marks = [token >= begin for token in tokens]
        ends = [number for number in range(1, len(marks)) if marks[number - 1] and marks[number]]
        at.is_cut = marks[-2:] != [False, True]
        offset, seek = at.seek / FRAMES_PER_SECOND, at.seek

        def segment(start: float, end: float, own: list[int]) -> dict[str, Any]:
            text = at.tokenizer.decode([token for token in own if token < at.tokenizer.eot])
            return {
                "seek": seek,
                "start": float(offset + start),
                "end": float(offset + end),
                "text": text,
                "tokens": own,
                "temperature": result.temperature,
                "avg_logprob": _number(result.avg_logprob),
                "compression_ratio": result.compression_ratio,
                "no_speech_prob": _number(result.no_speech_prob),
            }

        if not ends:
            at.seek += size
            stamps = [token for token in tokens if token >= begin]
            is_timed = bool(stamps) and stamps[-1] != begin
            lasts = (stamps[-1] - begin) * self._precision if is_timed else size / FRAMES_PER_SECOND
            return [segment(0.0, lasts, tokens)]
        if not at.is_cut:
            ends.append(len(tokens))
        parts = [tokens[first:end] for first, end in zip([0, *ends[:-1]], ends, strict=True)]
        at.seek += size if not at.is_cut else (parts[-1][-1] - begin) * self._stride
        return [
            segment((part[0] - begin) * self._precision, (part[-1] - begin) * self._precision, part) for part in parts
        ]

    def _add_words(self, segments: list[dict[str, Any]], window: mx.array, at: Course, size: int) -> None:
        """The times of words; what follows the last of them is heard again if the window was cut."""
        offset = segments[0]["seek"] / FRAMES_PER_SECOND
        add_word_timestamps(
            segments=segments,
            model=self._model,
            tokenizer=at.tokenizer,
            mel=window,
            num_frames=size,
            last_speech_timestamp=at.last_word_end,
        )
        words = [word for segment in segments for word in segment["words"]]
        at.last_word_end = words[-1]["end"] if words else segments[-1]["end"]
        if at.is_cut and at.last_word_end > offset:
            at.seek = round(at.last_word_end * FRAMES_PER_SECOND)

    def _keep(self, segments: list[dict[str, Any]], result: Any, at: Course) -> str:
        """Number the segments of a window and lead the next one with them; the text that can be told now."""
        for segment in segments:
            if segment["start"] == segment["end"] or not segment["text"].strip():
                segment.update(text="", tokens=[], **({"words": []} if "words" in segment else {}))
            segment["id"] = at.segments
            at.segments += 1
            at.tokens.extend(segment["tokens"])
        if result.temperature > _LEADING_TEMPERATURE and segments:
            at.leads_from = len(at.tokens)
        whole = at.text
        if not whole.startswith(at.told) or whole.endswith("\ufffd"):
            return ""  # half a character: the next window has the rest
        news = whole[len(at.told) :]
        at.told, at.told_tokens = whole, len(at.tokens)
        return news

    def _language(self, asked: Transcribe, sound: Spectrogram) -> str:
        """What the file is said to be in, else what its first window sounds like."""
        if asked.language is not None and (code := _code_of(asked.language)) is not None:
            return code
        if not self._model.is_multilingual:
            return "en"
        _, likely = self._model.detect_language(self._padded(sound.window(0, WINDOW_FRAMES)))
        return str(max(likely, key=likely.get))

    def _padded(self, window: mx.array) -> mx.array:
        missing = WINDOW_FRAMES - window.shape[0]
        return (mx.pad(window, [(0, missing), (0, 0)]) if missing else window).astype(self._model.dtype)


def _task(asked: Transcribe) -> str:
    return "translate" if asked.translate else "transcribe"


def _is_silence(result: Any) -> bool:
    return bool(result.no_speech_prob > _NO_SPEECH and not result.avg_logprob > _LEAST_LOGPROB)


def _code_of(language: str) -> str | None:
    """Of a code or a name in English."""
    word = language.strip().lower()
    return word if word in LANGUAGES else TO_LANGUAGE_CODE.get(word)


def _number(value: float) -> float:
    """JSON has no other ones. A model without a token for silence does not tell how likely it is."""
    return value if isfinite(value) else 0.0
