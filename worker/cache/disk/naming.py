"""The names of cached prompts on disk: hashes over a model's fingerprint and all tokens. No caches, no files.

A name says nothing about the text. Two chats that begin alike have the same names, so they share files.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence

# Tokens of one file of a cache that can be shortened. mlx-lm's caches grow by as many.
BLOCK = 256

SUFFIX = ".safetensors"
_NAME_BYTES = 20

# Tokens of a tail that its name depends on.
_TAIL_BEGINS = 16


class Namer:
    """Names the beginnings of one sequence of tokens, shortest first. Mutable state: how far it has read."""

    def __init__(self, fingerprint: bytes) -> None:
        self._hash = hashlib.blake2b(fingerprint, digest_size=_NAME_BYTES)
        self._read = 0

    def name(self, tokens: Sequence[int], end: int) -> str:
        """Of the first `end` tokens, no fewer than the last time. tokens: go on as they began."""
        self._hash.update(array("I", tokens[self._read : end]).tobytes())
        self._read = end
        return self._hash.hexdigest()


def block_file(name: str, *, is_quantised: bool) -> str:
    """The file of a block. The same tokens have one of each kind where caches are quantised from some length on."""
    return f"{name}-q{SUFFIX}" if is_quantised else f"{name}{SUFFIX}"


def tail_file(name: str, behind: Sequence[int]) -> str | None:
    """The file of the tokens after a sequence's last complete block; None where they are too few. name: of those
    before; behind: those, or more. Sequences that part within the first few have files of their own."""
    if len(behind) < _TAIL_BEGINS:
        return None
    first = array("I", behind[:_TAIL_BEGINS]).tobytes()
    return f"{hashlib.blake2b(name.encode() + first, digest_size=_NAME_BYTES).hexdigest()}-t{SUFFIX}"


def checkpoint_file(name: str, tokens: int) -> str:
    """The file of a whole cache."""
    return f"{name}-{tokens}{SUFFIX}"


def checkpoint_length(file: str) -> int | None:
    """How many tokens the whole cache in this file holds; None for any other file."""
    _, dash, rest = file.removesuffix(SUFFIX).partition("-")
    return int(rest) if dash and rest.isdecimal() and file.endswith(SUFFIX) else None


def checkpoint_files(fingerprint: bytes, tokens: Sequence[int], lengths: Iterable[int]) -> list[tuple[int, str]]:
    """(length, file) of the beginnings of `tokens` with these lengths, the longest first."""
    namer = Namer(fingerprint)
    usable = sorted(length for length in set(lengths) if 0 < length <= len(tokens))
    found = [(length, checkpoint_file(namer.name(tokens, length), length)) for length in usable]
    return found[::-1]
