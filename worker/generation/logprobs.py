"""Log-probabilities of tokens, as the wire has them. Only for requests that ask: reading them waits for the device."""

from typing import Any

import mlx.core as mx
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer

# OpenAI's value for the logarithm of zero, for which JSON has no number.
_LEAST = -9999.0


# Byte-level vocabularies write a byte that is not a printable character of Latin-1 as a character from 256 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(_OTHERS)}


class TokenTexts:
    """Token ids as text and bytes. Caches them, because models repeat tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._is_byte_level = isinstance(tokenizer.detokenizer, BPEStreamingDetokenizer)
        self._known: dict[int, tuple[str, bytes]] = {}

    def entry(self, token: int, logprob: float) -> dict[str, Any]:
        """`{token, bytes, logprob}`; in a token that is only part of a character, `token` has a replacement
        character."""
        text, data = self._known.get(token) or self._learn(token)
        return {"token": text, "bytes": data, "logprob": max(logprob, _LEAST)}

    def _learn(self, token: int) -> tuple[str, bytes]:
        text = self._tokenizer.decode([token])
        data = text.encode()
        if "\ufffd" in text:
            piece = self._tokenizer.convert_ids_to_tokens(token)
            data = self._bytes(piece, data)
        self._known[token] = text, data
        return text, data

    def _bytes(self, piece: str | None, otherwise: bytes) -> bytes:
        if piece is None:
            return otherwise
        if len(piece) == 6 and piece.startswith("<0x"):  # a byte in a vocabulary with byte fallback
            return bytes([int(piece[3:5], 16)])
        if self._is_byte_level and all(char in _BYTE_OF for char in piece):
            return bytes(_BYTE_OF[char] for char in piece)
        return otherwise


def token_logprobs(row: mx.array, token: int, top: int, texts: TokenTexts) -> dict[str, Any]:
    """The wire's entry for one token. row: log-probabilities (vocabulary,); top: how many alternatives to add."""
    logprob: Any = row[token].item()
    entry = texts.entry(token, logprob)
    entry["top"] = []
    top = min(top, row.shape[-1])
    if top:
        likeliest = mx.argpartition(-row, kth=top - 1)[:top]
        ids: Any = likeliest.tolist()
        values: Any = row[likeliest].tolist()
        ranked = sorted(zip(ids, values, strict=True), key=lambda pair: (-pair[1], pair[0]))
        entry["top"] = [texts.entry(*pair) for pair in ranked]
    return entry
