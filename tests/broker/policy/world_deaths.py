"""What the deaths of processes do to the requests of a pool world: which go on, how often, and beside which others.

The books here are the world's: how each process ended, and which requests had output of it.
"""

from broker.policy.actions import KillWorker
from broker.policy.events import Event, LoadRequested, ModelMissed, PinRequested, RemoveRequested, RequestResumed
from broker.policy.facts import LONG_AGO
from broker.policy.suspects import CAREFUL_SECONDS
from broker.wire.failure import Failure
from tests.broker.policy.world_books import SimRequest, SimWorker
from tests.broker.policy.world_counts import Counts

_ASKED = ("killed by an administrator", "unload", "shutdown")


class Deaths(Counts):
    """See the top of this file. died: worker id -> how its instance ended: asked, memory or fault; crowds: how many
    requests it had then; marked: those of which it is known that a request was being taken in; crowded: model id -> how
    many the last process had that took too much, and when that was."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)
        self.lost: set[bytes] = set()
        self.died: dict[str, str] = {}
        self.crowds: dict[str, int] = {}
        self.marked: set[str] = set()
        self.crowded: dict[str, tuple[int, float]] = {}

    # ---- what happens ---------------------------------------------------------------------------------------------

    def note_event(self, event: Event) -> None:
        super().note_event(event)
        asked = event.waiting if isinstance(event, ModelMissed) else event
        if isinstance(asked, LoadRequested | PinRequested | RemoveRequested) and asked.model_id in self.crowded:
            crowd, _ = self.crowded[asked.model_id]
            self.crowded[asked.model_id] = (crowd, LONG_AGO)

    def note_kill(self, action: KillWorker) -> None:
        asked = action.reason.startswith(_ASKED)
        memory = action.reason.startswith("memory_limit")
        worker = self.workers[action.worker_id]
        if memory and action.worker_id not in self.died and worker.in_flight:
            self.crowded[self.requests[min(worker.in_flight)].model_id] = (len(worker.in_flight), self.now)
        self.died.setdefault(action.worker_id, "asked" if asked else "memory" if memory else "fault")
        self.crowds.setdefault(action.worker_id, len(worker.in_flight))

    def note_exit(self, worker: SimWorker, intake: bytes | None) -> None:
        self.died.setdefault(worker.worker_id, "fault")
        if intake is not None:
            self.marked.add(worker.worker_id)

    def note_output(self, request: SimRequest) -> None:
        request.outputs += 1
        request.heard, request.is_suspect = True, False

    def lose(self, request_id: bytes) -> None:
        """The gateway hears that the process of this request has ended."""
        request = self.requests[request_id]
        assert request.ends == 0
        assert request.heard, "lost without output"
        assert not request.lost, "lost twice"
        request.resumes += 1
        assert request.resumes <= request.resume_limit, "goes on too often"
        request.heard, request.lost, request.died_in_answer = False, True, True
        request.decode_deaths += request.resume_limit > 0 and self.died[request.worker_id] == "fault"
        request.payload = b"%s goes on for the %d. time" % (request_id, request.resumes)
        self.lost.add(request_id)
        self.deliver(request_id[:8], "")

    def resume(self, request_id: bytes) -> None:
        """The gateway says what the next process needs, if it still can."""
        self.lost.discard(request_id)
        self.requests[request_id].lost = False
        self.send(RequestResumed(request_id, self.requests[request_id].payload))

    def deliver(self, gateway: bytes, worker_id: str) -> None:
        raise NotImplementedError

    # ---- what must always hold ------------------------------------------------------------------------------------

    def check_sent(self, request_id: bytes, request: SimRequest, worker: SimWorker, payload: bytes) -> None:
        """A request is sent to a process."""
        assert not request.heard, "sent again after output"
        assert not request.lost, "sent without what has been said"
        assert payload == (request.payload or request_id), "payload lost"
        self._look_back(request)
        others = [self.requests[r] for r in worker.in_flight if self.requests[r].ends == 0]
        assert not any(other.is_suspect for other in others), "sent beside a suspect"
        if request.is_suspect:
            assert all(other.heard or other.resume_limit == 0 for other in others), "a suspect is not alone"
        if request.decode_deaths > 1:
            assert all(other.decode_deaths < 2 for other in others), "two that died twice together"
        all_crowd, since = self.crowded.get(request.model_id, (0, 0.0))
        if self.now >= since + CAREFUL_SECONDS and not any(other.crowd for other in (request, *others)):
            all_crowd = 0  # nobody is left that was there
        crowds = [crowd for other in (request, *others) if (crowd := other.crowd or all_crowd)]
        if len(crowds) > 1:
            assert sum(1 / crowd for crowd in crowds) < 0.76, "as many as before the memory limit"
        request.forwards += 1
        assert request.forwards <= 1 + max(1, request.resume_limit), "sent too often"
        request.worker_id, request.died_in_answer = worker.worker_id, False

    def _look_back(self, request: SimRequest) -> None:
        """What the end of its last process says about this request."""
        if not request.forwards:
            return
        how = self.died[request.worker_id]
        if how == "memory":
            crowd = self.crowds[request.worker_id]
            request.crowd = min(request.crowd or crowd, crowd)
            request.is_suspect = False
        if request.resume_limit == 0:
            return
        request.is_suspect |= how == "fault" and not request.died_in_answer
        if request.worker_id in self.marked:
            request.is_suspect = False  # it may be known which one it died of

    def check_end(self, request: SimRequest, failure: Failure) -> None:
        """A request ends without an answer."""
        if "two processes" in failure.message:
            assert request.forwards, "refused before it was tried"
            assert not request.heard, "refused in mid-answer"
            assert request.resume_limit > 0
        if "goes on" in failure.message:
            assert request.resume_limit > 0
