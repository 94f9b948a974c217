"""Speech: texts, spoken sentence by sentence.

One step is what the family makes in one go: a sentence, or a part of one. Requests take turns after each sentence, so
that a long text delays no other for longer. Every sentence is spoken with the same seed: then it does not depend on
what was spoken before, and families that draw a voice draw the same one.
"""

import logging
import secrets
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from broker.wire.body import ProtocolError
from broker.wire.failure import Code, Failure, FailureError, invalid, named_line
from broker.wire.outputs import FINAL, PARTIAL, Output, error_output
from broker.wire.packing import unpack
from broker.wire.to_workers import Assign
from broker.wire.work import Speak, Transcribe, Voices
from worker.audio.encoding import SoundWriter, check_encoding, make_writer
from worker.audio.sentences import pieces_of
from worker.audio.speaker import PROBE, MissingPackageError, Sound, Speaker
from worker.engine import EngineStats, MemoryFacts, ModelFacts, Report
from worker.memory.cost import WorkCost
from worker.memory.limits import limits_of
from worker.memory.step_room import StepRoom
from worker.options import read_options, whole_number
from worker.process.device_errors import is_device_error
from worker.process.log_events import concerning

log = logging.getLogger("worker")

# Characters of a piece at most: about 15 seconds of speech. Models lose the thread in much longer ones.
_PIECE_CHARACTERS = 240

# Memory that freed arrays may keep: pieces differ in length, so an unbounded cache would hold arrays of every shape.
_CACHE_BYTES = 256 * 2**20

# What the estimate of memory has over the measured work.
_MARGIN = 2.0

# Names of voices that an error lists.
_MOST_NAMED = 20


@dataclass(slots=True, frozen=True)
class SpeechOptions:
    """Characters that are spoken in one go, at most."""

    piece_characters: int = whole_number(_PIECE_CHARACTERS, least=40)


@dataclass(slots=True)
class _Speech:
    """One request. left: pieces that have not been spoken; parts: of the piece that is being spoken; writer: from the
    first sound on; held: bytes of the file that have not been sent; samples, rate: of what has been spoken; tokens:
    made for the pieces before."""

    request_id: bytes
    speak: Speak
    left: deque[str]
    seed: int
    prompt_tokens: int
    parts: Generator[Sound, None, None] | None = None
    writer: SoundWriter | None = None
    held: list[bytes] = field(default_factory=list)
    samples: int = 0
    rate: int = 0
    tokens: int = 0
    piece_tokens: int = 0


class SpeechEngine:
    """Engine for models that speak. `speaker`: the model.

    Mutable state: `_works`, the requests by id, in the order of their turns; `_speaking`, the one whose piece has
    begun; `_answers`, of requests that need no model; how many tokens have been made and read.
    """

    def __init__(self, assign: Assign, report: Report) -> None:
        self._most = read_options(SpeechOptions, assign.options, "speech").piece_characters
        limits = limits_of(assign, cache_bytes=_CACHE_BYTES)  # before anything is loaded
        self.speaker = Speaker(Path(assign.path), report)
        self.room = StepRoom(
            WorkCost(self.speaker.work_bytes / len(PROBE) * _MARGIN),
            fixed=mx.get_active_memory(),
            most_tokens=self._most,
            limits=limits,
            share_bytes=assign.share_bytes,
            limit_bytes=assign.limit_bytes,
        )
        self._works: dict[bytes, _Speech] = {}
        self._speaking: _Speech | None = None
        self._answers: list[Output] = []
        self._generation_tokens = self._prompt_tokens = 0

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self.speaker.weights_bytes)

    @property
    def has_work(self) -> bool:
        return bool(self._answers) or any(self._can_run(work) or self._can_never_run(work) for work in self._all())

    def memory(self) -> MemoryFacts:
        return MemoryFacts(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def stats(self) -> EngineStats:
        live = len(self._works)
        speaking = int(self._speaking is not None)
        return EngineStats(
            live=live,
            waiting=live - speaking,
            decoding=speaking,
            waiting_for_room=self.room.waiting,
            generation_tokens=self._generation_tokens,
            prompt_tokens=self._prompt_tokens,
        )

    def add(self, request_id: bytes, payload: bytes) -> None:
        speak = _speak_of(payload)
        if speak is None:
            self._answers.append(Output(request_id, FINAL, {"voices": self.speaker.voices}))
            return
        self._check(speak)
        pieces = pieces_of(speak.text, self._most)
        if not pieces:
            raise invalid("text is empty", param="text")
        longest = max(map(len, pieces))
        if not self.room.can_ever_fit(longest):
            raise FailureError(self._too_large(longest))
        tokens = self.speaker.count(speak.text)
        self.room.comes(longest)
        self._prompt_tokens += tokens
        seed = secrets.randbits(31) if speak.seed is None else speak.seed % 2**31
        self._works[request_id] = _Speech(request_id, speak, deque(pieces), seed, tokens)
        self._count_waiting()

    def step(self) -> list[Output]:
        outputs = self._step()
        self._count_waiting()
        return outputs

    def _step(self) -> list[Output]:
        outputs, self._answers = self._answers, []
        outputs += self._refuse()
        work = self._speaking or next(filter(self._can_run, self._all()), None)
        if work is None:
            return outputs
        self._speaking = work
        try:
            with concerning(work.request_id):
                output = self._speak(work)
        except Exception as error:
            if is_device_error(error):
                raise
            self._drop(work)
            outputs.append(error_output(work.request_id, _failure(error, work)))
            return outputs
        return outputs if output is None else [*outputs, output]

    def cancel(self, request_id: bytes) -> None:
        self._answers = [answer for answer in self._answers if answer.request_id != request_id]
        if (work := self._works.get(request_id)) is not None:
            self._drop(work)
        self._count_waiting()

    def _check(self, speak: Speak) -> None:
        """Raises FailureError for what this model cannot do."""
        speaker = self.speaker
        if speak.voice is not None and speak.voice not in speaker.voices:
            names = ", ".join(speaker.voices[:_MOST_NAMED]) + (", ..." if len(speaker.voices) > _MOST_NAMED else "")
            raise invalid(f"voice {speak.voice!r:.80} is unknown, this model has: {names}", param="voice")
        if speak.speed <= 0:
            raise invalid(f"speed must be greater than 0, not {speak.speed}", param="speed")
        if speak.speed != 1.0 and not speaker.has_speed:
            raise invalid(f"speed must be 1: models of the family {speaker.family} have one speed", param="speed")
        if speak.instructions and not speaker.has_instructions:
            message = f"instructions must be left out: models of the family {speaker.family} cannot follow any"
            raise invalid(message, param="instructions")
        if speaker.needs_instructions and not speak.instructions:
            raise invalid("instructions must describe the voice: this model has none of its own", param="instructions")
        check_encoding(speak.encoding, speaker.sample_rate)

    def _speak(self, work: _Speech) -> Output | None:
        """The next part of the piece whose turn it is."""
        speak = work.speak
        if work.parts is None:
            work.parts = self.speaker.speak(
                work.left.popleft(),
                work.seed,
                voice=speak.voice,
                speed=speak.speed,
                instructions=speak.instructions or None,
            )
        part = next(work.parts, None)
        if part is not None:
            return self._spoken(work, part)
        work.parts, self._speaking = None, None
        work.tokens += work.piece_tokens
        self._generation_tokens += work.piece_tokens
        work.piece_tokens = 0
        if not work.left:
            return self._end(work)
        self._works[work.request_id] = self._works.pop(work.request_id)  # behind the others
        return None

    def _spoken(self, work: _Speech, part: Sound) -> Output | None:
        work.piece_tokens = max(work.piece_tokens, part.tokens)
        if work.writer is None:
            work.rate = part.sample_rate
            work.writer = make_writer(work.speak.encoding, part.sample_rate, whole=not work.speak.stream)
        is_first = not work.samples
        work.samples += len(part.samples)
        work.held.append(work.writer.write(part.samples))
        if not work.speak.stream or not any(work.held):
            return None
        body: dict[str, Any] = {"audio": b"".join(work.held)}
        if is_first:
            body["sample_rate"] = work.rate
        work.held.clear()
        return Output(work.request_id, PARTIAL, body)

    def _end(self, work: _Speech) -> Output:
        del self._works[work.request_id]
        if work.writer is None:
            raise invalid("text gives no sound", param="text")
        work.held.append(work.writer.close())
        body = {
            "audio": b"".join(work.held),
            "seconds": work.samples / work.rate,
            "prompt_tokens": work.prompt_tokens,
            "completion_tokens": work.tokens,
        }
        return Output(work.request_id, FINAL, body | ({} if work.speak.stream else {"sample_rate": work.rate}))

    def _drop(self, work: _Speech) -> None:
        self._works.pop(work.request_id, None)
        if self._speaking is work:
            self._speaking = None
        if work.parts is not None:
            work.parts.close()
            work.parts = None

    def _count_waiting(self) -> None:
        self.room.waiting = sum(work.parts is None and not self._fits(work) for work in self._works.values())

    def _fits(self, work: _Speech) -> bool:
        """Whether there is memory for its next piece."""
        return self.room.fits(1, len(work.left[0]))

    def _all(self) -> list[_Speech]:
        return list(self._works.values())

    def _can_run(self, work: _Speech) -> bool:
        """Whether its next piece may be spoken now, or is being spoken."""
        return work.parts is not None or (self._speaking is None and self._fits(work))

    def _can_never_run(self, work: _Speech) -> bool:
        """Whether the largest share has become too small for its next piece."""
        return work.parts is None and not self.room.can_ever_fit(len(work.left[0]))

    def _refuse(self) -> list[Output]:
        """The ends of requests that wait for more memory than there can be by now."""
        refused = [work for work in self._all() if self._can_never_run(work)]
        for work in refused:
            self._drop(work)
        return [error_output(work.request_id, self._too_large(len(work.left[0]))) for work in refused]

    def _too_large(self, length: int) -> Failure:
        needed, most = (f"{size / 2**20:.1f} MiB" for size in (self.room.needs(1, length), self.room.limit))
        message = f"text has a sentence of {length} characters, which needs {needed} of memory; there can be {most}"
        return Failure(Code.CONTEXT_LENGTH_EXCEEDED, message, "text")


def _speak_of(payload: bytes) -> Speak | None:
    """None: it asks for the voices. Raises FailureError if this is work for another kind of model."""
    try:
        return unpack(Speak, payload)
    except ProtocolError:
        with suppress(ProtocolError):
            unpack(Voices, payload)
            return None
        with suppress(ProtocolError):
            unpack(Transcribe, payload)
            raise invalid("this model speaks: it cannot transcribe", param="model") from None
        raise


def _failure(error: Exception, work: _Speech) -> Failure:
    """Why a text cannot be spoken; it concerns this request alone."""
    if isinstance(error, FailureError):
        return error.failure
    if isinstance(error, MissingPackageError):
        return Failure(Code.NOT_IMPLEMENTED, f"this voice cannot speak: {error}", "voice")
    log.error("a text cannot be spoken", exc_info=error, extra={"about": work.request_id})
    return Failure(Code.INTERNAL_ERROR, f"the text cannot be spoken: {named_line(error)}")
