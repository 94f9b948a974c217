"""Runs of an embedding engine in this process."""

from array import array
from pathlib import Path
from typing import Any

import mlx.core as mx

from broker.wire.outputs import FINAL
from broker.wire.packing import pack
from broker.wire.to_workers import Assign
from broker.wire.work import Embed
from tests.worker.stepping import steps
from worker.embeddings.engine import EmbeddingEngine

TEXTS = ["a cat sits on the mat", "a kitten on a rug", "stock prices fell"]
MIXED = ["x", "a rather long text, as far as sixty tokens allow", "two words", "ünï", "a rather long text", "zz" * 30]


def load(folder: Path, *, share: int = 0, **options: Any) -> EmbeddingEngine:
    """share: of memory, 0 for no bound."""
    assign = Assign("model", str(folder), "embeddings", None, options, share)
    return EmbeddingEngine(assign, lambda stage, fraction: None)


def run(engine: EmbeddingEngine) -> dict[bytes, dict[str, Any]]:
    """Step to the end; the FINAL of each request."""
    finals: dict[bytes, dict[str, Any]] = {}
    for output in steps(engine):
        assert output.kind == FINAL
        assert output.request_id not in finals
        finals[output.request_id] = output.body
    return finals


def embed(engine: EmbeddingEngine, inputs: list[Any], **fields: Any) -> mx.array:
    engine.add(b"r", pack(Embed(inputs, **fields)))
    return vectors_of(run(engine)[b"r"])


def vectors_of(final: dict[str, Any]) -> mx.array:
    return mx.array(array("f", final["vectors"]).tolist()).reshape(-1, final["size"])


def scores_of(final: dict[str, Any]) -> list[float]:
    return array("f", final["scores"]).tolist()
