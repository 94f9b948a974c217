"""Reads a streamed chat that was kept as pieces and times: when its texts came and how many tokens they were. Pure.

While an answer arrives, nothing is parsed: the cost of this stays out of what is measured.
"""

import bisect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_DATA = re.compile(rb"^data: (\{.*\})\r?$", flags=re.MULTILINE)
_TEXTS = ("content", "reasoning_content", "reasoning")


@dataclass(slots=True, frozen=True)
class TimedAnswer:
    """Seconds of one clock. times: of each event with text. error: the message of a failure inside the stream."""

    sent_at: float
    ended_at: float
    times: tuple[float, ...]
    prompt_tokens: int
    tokens: int
    error: str | None = None

    @property
    def ttft(self) -> float | None:
        """Seconds until the first token: until the first text, or the end of an answer that ends with its first token
        and has no text."""
        if self.times:
            return self.times[0] - self.sent_at
        return self.ended_at - self.sent_at if self.error is None and self.prompt_tokens and self.tokens <= 1 else None

    @property
    def tokens_per_second(self) -> float | None:
        """Of decode alone: the tokens after the first, by the time that they took."""
        if self.tokens < 2 or not self.times or self.times[-1] <= self.times[0]:
            return None
        return (self.tokens - 1) / (self.times[-1] - self.times[0])

    def gaps(self, begin: float, end: float) -> list[float]:
        """Seconds between one text and the next, of those that overlap this time."""
        return [later - earlier for earlier, later in pairwise(self.times) if later > begin and earlier < end]


def read_stream(sent_at: float, pieces: Sequence[bytes], times: Sequence[float]) -> TimedAnswer:
    """pieces: the body as it came, each with its time."""
    ends, total = [], 0
    for piece in pieces:
        total += len(piece)
        ends.append(total)
    texts, usage, error = list[float](), dict[str, Any](), None
    for found in _DATA.finditer(b"".join(pieces)):
        event = json.loads(found[1])
        if "error" in event:
            error = str(event["error"].get("message"))
        usage = event.get("usage") or usage
        deltas = [choice.get("delta") or {} for choice in event.get("choices") or ()]
        if any(delta.get(name) for delta in deltas for name in _TEXTS):
            texts.append(times[bisect.bisect_left(ends, found.end())])
    return TimedAnswer(
        sent_at,
        times[-1] if times else sent_at,
        tuple(texts),
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
        error,
    )


@dataclass(slots=True, frozen=True)
class Level:
    """What so many streams at once got. Seconds, and tokens per second: in total with their prompts' time. client_cpu:
    of one core, of the process that measured."""

    streams: int
    requests: int
    tokens: int
    prompt_tokens: float
    ttft_median: float | None
    ttft_p95: float | None
    per_stream: float | None
    in_total: float
    client_cpu: float


def level_of(streams: int, answers: Sequence[TimedAnswer], cpu_seconds: float) -> Level:
    """answers: of one level, at least one."""
    ttfts = [answer.ttft for answer in answers if answer.ttft is not None]
    rates = [answer.tokens_per_second for answer in answers if answer.tokens_per_second is not None]
    seconds = max(max(a.ended_at for a in answers) - min(a.sent_at for a in answers), 1e-9)
    tokens = sum(answer.tokens for answer in answers)
    return Level(
        streams=streams,
        requests=len(answers),
        tokens=tokens,
        prompt_tokens=sum(answer.prompt_tokens for answer in answers) / len(answers),
        ttft_median=quantile(ttfts, 0.5),
        ttft_p95=quantile(ttfts, 0.95),
        per_stream=quantile(rates, 0.5),
        in_total=tokens / seconds,
        client_cpu=cpu_seconds / seconds,
    )


def quantile(values: Sequence[float], part: float) -> float | None:
    """Between the two nearest values; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
