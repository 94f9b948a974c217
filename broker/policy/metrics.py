"""What happened with each model since the broker's start, in numbers: pure, no clock.

It has the form of the other policies, without actions and deadlines: it only counts. Counts of a model outlive its
processes. Tokens are counted by the workers, whose heartbeats say how many there were (at most one heartbeat of them is
lost with a process that is killed), so a token costs nothing here. What the pool does is in noted.py.
"""

from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from broker.policy.events import Event, HeartbeatArrived, WorkerConnected, WorkerExited, WorkerProgressed
from broker.policy.noted import FirstOutput, ModelEvicted, ModelLoaded, Noted, ProcessTaken, RequestSent, RequestWentOn
from broker.policy.specs import Exit

# Rates are those of the last seconds, and the time to first output is the mean of the last minute.
RATE_SECONDS = 5.0
FIRST_OUTPUT_SECONDS = 60.0

# Of the classes in which the times of requests in the queue are counted, the upper bounds; the last class has none.
QUEUE_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

# Heartbeats may come more often: of those in between, rates need none.
_SAMPLE_SECONDS = 0.25
_MOST_FIRST_OUTPUTS = 1000
# Processes that have exited whose last beat may still come: it travels while the exit is seen.
_MOST_GONE = 16

# Stages of a load that no process reports: from the start of the process until it connects, and from its last report
# until it is ready.
_PROCESS, _WARM_UP = "process", "warm_up"


class TokenCounts(NamedTuple):
    """cached: those of the prompt tokens that came from the prompt cache."""

    generated: int = 0
    prompt: int = 0
    cached: int = 0


@dataclass(slots=True, eq=False)
class _Process:
    """marked_at: when it last reported a stage; stages: seconds that each has taken. beat: the last one. tokens: the
    most that one has told: the last words of a process may overtake a beat, which has another socket."""

    model_id: str
    rank: int
    marked_at: float
    stages: dict[str, float] = field(default_factory=dict)
    beat: HeartbeatArrived | None = None
    heard_at: float | None = None
    tokens: TokenCounts = field(default_factory=TokenCounts)

    def told(self, beat: HeartbeatArrived) -> TokenCounts:
        """The tokens that are new."""
        known = self.tokens
        now = (beat.generation_tokens, beat.prompt_tokens, beat.cached_prompt_tokens)
        self.tokens = TokenCounts(*map(max, zip(known, now, strict=True)))
        return TokenCounts(*(most - before for most, before in zip(self.tokens, known, strict=True)))

    def mark(self, stage: str, now: float) -> None:
        """This stage has taken the time since the last mark."""
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.marked_at
        self.marked_at = now


@dataclass(slots=True)
class _Counts:
    """One model. before: tokens of the processes that have exited. heads: those that are rank 0 now, two while one
    takes the place of the other; samples: the tokens of all at the times of their beats. queued: requests by how long
    they waited to be sent. first_outputs: when each came, and how long that took."""

    before: TokenCounts = field(default_factory=TokenCounts)
    heads: list[_Process] = field(default_factory=list)
    samples: deque[tuple[float, TokenCounts]] = field(default_factory=deque)
    loads: int = 0
    load_seconds: dict[str, float] = field(default_factory=dict)
    replays: int = 0
    resumes: int = 0
    evictions: int = 0
    exits: Counter[str] = field(default_factory=Counter)
    queued: list[int] = field(default_factory=lambda: [0] * (len(QUEUE_BOUNDS) + 1))
    queued_seconds: float = 0.0
    first_outputs: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MOST_FIRST_OUTPUTS))

    @property
    def tokens(self) -> TokenCounts:
        """Of all its processes."""
        return TokenCounts(*map(sum, zip(self.before, *(head.tokens for head in self.heads), strict=True)))

    @property
    def heard_at(self) -> float | None:
        """When the last heartbeat came."""
        return max((head.heard_at for head in self.heads if head.heard_at is not None), default=None)

    def exited_with(self, tokens: TokenCounts) -> None:
        """A process that has exited had counted these, too."""
        self.before = TokenCounts(*map(sum, zip(self.before, tokens, strict=True)))

    def sent(self, event: RequestSent) -> None:
        if event.is_replay:
            self.replays += 1
        else:
            self.queued[bisect_left(QUEUE_BOUNDS, event.waited)] += 1
            self.queued_seconds += event.waited

    def sample(self, now: float, tokens: TokenCounts) -> None:
        if not self.samples or now - self.samples[-1][0] >= _SAMPLE_SECONDS:
            self.samples.append((now, tokens))
        while len(self.samples) > 1 and self.samples[1][0] <= now - RATE_SECONDS:
            self.samples.popleft()

    def rates(self, now: float) -> tuple[float, float]:
        """Tokens generated in a second, and tokens of prompts; 0 without a process, or without its beats."""
        heard_at = self.heard_at
        if heard_at is None or now - heard_at > RATE_SECONDS:
            return 0.0, 0.0
        since, before = self.samples[0]
        seconds = heard_at - since
        if seconds <= 0:
            return 0.0, 0.0
        tokens = self.tokens
        return (tokens.generated - before.generated) / seconds, (tokens.prompt - before.prompt) / seconds

    def ttft(self, now: float) -> float | None:
        """The mean of the last minute; None if nothing has begun in it."""
        recent = [seconds for at, seconds in self.first_outputs if at > now - FIRST_OUTPUT_SECONDS]
        return sum(recent) / len(recent) if recent else None


class Metrics:
    """See the top of this file."""

    def __init__(self) -> None:
        self._models: dict[str, _Counts] = {}
        self._processes: dict[str, _Process] = {}
        self._gone: dict[str, _Process] = {}

    def handle(self, event: Event | Noted, now: float) -> None:
        """Count what has happened. now: seconds, monotonic."""
        match event:
            case HeartbeatArrived():
                self._beat(event, now)
            case WorkerConnected():
                self._mark(event.worker_id, _PROCESS, now)
            case WorkerProgressed():
                self._mark(event.worker_id, event.stage, now)
            case WorkerExited():
                self._exited(event.worker_id, event.exit)
            case ProcessTaken():
                self._taken(event, now)
            case ModelLoaded():
                self._loaded(self._of(event.model_id), self._processes.get(event.worker_id), now)
            case FirstOutput():
                self._of(event.model_id).first_outputs.append((event.at, event.seconds))
            case RequestSent():
                self._of(event.model_id).sent(event)
            case RequestWentOn():
                self._of(event.model_id).resumes += 1
            case ModelEvicted():
                self._of(event.model_id).evictions += 1
            case _:  # all others are not counted
                pass

    def of(self, model_id: str, now: float) -> dict[str, Any]:
        """The numbers of this model for STATUS; docs/protocol.md has their meanings."""
        counts = self._models.get(model_id) or _Counts()
        beats = [head.beat for head in counts.heads if head.beat is not None]
        heard_at = counts.heard_at
        generated, prompts = counts.rates(now)
        tokens = counts.tokens
        return {
            "tokens_per_second": generated,
            "prompt_tokens_per_second": prompts,
            "ttft_seconds": counts.ttft(now),
            "prompt_tokens": tokens.prompt,
            "cached_prompt_tokens": tokens.cached,
            "generation_tokens": tokens.generated,
            "queue_times": {
                "bounds": list(QUEUE_BOUNDS),
                "counts": list(counts.queued),
                "seconds": counts.queued_seconds,
            },
            "loads": counts.loads,
            "load_seconds": dict(counts.load_seconds),
            "replays": counts.replays,
            "resumes": counts.resumes,
            "evictions": counts.evictions,
            "exits": dict(counts.exits),
            "heartbeat_age_seconds": now - heard_at if heard_at is not None else None,
            "live": sum(beat.live for beat in beats),
            "waiting": sum(beat.waiting for beat in beats),
            "prefilling": sum(beat.prefilling for beat in beats),
            "disk_cache_bytes": max((beat.disk_bytes for beat in beats), default=0),
            "disk_cache_files": max((beat.disk_files for beat in beats), default=0),
            "disk_cache_hits": sum(beat.disk_hits for beat in beats),
            "disk_cache_queue_bytes": sum(beat.disk_queue_bytes for beat in beats),
            "decode_steps": sum(beat.decode_steps for beat in beats),
            "late_steps": sum(beat.late_steps for beat in beats),
        }

    def _of(self, model_id: str) -> _Counts:
        counts = self._models.get(model_id)
        if counts is None:
            counts = self._models[model_id] = _Counts()
        return counts

    def _taken(self, event: ProcessTaken, now: float) -> None:
        process = self._processes[event.worker_id] = _Process(event.model_id, event.rank, marked_at=now)
        if event.rank == 0:
            self._of(event.model_id).heads.append(process)

    def _mark(self, worker_id: str, stage: str, now: float) -> None:
        process = self._processes.get(worker_id)
        if process is not None:
            process.mark(stage, now)

    def _loaded(self, counts: _Counts, head: _Process | None, now: float) -> None:
        counts.loads += 1
        if head is not None:
            head.mark(_WARM_UP, now)
            counts.load_seconds = dict(head.stages)
            counts.sample(now, counts.tokens)

    def _beat(self, event: HeartbeatArrived, now: float) -> None:
        process = self._processes.get(event.worker_id)
        if process is None:
            if (gone := self._gone.get(event.worker_id)) is not None:
                self._of(gone.model_id).exited_with(gone.told(event))
            return
        process.beat, process.heard_at = event, now
        process.told(event)
        if process.rank == 0:
            counts = self._of(process.model_id)
            counts.sample(now, counts.tokens)

    def _exited(self, worker_id: str, how: Exit) -> None:
        process = self._processes.pop(worker_id, None)
        if process is None:
            return  # a spare, or a download
        counts = self._of(process.model_id)
        counts.exits[how.signal or str(how.code)] += 1
        if process.rank == 0:
            counts.heads.remove(process)
            counts.exited_with(process.tokens)
            self._gone[worker_id] = process
            for oldest in list(self._gone)[:-_MOST_GONE]:
                del self._gone[oldest]
            if not counts.heads:
                counts.samples.clear()
