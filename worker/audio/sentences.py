"""Cuts a text into pieces that are spoken one after the other. Pure.

A piece is a sentence, or several where sentences are short; one that is too long is cut between clauses or words.
"""

import re

# Shorter sentences are spoken together with the next: models stumble over a word alone, and `Mr.` ends none.
_LEAST = 20

# Ends of sentences and of clauses, in Latin and in Chinese and Japanese writing, with the quotation marks that follow.
_END = re.compile("[.!?\u2026]+[\"')\\]\u201d\u2019]*(?=\\s)|[\u3002\uff01\uff1f]+[\u201d\u2019\u300d\u300f\uff09]*|\n")
_CLAUSE = re.compile("[,;:\u2013\u2014](?=\\s)|[\u3001\uff0c\uff1b\uff1a]")

# Dialogues say who speaks: the tag belongs to every piece until the next.
_TAG = re.compile(r"\[S\d+\]")


def pieces_of(text: str, most: int) -> list[str]:
    """In order, each of at most `most` characters and what tags of speakers add; together they are the whole text,
    whitespace aside."""
    text = text.strip()
    pieces: list[str] = []
    tag, start = "", 0
    while start < len(text):
        end = start + _length(text[start : start + most + 1], most)
        piece = text[start:end].strip()
        start = end
        if not piece:
            continue
        begins = _TAG.match(piece)
        pieces.append(piece if begins or not tag else f"{tag} {piece}")
        tag = (_TAG.findall(piece) or [tag])[-1]
    return pieces


def _length(window: str, most: int) -> int:
    """Of the piece at the beginning. window: what it can be at most, and a character more, which shows whether a
    sentence ends there."""
    for found in _END.finditer(window):
        if _LEAST <= found.end() <= most:
            return found.end()
    if len(window) <= most:
        return len(window)
    clauses = [found.end() for found in _CLAUSE.finditer(window) if _LEAST <= found.end() <= most]
    if clauses:
        return clauses[-1]
    spaces = [found.start() for found in re.finditer(r"\s", window) if found.start() > 0]
    return spaces[-1] if spaces else most
