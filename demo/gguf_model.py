"""Converts the demo model's GGUF file to a folder that mlx-lm loads. For this one Llama model only.

Reads one file and writes a folder. Knows nothing of downloads, locks and where models are kept.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from demo.gguf_tokenizer import write_tokenizer

_GROUP_SIZE = 32
_BITS = 4  # of every layer but the embedding
# GGUF's names of parts -> those of mlx-lm's Llama.
NAMES = {
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


def read_gguf(path: Path) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Tensors and metadata of a GGUF file; a quantized tensor comes as `weight`, `scales` and `biases`."""
    loaded: Any = mx.load(str(path), return_metadata=True)
    return loaded[0], loaded[1]


def convert(gguf: Path, folder: Path, *, quantized: bool) -> None:
    """Write the Llama model in `gguf` to `folder` in mlx-lm's layout, config.json last. Raises DemoModelError.

    quantized: keep the 4 and 8 bits, for Metal; otherwise float32, for CPUs. The scales always become float32: with
    float16 a CPU computes wrong results.
    """
    weights, metadata = read_gguf(gguf)
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
    except RuntimeError as error:  # from MLX, on a full disk
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
    return f"{prefix}{NAMES[part]}.{kind}"
