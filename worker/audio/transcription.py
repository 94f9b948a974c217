"""Transcription: the requests of one model take turns, a window of about 30 seconds each.

A request has its file read and its windows understood one bounded step at a time, so another one waits for one step and
not for an hour of speech. What differs between families is in `transcriber.py` and its kin.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_audio.stt import load
from mlx_audio.stt.models.whisper import Model as Whisper
from mlx_audio.utils import load_config

from broker.wire.audio_models import audio_family
from broker.wire.body import ProtocolError, to_map
from broker.wire.failure import Code, Failure, FailureError, invalid, named_line
from broker.wire.outputs import ERROR, FINAL, PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.to_workers import Assign
from broker.wire.work import Speak, Transcribe, Voices
from worker.audio.decoding import RATE, SpokenFile, open_recording
from worker.audio.guard import guarded
from worker.audio.pieces import PieceTranscriber
from worker.audio.transcriber import Heard, Transcriber
from worker.audio.whisper import WhisperTranscriber
from worker.engine import EngineStats, MemoryFacts, ModelFacts, Report
from worker.loading.model_folder import blame, read_weights
from worker.memory.cost import CacheCost, LayerCost, WorkCost
from worker.memory.limits import limits_of
from worker.memory.plan import MemoryPlan
from worker.memory.room import MemoryRoom, Size
from worker.options import read_options, whole_number
from worker.process.device_errors import is_device_error
from worker.process.intake import taking_in
from worker.sound.resampling import Samples

log = logging.getLogger("worker")

# Requests at once, if there is memory: they take turns, so that more would only wait longer.
_MOST_REQUESTS = 64

# Parts of a second in which the length of a file is counted for its memory.
_PARTS = 100

# Memory that freed arrays may keep.
_CACHE_BYTES = 256 * 2**20


@dataclass(slots=True, frozen=True)
class TranscriptionOptions:
    """max_seconds: how long a file may last."""

    max_seconds: int = whole_number(4 * 3600)


@dataclass(slots=True)
class _Request:
    """One request that has begun. Mutable state: what of texts and segments has been understood and not been sent; the
    language, if it is known; how many tokens were decoded."""

    request_id: bytes
    asked: Transcribe
    recording: SpokenFile
    steps: Iterator[Heard | None]
    texts: list[str] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    language: str | None = None
    tokens: int = 0


class TranscriptionEngine:
    """Engine for `audio` models that transcribe.

    Mutable state: `_turns`, the requests that have begun, in the order of their turns; how many tokens have been
    decoded. Those that wait for memory are in `room`.
    """

    def __init__(self, assign: Assign, report: Report) -> None:
        self._most_seconds = read_options(TranscriptionOptions, assign.options, "transcription").max_seconds
        limits = limits_of(assign, cache_bytes=_CACHE_BYTES)  # before anything is loaded
        folder = Path(assign.path)
        with blame(folder, "the model's files"), guarded():
            # Without the name of the folder, which mlx-audio takes for that of a family.
            model = load(folder, lazy=True, model_type=audio_family(load_config(folder)), model_name_parts=[])
            self._weights_bytes = read_weights(model, report)
            self._model: Transcriber = (
                WhisperTranscriber(model) if isinstance(model, Whisper) else PieceTranscriber(model)
            )
            step = self._model.step_bytes() if assign.share_bytes else 0
        mx.clear_cache()
        # A hundredth of a second of a file is to the plan what a token of a text is.
        plan = MemoryPlan(
            CacheCost((LayerCost(per_token=-(-self._model.bytes_per_second // _PARTS)),)),
            WorkCost(),
            fixed=mx.get_active_memory() + step,
            padded=False,
            most_rows=_MOST_REQUESTS,
            step_tokens=1,
            is_bounded=assign.share_bytes > 0,
            share=assign.share_bytes,
            limit=assign.limit_bytes,
        )
        self.room: MemoryRoom[tuple[Transcribe, SpokenFile]] = MemoryRoom(plan, limits)
        self._turns: dict[bytes, _Request] = {}
        self._tokens = 0

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self._weights_bytes)

    @property
    def has_work(self) -> bool:
        return bool(self._turns) or self.room.has_news

    def memory(self) -> MemoryFacts:
        return MemoryFacts(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def stats(self) -> EngineStats:
        waiting, decoding = self.room.waiting, len(self._turns)
        counted = {"waiting_for_room": waiting, "generation_tokens": self._tokens}
        return EngineStats(waiting + decoding, waiting, 0, decoding, **counted)

    def add(self, request_id: bytes, payload: bytes) -> None:
        asked = _expect_transcribe(payload)
        self._model.check(asked)
        recording = open_recording(asked.path, asked.field, self._most_seconds)
        parts = _parts(recording)
        if not self.room.plan.can_ever_fit(parts):
            raise FailureError(self._too_long(recording))
        size = Size(parts, 0, is_stated=True, param=asked.field)
        self.room.enter(request_id, size, (asked, recording))

    def step(self) -> list[Output]:
        outputs = []
        for request_id, (_, recording), _ in self.room.refused():
            outputs.append(Output(request_id, ERROR, to_map(self._too_long(recording))))
        while (admitted := self.room.admit()) is not None:
            asked, recording = admitted.what
            samples = _taken_in(admitted.request_id, recording.pieces())
            steps = self._model.listen(asked, samples)
            spent = (asked.begun or {}).get("spent", 0)
            self._turns[admitted.request_id] = _Request(admitted.request_id, asked, recording, steps, tokens=spent)
        if self._turns:
            request = self._turns.pop(next(iter(self._turns)))
            outputs += self._outputs_of(request)
        return outputs

    def cancel(self, request_id: bytes) -> None:
        self._turns.pop(request_id, None)
        self.room.leave(request_id)

    def _outputs_of(self, request: _Request) -> list[Output]:
        """One step of a request, which goes behind the others unless it ends."""
        try:
            with guarded():
                heard = next(request.steps, _END)
        except FailureError as error:
            return self._end(request, ERROR, to_map(error.failure))
        except Exception as error:  # concerns this file alone
            if is_device_error(error):
                raise
            log.exception("a request fails while it is transcribed", extra={"about": request.request_id})
            failure = Failure(Code.INTERNAL_ERROR, f"the file cannot be transcribed: {named_line(error)}")
            return self._end(request, ERROR, to_map(failure))
        if isinstance(heard, _End):
            return self._end(request, FINAL, _final(request))
        self._turns[request.request_id] = request
        if heard is None:
            return []
        request.tokens += heard.tokens
        self._tokens += heard.tokens
        request.language = heard.language
        request.texts.append(heard.text)
        request.segments += heard.segments
        if not request.asked.stream or not heard.place or not (heard.text or heard.segments):
            return []  # what has no place behind it is left for the FINAL
        body = {"text": "".join(request.texts), "segments": request.segments, "seconds": heard.seconds}
        body["place"] = {**heard.place, "spent": request.tokens}
        request.texts, request.segments = [], []
        return [Output(request.request_id, PARTIAL, body)]

    def _end(self, request: _Request, kind: int, body: dict[str, Any]) -> list[Output]:
        self.room.leave(request.request_id)
        return [Output(request.request_id, kind, body)]

    def _too_long(self, recording: SpokenFile) -> Failure:
        needed, most = (
            f"{size / 2**20:.1f} MiB" for size in (self.room.plan.alone(_parts(recording)), self.room.plan.limit)
        )
        message = (
            f"{recording.field} lasts {recording.seconds:.0f} seconds, which needs {needed} of memory together with "
            f"the model, whose process can have at most {most}"
        )
        return Failure(Code.CONTEXT_LENGTH_EXCEEDED, message, recording.field)


class _End:
    """What follows the last step of a request."""


_END = _End()


def _parts(recording: SpokenFile) -> int:
    return int(recording.seconds * _PARTS) + 1


def _final(request: _Request) -> dict[str, Any]:
    return {
        "text": "".join(request.texts),
        "segments": request.segments,
        "language": request.language,
        "duration": request.recording.heard / RATE,
        "completion_tokens": request.tokens,
    }


def _taken_in(request_id: bytes, pieces: Iterator[Samples]) -> Iterator[Samples]:
    """The same pieces, read from the client's file under the mark of its request."""
    while True:
        with taking_in(request_id):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _expect_transcribe(payload: bytes) -> Transcribe:
    """The payload. Raises FailureError if it is for a model that speaks."""
    try:
        return unpack(Transcribe, payload)
    except ProtocolError:
        for other in (Speak, Voices):
            with suppress(ProtocolError):
                unpack(other, payload)
                raise invalid("this model transcribes: it cannot speak", param="model") from None
        raise
