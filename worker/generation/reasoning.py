"""Where a model that marks its thoughts is with them when its answer begins. Prompts in, tokens out; knows no texts."""

from dataclasses import dataclass
from typing import Any

# What models write before they open thoughts; GLM-4.5 begins a line.
_BLANKS = ("", " ", "\n", "\n\n")

# Enough for a tag and the blanks behind it.
_END_TOKENS = 16


@dataclass(slots=True, frozen=True)
class Thoughts:
    """Of one answer. are_open: the prompt ends within them. openings: tokens that may open them, each way to do it;
    none where they are open, or not to come. end: the tokens that close them."""

    are_open: bool = False
    openings: tuple[tuple[int, ...], ...] = ()
    end: tuple[int, ...] = ()


NO_THOUGHTS = Thoughts()


class ThoughtFormat:
    """How one model marks its thoughts, if it does."""

    def __init__(self, tokenizer: Any) -> None:
        """tokenizer: mlx-lm's TokenizerWrapper, which knows the tags."""
        self._tokenizer = tokenizer
        self._open = self._possible = NO_THOUGHTS
        if tokenizer.has_thinking:
            begin, end = tuple(tokenizer.think_start_tokens), tuple(tokenizer.think_end_tokens)
            blanks = (tokenizer.encode(blank, add_special_tokens=False) for blank in _BLANKS)
            self._open = Thoughts(are_open=True, end=end)
            self._possible = Thoughts(openings=tuple((*blank, *begin) for blank in blanks), end=end)

    def after(self, prompt: list[int]) -> Thoughts:
        """What may come after a chat's prompt. Its last words say it, where templates open thoughts or close them; tags
        further up are somebody's who talks about them, or belong to earlier turns."""
        if not self._tokenizer.has_thinking:
            return NO_THOUGHTS
        last = self._tokenizer.decode(prompt[-_END_TOKENS:]).rstrip()
        if last.endswith(self._tokenizer.think_start):
            return self._open
        return NO_THOUGHTS if last.endswith(self._tokenizer.think_end) else self._possible
