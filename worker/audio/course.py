"""Where a transcript by Whisper is: what its next window depends on, and its random numbers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any
from zlib import crc32

import mlx.core as mx

from broker.wire.work import Transcribe
from worker.sound.resampling import Samples


@dataclass(slots=True)
class Course:
    """Where a request is. Mutable state: the next frame; all tokens so far, with those of the prompt, and the number of
    the first that leads the next window; how many segments there are; whether the last window ends within a segment;
    the end of the last word; the text that has been told, and how many tokens it and the prompt have; the state of its
    random numbers; how many tokens the prompt has."""

    seed: int
    tokenizer: Any = None
    seek: int = 0
    tokens: list[int] = field(default_factory=list)
    leads_from: int = 0
    segments: int = 0
    is_cut: bool = False
    last_word_end: float = 0.0
    told: str = ""
    told_tokens: int = 0
    prompt: int = 0

    @property
    def text(self) -> str:
        """Of all tokens but those of the prompt."""
        return str(self.tokenizer.decode(self.tokens[self.prompt :]))

    def place(self, leading: int) -> dict[str, Any]:
        """What another process needs to go on. leading: how many tokens lead a window at most. Tokens that are told and
        lead nothing stay here."""
        first = min(max(self.leads_from, len(self.tokens) - leading), self.told_tokens)
        return {
            "seek": self.seek,
            "seed": self.seed,
            "tokens": self.tokens[first:],
            "leads_from": max(0, self.leads_from - first),
            "told_tokens": self.told_tokens - first,
            "segments": self.segments,
            "last_word_end": self.last_word_end,
        }

    def go_on(self, place: dict[str, Any]) -> None:
        """Stand where another process has stood."""
        self.seek, self.seed, self.tokens = place["seek"], place["seed"], list(place["tokens"])
        self.segments, self.last_word_end = place["segments"], place["last_word_end"]
        self.leads_from, self.told_tokens = place["leads_from"], place["told_tokens"]
        self.told = str(self.tokenizer.decode(self.tokens[: self.told_tokens]))

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Inside, random numbers are those of this request alone, whoever else draws between its windows."""
        mx.random.seed(self.seed)
        yield
        state: Any = mx.random.state
        high, low = state[0].tolist()
        self.seed = high << 32 | low


def seed_of(asked: Transcribe, samples: Iterable[Samples]) -> int:
    """Of the random numbers of a request. The same sound and fields give the same ones: a request that another process
    takes over gets the same text."""
    return reduce(next_seed, samples, crc32(repr((asked.prompt, asked.temperature, asked.translate)).encode()))


def next_seed(seed: int, samples: Samples) -> int:
    """With the next samples of a file."""
    return crc32(samples.tobytes(), seed)


def rest_of(whole: str, told: str) -> str:
    """What of a text has not been told. A tokenizer may join words otherwise once it knows the next ones: then from
    where they begin to differ."""
    same = next((number for number, pair in enumerate(zip(whole, told, strict=False)) if pair[0] != pair[1]), len(told))
    return whole[same:]
