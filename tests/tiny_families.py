"""Makes tiny random text models whose caches are of other kinds than Llama's: sliding windows, convolutions, states.

The tokenizer is that of the tiny text models: a byte is a token. Downloads nothing.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path

from tests.tiny_models import CHAT_TEMPLATE, EOS, VOCABULARY, write_tokenizer

CONTEXT = 8192
WINDOW = 32
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "eos_token_id": EOS, "max_position_embeddings": CONTEXT}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
# model_type in config.json, which is also the name of mlx-lm's module -> the rest of it.
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma3_text": _SIZES
    | _HEADS
    | {"num_hidden_layers": 2, "intermediate_size": 64, "head_dim": 8, "query_pre_attn_scalar": 8}
    | {"sliding_window": WINDOW, "sliding_window_pattern": 2},
    "lfm2": _SIZES
    | _HEADS
    | {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 3, "conv_bias": False}
    | {"norm_eps": 1e-5, "block_dim": 32, "block_ff_dim": 64, "block_multiple_of": 8, "rope_theta": 1e4}
    | {"block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False},
    "mamba2": _SIZES
    | {"num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "intermediate_size": 64, "state_size": 8, "n_groups": 1}
    | {"layer_norm_epsilon": 1e-5, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True}
    | {"tie_word_embeddings": True, "time_step_limit": [0.0, 100.0], "time_step_rank": "auto"},
}


def make_tiny_family(folder: Path, family: str) -> Path:
    """Write a model of this family into `folder` (made if missing) and return it."""
    config = {"model_type": family, **FAMILIES[family]}
    module = import_module(f"mlx_lm.models.{family}")
    return write_model(folder, config, module.Model(module.ModelArgs.from_dict(dict(config))))


def write_model(folder: Path, config: dict[str, Any], model: Any) -> Path:
    """Write this model with random weights into `folder` (made if missing) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = iter(mx.random.split(mx.random.key(0), len(tree_flatten(model.parameters()))))
    weights = tree_map_with_path(lambda path, weight: _random_weight(path, weight, next(keys)), model.parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(weights)), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, CONTEXT, CHAT_TEMPLATE)
    return folder


def _random_weight(path: str, weight: mx.array, key: mx.array) -> mx.array:
    if weight.ndim < 2:
        return mx.zeros_like(weight) if path.endswith("bias") else weight
    random = mx.random.normal(weight.shape, scale=float(weight.shape[-1]) ** -0.5, key=key)
    if "embed" in path or "lm_head" in path:
        random = random * 4.0  # as tests/tiny_models.py spreads its logits, and for the same reason
        random[EOS] = 0.0
    return random
