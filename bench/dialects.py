"""Measures what a dialect costs: `python -m bench.dialects [--pairs N] [NAME ...]`.

The same tiny model answers the same prompts through `/v1/chat/completions` and through each other dialect, in turns
that follow each other, so that a drift of the machine affects both. tokens/s at 1, 8 and 32 streams, and the time to
the first text at one stream. Every text of a turn is compared with the chat's. Prints ratios and differences of the
pairs as median and quartiles, writes bench/results/dialects.json; see docs/benchmarks.md.
"""

import argparse
import asyncio
import bisect
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, NamedTuple

import uvloop

from bench.calm import wait_until_calm
from bench.client import Answer, send
from bench.models import bench_models
from bench.results import save
from bench.servers import Server, ours
from tests.isolation.speakers import CHAT, SPEAKERS, Heard, Speaker


class Load(NamedTuple):
    """So many streams, requests of each and tokens of each answer."""

    streams: int
    repeats: int
    tokens: int = 128


# At one stream also the time to the first text.
_LOADS = (Load(1, 12), Load(8, 8), Load(32, 6))
_FIRST = Load(1, 24, 2)


@dataclass(slots=True)
class Turn:
    """rate: tokens per second; first: milliseconds to each first text; texts: by prompt."""

    rate: float
    first: list[float]
    texts: dict[str, str]


async def turn(server: Server, speaker: Speaker, load: Load, name: str) -> Turn:
    """All streams at once, each sends its requests one by one. No prompt comes twice with the same name."""
    streams, repeats, tokens = load
    prompts = [[f"Hello {name}, {stream}, {repeat}" for repeat in range(repeats)] for stream in range(streams)]
    began = time.monotonic()
    clients = await asyncio.gather(*(_ask_all(server, speaker, asked, tokens) for asked in prompts))
    seconds = time.monotonic() - began
    first, texts = [], {}
    for asked, answers in zip(prompts, clients, strict=True):
        for prompt, answer in zip(asked, answers, strict=True):
            texts[prompt], at = _read(speaker, answer)
            first.append((at - answer.sent_at) * 1000)
    return Turn(tokens * len(texts) / seconds, first, texts)


async def _ask_all(server: Server, speaker: Speaker, prompts: Sequence[str], tokens: int) -> list[Answer]:
    answers = []
    for prompt in prompts:
        answer = await send(server.port, "POST", speaker.path, speaker.body("one", prompt, tokens))
        answers.append(await answer.ended())
    return answers


def _read(speaker: Speaker, answer: Answer) -> tuple[str, float]:
    """The text, and when its first piece was there."""
    assert answer.status == 200, answer.raw
    ends, total = [], 0
    for piece in answer.pieces:
        total += len(piece)
        ends.append(total)
    heard, place, first = Heard(), 0, None
    for line in answer.raw.split(b"\n"):
        place += len(line) + 1
        said = line.strip()
        if said.startswith((b"data:", b"event:", b"{")):
            speaker.hear(said.decode(), heard)
        if heard.text and first is None:
            first = answer.times[bisect.bisect_left(ends, place - 1)]
    assert heard.is_ended, answer.raw[-300:]
    assert heard.error is None, heard.error
    assert first is not None
    return heard.text, first


async def pair(server: Server, speaker: Speaker, load: Load, number: int) -> tuple[float, float]:
    """(rate of the dialect / rate of chat, first text of the dialect - of chat in milliseconds): medians of a turn."""
    order = (CHAT, speaker) if number % 2 else (speaker, CHAT)
    turns: dict[str, Turn] = {}
    for one in order:
        # Other prompts, equally long: a prompt that comes twice is in the prompt cache.
        turns[one.name] = await turn(server, one, load, f"{load.streams} {number} {len(turns)}")
    firsts: list[tuple[str, float]] = []
    for one in order:
        alone = await turn(server, one, _FIRST, f"first {load.streams} {number} {len(firsts)}")
        firsts.append((one.name, median(alone.first)))
    first = dict(firsts)
    return turns[speaker.name].rate / turns[CHAT.name].rate, first[speaker.name] - first[CHAT.name]


async def same_texts(server: Server, speakers: Sequence[Speaker]) -> None:
    """Each dialect gives the text that chat gives."""
    said = [(await turn(server, one, Load(1, 2), "the same")).texts for one in (CHAT, *speakers)]
    assert all(texts == said[0] for texts in said), said


async def measure(server: Server, speakers: Sequence[Speaker], pairs: int) -> dict[str, Any]:
    """Figures by dialect and number of streams."""
    await same_texts(server, speakers)
    figures: dict[str, Any] = {}
    for speaker in speakers:
        for load in _LOADS:
            done = [await pair(server, speaker, load, number) for number in range(pairs)]
            ratios, differences = zip(*done, strict=True)
            name = f"{speaker.name} {load.streams}"
            figures[name] = {"ratio": _spread(ratios), "first_ms": _spread(differences)}
            print(f"{name:12}", _said(ratios, 3), "first text", _said(differences, 3), "ms")
    return figures


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, _middle, high = quantiles(values, n=4)
    return {"median": median(values), "low": low, "high": high}


def _said(values: Sequence[float], digits: int) -> str:
    spread = _spread(values)
    return f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f} to {spread['high']:.{digits}f})"


async def _main(names: Sequence[str], pairs: int) -> None:
    speakers = [one for one in SPEAKERS if one is not CHAT and (not names or one.name in names)]
    with bench_models("one", with_smol=False) as models, ours(models) as server:
        wait_until_calm()
        print(save("dialects", await measure(server, speakers, pairs)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("names", nargs="*", metavar="NAME", help="dialects, all if none is named")
    arguments = parser.parse_args()
    sys.exit(uvloop.run(_main(arguments.names, arguments.pairs)))
