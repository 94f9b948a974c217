"""Token ids to the text that a client may see, one token at a time, for one request.

Text is held back while it ends in part of a character or may be the beginning of a stop string; a stop string and the
text after it are never sent. Knows nothing of batches and models.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mlx_lm.generate import TextStateMachine
from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer

_REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """What mlx-lm's streaming detokenizers do."""

    def add_token(self, token: int, /) -> None:
        """Take one token id."""

    def finalize(self) -> None:
        """Release text that is held back for more tokens."""

    @property
    def last_segment(self) -> str:
        """The text since the last call."""


class WindowDetokenizer:
    """For tokenizers for which mlx-lm has only its general detokenizer, which decodes the whole line for every token.

    Decodes a window of a few tokens with and without the new ones; the difference is the new text.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        """before: tokens that precede the text and are not part of it."""
        self._decode = decode
        # The text of tokens[:shown] has been given; they are kept because they may change how the next ones decode.
        self._tokens: list[int] = list(before)
        self._shown = len(before)
        self._segment = ""

    def add_token(self, token: int) -> None:
        self._tokens.append(token)
        self._advance(final=False)

    def finalize(self) -> None:
        self._advance(final=True)

    @property
    def last_segment(self) -> str:
        segment, self._segment = self._segment, ""
        return segment

    def _advance(self, *, final: bool) -> None:
        text = self._decode(self._tokens)
        if text.endswith(_REPLACEMENT) and not final and len(self._tokens) - self._shown < _LONGEST_HOLD:
            return
        self._segment += text[len(self._decode(self._tokens[: self._shown])) :]
        self._tokens = self._tokens[self._shown :]
        self._shown = len(self._tokens)


# Tokens. A character takes at most four bytes: an incomplete one of this length never becomes complete.
_LONGEST_HOLD = 8


# Any text will do: detokenizers drop a space at the very beginning.
_BEFORE = "a"


def make_detokenizer(tokenizer: Any, *, continues: bool = False) -> Detokenizer:
    """A fresh detokenizer for one request; `tokenizer` is mlx-lm's TokenizerWrapper. continues: the text
    continues a prompt, so a space at its beginning counts."""
    # The wrapper builds one prototype while loading, which can take 50 ms, and returns copies.
    detokenizer = tokenizer.detokenizer
    if isinstance(detokenizer, NaiveStreamingDetokenizer):
        before = tokenizer.encode(_BEFORE, add_special_tokens=False) if continues else ()
        return WindowDetokenizer(tokenizer.decode, before)
    if continues:
        detokenizer.text, detokenizer.offset = _BEFORE, len(_BEFORE)
    streaming: Detokenizer = detokenizer
    return streaming


# No stop string is empty.
_GOES_ON = ""


class TextStream:
    """The text of one request. `stop_string`: the one that is complete, so that no more text will come."""

    def __init__(self, detokenizer: Detokenizer, stop: list[str]) -> None:
        self.stop_string: str | None = None
        self._detokenizer = detokenizer
        # Each stop string is a state of its own, from which nothing leads on.
        self._stops: Any = None
        if stop:
            ends: dict[str, list[tuple[str, str]]] = {text: [] for text in stop}
            self._stops = TextStateMachine({_GOES_ON: [(text, text) for text in ends], **ends}).make_state(_GOES_ON)

    @property
    def held(self) -> int:
        """Characters that are held back because they may be the beginning of a stop string."""
        return 0 if self._stops is None or self.stop_string is not None else len(self._stops[3])

    def push(self, token: int) -> str:
        """Take one token; the text that is certain by now, often empty."""
        self._detokenizer.add_token(token)
        return self._before_stop(self._detokenizer.last_segment)

    def finish(self) -> str:
        """The rest: no more tokens will come."""
        self._detokenizer.finalize()
        text = self._before_stop(self._detokenizer.last_segment)
        if self._stops is not None and self.stop_string is None:
            _, held, _ = TextStateMachine.flush(self._stops)
            text += held
        return text

    def _before_stop(self, text: str) -> str:
        if self._stops is None or not text:
            return text
        if self.stop_string is not None:
            return ""
        self._stops, segments = TextStateMachine.split(self._stops, text)
        if len(segments) > 1:
            self.stop_string = segments[1][0]
        return str(segments[0][1])
