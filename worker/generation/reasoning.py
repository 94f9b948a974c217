"""Whether an answer begins inside reasoning, may open it, or has none. Prompts in, tokens out; knows no text."""

from dataclasses import dataclass
from typing import Any

from worker.generation.calls.harmony import FINAL_PATH, is_harmony

# What models write before the opening tag; GLM-4.5 begins a line.
_BLANKS = ("", " ", "\n", "\n\n")

# Enough for a tag and the blanks after it.
_END_TOKENS = 16


@dataclass(slots=True, frozen=True)
class Reasoning:
    """The reasoning of one answer. is_open: the prompt ends inside it; is_closed: just behind it. openings: each
    sequence of tokens that may open it; none if it is open already or cannot come. end: the tokens that close it.
    lead: the tokens between it and an answer that must follow a grammar; if there are any, reasoning always comes."""

    is_open: bool = False
    is_closed: bool = False
    openings: tuple[tuple[int, ...], ...] = ()
    end: tuple[int, ...] = ()
    lead: tuple[int, ...] = ()


NO_REASONING = Reasoning()
_CLOSED = Reasoning(is_closed=True)

# Of families that mlx-lm does not know: Cohere, Seed-OSS, MiniMax-M3, Hunyuan, Magistral and Ministral.
_TAGS = (
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<think:opensource>", "</think:opensource>"),
    ("[THINK]", "[/THINK]"),
)


def think_tags(tokenizer: Any) -> tuple[str, str] | None:
    """What the model writes around its reasoning. tokenizer: mlx-lm's TokenizerWrapper."""
    if tokenizer.has_thinking:
        return tokenizer.think_start, tokenizer.think_end
    vocabulary = tokenizer.get_vocab()
    return next((tags for tags in _TAGS if all(tag in vocabulary for tag in tags)), None)


class ReasoningFormat:
    """How one model marks reasoning, if it does."""

    def __init__(self, tokenizer: Any) -> None:
        """tokenizer: mlx-lm's TokenizerWrapper, which knows the tags."""
        self._tokenizer = tokenizer
        # The tokens that end reasoning between tags; none for a model without them.
        self.end: tuple[int, ...] = ()
        self._open = self._possible = NO_REASONING
        self._tags = think_tags(tokenizer)
        if is_harmony(tokenizer):
            begin, end, lead = (tuple(tokenizer.encode(part, add_special_tokens=False)) for part in FINAL_PATH)
            self._possible = Reasoning(openings=(begin,), end=end, lead=lead)
        elif self._tags is not None:
            begin, end = (tuple(tokenizer.encode(tag, add_special_tokens=False)) for tag in self._tags)
            blanks = (tokenizer.encode(blank, add_special_tokens=False) for blank in _BLANKS)
            self.end = end
            self._open = Reasoning(is_open=True, end=end)
            self._possible = Reasoning(openings=tuple((*blank, *begin) for blank in blanks), end=end)

    def after(self, prompt: list[int]) -> Reasoning:
        """The reasoning that may follow a chat's prompt. Templates open or close it at the end of the prompt; a tag
        further up is quoted text or belongs to an earlier turn."""
        if self._tags is None:
            return self._possible
        last = self._tokenizer.decode(prompt[-_END_TOKENS:]).rstrip()
        start, end = self._tags
        if last.endswith(start):
            return self._open
        return _CLOSED if last.endswith(end) else self._possible
