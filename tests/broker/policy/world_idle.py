"""How long models of a pool world stay when nothing uses them: what requests have stated, and whether the pool obeys.

The books here are the world's: when each process was used last, and the last statement that it has heard.
"""

from collections.abc import Sequence

from broker.policy.actions import Action, ForwardOutputs
from broker.policy.events import Event, KeepRequested, OutputsArrived, SystemSampled
from broker.policy.pressure import EARLY_SECONDS
from broker.policy.records import Phase
from tests.broker.policy.world_books import SimRequest, SimWorker
from tests.broker.policy.world_memory import Memory

# What clients state.
KEEP_ALIVES = (None, None, None, None, 0.0, 2.0, 50.0, -1.0, 1e12)


class Idle(Memory):
    """See the top of this file. Processes are named by their rank 0."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type] # those of Memory
        self.used_at: dict[str, float] = {}
        self.heard: dict[str, tuple[int, float | None]] = {}

    def hear(self, name: str, request_id: bytes, seconds: float | None) -> None:
        """Requests are numbered as they come: a later one counts, whenever it reaches the process."""
        stated = (int.from_bytes(request_id[8:], "big"), seconds)
        if name not in self.heard or stated[0] > self.heard[name][0]:
            self.heard[name] = stated

    def head_of(self, worker_id: str) -> SimWorker | None:
        return next((worker for worker in self.ranks_of(worker_id) if worker.rank == 0), None)

    def serving_head(self, model_id: str) -> SimWorker | None:
        """Rank 0 of what new requests of this model go to."""
        serving = next((m.serving for m in self.pool.models if m.model_id == model_id), None)
        return None if serving is None else self.workers.get(serving.name)

    def took(self, worker_id: str, measured_bytes: int) -> None:
        super().took(worker_id, measured_bytes)
        spec = self.workers[worker_id].spec
        head = None if spec is None else self.head_of(worker_id)
        if head is not None:
            self.used_at[head.worker_id] = self.now
            before = self.serving_head(spec.model_id) if spec is not None else None
            if before is not None and before.worker_id in self.heard:  # it takes that one's place
                statements = [self.heard[w] for w in (before.worker_id, head.worker_id) if w in self.heard]
                self.heard[head.worker_id] = max(statements, key=lambda stated: stated[0])

    def note_event(self, event: Event) -> None:
        """Before the pool hears it."""
        if isinstance(event, SystemSampled):
            self.pressure = event.pressure
        if isinstance(event, KeepRequested) and event.seconds == 0:
            serving = self.serving_head(event.model_id)
            if serving is not None:
                self.hear(serving.worker_id, event.request_id, 0.0)

    def note_actions(self, event: Event, actions: Sequence[Action]) -> None:
        """Before they are performed."""
        ends = isinstance(event, OutputsArrived) and any(end for _, end in event.entries)
        for action in actions:
            if ends and isinstance(action, ForwardOutputs):
                self.used_at[action.worker_id] = self.now

    def note_kept(self, request_id: bytes, request: SimRequest) -> None:
        """A request without work has ended well."""
        head = self.serving_head(request.model_id)
        if request.keep_alive == 0:
            return
        assert head is not None, "kept, and not loaded"
        assert all(rank.ready and not rank.asked_to_stop and not rank.killed for rank in self.ranks_of(head.worker_id))
        self.used_at[head.worker_id] = self.now
        self.hear(head.worker_id, request_id, request.keep_alive)

    # ---- what must always hold ------------------------------------------------------------------------------------

    def leaves_at(self, worker: SimWorker) -> float:
        """When it has been idle for long enough; never if it stays as long as there is room."""
        assert worker.spec is not None
        keep = self.heard.get(worker.worker_id, (0, None))[1]
        if keep is None:
            keep = worker.spec.keep_alive_seconds
        if keep is None:
            keep = self.limits.keep_alive
        early = EARLY_SECONDS.get(self.pressure)
        if early is not None:
            keep = early if keep < 0 else min(keep, early)
        return float("inf") if keep < 0 or keep > 1e11 else self.used_at[worker.worker_id] + keep

    def check_leaves(self, worker: SimWorker, reason: str) -> None:
        """It is asked to stop."""
        if reason not in ("keep_alive", "the system is short of memory"):
            return
        assert worker.spec is not None
        head = self.head_of(worker.worker_id)
        assert head is not None
        assert not self._model_pinned(worker.spec.model_id), "a pinned model left"
        assert not head.in_flight, "a busy model left"
        assert self.now >= self.leaves_at(head), "it left too early"

    def _check_nobody_overstays(self) -> None:
        for model in self.pool.models:
            instance = model.serving
            if instance is None or instance.phase is not Phase.READY or model.waiting or model.drain or model.pinned:
                continue
            if model.reload is not None:
                continue
            head = self.workers[instance.name]
            assert head.in_flight or self.now < self.leaves_at(head), f"{model.model_id} overstays"
