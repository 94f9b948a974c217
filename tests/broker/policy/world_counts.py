"""What happened to the models of a pool world, counted by the world itself, and whether metrics counts the same.

The world knows what its processes did and which actions it performed; of the pool it asks only whose process one is.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from broker.policy.actions import Action, ForwardOutputs, ForwardRequest, StopWorker
from broker.policy.events import Event, HeartbeatArrived, OutputsArrived, RequestArrived, WorkerExited
from broker.policy.metrics import FIRST_OUTPUT_SECONDS
from broker.policy.policies import Policies
from tests.broker.policy.world_books import SimWorker
from tests.broker.policy.world_files import Files


@dataclass
class _Book:
    """One model. told: worker id -> the last heartbeat of a process that was its rank 0 then."""

    exits: Counter[str] = field(default_factory=Counter)
    loads: int = 0
    evictions: int = 0
    replays: int = 0
    resumes: int = 0
    told: dict[str, HeartbeatArrived] = field(default_factory=dict)
    first_outputs: list[tuple[float, float]] = field(default_factory=list)

    def total(self, name: str) -> int:
        return sum(getattr(beat, name) for beat in self.told.values())


class Counts(Files):
    """See the top of this file."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)
        self.books: defaultdict[str, _Book] = defaultdict(_Book)
        self.arrived_at: dict[bytes, float] = {}
        self.seen_ready: set[str] = set()

    def next_beat(self, worker: SimWorker) -> HeartbeatArrived:
        """Its next heartbeat. A process that works has computed something since the last one."""
        if worker.in_flight:
            worker.generated += self.random.randrange(50)
            worker.prompt += self.random.randrange(20)
            worker.cached += self.random.randrange(worker.prompt - worker.cached + 1)
        live = len(worker.in_flight)
        stages = (live, self.random.randint(0, live), self.random.randint(0, live))
        tokens = (worker.generated, worker.prompt, worker.cached)
        return HeartbeatArrived(worker.worker_id, worker.steps, 1, 2, 3, *stages, *tokens)

    def note_event(self, event: Event) -> None:
        super().note_event(event)
        match event:
            case WorkerExited(worker_id, how) if (model_id := self._model_of(worker_id)) is not None:
                self.books[model_id].exits[how.signal or str(how.code)] += 1
            case HeartbeatArrived(worker_id) if (model_id := self._model_of(worker_id)) is not None:
                if self.pool.workers[worker_id].rank == 0:
                    self.books[model_id].told[worker_id] = event
            case RequestArrived(request_id):
                self.arrived_at.setdefault(request_id, self.now)

    def note_actions(self, event: Event, actions: Sequence[Action]) -> None:
        super().note_actions(event, actions)
        for action in actions:
            match action:
                case ForwardRequest(_, request_id, model_id):
                    request = self.requests[request_id]
                    self.books[model_id].replays += request.forwards > 0 and not request.outputs
                    self.books[model_id].resumes += request.outputs > 0
                case StopWorker(worker_id, reason) if reason.startswith("evicted"):
                    worker = self.workers[worker_id]
                    assert worker.spec is not None
                    self.books[worker.spec.model_id].evictions += worker.rank == 0
                case ForwardOutputs() if isinstance(event, OutputsArrived):
                    for request_id, end in event.entries:
                        request = self.requests[request_id]
                        if request.outputs == 1 and not end:
                            took = (self.now, self.now - self.arrived_at[request_id])
                            self.books[request.model_id].first_outputs.append(took)
        for instance in self.instances():
            if instance.ready_at is not None and instance.name not in self.seen_ready:
                self.seen_ready.add(instance.name)
                self.books[instance.model_id].loads += 1

    def check_counts(self) -> None:
        """What STATUS says is what happened."""
        if isinstance(self.driven, Policies):
            for entry in self.driven.status(self.now, 0.0, 0.0)["models"]:
                self._check_entry(entry, self.books[entry["model_id"]])

    def _check_entry(self, entry: dict[str, Any], book: _Book) -> None:
        model_id = entry["model_id"]
        for name in ("loads", "evictions", "replays", "resumes"):
            assert entry[name] == getattr(book, name), f"{name} of {model_id}"
        assert entry["exits"] == book.exits, f"exits of {model_id}"
        for name in ("generation_tokens", "prompt_tokens", "cached_prompt_tokens"):
            assert entry[name] == book.total(name), f"{name} of {model_id}"
        recent = [seconds for at, seconds in book.first_outputs if at > self.now - FIRST_OUTPUT_SECONDS]
        expected = pytest.approx(sum(recent) / len(recent)) if recent else None
        assert entry["ttft_seconds"] == expected, f"time to first output of {model_id}"
        heads = [i.head for i in self.instances() if i.model_id == model_id and not i.head.exited]
        last = [book.told[head.worker_id] for head in heads if head.worker_id in book.told]
        for name in ("live", "waiting", "prefilling"):
            assert entry[name] == sum(getattr(beat, name) for beat in last), f"{name} of {model_id}"
        assert (entry["heartbeat_age_seconds"] is None) == (not last), f"heartbeat of {model_id}"
        for name in ("tokens_per_second", "prompt_tokens_per_second"):
            assert entry[name] >= 0, f"{name} of {model_id}"
            assert last or entry[name] == 0, f"{name} of {model_id}, which has no process"
        assert sum(entry["load_seconds"].values()) >= 0
        assert bool(entry["load_seconds"]) == (book.loads > 0), f"stages of {model_id}"

    def _model_of(self, worker_id: str) -> str | None:
        worker = self.pool.workers.get(worker_id)
        return None if worker is None or worker.instance is None else worker.instance.model_id
