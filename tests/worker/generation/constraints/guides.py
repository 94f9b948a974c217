"""Tokenizers of bytes and of some tags for llguidance, and whether a grammar takes a text."""

import json
from typing import Any

import llguidance
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from worker.generation.constraints.native import grammar_matcher, schema_matcher
from worker.generation.constraints.vocabulary import Vocabulary

END = "<|end|>"


class Guide:
    """Each byte is a token, and so is each tag. special: those that llguidance takes for no text."""

    def __init__(self, *tags: str, special: tuple[str, ...] = (), pieces: tuple[str, ...] = ()) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(tag, special=True, normalized=False) for tag in (END, *special)])
        tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in (*tags, *pieces)])
        self.tokenizer = tokenizer
        self.end = len(alphabet)
        self.llguidance = llguidance.LLTokenizer(tokenizer.to_str(), eos_token=self.end)
        self.vocabulary = Vocabulary(self.llguidance)
        self.size = tokenizer.get_vocab_size()

    def tokens(self, text: str) -> list[int]:
        """Its tokens, with the largest ones."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def takes(self, matcher: llguidance.LLMatcher, text: str) -> bool:
        """Whether the text, and nothing less, is an end of the grammar."""
        matcher.reset()
        tokens = self.tokens(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def lark(self, grammar: str) -> llguidance.LLMatcher:
        return grammar_matcher(self.llguidance, grammar)

    def schema(self, schema: dict[str, Any]) -> llguidance.LLMatcher:
        return schema_matcher(self.llguidance, schema)


def quoted(text: str) -> str:
    """As models write a text in JSON."""
    return json.dumps(text, ensure_ascii=False)
