"""The tokenizer called `smollm`, written down once more, slowly and from its rules, to compare with."""

from itertools import pairwise

import regex

_PIECES = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def byte_alphabet() -> list[str]:
    """The character that stands for each byte: itself where it prints, else the next free one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    free = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(free)) for byte in range(256)]


def encode(text: str, tokens: list[str], merges: list[str]) -> list[int]:
    """Token ids of plain text. Bytes that the vocabulary lacks vanish."""
    ids = {token: index for index, token in enumerate(tokens)}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    alphabet = byte_alphabet()
    found: list[int] = []
    for part in regex.split(r"(\p{N})", text):
        for piece in _PIECES.findall(part):
            symbols = [alphabet[byte] for byte in piece.encode()]
            symbols = [symbol for symbol in symbols if symbol in ids]
            found += [ids[symbol] for symbol in _merged(symbols, ranks)]
    return found


def _merged(symbols: list[str], ranks: dict[tuple[str, ...], int]) -> list[str]:
    while True:
        pairs = [(ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not pairs:
            return symbols
        at = min(pairs)[1]
        symbols = [*symbols[:at], symbols[at] + symbols[at + 1], *symbols[at + 2 :]]
