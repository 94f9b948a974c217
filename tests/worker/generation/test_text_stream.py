"""Text from tokens, for every kind of tokenizer, without a model."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    NaiveStreamingDetokenizer,
    SPMStreamingDetokenizer,
    TokenizerWrapper,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.timing import cpu_seconds
from worker.generation.text_stream import TextStream, WindowDetokenizer, make_detokenizer

TEXTS = [
    "The capital of France is Paris.\n\nNext line, with  two spaces.",
    "Grüße aus Köln: 10 € für 2 ½ Maß",
    "日本語のテキスト、そして 中文 한국어",
    "family 👩‍👩‍👧‍👦 flag 🇫🇷 thumbs 👍🏽 end",
    "e\u0301 combining, \u202eright to left\u202c, שלום",
]


def _byte_level(decoder: Any) -> PreTrainedTokenizerFast:
    """A token per byte: every character above ASCII is split."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _byte_fallback(*, strips: bool = False) -> PreTrainedTokenizerFast:
    """As SentencePiece has it: letters and `▁`, and bytes for everything else. strips: drops a space at the beginning
    of a text, as Llama 2's does."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    strip = [decoders.Strip(" ", left=1)] if strips else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _wrapped(tokenizer: PreTrainedTokenizerFast, detokenizer: Any) -> Any:
    return TokenizerWrapper(tokenizer, detokenizer)


BYTE_LEVEL = _wrapped(_byte_level(decoders.ByteLevel()), BPEStreamingDetokenizer)
BYTE_FALLBACK = _wrapped(_byte_fallback(), lambda t: SPMStreamingDetokenizer(t, trim_space=False))
UNKNOWN = _wrapped(_byte_level(decoders.Sequence([decoders.ByteLevel()])), NaiveStreamingDetokenizer)
UNKNOWN_FALLBACK = _wrapped(_byte_fallback(), NaiveStreamingDetokenizer)
STRIPPING = _wrapped(_byte_fallback(strips=True), SPMStreamingDetokenizer)
UNKNOWN_STRIPPING = _wrapped(_byte_fallback(strips=True), NaiveStreamingDetokenizer)
TOKENIZERS = {
    "byte level": BYTE_LEVEL,
    "byte fallback": BYTE_FALLBACK,
    "unknown": UNKNOWN,
    "unknown, byte fallback": UNKNOWN_FALLBACK,
    "stripping": STRIPPING,
    "unknown, stripping": UNKNOWN_STRIPPING,
}


class Typed:
    """A detokenizer that gives these pieces, one for each token."""

    def __init__(self, pieces: list[str]) -> None:
        self._left = [*pieces, ""]
        self.last_segment = ""

    def add_token(self, _token: int) -> None:
        self.last_segment = self._left.pop(0)

    def finalize(self) -> None:
        self.last_segment = ""


every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


def _stream(tokenizer: Any, text: str, stop: list[str], *, continues: bool = False) -> tuple[list[str], bool]:
    stream = TextStream(make_detokenizer(tokenizer, continues=continues), stop)
    pieces = []
    for token in tokenizer.encode(text, add_special_tokens=False):
        pieces.append(stream.push(token))
        if stream.stop_string is not None:
            break
    pieces.append(stream.finish())
    return pieces, stream.stop_string is not None


def _cut_at_first_stop(text: str, stop: list[str]) -> str:
    """What a client may see, decided slowly: the first stop string to be complete counts, the longest if several."""
    for end in range(len(text) + 1):
        for candidate in sorted(stop, key=len, reverse=True):
            if text[:end].endswith(candidate):
                return text[: end - len(candidate)]
    return text


@every_tokenizer
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_join_to_the_text(tokenizer: Any, text: str) -> None:
    pieces, stopped = _stream(tokenizer, text, [])
    assert "".join(pieces) == text
    assert not stopped
    assert not any("\ufffd" in piece for piece in pieces)


# mlx-lm reads byte 0 of a byte-level vocabulary as its stand-in `Ā`, and SentencePiece's `▁` is a space.
TEXT = st.characters(exclude_categories=["Cs"], exclude_characters="\x00▁")


@every_tokenizer
@settings(max_examples=60)
@given(text=st.text(TEXT, min_size=1, max_size=60))
def test_any_text(tokenizer: Any, text: str) -> None:
    text = "." + text  # mlx-lm drops a space at the very beginning
    assert "".join(_stream(tokenizer, text, [])[0]) == text


@every_tokenizer
@settings(max_examples=60)
@given(spaces=st.sampled_from(["", " ", "  ", "\n ", " \n"]), text=st.text(TEXT, max_size=20))
def test_what_continues_a_prompt_keeps_its_first_space(tokenizer: Any, spaces: str, text: str) -> None:
    text = spaces + text
    assert "".join(_stream(tokenizer, text, [], continues=True)[0]) == text
    answer = "".join(_stream(tokenizer, text, [])[0])  # for which mlx-lm drops it
    assert answer.lstrip(" ") == text.lstrip(" ")


@every_tokenizer
@settings(max_examples=100)
@given(
    text=st.text("ab€ ", max_size=30), stop=st.lists(st.text("ab€ ", min_size=1, max_size=4), min_size=1, max_size=3)
)
def test_stop_strings_never_leak(tokenizer: Any, text: str, stop: list[str]) -> None:
    text = "." + text
    expected = _cut_at_first_stop(text, stop)
    pieces, stopped = _stream(tokenizer, text, stop)
    assert "".join(pieces) == expected
    assert stopped == (expected != text)


@pytest.mark.parametrize(
    ("pieces", "stop", "text", "found"),
    [
        (["ab", "cE", "NDxyz", "more"], ["END", "xyz"], "abc", "END"),
        (["ab", "cE", "NDxyz", "more"], ["END", "EN"], "abc", "EN"),
        (["a normal", " text"], ["tool", "normal"], "a ", "normal"),
        (["abc"], ["END", "c"], "ab", "c"),
        (["abc", "E"], ["END"], "abcE", None),
        (["abc"], [], "abc", None),
    ],
)
def test_the_stop_string_that_ended_the_text_is_named(
    pieces: list[str], stop: list[str], text: str, found: str | None
) -> None:
    stream = TextStream(Typed(pieces), stop)
    assert "".join([*(stream.push(0) for _ in pieces), stream.finish()]) == text
    assert stream.stop_string == found


@every_tokenizer
def test_text_that_only_begins_like_a_stop_string_is_let_go(tokenizer: Any) -> None:
    pieces, stopped = _stream(tokenizer, "so </stx then </st", ["</stop>"])
    assert "".join(pieces) == "so </stx then </st"
    # Held while it could still become the stop string, and not longer.
    assert "".join(pieces[: len("so </st")]) == "so "
    assert "".join(pieces[: len("so </stx")]) == "so </stx"
    assert not stopped


def test_bytes_that_are_no_text_are_let_go_in_the_end() -> None:
    ids = BYTE_LEVEL.encode("€", add_special_tokens=False)[:2]
    stream = TextStream(make_detokenizer(BYTE_LEVEL), [])
    assert [stream.push(token) for token in ids] == ["", ""]
    assert stream.finish() == "\ufffd"


def test_a_window_does_not_wait_for_ever() -> None:
    lone = BYTE_LEVEL.encode("€", add_special_tokens=False)[0]
    window = WindowDetokenizer(UNKNOWN.decode)
    for _ in range(100):
        window.add_token(lone)
    assert len(window.last_segment) > 80


def test_a_tokenizer_of_a_real_folder_is_recognised(tiny_model: Path) -> None:
    from mlx_lm.utils import load_tokenizer

    assert isinstance(make_detokenizer(load_tokenizer(tiny_model)), BPEStreamingDetokenizer)
    assert isinstance(make_detokenizer(UNKNOWN), WindowDetokenizer)


@every_tokenizer
def test_a_long_line_costs_as_much_per_token_as_a_short_one(tokenizer: Any) -> None:
    ids = tokenizer.encode("a long line of text without an end ", add_special_tokens=False) * 1000

    def microseconds_per_token(tokens: list[int]) -> float:
        stream = TextStream(make_detokenizer(tokenizer), ["never"])

        def push() -> None:
            for token in tokens:
                stream.push(token)

        return cpu_seconds(push) / len(tokens) * 1e6

    # Ten times as long: a quadratic one costs ten times as much per token. Both in turns, so that each has its quiet
    # moments.
    short, long = zip(
        *([microseconds_per_token(ids[:length]) for length in (1200, 12_000)] for _ in range(4)), strict=True
    )
    assert min(long) < 3 * min(short)
