"""A turn of one server under the same clients as its rivals, and what is kept of its turns.

Knows which requests, how many clients and which texts; not which tables they belong to.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import median, quantiles
from typing import Any

from bench.client import Answer, prepared_stream, stream
from bench.servers import Server


@dataclass(slots=True)
class Cell:
    """One server at one number of streams. rates: tokens per second of each turn; firsts: the median time to the
    first token of each; times in milliseconds; cpu: seconds by role."""

    rates: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    cpu: dict[str, float] = field(default_factory=dict)

    def take_cpu(self, before: dict[str, float], after: dict[str, float]) -> None:
        """What the server's processes have used during a turn."""
        for role, total in after.items():
            self.cpu[role] = self.cpu.get(role, 0.0) + total - before.get(role, 0.0)

    def ended(self, tokens: int, seconds: float, ttft: list[float]) -> None:
        """A turn of so many tokens has ended."""
        self.tokens += tokens
        self.rates.append(tokens / seconds)
        self.ttft += ttft
        self.firsts.append(median(ttft))

    def ours_to_this(self, ours: "Cell") -> dict[str, Any]:
        """Ratios of the turns of this project's cell to those of this one."""
        of_firsts = median(our / its for our, its in zip(ours.firsts, self.firsts, strict=True))
        return {**ratios(ours.rates, self.rates), "ttft_to_this": of_firsts}

    def summary(self) -> dict[str, Any]:
        cpu = {role: seconds / self.tokens * 1000 for role, seconds in self.cpu.items()}
        return {
            "tokens_per_second": median(self.rates),
            "ttft_ms": _percentiles(self.ttft),
            "gap_ms": _percentiles(self.gaps),
            "cpu_seconds_per_1000_tokens": cpu,
            "cpu_outside_worker": sum(seconds for role, seconds in cpu.items() if role != "worker"),
        }


# The key of a lowest and a highest value.
_RANGE = "ours_to_this_range"

# The requests of each client in order: (model, content).
Plan = list[list[tuple[str, str]]]
Texts = dict[tuple[str, str], str]


def plan(models: list[str], clients: int, repeats: int, turn: str) -> Plan:
    """Models take turns. No content occurs twice, because servers cache prompts."""
    return [
        [(models[client % len(models)], f"Hello {clients}, {turn}, {client}, {repeat}") for repeat in range(repeats)]
        for client in range(clients)
    ]


async def alone(server: Server, plans: Plan, tokens: int) -> Texts:
    """The texts of this server for each request, sent one at a time."""
    texts = {}
    for model, content in chain.from_iterable(plans):
        (answer,) = await _ask_all(server, [(model, content)], tokens)
        texts[model, content] = answer.events().text
    return texts


async def turn(
    server: Server, plans: Plan, tokens: int, texts: Texts, cell: Cell, *, is_connected: bool = False
) -> None:
    """All clients at once, each sends its requests one by one. is_connected: connect before the clock starts."""

    work: Iterable[Coroutine[Any, Any, list[Answer]]] = (_ask_all(server, asks, tokens) for asks in plans)
    if is_connected:
        work = [_send_all([await prepared_stream(*_addressed(server, ask), tokens) for ask in asks]) for asks in plans]
    before = server.cpu()
    began = time.monotonic()
    clients = await asyncio.gather(*work)
    seconds = time.monotonic() - began
    cell.take_cpu(before, server.cpu())
    count, firsts = 0, []
    for asked, answer in zip(chain.from_iterable(plans), chain.from_iterable(clients), strict=True):
        events = answer.events()
        assert events.is_done
        assert events.error is None, events.error
        assert events.text == texts[asked], f"{server.name}: {events.text!r} is not {texts[asked]!r}"
        count += events.usage["completion_tokens"]
        firsts.append((events.times[0] - answer.sent_at) * 1000)
        cell.gaps += [gap * 1000 for gap in events.gaps]
    cell.ended(count, seconds, firsts)


async def _ask_all(server: Server, asks: list[tuple[str, str]], tokens: int) -> list[Answer]:
    return [await (await stream(*_addressed(server, ask), tokens)).ended() for ask in asks]


async def _send_all(answers: list[Answer]) -> list[Answer]:
    return [await answer.send().ended() for answer in answers]


def _addressed(server: Server, ask: tuple[str, str]) -> tuple[int, str, str]:
    """Port, this server's name of the model, content."""
    model, content = ask
    return server.port, server.prefix + model, content


def ratios(our_rates: list[float], its_rates: list[float]) -> dict[str, Any]:
    """Median, lowest and highest ratio of the turns: a wide spread proves nothing."""
    of_turns = [our / its for our, its in zip(our_rates, its_rates, strict=True)]
    return {"ours_to_this": median(of_turns), _RANGE: (min(of_turns), max(of_turns))}


def of_runs(runs: Sequence[Any]) -> Any:
    """The median of each figure over the runs that have it, the first among them; of ranges the widest."""
    first = runs[0]
    if isinstance(first, dict):
        return {
            key: _widest(runs) if key == _RANGE else of_runs([run[key] for run in runs if key in run]) for key in first
        }
    if isinstance(first, list | tuple):
        return [median(values) for values in zip(*runs, strict=True)]
    return median(runs)


def _widest(runs: Sequence[Any]) -> list[float]:
    lows, highs = zip(*(run[_RANGE] for run in runs), strict=True)
    return [min(lows), max(highs)]


def _percentiles(values: list[float]) -> tuple[float, float]:
    """50 and 99."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]
