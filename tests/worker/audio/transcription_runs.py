"""Runs of a transcription engine in this process, and of mlx-audio called directly."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_audio.stt import load as load_directly

from broker.wire.outputs import FINAL, PARTIAL
from broker.wire.packing import pack
from broker.wire.to_workers import Assign
from broker.wire.work import Transcribe
from tests.worker.stepping import steps
from worker.audio.course import seed_of
from worker.audio.decoding import open_recording
from worker.audio.transcription import TranscriptionEngine

_NOTHING = Transcribe("")


def load(folder: Path, *, share: int = 0, limit: int = 0, **options: Any) -> TranscriptionEngine:
    """share, limit: of memory, 0 for no bound."""
    assign = Assign("model", str(folder), "audio", None, options, share, limit)
    return TranscriptionEngine(assign, lambda _stage, _fraction: None)


def transcribe(engine: TranscriptionEngine, file: Path, **fields: Any) -> dict[str, Any]:
    """The FINAL of a request that is not streamed."""
    engine.add(b"r", pack(Transcribe(str(file), **fields)))
    (output,) = steps(engine)
    assert (output.request_id, output.kind) == (b"r", FINAL), output
    return output.body


def streamed(engine: TranscriptionEngine, file: Path, **fields: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The PARTIALs of a request, and its FINAL."""
    engine.add(b"r", pack(Transcribe(str(file), stream=True, **fields)))
    *partials, final = steps(engine)
    assert final.kind == FINAL, final
    assert all(output.kind == PARTIAL for output in partials)
    return [output.body for output in partials], final.body


@cache
def directly(folder: Path) -> Any:
    """The model as mlx-audio has it."""
    return load_directly(folder)


def expected(folder: Path, file: Path, asked: Transcribe = _NOTHING, **options: Any) -> Any:
    """What mlx-audio says, with the random numbers that the request has."""
    seed = seed_of(asked, open_recording(str(file), "file", 3600).pieces())
    model = directly(folder)
    mx.random.seed(seed)
    return model.generate(str(file), **options)


def assert_same(final: dict[str, Any], said: Any) -> None:
    """A FINAL is what mlx-audio says."""
    assert final["text"] == said.text
    assert final["language"] == said.language
    assert len(final["segments"]) == len(said.segments)
    for own, other in zip(final["segments"], said.segments, strict=True):
        assert own["tokens"] == other["tokens"]
        assert own == {name: _number(value) for name, value in other.items() if name in own}


def _number(value: Any) -> Any:
    return 0.0 if isinstance(value, float) and not math.isfinite(value) else value
