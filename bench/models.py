"""The models of the benchmarks in a temporary folder: tiny random models, and on request the demo model."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from demo import model as demo_model
from tests.minilm import make_minilm
from tests.tiny_models import make_tiny_model
from tests.tiny_vision import make_tiny_vision

ECHO = {"engine": "worker.echo.engine:EchoEngine", "type": "echo"}
SMOL = demo_model.MODEL_ID

# Tokens of the tiny vocabulary that are printable ASCII, `!` to `~`.
_PRINTABLE = 94

# Tokens of a tiny model's stream that outlasts any other measurement.
_CONTEXT_LENGTH = 65536


@contextlib.contextmanager
def bench_models(*names: str, with_smol: bool) -> Iterator[Path]:
    """A folder with one tiny model per name: one layer, hidden size 32, different weights. Every token is printable
    text: incomplete characters would look like gaps in a stream."""
    home = demo_model.models_dir()
    home.mkdir(parents=True, exist_ok=True)
    # On the demo model's filesystem, because its weights are linked, not copied.
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="bench-") as directory:
        models = Path(directory)
        for seed, name in enumerate(names):
            _only_printable(make_tiny_model(models / name, seed=seed, context_length=_CONTEXT_LENGTH))
        if with_smol:
            shutil.copytree(demo_model.prepare(home), models / SMOL, copy_function=os.link)
        yield models


@contextlib.contextmanager
def long_model(layers: int = 3) -> Iterator[Path]:
    """A folder with the model `long`: hidden size 96, so that reading a long prompt takes seconds. layers: prefill
    needs the attention of all but the last."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        folder = Path(directory) / "long"
        _only_printable(make_tiny_model(folder, layers=layers, hidden_size=96, context_length=_CONTEXT_LENGTH))
        yield folder.parent


@contextlib.contextmanager
def models_beside_vlm() -> Iterator[Path]:
    """A folder with `sees`, a tiny random Qwen2-VL, and `embeds`, all-MiniLM-L6-v2 with its real weights."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        models = Path(directory)
        _only_printable(make_tiny_vision(models / "sees"), "language_model.lm_head.weight")
        make_minilm(models / "embeds")
        yield models


def _only_printable(folder: Path, name: str = "lm_head.weight") -> None:
    path = str(folder / "model.safetensors")
    weights = mx.load(path)
    assert isinstance(weights, dict)
    head = weights[name]
    # The other logits spread wide around 0, so these are never the greatest.
    weights[name] = mx.concatenate([head[:_PRINTABLE], mx.zeros_like(head[_PRINTABLE:])])
    mx.eval(weights)
    mx.save_safetensors(path, weights, metadata={"format": "mlx"})
