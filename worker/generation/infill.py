"""Prompts of models that fill in the middle: the text before and the text behind a gap, around marks of the tokenizer.

Which marks a model has is seen from its vocabulary. Without any, a request with a suffix is refused.
"""

# ruff: noqa: RUF001 # DeepSeek's marks have a bar of full width

from dataclasses import dataclass
from typing import Any

from broker.wire.failure import invalid

_BEFORE, _BEHIND = "before", "behind"


@dataclass(slots=True, frozen=True)
class _Infill:
    """parts: marks, and the places of the two texts; ends: marks that end the middle, where they are no end of text."""

    parts: tuple[str, ...]
    ends: tuple[str, ...] = ()

    @property
    def marks(self) -> list[str]:
        return [part for part in self.parts if part not in (_BEFORE, _BEHIND)]


# The first whose marks are all in the vocabulary counts. Sources: the cards of Qwen2.5-Coder and CodeGemma on Hugging
# Face (equal marks); of StarCoder2; of SantaCoder; of DeepSeek-Coder; the CodeLlama paper, arXiv:2308.12950, 2.3;
# mistral-common's `encode_fim`; the card of CodeGeeX4; of Seed-Coder.
_FORMS = (
    _Infill(
        ("<|fim_prefix|>", _BEFORE, "<|fim_suffix|>", _BEHIND, "<|fim_middle|>"),
        ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    ),
    _Infill(("<fim_prefix>", _BEFORE, "<fim_suffix>", _BEHIND, "<fim_middle>"), ("<fim_pad>", "<file_sep>")),
    _Infill(("<fim-prefix>", _BEFORE, "<fim-suffix>", _BEHIND, "<fim-middle>"), ("<fim-pad>",)),
    _Infill(("<｜fim▁begin｜>", _BEFORE, "<｜fim▁hole｜>", _BEHIND, "<｜fim▁end｜>")),
    _Infill(("▁<PRE>", _BEFORE, "▁<SUF>", _BEHIND, "▁<MID>"), ("▁<EOT>",)),
    _Infill(("[SUFFIX]", _BEHIND, "[PREFIX]", _BEFORE)),
    _Infill(("<|code_prefix|>", _BEFORE, "<|code_suffix|>", _BEHIND, "<|code_middle|>")),
    _Infill(("<[fim-suffix]>", _BEHIND, "<[fim-prefix]>", _BEFORE, "<[fim-middle]>")),
)


def infill_tokens(tokenizer: Any, before: str, behind: str) -> list[int]:
    """The prompt for the text between these two. tokenizer: mlx-lm's TokenizerWrapper. Raises FailureError."""
    form = _form_of(tokenizer)
    vocabulary = tokenizer.get_vocab()
    texts = {_BEFORE: before, _BEHIND: behind}
    tokens = _start(tokenizer)
    for part in form.parts:
        text = texts.get(part)
        tokens += [vocabulary[part]] if text is None else tokenizer.encode(text, add_special_tokens=False)
    return tokens


def infill_ends(tokenizer: Any) -> list[str]:
    """The texts of marks that end the middle. Raises FailureError."""
    vocabulary = tokenizer.get_vocab()
    return [end.replace("▁", "") for end in _form_of(tokenizer).ends if end in vocabulary]


def _start(tokenizer: Any) -> list[int]:
    """What the tokenizer puts in front of every text."""
    with_marks, without = tokenizer.encode("x"), tokenizer.encode("x", add_special_tokens=False)
    return list(with_marks[:1]) if with_marks[:1] != without[:1] else []


def _form_of(tokenizer: Any) -> _Infill:
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    for form in _FORMS:
        if all(mark in vocabulary for mark in form.marks):
            return form
    raise invalid("suffix: this model has no tokens for filling in the middle", "suffix")
