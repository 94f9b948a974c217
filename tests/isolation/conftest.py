"""Models and a service for the isolation suite. A is the model that dies, B the one that must not notice."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from tests.service import Service
from tests.tiny_models import make_tiny_model

# Rows that pad the vocabulary of the slow model: it loads for a tenth of a second even when all is imported, long
# enough to die while it does.
_PADDED_ROWS = 150_000

# Chunks of 32 tokens make the prefill of a long prompt take a while on a model that is over it in a moment.
SMALL_CHUNKS = {"prefill_step_size": 32}


@pytest.fixture(scope="session")
def isolation_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a`, `b`, `c`: tiny models; `slow`: the same as `a` with 80 MB of padding."""
    directory = tmp_path_factory.mktemp("isolation-models")
    make_tiny_model(directory / "a", seed=1)
    # Layers enough to speak for some seconds without keeping a client in Python busy.
    make_tiny_model(directory / "b", seed=2, layers=4)
    make_tiny_model(directory / "c", seed=3)
    _pad_vocabulary(make_tiny_model(directory / "slow", seed=4, hidden_size=64))
    return directory


@pytest.fixture(scope="module")
def isolated(isolation_models: Path) -> Iterator[Service]:
    """Two warm spares, so that even a death while loading finds an imported process; B is pinned."""
    broker = {"warm_spares": 2, "heartbeat_interval_seconds": 0.1, "heartbeat_timeout_seconds": 2.0}
    service = Service(isolation_models, {"broker": broker, "models": {"a": {"options": SMALL_CHUNKS}}})
    try:
        service.start()
        service.load("b").raise_for_status()
        yield service
    finally:
        service.stop()


def _pad_vocabulary(folder: Path) -> None:
    path = folder / "model.safetensors"
    padded = folder / "padded.safetensors"
    weights = mx.load(str(path))
    assert isinstance(weights, dict)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = weights[name]
        weights[name] = mx.concatenate([rows, mx.zeros((_PADDED_ROWS - rows.shape[0], rows.shape[1]))])
    mx.save_safetensors(str(padded), weights, metadata={"format": "mlx"})
    shutil.move(padded, path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": _PADDED_ROWS}))
