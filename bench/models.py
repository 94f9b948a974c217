"""The models of the benchmarks, in a folder that is theirs: tiny random ones, and the demo model where asked for."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from demo import model as demo_model
from tests.tiny_models import make_tiny_model

ECHO = {"engine": "worker.echo.engine:EchoEngine", "type": "echo"}
SMOL = demo_model.MODEL_ID

# Tokens of the tiny vocabulary that are printable ASCII, `!` to `~`.
_PRINTABLE = 94

# Streams of the tiny model that outlast whatever happens beside them.
_CONTEXT_LENGTH = 65536


@contextlib.contextmanager
def bench_models(*names: str, with_smol: bool) -> Iterator[Path]:
    """A folder with a tiny model per name: one layer, hidden 32, each its own weights. Every token of theirs is text:
    bytes that wait for the rest of a character would look like gaps."""
    home = demo_model.models_dir()
    home.mkdir(parents=True, exist_ok=True)
    # Beside the demo model: its weights are linked, not copied.
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="bench-") as directory:
        models = Path(directory)
        for seed, name in enumerate(names):
            _only_printable(make_tiny_model(models / name, seed=seed, context_length=_CONTEXT_LENGTH))
        if with_smol:
            shutil.copytree(demo_model.prepare(home), models / SMOL, copy_function=os.link)
        yield models


def _only_printable(folder: Path) -> None:
    path = str(folder / "model.safetensors")
    weights = mx.load(path)
    assert isinstance(weights, dict)
    head = weights["lm_head.weight"]
    # The other logits are spread wide around 0, so the greatest is never one of these.
    weights["lm_head.weight"] = mx.concatenate([head[:_PRINTABLE], mx.zeros_like(head[_PRINTABLE:])])
    mx.eval(weights)
    mx.save_safetensors(path, weights, metadata={"format": "mlx"})
