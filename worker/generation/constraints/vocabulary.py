"""The texts of a tokenizer's tokens, and masks over all of them."""

import json
import re
from bisect import bisect_left
from functools import cached_property
from typing import Any

import llguidance
import mlx.core as mx


class Vocabulary:
    """Of one model. What it knows of all tokens is made on first use: 150,000 of them take a quarter of a second.

    Mutable state: which tokens go beyond a mark, as far as that has been asked.
    """

    def __init__(self, guide: llguidance.LLTokenizer) -> None:
        self._guide = guide
        self._beyond: dict[tuple[bytes, int], list[int]] = {}

    @cached_property
    def _texts(self) -> list[bytes]:
        return [self._guide.decode_bytes([token]) for token in range(self._guide.vocab_size)]

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted((text, token) for token, text in enumerate(self._texts))

    @cached_property
    def _special(self) -> dict[str, int]:
        special = filter(self._guide.is_special_token, range(self._guide.vocab_size))
        return {text: token for token in special if (text := self._texts[token].decode(errors="replace"))}

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._special, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")" if longest_first else "((?!))")

    def text(self, token: int) -> bytes:
        """Of one token."""
        return self._texts[token] if token < len(self._texts) else b""

    def is_token(self, text: str) -> bool:
        """Whether one token has this text."""
        position = bisect_left(self._sorted, (text.encode(), 0))
        return position < len(self._sorted) and self._sorted[position][0] == text.encode()

    def literal(self, text: str) -> list[str]:
        """The items of a Lark rule for this text: special tokens stand apart."""
        parts = self._special_pattern.split(text)
        return [
            f"<[{self._special[part]}]>" if number % 2 else json.dumps(part).replace("\x7f", "\\u007f")
            for number, part in enumerate(parts)
            if part
        ]

    def beyond(self, marks: tuple[bytes, ...], before: bytes) -> list[int]:
        """Tokens that behind this text would have one of the marks and more."""
        found: set[int] = set()
        for mark in marks:
            for begun in range(len(mark)):
                if before.endswith(mark[:begun]):
                    found.update(self._beyond_mark(mark, begun))
        return sorted(found)

    def completing(self, openings: tuple[bytes, ...], begun: bytes) -> list[int]:
        """Tokens that behind this beginning would complete one of the openings. Blanks do not count."""
        found: set[int] = set()
        for opening in openings:
            if opening.startswith(begun):
                found.update(self._completing(opening[len(begun) :]))
        return sorted(found)

    def _completing(self, rest: bytes) -> list[int]:
        if (rest, -1) not in self._beyond:
            texts = self._without_blanks
            self._beyond[rest, -1] = [token for token, text in enumerate(texts) if text.startswith(rest)]
        return self._beyond[rest, -1]

    @cached_property
    def _without_blanks(self) -> list[bytes]:
        return [b"".join(text.split()) for text in self._texts]

    def _beyond_mark(self, mark: bytes, begun: int) -> list[int]:
        """Where so much of the mark is there."""
        if (mark, begun) not in self._beyond:
            self._beyond[mark, begun] = self._found(mark) if begun == 0 else self._longer(mark[begun:])
        return self._beyond[mark, begun]

    def _found(self, mark: bytes) -> list[int]:
        return [token for token, text in enumerate(self._texts) if mark in text and not text.endswith(mark)]

    def _longer(self, rest: bytes) -> list[int]:
        position = bisect_left(self._sorted, (rest, 0))
        tokens = []
        while position < len(self._sorted) and self._sorted[position][0].startswith(rest):
            text, token = self._sorted[position]
            if len(text) > len(rest):
                tokens.append(token)
            position += 1
        return tokens


def among(tokens: list[int], width: int) -> mx.array:
    """For each id below `width` (width,), whether it is one of these tokens."""
    ids: Any = mx.arange(width)
    found: mx.array = (ids[:, None] == mx.array(tokens)).any(axis=1)
    return found


def following(matcher: llguidance.LLMatcher, eos: list[int], width: int) -> mx.array:
    """For each id below `width` (width,), whether the grammar allows it."""
    if matcher.is_stopped():
        # The grammar is complete, or the matcher has failed.
        return among(eos, width)
    flags: Any = memoryview(matcher.compute_logit_bias())  # a byte per token
    bias = mx.array(flags) > 0
    return mx.pad(bias, (0, width - bias.size)) if bias.size < width else bias[:width]
