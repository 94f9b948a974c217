"""One record for each HTTP request, from which the access line and the metrics are made. Pure: moments are arguments.

What handles the request writes it: the route, the model, the outputs, how it ended. Of a token it learns only when it
came. Moments are seconds of a clock that never goes back.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.core.answer import Delta, End, Scores, Vectors
from gateway.core.audio import Spoken, Transcript

OK = "ok"
CLIENT_LEFT = "client_left"

# Seconds between two outputs of a stream: the upper bounds of the classes in which they are counted.
GAP_BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip


@dataclass(slots=True, frozen=True)
class Tokens:
    """Of one request. prompt: cached ones included."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0


@dataclass(slots=True, eq=False)
class Served:
    """One HTTP request.

    asked: the path as it came, without a query. path: that of its route, such as
    `/admin/models/kill/{model_id:path}`, None without a route. is_inference: the route asks a model. model: what the
    client's name stands for, None until it is known. is_known: this machine or its settings have such a model; any
    other name is the client's invention. status: of the response, None before it. outcome: `ok`, `client_left` or the
    code of a failure, None while it runs; a stream that fails has the status 200. first_output, last_output: of a
    stream. uploaded: when its upload had come, None for a request without one. units: of work that it streams. outputs:
    pieces of these so far. is_by_token: nearly each of them is one token; those of audio are not. gaps: between outputs
    that came one after the other, counted by GAP_BOUNDS.
    """

    method: str
    started: float
    asked: str = ""
    path: str | None = None
    is_inference: bool = False
    model: str | None = None
    is_known: bool = False
    status: int | None = None
    outcome: str | None = None
    first_output: float | None = None
    last_output: float = 0.0
    ended: float | None = None
    uploaded: float | None = None
    units: int = 0
    is_by_token: bool = True
    outputs: int = 0
    gaps: list[int] = field(default_factory=list)
    _tokens: dict[int, Tokens] = field(default_factory=dict)
    _has_ended: set[int] = field(default_factory=set)

    @property
    def first_seconds(self) -> float | None:
        """From the request, or from the end of its upload, to the first output of a stream."""
        if self.first_output is None:
            return None
        return self.first_output - (self.started if self.uploaded is None else self.uploaded)

    @property
    def tokens(self) -> Tokens:
        """As far as they are known: in a stream that was cut off, each output that is a token counts."""
        units = self._tokens.values()
        is_known = len(self._has_ended) >= self.units or not self.is_by_token
        if is_known and len(units) == 1:  # nearly always
            return next(iter(units))
        generated = sum(unit.generated for unit in units)
        return Tokens(
            sum(unit.prompt for unit in units),
            sum(unit.cached for unit in units),
            generated if is_known else max(generated, self.outputs),
        )

    def hear(self, now: float, count: int) -> None:
        """So many outputs of a stream have come at once. Called for every token."""
        if self.first_output is None:
            self.first_output = now
            self.gaps = [0] * (len(GAP_BOUNDS) + 1)
        else:
            self.gaps[bisect_left(GAP_BOUNDS, now - self.last_output)] += 1
        if count > 1 and self.units == 1:
            self.gaps[0] += count - 1
        self.last_output = now
        self.outputs += count

    def count(self, items: Iterable[tuple[int, object]]) -> None:
        """The tokens that these outputs name: (number of the unit of work, output)."""
        for unit, output in items:
            if isinstance(output, End):
                self._tokens[unit] = Tokens(output.prompt_tokens, output.cached_tokens, output.completion_tokens)
                self._has_ended.add(unit)
            elif isinstance(output, Delta):
                if output.prompt is not None and unit not in self._has_ended:
                    self._tokens[unit] = Tokens(output.prompt.tokens, output.prompt.cached)
            elif isinstance(output, Spoken):
                self._tokens[unit] = Tokens(output.prompt_tokens, generated=output.completion_tokens)
                self._has_ended.add(unit)
            elif isinstance(output, Transcript):
                self._tokens[unit] = Tokens(generated=output.completion_tokens)
                self._has_ended.add(unit)
            elif isinstance(output, (Vectors, Scores)):
                self._tokens[unit] = Tokens(output.prompt_tokens)
                self._has_ended.add(unit)


Observer = Callable[[Served], None]


class Journal:
    """The requests of one gateway that run now, and the functions that hear of each one when it has ended."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = list(observers)
        self.running: set[Served] = set()

    def begin(self, method: str, now: float, asked: str = "") -> Served:
        """A request has come."""
        served = Served(method, now, asked)
        self.running.add(served)
        return served

    def end(self, served: Served, now: float) -> None:
        """Its response has been sent, or its client has gone."""
        served.ended = now
        if served.outcome is None:
            served.outcome = OK
        self.running.remove(served)
        for observer in self.observers:
            observer(served)
