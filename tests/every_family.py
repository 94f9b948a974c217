"""A tiny configuration for every architecture that mlx-lm has, made from its own ModelArgs.

Most fields mean the same wherever they have the same name: the tables below say which value is small. What they cannot
know stands in `MORE`, by module. Knows no weights.
"""

import copy
import dataclasses
import pkgutil
from importlib import import_module
from typing import Any

import mlx_lm.models
from mlx.utils import tree_flatten

from tests.tiny_models import EOS, VOCABULARY

CONTEXT = 8192
WINDOW = 32

_LAYERS, _HIDDEN, _HEADS, _KV_HEADS, _HEAD_DIM, _EXPERTS = 4, 32, 4, 2, 8, 4
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "padded_vocab_size", "embedding_size"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "model_dim", "hidden_dim", "dim_model_base", "block_dim"), _HIDDEN
    ),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "ff_intermediate_size", "n_inner", "block_ff_dim"), 64),
    **dict.fromkeys(("intermediate_size_mlp", "shared_intermediate_size", "mamba_intermediate_size"), 64),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "expert_hidden_dim", "share_expert_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_transformer_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "swa_num_attention_heads"), _HEADS),
    **dict.fromkeys(
        ("mamba_num_heads", "mamba_n_heads", "linear_num_value_heads", "linear_num_attention_heads"), _HEADS
    ),
    **dict.fromkeys(("num_swa_attention_heads", "index_n_heads"), _HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_kv_heads", "swa_num_key_value_heads"), _KV_HEADS),
    **dict.fromkeys(("linear_num_key_heads", "num_attention_groups", "num_swa_key_value_heads"), _KV_HEADS),
    **dict.fromkeys(("head_dim", "swa_head_dim", "swa_v_head_dim", "v_head_dim", "qk_rope_head_dim"), _HEAD_DIM),
    **dict.fromkeys(("qk_nope_head_dim", "mamba_head_dim", "mamba_d_head", "linear_key_head_dim"), _HEAD_DIM),
    **dict.fromkeys(("linear_value_head_dim", "rotary_dim", "index_head_dim", "query_pre_attn_scalar"), _HEAD_DIM),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim", "decay_low_rank_dim"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), _EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "moe_top_k"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "num_shared_expert", "n_group", "topk_group"), 1),
    **dict.fromkeys(("moe_num_shared_experts", "decoder_sparse_step", "first_k_dense_replace"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "model_max_length", "block_size"), CONTEXT),
    **dict.fromkeys(("max_seq_len", "seq_length", "max_window_layers"), CONTEXT),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "attention_chunk_size"), WINDOW),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps"), 1e-5),
    **dict.fromkeys(("rope_theta", "rotary_emb_base", "swa_rope_theta"), 10000.0),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct", "logits_scaling", "attention_multiplier"), 1.0),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "routed_scaling_factor", "scale_depth"), 1.0),
    **dict.fromkeys(("scale_emb",), 1.0),
    **dict.fromkeys(("conv_kernel", "mamba_d_conv", "conv1d_width", "linear_conv_kernel_dim"), 4),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state", "block_multiple_of"), 8),
    **dict.fromkeys(("n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("attention_bias", "mlp_bias", "use_bias", "use_qkv_bias", "conv_bias", "mamba_proj_bias"), False),
    **dict.fromkeys(("use_conv_bias", "norm_topk_prob", "tie_word_embeddings", "use_qk_norm", "qk_norm"), True),
    **dict.fromkeys(("kv_channels", "global_head_dim", "moe_hidden_size", "hidden_size_per_layer_input"), _HEAD_DIM),
    **dict.fromkeys(("num_dense_layers", "num_key_value_groups", "num_global_key_value_heads"), 1),
    "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 0,
    "eos_token_id": EOS,
}

SLIDING = ["sliding_attention", "full_attention"] * 2
_ROPE: dict[str, Any] = {"rope_theta": 10000.0, "rope_type": "default"}
_ROPES = dict.fromkeys(("sliding_attention", "full_attention"), _ROPE)
_YARN: dict[str, Any] = {
    **_ROPE,
    "type": "yarn",
    "rope_type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 4096,
    "llama_4_scaling_beta": 0.1,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
_KDA = {"num_heads": 4, "head_dim": 8, "kda_layers": [1, 3]}
# Module -> what the table above cannot know.
MORE: dict[str, dict[str, Any]] = {
    "Klear": {"mlp_only_layers": [0]},
    "afm7": {"num_kv_reuse_layers": 2},
    "afmoe": {"layer_types": SLIDING},
    "apertus": {"post_norm": True},
    "baichuan_m1": {"sliding_window_layers": [0, 2], "conv_window": 2, "tie_word_embeddings": False},
    "bailing_hybrid": {"layer_group_size": 2, "group_norm_size": 1},
    "bailing_moe_linear": {"layer_group_size": 2, "group_norm_size": 1},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek_v2": {"rope_scaling": _YARN},
    "exaone4": {"rope_scaling": None, "sliding_window_pattern": "LG", "layer_types": SLIDING},
    "exaone_moe": {"layer_types": SLIDING, "is_moe_layer": [False, True, True, True]},
    "falcon_h1": {"mamba_d_ssm": 32},
    "gear": {"layer_types": SLIDING},
    "gemma3_text": {"sliding_window_pattern": 2},
    "gemma3n": {"layer_types": SLIDING, "rope_local_base_freq": 10000.0, "final_logit_softcapping": 30.0}
    | {"activation_sparsity_pattern": [0.5] * 4, "altup_num_inputs": 2, "altup_coef_clip": 1.0, "laurel_rank": 8}
    | {"altup_correct_scale": True, "altup_active_idx": 0},
    "gemma4_text": {"layer_types": SLIDING, "hidden_size_per_layer_input": 0},
    "glm4_moe": {"rope_scaling": None},
    "glm_moe_dsa": {"index_topk": 64, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1}
    | {"rope_parameters": _ROPE},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "mamba_conv_bias": False, "mamba_n_heads": 4}
    | {
        "mamba_d_head": 16,
        "mamba_expand": 2,
        "mamba_d_state": 8,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_proj_bias": False,
    }
    | {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 64},
    "hunyuan": {"use_mixed_mlp_moe": True, "use_cla": False, "cla_share_factor": 2}
    | {"rope_scaling": {"type": "dynamic", "alpha": 1.0, "factor": 1.0}},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2}
    | {"mamba_expand": 2},
    "kimi_k3": {"linear_attn_config": {"short_conv_kernel_size": 4, **_KDA}, "kv_lora_rank": 16, "q_lora_rank": 16}
    | {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4}
    | {"attn_res_block_size": 2, "activation_situ_beta": 1.0, "activation_situ_linear_beta": 1.0},
    "kimi_linear": {"linear_attn_config": _KDA, "num_key_value_heads": 4},
    "lfm2": {"conv_L_cache": 3, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False}
    | {"block_dim": 32, "block_ff_dim": 64, "layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"conv_L_cache": 3, "use_expert_bias": True, "layer_types": ["conv", "full_attention"] * 2},
    "lille-130m": {"n_embd": 128, "n_kv_heads": 4},
    "llama4": {"interleave_moe_layer_step": 1, "num_experts_per_tok": 1, "rope_scaling": None},
    "llama4_text": {"no_rope_layers": [1, 1, 1, 0], "interleave_moe_layer_step": 1},
    "longcat_flash": {"attention_method": "MLA", "zero_expert_type": "identity", "zero_expert_num": 2}
    | {"mla_scale_q_lora": True, "mla_scale_kv_lora": True},
    "longcat_flash_ngram": {"zero_expert_num": 2, "mla_scale_q_lora": True, "mla_scale_kv_lora": True}
    | {"ngram_vocab_size_ratio": 2, "emb_neighbor_num": 3, "emb_split_num": 2},
    "mamba": {"time_step_rank": 2},
    "mamba2": {"time_step_limit": [0.0, 100.0], "time_step_rank": "auto", "head_dim": 16},
    "mellum": {"layer_types": SLIDING, "rope_parameters": _ROPES},
    "mimo_v2_flash": {"hybrid_layer_pattern": [0, 1, 0, 1], "moe_layer_freq": [0, 1, 0, 1]}
    | {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    | {"add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False},
    "minicpm": {"tie_word_embeddings": False},
    "minicpm3": {
        "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 4096}
        | {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4}
    },
    "ministral3": {"rope_parameters": _YARN},
    "mistral4": {"rope_parameters": _YARN},
    "muse_spark": {"post_norm_eps": 1e-5, "rope_parameters": _ROPE, "layer_rope_theta": [1e4] * 4}
    | {"layer_types": SLIDING, "final_logit_softcapping": 30.0, "output_multiplier": 1.0}
    | {"moe_hidden_size": 32, "num_shared_experts": 0},
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {"block_configs": [{"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.0}}] * 4},
    "nemotron_h": {"hybrid_override_pattern": ["*", "M", "-", "M"], "time_step_limit": [0.0, 100.0]},
    "olmo_hybrid": {"linear_allow_neg_eigval": True, "layer_types": ["linear_attention", "full_attention"] * 2},
    "openelm": {"ffn_dim_divisor": 8, "num_query_heads": [4] * 4, "num_kv_heads": [2] * 4}
    | {"ffn_multipliers": [2.0] * 4},
    "phi3small": {"dense_attention_every_n_layers": 2, "gegelu_limit": 20.0},
    "phixtral": {"num_vocab": VOCABULARY, "rotary_dim": 4},
    "plamo": {"n_shared_head": 2},
    "qwen": {"intermediate_size": 128},
    "qwen3": {"rope_theta": 10000.0},
    "qwen3_5": {"full_attention_interval": 2},
    "qwen3_moe": {"mlp_only_layers": [0], "tie_word_embeddings": False},
    "qwen3_next": {"mlp_only_layers": [0], "full_attention_interval": 2},
    "recurrent_gemma": {"logits_soft_cap": 30.0, "block_types": ["recurrent", "attention"]},
    "spark2_5": {"rope_parameters": _ROPES, "layer_types": SLIDING},
}

# Wrappers of other modules' models -> the one whose fields their text_config has.
_WRAPPERS = {
    "gemma3": "gemma3_text",
    "kimi_k25": "deepseek_v3",
    "kimi_vl": "deepseek_v3",
    "lfm2-vl": "lfm2",
    "mistral3": "ministral3",
    "pixtral": "llama",
    "qwen3_5_moe": "qwen3_5",
    "qwen2_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "gemma4": "gemma4_text",
    "minimax_m3_vl": "minimax_m3_vl",
}


# Modules of mlx-lm that are parts of models.
_PARTS = {"activations", "base", "bitlinear_layers", "cache", "gated_delta", "mla", "pipeline", "rope_utils", "ssm"}
_PARTS |= {"switch_layers"}


def families() -> list[str]:
    """The modules of mlx-lm that are models. Imports none of them."""
    return [name for _, name, _ in pkgutil.iter_modules(mlx_lm.models.__path__) if name not in _PARTS]


def tiny_model(family: str) -> tuple[dict[str, Any], Any]:
    """What config.json says, model_type included, and the model. Raises KeyError for a field that nothing here knows,
    ValueError for a model that is not tiny."""
    module = import_module(f"mlx_lm.models.{family}")
    config = {"model_type": family, **_fields(module, family)}
    model = module.Model(module.ModelArgs.from_dict(copy.deepcopy(config)))  # some write into what they get
    weights: Any = tree_flatten(model.parameters())
    size = sum(weight.size for _, weight in weights)
    if size > 2_000_000:
        large = max(weights, key=lambda pair: pair[1].size)
        raise ValueError(f"{family} has {size} parameters, most of them in {large[0]} {large[1].shape}")
    return config, model


def _fields(module: Any, family: str) -> dict[str, Any]:
    if any(field.name == "text_config" for field in dataclasses.fields(module.ModelArgs)):
        inner = _WRAPPERS.get(family, family)
        text = import_module(f"mlx_lm.models.{inner}")
        arguments = next(getattr(text, name) for name in _TEXTS if hasattr(text, name))
        outer = {field.name for field in dataclasses.fields(module.ModelArgs)} & SMALL.keys()
        text_config = {"model_type": inner, **_known(arguments, inner)}
        return {"text_config": text_config} | {name: SMALL[name] for name in outer}
    return _known(module.ModelArgs, family)


_TEXTS = ("TextArgs", "TextConfig", "TextModelArgs", "ModelArgs")


def _known(arguments: Any, family: str) -> dict[str, Any]:
    more = MORE.get(family, {})
    config = {}
    for field in dataclasses.fields(arguments):
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.name in more or field.name == "model_type":
            continue
        if field.name in SMALL and (is_required or field.default is not None):
            config[field.name] = SMALL[field.name]
        elif is_required:
            raise KeyError(f"{family}: {field.name}")
    return config | more
