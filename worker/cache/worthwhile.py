"""Which prefixes are worth a copy of a cache. Pure: no caches, no model."""

from collections.abc import Iterable

from worker.cache.prefix_index import common_length, key_of

# Tokens. Prefill of fewer takes less time than a copy of a cache.
WORTHWHILE = 32


def worthwhile(points: list[tuple[int, str]], known: int) -> dict[int, str]:
    """The checkpoints of a prompt that save enough over the one before. points: (tokens, kind), ascending; known:
    tokens of the prompt that are cached already."""
    kept: dict[int, str] = {}
    for count, kind in points:
        if count >= known + WORTHWHILE:
            kept[count] = kind
            known = count
    return kept


def longest_common(held: Iterable[tuple[int, list[int]]], tokens: list[int], known: int) -> tuple[int, int] | None:
    """(uid, length) of the sequence that shares the longest prefix with `tokens`; None if no copy is worthwhile. known:
    tokens that are cached already."""
    found, most = None, known + WORTHWHILE - 1
    for uid, others in held:
        end = slice(most, most + 1)
        if tokens[end] and others[end] == tokens[end] and others[:most] == tokens[:most]:
            most = common_length(key_of(others), key_of(tokens))
            found = uid, most
    return found
