"""Makes tiny random models that hear (Gemma 4, by classes of mlx-vlm, in float32), and sounds for them.

The tokenizer is that of the tiny text models, a byte is a token, and seven more for sounds and pictures. A sound is one
token for each 40 ms that have begun.

Must not be used to judge quality, and downloads nothing.
"""

import io
import json
import math
import wave
from array import array
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_vlm.models import gemma4, gemma4_unified

from tests.tiny_models import BOS, EOS, VOCABULARY, write_tokenizer

MARKS = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "video_token": "<|video|>",
}
IDS = {f"{name}_id": VOCABULARY + place for place, name in enumerate(MARKS)}
HEARING_VOCABULARY = VOCABULARY + len(MARKS)
SECONDS_PER_TOKEN = 0.04
# What a request's sounds may last at most with this family, each.
LONGEST_SECONDS = 30

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "[{{ message['role'] }}] "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% elif part['type'] == 'audio' %}<|audio|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def make_tiny_hearing(
    folder: Path, *, family: str = "gemma4", seed: int = 0, context_length: int = 8192, hears: bool = True
) -> Path:
    """Write a model into `folder` (made if missing) and return it. family: gemma4 or gemma4_unified; hears: with the
    part that does; the larger models of the family have none."""
    folder.mkdir(parents=True, exist_ok=True)
    module: Any = {"gemma4": gemma4, "gemma4_unified": gemma4_unified}[family]
    config = _config(family, context_length, hears=hears)
    settings = module.ModelConfig.from_dict(
        {**config, "text_config": module.TextConfig.from_dict(config["text_config"])}
        | {"vision_config": module.VisionConfig.from_dict(config["vision_config"])}
        | {"audio_config": module.AudioConfig.from_dict(config["audio_config"]) if hears else None}
    )
    model = module.Model(settings)
    keys = iter(mx.random.split(mx.random.key(seed), len(tree_flatten(model.parameters()))))
    weights = tree_map_with_path(lambda path, weight: random_weight(path, weight, next(keys)), model.parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(weights)), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, context_length, CHAT_TEMPLATE, tuple(MARKS.values()))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra_special_tokens": MARKS}))
    images = {"patch_size": 4, "max_soft_tokens": 4, "pooling_kernel_size": 2, "model_patch_size": 8}
    processor = {"processor_class": "Gemma4Processor", "image_processor": images, "audio_seq_length": 750}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def _config(family: str, context_length: int, *, hears: bool) -> dict[str, Any]:
    text = {
        "model_type": f"{family}_text",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 8,
        "vocab_size": HEARING_VOCABULARY,
        "vocab_size_per_layer_input": HEARING_VOCABULARY,
        "hidden_size_per_layer_input": 8 if family == "gemma4" else 0,
        "num_kv_shared_layers": 0,
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "max_position_embeddings": context_length,
        "use_double_wide_mlp": False,
        "attention_k_eq_v": False,
        "tie_word_embeddings": True,
    }
    if family == "gemma4":
        eye: dict[str, Any] = {
            "model_type": "gemma4_vision",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
        }
        eye |= {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "global_head_dim": 8}
        eye |= {"patch_size": 4, "pooling_kernel_size": 2, "default_output_length": 4, "position_embedding_size": 64}
        ear: dict[str, Any] = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "output_proj_dims": 32,
        }
        ear |= {"subsampling_conv_channels": [8, 4], "use_clipped_linears": False}
    else:
        eye = {"model_type": "gemma4_unified_vision", "patch_size": 4, "pooling_kernel_size": 2, "model_patch_size": 8}
        eye |= {"mm_embed_dim": 32, "mm_posemb_size": 64, "num_soft_tokens": 4, "output_proj_dims": 32}
        ear = {"model_type": "gemma4_unified_audio"}
    return {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": family,
        "vocab_size": HEARING_VOCABULARY,
        "hidden_size": 32,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": BOS + 2,
        "text_config": text,
        "vision_config": eye,
        "audio_config": ear if hears else None,
        "torch_dtype": "float32",
        **IDS,
    }


def random_weight(path: str, weight: mx.array, key: mx.array) -> mx.array:
    if weight.ndim <= 1:
        return mx.zeros_like(weight) if path.endswith("bias") else mx.ones_like(weight)
    drawn = mx.random.normal(weight.shape, scale=float(weight[0].size) ** -0.5, key=key)
    if path.endswith("embed_tokens.weight"):
        # The head is tied to it, and neither the end of the text nor a mark is ever likely.
        drawn[EOS:] = 0.0
        return drawn * 0.4
    return drawn


def sound(number: int = 0, *, seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> bytes:
    """A wav file; another number makes another sound."""
    count = round(seconds * rate)
    height = 220.0 + 130.0 * number
    samples = array("h")
    for place in range(count):
        swell = 0.3 + 0.7 * (place % 4000) / 4000
        value = round(9000 * swell * math.sin(2 * math.pi * height * place / rate))
        samples.extend([value] * channels)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(samples.tobytes())
    return file.getvalue()
