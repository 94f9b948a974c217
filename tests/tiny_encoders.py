"""Makes tiny random embedding models and rerankers of several families, by mlx-vlm's own classes. Downloads nothing.

The tokenizer is that of the tiny text models: a byte is a token, nothing is added around a text.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from tests.tiny_models import VOCABULARY, write_tokenizer

CONTEXT = 64
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0}
# model_type in config.json -> mlx-vlm's module, config.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _SIZES | {"architectures": ["BertModel"]}),
    "xlm-roberta": ("xlm_roberta", _SIZES | {"architectures": ["XLMRobertaModel"], "pad_token_id": 1}),
    "modernbert": ("modernbert", _SIZES | {"architectures": ["ModernBertModel"], "local_attention": 8}),
    "qwen3": ("qwen3_embedding", _GROUPED | {"architectures": ["Qwen3Model"], "tie_word_embeddings": True}),
    "gemma3_text": (
        "gemma3_embedding",
        _GROUPED
        | {"architectures": ["Gemma3TextModel"], "sliding_window": 8, "sliding_window_pattern": 2}
        | {"num_key_value_heads": 1, "query_pre_attn_scalar": 8},
    ),
    "lfm2": (
        "lfm2_embedding",
        _GROUPED
        | {"architectures": ["Lfm2Model"], "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": 32}
        | {"block_ff_dim": 48, "block_multiple_of": 16, "block_ffn_dim_multiplier": 1.0}
        | {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]},
    ),
    "llama_bidirec": ("llama_bidirec", _GROUPED | {"architectures": ["LlamaBidirectionalModel"]}),
}


def make_tiny_encoder(
    folder: Path, family: str = "bert", *, modules: tuple[str, ...] | None = None, pooling: str = "mean", seed: int = 0
) -> Path:
    """Write a model into `folder` (made if missing) and return it.

    modules: what sentence-transformers would list in modules.json (Transformer, Pooling, Normalize, ...), with the
    pooling `cls`, `mean`, `max` or `lasttoken`; None: neither file is there, as in plain checkpoints.
    """
    module, config = FAMILIES[family]
    _write_model(folder, module, "Model", {"model_type": family, **config}, seed)
    if modules is not None:
        paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
        kinds = [{"type": f"sentence_transformers.models.{m}", "path": paths.get(m, m)} for m in modules]
        (folder / "modules.json").write_text(json.dumps(kinds))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return folder


def make_tiny_reranker(folder: Path, family: str = "bert", *, seed: int = 0) -> Path:
    """A cross-encoder: one score for a pair of texts."""
    module, config = FAMILIES[family]
    name = config["architectures"][0].replace("Model", "ForSequenceClassification")
    config = config | {"architectures": [name], "id2label": {"0": "LABEL_0"}, "type_vocab_size": 2}
    _write_model(folder, module, "SequenceClassificationModel", {"model_type": family, **config}, seed)
    return folder


def _write_model(folder: Path, module_name: str, class_name: str, config: dict[str, Any], seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    module: Any = import_module(f"mlx_vlm.models.{module_name}")
    model = getattr(module, class_name)(module.ModelConfig.from_dict(config | {"model_type": module_name}))
    keys = iter(mx.random.split(mx.random.key(seed), len(tree_flatten(model.parameters()))))
    weights = tree_map(lambda w: _random_weight(w, next(keys)), model.parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(weights)), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, CONTEXT, None)


def _random_weight(weight: mx.array, key: mx.array) -> mx.array:
    noise = mx.random.normal(weight.shape, scale=0.3, key=key)
    return noise + 1 if weight.ndim == 1 else noise
