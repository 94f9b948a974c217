"""Makes tiny random MLX model folders, so that every test can have real models of its own: about 90 kB, 30 ms to load.

A Llama through mlx-lm's own classes over a byte vocabulary (256 bytes, then `<s>`, `</s>`, `<pad>`), in float32. Its
output is noise, and mostly invalid UTF-8: good for testing everything but sense. The row of `</s>` in the output head
is zero while the other logits are spread wide, so that generations run on to `max_tokens`.

Must not be used to judge quality, and downloads nothing.
"""

import copy
import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import llama4
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
BOS, EOS = 256, 257
VOCABULARY = 256 + len(SPECIAL_TOKENS)

# A `logit_bias` for answers in which each token is a character: none waits for the rest of one, and the text has the
# same tokens when it comes back.
READABLE = {str(token): -100 for token in range(94, VOCABULARY)}  # `!` to `~` come first in it

# Logits of random weights lie within a few hundredths of each other; this spreads them to a deviation of about 4.
_SPREAD = 4.0

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}"
    "{% endif %}"
    "[{{ message['role'] }}] {{ message['content'] }}\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{{ suffix or '' }} {% endif %}"
)


def make_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 1,
    hidden_size: int = 32,
    context_length: int = 8192,
    eos_token_id: int = EOS,
    chat_template: str | None = CHAT_TEMPLATE,
    sliding_window: int | None = None,
) -> Path:
    """Write a model into `folder` (made if missing) and return it.

    hidden_size: a multiple of 8 (4 heads). eos_token_id: another token, such as a byte's, ends generations there.
    sliding_window: tokens that every layer but the last one sees.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "intermediate_size": 2 * hidden_size,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": context_length,
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": eos_token_id,
        "torch_dtype": "float32",
    }
    if sliding_window is not None:
        config["sliding_window"] = sliding_window
        config["layer_types"] = ["sliding_attention"] * (layers - 1) + ["full_attention"]
    model = Model(ModelArgs.from_dict(config))
    # A key of its own per tensor: the same seed gives the same weights whatever else drew random numbers.
    keys = iter(mx.random.split(mx.random.key(seed), len(tree_flatten(model.parameters()))))
    weights = tree_map(lambda w: _random_weight(w, next(keys)), model.parameters())
    head = weights["lm_head"]["weight"] * _SPREAD
    head[EOS] = 0.0
    weights["lm_head"]["weight"] = head
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(weights)), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, context_length, chat_template)
    return folder


def make_tiny_llama4(folder: Path, *, chunk: int = 32) -> Path:
    """The same of a family whose caches cannot be batched. chunk: tokens that all layers but each fourth look back
    within, from multiples of it on."""
    text = {
        "model_type": "llama4_text",
        "attention_bias": False,
        "attention_chunk_size": chunk,
        "head_dim": 8,
        "hidden_size": 32,
        "interleave_moe_layer_step": 1,
        "intermediate_size": 64,
        "intermediate_size_mlp": 64,
        "max_position_embeddings": 8192,
        "num_attention_heads": 4,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 2,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "use_qk_norm": True,
        "vocab_size": VOCABULARY,
    }
    config = {"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", "text_config": text}
    model = llama4.Model(llama4.ModelArgs.from_dict(copy.deepcopy(config)))  # it writes into what it gets
    keys = iter(mx.random.split(mx.random.key(0), len(tree_flatten(model.parameters()))))
    weights = tree_map(lambda w: _random_weight(w, next(keys)), model.parameters())
    head = weights["language_model"]["lm_head"]["weight"] * _SPREAD
    head[EOS] = 0.0
    weights["language_model"]["lm_head"]["weight"] = head
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(weights)), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": EOS}))
    write_tokenizer(folder, 8192, CHAT_TEMPLATE)
    return folder


def _random_weight(weight: mx.array, key: mx.array) -> mx.array:
    if weight.ndim == 1:
        return mx.ones_like(weight)
    return mx.random.normal(weight.shape, scale=float(weight.shape[-1]) ** -0.5, key=key)


def write_tokenizer(
    folder: Path, context_length: int, chat_template: str | None, more_tokens: tuple[str, ...] = ()
) -> None:
    """more_tokens: special ones that follow `<pad>`."""
    alphabet = {char: byte for byte, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*SPECIAL_TOKENS, *more_tokens)])
    tokenizer.save(str(folder / "tokenizer.json"))
    bos, eos, pad = SPECIAL_TOKENS
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
