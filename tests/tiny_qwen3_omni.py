"""Makes a tiny random Qwen3-Omni that sees and hears, and does not speak. The model comes from memory.

Its tokenizer is that of the tiny text models, a byte is a token. A sound is 13 tokens a second.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_vlm.models.qwen3_omni_moe import Model
from mlx_vlm.models.qwen3_omni_moe.config import ModelConfig, ThinkerConfig

from tests.tiny_hearing import random_weight
from tests.tiny_models import EOS, VOCABULARY, write_tokenizer

_MARKS = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
_IDS = ("image_token", "audio_token", "video_token", "vision_start_token", "vision_end_token", "audio_start_token")
_TEMPLATE = (
    "{% for message in messages %}"
    "[{{ message['role'] }}] "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
_TEXT: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY + len(_MARKS),
    "rope_theta": 10000.0,
    "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True},
    "max_position_embeddings": 8192,
}
_EYE = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 32,
    "num_heads": 2,
    "image_size": 32,
    "patch_size": 4,
    "spatial_patch_size": 4,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}
_EAR = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "num_hidden_layers": 2,
    "output_dim": 32,
    "downsample_hidden_size": 16,
}
_IMAGES = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096}
_SOUNDS = {"feature_size": 128, "chunk_length": 300, "return_attention_mask": True}


def make_tiny_qwen3_omni(folder: Path) -> Any:
    """Write all but the weights into `folder` (made if missing); the model, as mlx-vlm's load_model makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    thinker: dict[str, Any] = {"text_config": _TEXT, "vision_config": _EYE, "audio_config": _EAR}
    thinker |= {f"{name}_id": VOCABULARY + place for place, name in enumerate(_IDS)}
    config = {"model_type": "qwen3_omni_moe", "eos_token_id": EOS, "thinker_config": thinker}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, 8192, _TEMPLATE, tuple(_MARKS.values()))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra_special_tokens": _MARKS}))
    processor = {"processor_class": "Qwen3OmniMoeProcessor", "feature_extractor_type": "WhisperFeatureExtractor"}
    processor |= {"image_processor_type": "Qwen2VLImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **_IMAGES, **_SOUNDS}))
    nothing: Any = None  # it does not speak
    made = ThinkerConfig.from_dict(json.loads(json.dumps(thinker)))
    model: Any = Model(ModelConfig(made, nothing, nothing, enable_audio_output=False, eos_token_id=EOS))
    keys = iter(mx.random.split(mx.random.key(0), len(tree_flatten(model.parameters()))))
    weights: Any = tree_map_with_path(lambda path, weight: random_weight(path, weight, next(keys)), model.parameters())
    head = weights["thinker"]["language_model"]["lm_head"]
    head["weight"] *= 4.0
    head["weight"][EOS:] = 0.0  # neither the end of the text nor a mark is ever likely
    # So that what is said and what is heard decide about the answer.
    weights["thinker"]["language_model"]["model"]["embed_tokens"]["weight"] *= 20.0
    weights["thinker"]["audio_tower"]["proj2"]["weight"] *= 5.0
    model.update(weights)
    model.eval()
    return model
