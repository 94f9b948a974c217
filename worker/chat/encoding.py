"""Token ids of a rendered chat. Free of mlx."""

from collections.abc import Callable
from typing import Any

# Characters. Of a longer text transformers' way costs little, and lets other threads go on meanwhile.
_SHORT = 4096


def encoder_of(tokenizer: Any) -> Callable[[str], list[int]] | None:
    """How a text becomes the token ids that transformers gives for it, without special tokens around it. None if this
    tokenizer's class makes ids of chats in a way of its own. tokenizer: one of transformers, or mlx-lm's wrapper of
    one.

    transformers checks and converts what a rendered chat never needs: a short text takes 27 us there, and 16 here.
    """
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase  # noqa: PLC0415 # not every engine has it
    from transformers.tokenization_utils_tokenizers import TokenizersBackend  # noqa: PLC0415

    own: Any = tokenizer if isinstance(tokenizer, TokenizersBackend) else getattr(tokenizer, "_tokenizer", None)
    kind: Any = type(own)
    if not isinstance(own, TokenizersBackend) or own.split_special_tokens:
        return None
    if kind.apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
        return None
    # What all ways to encode end in, in every class of transformers.
    if kind.__call__ is not PreTrainedTokenizerBase.__call__ or kind._encode_plus is not TokenizersBackend._encode_plus:  # noqa: SLF001
        return None
    backend = own.backend_tokenizer

    def encode(text: str) -> list[int]:
        if len(text) >= _SHORT:
            ids: list[int] = own(text, add_special_tokens=False)["input_ids"]
            return ids
        backend.no_truncation()
        backend.no_padding()
        return backend.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]

    return encode
