"""A tiny configuration for every family of mlx-vlm that sees, made from its own configuration classes.

As tests/every_family.py does it for mlx-lm, whose table of sizes holds here too. Knows no weights, no processors and no
pictures.
"""

import dataclasses
import json
import pkgutil
from importlib import import_module
from typing import Any

import mlx_vlm.models
from mlx.utils import tree_flatten
from mlx_vlm.utils import apply_generation_config_defaults, update_module_configs

from broker.models.architectures import unknown_architecture
from tests.every_family import MORE, SLIDING, SMALL
from tests.tiny_models import BOS, VOCABULARY

IMAGE_TOKEN, VIDEO_TOKEN, START_TOKEN, END_TOKEN = range(VOCABULARY, VOCABULARY + 4)
SIGHTED = VOCABULARY + 8
SIDE, PATCH = 32, 8

_LAYERS = 2
_SMALL: dict[str, Any] = {
    **SMALL,
    **dict.fromkeys(("vocab_size", "org_vocab_size", "padded_vocab_size"), SIGHTED),
    **dict.fromkeys(("depth", "layers", "vt_num_hidden_layers", "image_num_layers", "vision_n_layers"), _LAYERS),
    **dict.fromkeys(("embed_dim", "width", "out_hidden_size", "projection_dim", "mm_hidden_size"), 32),
    **dict.fromkeys(("text_hidden_size", "projector_hidden_size", "vt_hidden_size", "image_emb_dim"), 32),
    **dict.fromkeys(("vision_dim", "output_size", "connector_hidden_size", "pixel_hidden_size"), 32),
    **dict.fromkeys(("vt_intermediate_size", "projection_intermediate_size", "vision_inter_dim"), 64),
    **dict.fromkeys(("image_mlp_dim", "proj_inner_dim", "alignment_intermediate_size", "dense_intermediate_size"), 64),
    **dict.fromkeys(("heads", "vt_num_attention_heads", "image_num_heads", "vision_n_heads"), 4),
    **dict.fromkeys(("image_num_key_value_heads",), 4),
    **dict.fromkeys(("image_size", "img_size", "crop_size", "window_size"), SIDE),
    **dict.fromkeys(("patch_size", "spatial_patch_size", "image_patch_size", "image_pos_patch_size"), PATCH),
    **dict.fromkeys(("vision_patch_size", "encoder_patch_size"), PATCH),
    **dict.fromkeys(("image_head_dim", "attention_head_dim"), 8),
    **dict.fromkeys(("init_pos_emb_height", "init_pos_emb_width", "pos_emb_height", "pos_emb_width"), 8),
    **dict.fromkeys(("num_position_embeddings", "position_embedding_size"), 64),
    **dict.fromkeys(("image_token_id", "image_token_index", "media_placeholder_token_id"), IMAGE_TOKEN),
    **dict.fromkeys(("image_patch_id", "im_patch_id", "im_patch_token"), IMAGE_TOKEN),
    **dict.fromkeys(("video_token_id", "video_token_index"), VIDEO_TOKEN),
    **dict.fromkeys(("vision_start_token_id", "image_start_token_id", "boi_token_id"), START_TOKEN),
    **dict.fromkeys(("vision_end_token_id", "image_end_token_id", "eoi_token_id"), END_TOKEN),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "pad_id"), BOS),
    "mlp_ratio": 2.0,
    "num_channels": 3,
    "additional_vocab_size": 8,
    "layer_types": SLIDING,
}
# Family -> part of its configuration ("" for the outermost) -> what the table above cannot know.
_CONV = ["conv", "full_attention"] * 2
_MROPE: dict[str, Any] = {"type": "default", "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_DEEPSTACK = {"deepstack_visual_indexes": [0, 1]}
_PROJECTOR = {"model_type": "mlp_projector", "input_dim": 32, "n_embed": 32, "depth": 1}
# Sizes that are set also where the library would derive them.
_SIZES = {"head_dim", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"}
# Families that have the fields of their text part in the outermost one.
_FLAT = {
    "qwen2_vl",
    "qwen2_5_vl",
    "colqwen2_5",
    "got",
    "youtu_vl",
    "ernie4_5_moe_vl",
    "zaya1_vl",
    "phi3_v",
    "paddleocr_vl",
}
# Modules of mlx-lm with another name, or whose model is the text part.
_ALIKE = {"klear": "Klear", "lille_130m": "lille-130m", "nemotron_nas": "nemotron-nas", "gemma3": "gemma3_text"}
_ALIKE |= {"gemma4": "gemma4_text", "qwen3_vl_moe": "qwen3_moe"}
# What some families call the part that sees.
_EYES = {
    **dict.fromkeys(("aya_vision", "idefics3", "colidefics3", "internvl_chat"), "siglip_vision_model"),
    **dict.fromkeys(("llava_bunny", "llmjpvl", "paligemma", "plamo2vl"), "siglip_vision_model"),
    **dict.fromkeys(("llava", "llava_next"), "clip_vision_model"),
    **dict.fromkeys(("deepseek_vl_v2", "deepseekocr", "unlimited_ocr"), "vision"),
    **dict.fromkeys(("kimi_vl", "kimi_k25", "locateanything"), "moonvit"),
    **dict.fromkeys(("zaya1_vl",), "qwen2_5_vl"),
    "mistral_large3": "pixtral",
    "minicpmv4_6": "siglip",
}
_MORE: dict[str, dict[str, dict[str, Any]]] = {
    "cohere_compass": {"vision": _DEEPSTACK},
    "deepseek_vl_v2": {"": {"projector_config": _PROJECTOR}},
    "deepseekocr": {"": {"projector_config": _PROJECTOR}},
    "deepseekocr_2": {"": {"projector_config": _PROJECTOR}},
    "ernie4_5_moe_vl": {"text": {"mrope_section": [2, 1, 1]}},
    "gemma3": {"text": {"mm_tokens_per_image": 16, "sliding_window_pattern": 2}},
    "gemma3n": {"text": {"intermediate_size": [64] * 4}},
    "glm4v": {"text": {"rope_scaling": _MROPE}},
    "glm4v_moe": {"text": {"rope_parameters": {**_MROPE, "partial_rotary_factor": 1.0}}},
    "glm5_next": {"text": {"num_key_value_heads": 4}},
    "glm_ocr": {"text": {"rope_parameters": {**_MROPE, "partial_rotary_factor": 1.0}}},
    "hunyuan_vl": {"text": {"rope_scaling": {**_MROPE, "alpha": 1000.0, "xdrope_section": [1, 1, 1, 1]}}},
    "moondream3": {"text": {"num_key_value_heads": 4, "rope_dim": 8}},
    "deepseek_v4": {"": {"o_groups": 2, "compress_ratios": [0, 0, 0, 0]}},
    "lfm2_vl": {"text": {"conv_dim": 32, "conv_dim_out": 32, "layer_types": _CONV}},
    "llama4": {
        "vision": {"initializer_range": 0.02, "pixel_shuffle_ratio": 0.5, "projector_dropout": 0.0}
        | {"projector_input_dim": 32, "projector_output_dim": 32, "vision_feature_layer": -1}
        | {"vision_feature_select_strategy": "default", "vision_output_dim": 32},
    },
    "llava": {"text": {"model_type": "llama"}},
    "llava_next": {"text": {"model_type": "llama"}},
    "mage_vl": {"vision": {"hidden_size": 64, "num_attention_heads": 2}},
    "molmo": {"text": {"mlp_hidden_size": 64}},
    "paddleocr_vl": {"text": {"rope_scaling": _MROPE}},
    "llava_bunny": {"": {"auto_map": {}}},
    "mimo_v2": {
        "text": {"hybrid_layer_pattern": [0, 1, 0, 1], "moe_layer_freq": [0, 1, 0, 1]},
        "vision": {"fullatt_block_indexes": [0]},
    },
    "minimax_m3_vl": {"text": {"moe_layer_freq": [0, 1, 0, 1]}},
    "multi_modality": {"": {"projector_config": {"cls": "MlpProjector", "params": _PROJECTOR}}},
    "plamo2vl": {
        "text": {"hidden_size_per_head": 8},
        "vision": {"image_feature_size": 32, "image_proj_hidden_size": 32},
    },
    "qwen2_5_vl": {"text": {"rope_scaling": _MROPE}, "vision": {"fullatt_block_indexes": [1]}},
    "qwen2_vl": {"text": {"rope_scaling": _MROPE}},
    "qwen3_5": {"text": {"rope_parameters": {**_MROPE, "partial_rotary_factor": 1.0}, "full_attention_interval": 2}},
    "qwen3_5_moe": {
        "text": {"rope_parameters": {**_MROPE, "partial_rotary_factor": 1.0}, "full_attention_interval": 2}
    },
    "qwen3_vl": {"text": {"rope_scaling": _MROPE}, "vision": _DEEPSTACK},
    "qwen3_vl_moe": {"text": {"rope_scaling": _MROPE, "mlp_only_layers": [0]}, "vision": _DEEPSTACK},
    "step3p7": {"text": {"sliding_window": 32}},
    "zaya1_vl": {"text": {"zaya_mlp_expansion": 8}},
}


def families() -> list[str]:
    """Those that the service would give to mlx-vlm: with a part that sees, or unknown to mlx-lm."""
    found = []
    for module in pkgutil.iter_modules(mlx_vlm.models.__path__):
        name = module.name
        if not module.ispkg or unknown_architecture({"model_type": name}, "vision") is not None:
            continue
        parts = {part.name for part in pkgutil.iter_modules([f"{mlx_vlm.models.__path__[0]}/{name}"])}
        if "vision" in parts or unknown_architecture({"model_type": name}, "text-gen") is not None:
            found.append(name)
    return found


def tiny_model(family: str) -> tuple[dict[str, Any], Any]:
    """What config.json says and the model, made as mlx-vlm's load_model makes it. Raises what its classes raise, and
    ValueError for a model that is not tiny."""
    module = import_module(f"mlx_vlm.models.{family}")
    config = tiny_config(module, family)
    given = json.loads(json.dumps(config))
    made = module.ModelConfig.from_dict(given)
    made = update_module_configs(made, module, given, ["text", "vision", "perceiver", "projector", "audio"])
    model = module.Model(apply_generation_config_defaults(made, config))
    weights: Any = tree_flatten(model.parameters())
    size = sum(weight.size for _, weight in weights)
    if size > 10_000_000:
        large = max(weights, key=lambda pair: pair[1].size)
        raise ValueError(f"{family} has {size} parameters, most of them in {large[0]} {large[1].shape}")
    return config, model


def tiny_config(module: Any, family: str) -> dict[str, Any]:
    """config.json."""
    more = _MORE.get(family, {})
    config = _known(module.ModelConfig, more.get("", {})) | {"model_type": family}
    for part in ("text", "vision", "perceiver", "projector", "audio"):
        arguments = getattr(module, f"{part.title()}Config", None)
        wanted = {field.name for field in dataclasses.fields(module.ModelConfig)}
        if arguments is not None and dataclasses.is_dataclass(arguments) and f"{part}_config" in wanted:
            named = {field.name: field.default for field in dataclasses.fields(arguments)}.get("model_type")
            # Where the library has a name for the part itself, it often demands that.
            kind = _EYES.get(family, family) if part == "vision" and not isinstance(named, str) else family
            own = {"model_type": named if isinstance(named, str) else kind}
            alike = MORE.get(_ALIKE.get(family, family), {}) if part == "text" else {}
            config[f"{part}_config"] = own | _known(arguments, alike | more.get(part, {}))
    if "text_config" not in config:
        config |= MORE.get(_ALIKE.get(family, family), {})
    return (config["text_config"] if family in _FLAT else {}) | config | more.get("", {})


def _known(arguments: Any, more: dict[str, Any]) -> dict[str, Any]:
    config = {}
    for field in dataclasses.fields(arguments):
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.name in _SMALL and (is_required or field.default is not None or field.name in _SIZES):
            config[field.name] = _SMALL[field.name]
    return config | more
