"""Makes tiny MLX models that answer with a given script, token by token: for tags, tool calls and reasoning.

A Llama whose attention and MLP add nothing, so that each token alone decides the next one: the last character of the
prompt leads to the first piece, each piece to the next, the last piece to the end of the text. The vocabulary is bytes
and the pieces; pieces that look like `<tags>` are single tokens in prompts too.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.tiny_models import CHAT_TEMPLATE, SPECIAL_TOKENS


def make_scripted_model(
    folder: Path,
    pieces: Sequence[str],
    *,
    tags: Sequence[str] = (),
    tool_parser: str | None = None,
    chat_template: str = CHAT_TEMPLATE,
    after: str = " ",
    others: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a model that answers with `pieces`, no two alike, and return `folder`.

    tags: further tokens of the vocabulary. after: the last character of a rendered prompt, or the tag at its end.
    others: other last characters, and the pieces that follow them; again no two alike in all of the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scripts = {after: pieces, **(others or {})}
    all_pieces = [piece for script in scripts.values() for piece in script]
    tokenizer = _tokenizer(all_pieces, tags)
    ids = {piece: _id_of(tokenizer, piece) for piece in (*all_pieces, *scripts)}
    eos = tokenizer.token_to_id(SPECIAL_TOKENS[1])
    size = tokenizer.get_vocab_size()
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": (size + 7) // 8 * 8,
        "num_hidden_layers": 1,
        "intermediate_size": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": size,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "eos_token_id": eos,
    }
    head = mx.zeros((size, config["hidden_size"]))
    head[eos] = 1.0
    for start, script in scripts.items():
        for here, there in pairwise([ids[start], *(ids[piece] for piece in script), eos]):
            head[eos, here] = 0.0
            head[there, here] = 1.0
    tables = {"model.embed_tokens.weight": mx.eye(size, config["hidden_size"]), "lm_head.weight": head}

    def weight(path: str, value: mx.array) -> mx.array:
        return tables.get(path, mx.ones_like(value) if value.ndim == 1 else mx.zeros_like(value))

    weights = tree_map_with_path(weight, Model(ModelArgs.from_dict(config)).parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(weights)), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL_TOKENS[1],
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
        "tool_parser_type": tool_parser,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    return folder


def _tokenizer(pieces: Sequence[str], tags: Sequence[str]) -> Tokenizer:
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(_byte_level(p) for p in pieces if not _is_tag(p))]
    # A piece of one character is a token already.
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    wanted = dict.fromkeys([*(piece for piece in pieces if _is_tag(piece)), *tags])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in wanted])
    return tokenizer


def _is_tag(piece: str) -> bool:
    return len(piece) > 2 and piece[0] == "<" and piece[-1] == ">"


def _byte_level(text: str) -> str:
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(word for word, _ in splitter.pre_tokenize_str(text))


def _id_of(tokenizer: Tokenizer, piece: str) -> int:
    token = tokenizer.token_to_id(piece if _is_tag(piece) else _byte_level(piece))
    assert token is not None
    return int(token)
