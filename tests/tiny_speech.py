"""Makes tiny random speech models of a few families, by mlx-audio's own classes. Downloads nothing; they speak noise.

Pocket has voices in files, and speaks a text in parts. Soprano has one voice, and speaks a sentence in one go; its
vocoder has one size only, so that its folder takes 50 MB. Kitten needs a package that no test installs. The tokenizer
is that of the tiny text models.
"""

import copy
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from tests.tiny_models import VOCABULARY, write_tokenizer

# The usual voice first.
VOICES = ("alba", "cosette", "marius")

POCKET_RATE = 800
# Of a second of Pocket's speech.
_FRAMES = 2.0
_POCKET_DIM = 16
_POCKET: dict[str, Any] = {
    "model_type": "pocket_tts",
    "flow_lm": {
        "dtype": "float32",
        "ldim": 8,
        "d_model": _POCKET_DIM,
        "num_heads": 2,
        "num_layers": 1,
        "dim_feedforward": 32,
        "max_period": 10_000,
        "flow_dim": 16,
        "flow_depth": 1,
        "lut_dim": _POCKET_DIM,
        "n_bins": VOCABULARY,
    },
    "mimi": {
        "dtype": "float32",
        "channels": 1,
        "frame_rate": _FRAMES,
        "dimension": 16,
        "n_filters": 2,
        "n_residual_layers": 1,
        "kernel_size": 3,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "dilation_base": 2,
        "compress": 2,
        "transformer_d_model": 16,
        "transformer_num_heads": 2,
        "transformer_num_layers": 1,
        "transformer_layer_scale": 0.01,
        "transformer_context": 50,
        "transformer_dim_feedforward": 32,
        "quantizer_dimension": 8,
        "quantizer_output_dimension": 16,
    },
}

_SOPRANO: dict[str, Any] = {
    "model_type": "soprano",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 2048,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
}

_KITTEN: dict[str, Any] = {
    "model_type": "kitten_tts",
    "hidden_dim": 8,
    "max_conv_dim": 8,
    "max_dur": 4,
    "n_layer": 1,
    "n_mels": 8,
    "n_token": 178,
    "style_dim": 8,
    "text_encoder_kernel_size": 3,
    "asr_res_dim": 4,
    "voice_aliases": {"Bella": "expr-voice-2-f"},
    "plbert": {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_size": 8,
        "intermediate_size": 8,
        "max_position_embeddings": 512,
        "embedding_size": 8,
    },
    "istftnet": {
        "resblock_kernel_sizes": [3],
        "upsample_rates": [2],
        "upsample_initial_channel": 8,
        "resblock_dilation_sizes": [[1, 1, 1]],
        "upsample_kernel_sizes": [4],
        "gen_istft_n_fft": 8,
        "gen_istft_hop_size": 2,
    },
}

_PAD = VOCABULARY - 1


def make_tiny_pocket(folder: Path, *, voices: tuple[str, ...] = VOICES, rate: int = POCKET_RATE, seed: int = 0) -> Path:
    """Speaks a second, in two frames, for each word and two more for each sentence. Write it into `folder` (made if
    missing) and return that. rate: in Hz, a multiple of 40; mp3 needs 8000, which takes three times as long."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, 2048, None)
    config = copy.deepcopy(_POCKET)
    config["mimi"] |= {"sample_rate": rate, "ratios": [20, rate // 40]}
    _, weights = _random_model("pocket_tts", {**copy.deepcopy(config), "model_path": str(folder)}, seed)
    weights["flow_lm.out_eos.bias"] = mx.full((1,), -100.0)  # never at an end: it stops where there must be one
    _write(folder, config, weights)
    (folder / "voices").mkdir(exist_ok=True)
    for number, name in enumerate(voices):
        prompt = mx.random.normal((1, 3, _POCKET_DIM), key=mx.random.key(1000 + number))
        mx.save_safetensors(str(folder / "voices" / f"{name}.safetensors"), {"audio_prompt": prompt})
    return folder


def make_tiny_soprano(folder: Path, *, seed: int = 0) -> Path:
    """Speaks about a dozen tokens for a sentence."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, 2048, None)
    _, weights = _random_model("soprano", {**_SOPRANO, "model_path": str(folder)}, seed)
    # Every token adds the same to the first place of the hidden state, and the row of the end looks at it.
    table = weights["language_model.embed_tokens.weight"]
    table[:, 0] = 4.0
    head = mx.zeros_like(weights["language_model.lm_head.weight"])
    head[_PAD, 0] = 2.0
    weights["language_model.lm_head.weight"] = head
    _write(folder, _SOPRANO, weights)
    return folder


def make_tiny_kitten(folder: Path, *, seed: int = 0) -> Path:
    """Has two voices, in one file, and another name for one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    _, weights = _random_model("kitten_tts", _KITTEN, seed)
    _write(folder, _KITTEN, weights)
    styles: dict[str, Any] = {
        name: np.zeros((1, 16), dtype=np.float32) for name in ("expr-voice-2-f", "expr-voice-5-m")
    }
    np.savez(folder / "voices.npz", **styles)
    return folder


def _random_model(family: str, config: dict[str, Any], seed: int) -> tuple[Any, dict[str, mx.array]]:
    module = import_module(f"mlx_audio.tts.models.{family}")
    model = module.Model(module.ModelConfig.from_dict(config))
    keys = iter(mx.random.split(mx.random.key(seed), len(tree_flatten(model.parameters()))))

    def random(weight: mx.array) -> mx.array:
        key = next(keys)
        if weight.ndim == 1:
            return mx.ones_like(weight) * 0.1
        size = weight.size // weight.shape[0]
        return mx.random.normal(weight.shape, scale=float(size) ** -0.5, key=key)

    return model, dict(tree_flatten(tree_map(random, model.parameters())))


def _write(folder: Path, config: dict[str, Any], weights: dict[str, mx.array]) -> None:
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
