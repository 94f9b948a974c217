"""Reads the vocabulary of a tokenizer once while a model is loaded.

mlx-lm and this project look into it 16 times for marks of reasoning, calls and formats, and each time the tokenizer
makes all of its entries anew: 33 ms of CPU for 49,000 of them, 0.2 s for those of a large model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedTokenizerFast


@contextmanager
def vocabulary_read_once() -> Iterator[None]:
    """Within, vocabularies are remembered until tokens are added; whoever gets one must not change it."""
    kind: Any = PreTrainedTokenizerFast
    plain = kind.get_vocab
    # Number of the tokenizer -> it, so that its number is not used again; its entries when it was read; these.
    known: dict[int, tuple[Any, int, dict[str, int]]] = {}

    def get_vocab(tokenizer: Any) -> dict[str, int]:
        entries = len(tokenizer)
        found = known.get(id(tokenizer))
        if found is None or found[1] != entries:
            found = known[id(tokenizer)] = (tokenizer, entries, plain(tokenizer))
        return found[2]

    kind.get_vocab = get_vocab
    try:
        yield
    finally:
        kind.get_vocab = plain
