"""Writes a tiny model with random weights, for checks where no other model can be had, and as the neighbour of the one
that is checked. Its answers are noise, and last for as many tokens as are asked for.

By the standard library alone: this process must not import MLX. A Llama over bytes, in mlx-lm's layout.
"""

import array
import json
import math
import random
import sys
from pathlib import Path

_HIDDEN, _INNER, _LAYERS, _HEADS, _KEY_VALUE_HEADS = 64, 128, 2, 4, 2
_CONTEXT = 8192
_BYTES = 256
_BOS, _EOS = _BYTES, _BYTES + 1
_SPECIAL = ("<s>", "</s>")
_VOCABULARY = _BYTES + len(_SPECIAL)
# Random weights make all tokens nearly as likely; this spreads them, so that the end of the text, at 0, never comes.
_SPREAD = 4.0

_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def write_tiny_model(folder: Path, seed: int) -> None:
    """Into `folder`, which is made."""
    folder.mkdir(parents=True)
    _write_weights(folder / "model.safetensors", random.Random(seed))  # noqa: S311 # nothing secret
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KEY_VALUE_HEADS,
        "rms_norm_eps": 1e-5,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": _CONTEXT,
        "tie_word_embeddings": False,
        "bos_token_id": _BOS,
        "eos_token_id": _EOS,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _SPECIAL[0],
        "eos_token": _SPECIAL[1],
        "model_max_length": _CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _shapes() -> dict[str, tuple[int, ...]]:
    narrow = _HIDDEN * _KEY_VALUE_HEADS // _HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (_VOCABULARY, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
        "lm_head.weight": (_VOCABULARY, _HIDDEN),
    }
    for layer in range(_LAYERS):
        of = f"model.layers.{layer}"
        shapes |= {
            f"{of}.input_layernorm.weight": (_HIDDEN,),
            f"{of}.post_attention_layernorm.weight": (_HIDDEN,),
            f"{of}.self_attn.q_proj.weight": (_HIDDEN, _HIDDEN),
            f"{of}.self_attn.k_proj.weight": (narrow, _HIDDEN),
            f"{of}.self_attn.v_proj.weight": (narrow, _HIDDEN),
            f"{of}.self_attn.o_proj.weight": (_HIDDEN, _HIDDEN),
            f"{of}.mlp.gate_proj.weight": (_INNER, _HIDDEN),
            f"{of}.mlp.up_proj.weight": (_INNER, _HIDDEN),
            f"{of}.mlp.down_proj.weight": (_HIDDEN, _INNER),
        }
    return shapes


def _write_weights(path: Path, draw: random.Random) -> None:
    """As safetensors: the length of a JSON header, the header, the numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    body = bytearray()
    for name, shape in _shapes().items():
        begin = len(body)
        body += _numbers(name, shape, draw).tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(body)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def _numbers(name: str, shape: tuple[int, ...], draw: random.Random) -> "array.array[float]":
    if len(shape) == 1:
        numbers = array.array("f", [1.0] * shape[0])
    else:
        scale = shape[-1] ** -0.5 * (_SPREAD if name == "lm_head.weight" else 1.0)
        numbers = array.array("f", (draw.gauss(0.0, scale) for _ in range(math.prod(shape))))
        if name == "lm_head.weight":
            numbers[_EOS * _HIDDEN : (_EOS + 1) * _HIDDEN] = array.array("f", [0.0] * _HIDDEN)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _tokenizer() -> dict[str, object]:
    """Every byte is a token. Bytes that are no letters stand for others in such files: GPT-2's alphabet."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(_BYTES) if byte not in plain]
    letters = {chr(byte): byte for byte in plain} | {chr(_BYTES + i): byte for i, byte in enumerate(others)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": _BYTES + place,
                "content": token,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for place, token in enumerate(_SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": letters,
            "merges": [],
        },
    }
