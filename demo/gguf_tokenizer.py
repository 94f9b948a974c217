"""Writes the tokenizer in the metadata of a GGUF file as the two files of MLX model folders.

For the `smollm` kind only: single digits, then byte-level BPE as in GPT-2. Reads metadata and writes JSON. Knows
nothing of weights.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

# GGUF's type of a control token, such as <|im_end|>.
_CONTROL = 3


def write_tokenizer(metadata: dict[str, Any], folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json, chat template included, into `folder`. KeyError: a key is missing."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    _build(tokens, metadata).save(str(folder / "tokenizer.json"))
    config = {
        # Any other class would replace the splitting rules of tokenizer.json with its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[metadata["tokenizer.ggml.bos_token_id"].item()],
        "eos_token": tokens[metadata["tokenizer.ggml.eos_token_id"].item()],
        "pad_token": tokens[metadata["tokenizer.ggml.padding_token_id"].item()],
        "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"].item()],
        "model_max_length": metadata["llama.context_length"].item(),
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata["tokenizer.chat_template"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _build(tokens: list[str], metadata: dict[str, Any]) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata["tokenizer.ggml.token_type"].tolist()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer
