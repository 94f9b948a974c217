"""Runs of a speech engine in this process, and of mlx-audio called directly."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_audio.tts.utils import load_model

from broker.wire.failure import Failure
from broker.wire.outputs import FINAL, PARTIAL, Output
from broker.wire.packing import pack
from broker.wire.to_workers import Assign
from broker.wire.work import Speak
from tests.worker.stepping import refusal as refusal_of
from tests.worker.stepping import steps
from worker.audio.encoding import to_pcm
from worker.audio.sentences import pieces_of
from worker.audio.speech import SpeechEngine

# Few words, because the tiny model speaks a second for each.
SENTENCES = ["Extraordinary circumstances.", "Unbelievable consequences!", "Understanding mathematicians?"]
TEXT = " ".join(SENTENCES)
# Of a sentence: its words and two more.
SECONDS = 4
assert pieces_of(TEXT, 240) == SENTENCES


def load(folder: Path, *, share: int = 0, limit: int = 0, **options: Any) -> SpeechEngine:
    """share, limit: of memory, 0 for no bound."""
    assign = Assign("model", str(folder), "audio", None, options, share, limit)
    return SpeechEngine(assign, lambda stage, fraction: None)


def speak(text: str, **fields: Any) -> Speak:
    """A request for the samples alone."""
    stated: dict[str, Any] = {"encoding": "pcm", "seed": 7} | fields
    return Speak(text, **stated)


def add(engine: SpeechEngine, name: bytes, text: str, **fields: Any) -> None:
    engine.add(name, pack(speak(text, **fields)))


def audio_of(outputs: list[Output], name: bytes = b"r") -> bytes:
    """The file of one request, which has ended well."""
    own = [output for output in outputs if output.request_id == name]
    assert [output.kind for output in own] == [PARTIAL] * (len(own) - 1) + [FINAL], own
    return b"".join(output.body["audio"] for output in own)


def spoken(engine: SpeechEngine, text: str, **fields: Any) -> bytes:
    """All bytes of a request that is alone."""
    add(engine, b"r", text, **fields)
    return audio_of(steps(engine))


def refusal(engine: SpeechEngine, text: str, **fields: Any) -> Failure:
    """How the request ends: refused at once, or when it is spoken."""
    return refusal_of(engine, speak(text, **fields))


def directly(folder: Path, sentences: list[str], seed: int = 7, **settings: Any) -> bytes:
    """The samples that mlx-audio makes of each sentence with this seed, called directly, in 16 bits."""
    model: Any = load_model(folder)
    samples = []
    for sentence in sentences:
        mx.random.seed(seed)
        samples += [np.array(result.audio) for result in model.generate(sentence, **settings)]
    return to_pcm(np.concatenate(samples)).tobytes()
