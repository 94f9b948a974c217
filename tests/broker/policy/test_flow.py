"""Whose outputs are read: every message of a worker is acknowledged once, and none before a gateway has read it."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.policy.events import Event, PauseEnded, TimePassed, WorkerExited, WorkerStarted
from broker.policy.flow import Flow
from broker.policy.flow_events import LinkClosed, LinkOpened, OutputsRead, OutputsSent
from broker.policy.specs import Exit

G1, G2 = b"gateway1", b"gateway2"


class Script:
    """A flow, and what it tells as worker id -> count."""

    def __init__(self, *workers: str) -> None:
        self.flow = Flow()
        for worker in workers or ("w1", "w2"):
            assert self.tell(WorkerStarted(worker, 1)) == {}
        for gateway in (G1, G2):
            assert self.tell(LinkOpened(gateway)) == {}

    def tell(self, event: Event, now: float = 0.0) -> dict[str, int]:
        return {action.worker_id: action.total for action in self.flow.handle(event, now)}

    def sent(self, gateway: bytes, worker: str, now: float) -> dict[str, int]:
        if not worker:
            return self.tell(OutputsSent(gateway), now)
        return {action.worker_id: action.total for action in self.flow.sent(gateway, worker, now)}

    def dropped(self, worker: str) -> dict[str, int]:
        return {action.worker_id: action.total for action in self.flow.dropped(worker)}

    def read(self, gateway: bytes, total: int, now: float) -> dict[str, int]:
        return self.tell(OutputsRead(gateway, total), now)

    def look(self, now: float) -> dict[str, int]:
        """Time passes; nothing may happen that the deadline before has not announced."""
        deadline = self.flow.next_deadline()
        told = self.tell(TimePassed(), now)
        assert not told or (deadline is not None and deadline <= now)
        assert (after := self.flow.next_deadline()) is None or after > now
        return told

    def left(self, gateway: bytes) -> dict[str, int]:
        return self.tell(LinkClosed(gateway))

    def greeted(self, gateway: bytes) -> None:
        self.tell(LinkOpened(gateway))

    def exited(self, worker: str) -> None:
        assert self.tell(WorkerExited(worker, Exit(0, None, 0.0, ""))) == {}


def send(flow: Script, gateway: bytes, *workers: str, now: float = 0.0) -> None:
    for worker in workers:
        assert flow.sent(gateway, worker, now) == {}


def test_a_gateway_reads_in_order_and_each_worker_is_told_of_its_own() -> None:
    flow = Script()
    send(flow, G1, "w1", "w1", "w2", "", "w1")
    assert flow.read(G1, 1, 0.0) == {"w1": 1}
    assert flow.read(G1, 3, 0.0) == {"w1": 2, "w2": 1}
    assert flow.read(G1, 3, 0.0) == {}
    assert flow.read(G1, 4, 0.0) == {}  # the broker's own answer
    assert flow.read(G1, 5, 0.0) == {"w1": 3}


def test_what_goes_to_nobody_is_settled_at_once() -> None:
    flow = Script()
    assert flow.dropped("w1") == {"w1": 1}
    assert flow.sent(b"stranger", "w1", 0.0) == {"w1": 2}
    assert flow.read(b"stranger", 7, 0.0) == {}


def test_a_gateway_that_goes_leaves_nothing_unsettled_and_counts_anew_when_it_is_back() -> None:
    flow = Script()
    send(flow, G1, "w1", "w2", "w1")
    send(flow, G2, "w1")
    assert flow.left(G1) == {"w1": 2, "w2": 1}
    assert flow.left(G1) == {}
    assert flow.read(G2, 1, 0.0) == {"w1": 3}
    flow.greeted(G1)
    send(flow, G1, "w2")
    assert flow.read(G1, 1, 0.0) == {"w2": 2}


def test_a_worker_that_has_exited_is_not_told() -> None:
    flow = Script()
    send(flow, G1, "w1", "w2", "w1")
    flow.exited("w1")
    assert flow.read(G1, 3, 0.0) == {"w2": 1}
    assert flow.dropped("w1") == {}
    flow.exited("never started")


def test_a_gateway_that_reads_nothing_holds_nobody_until_it_reads_again() -> None:
    flow = Script()
    send(flow, G1, "w1", "w2", now=5.0)
    send(flow, G2, "w1", now=5.5)
    assert flow.look(6.49) == {}
    assert flow.look(6.5) == {"w1": 1, "w2": 1}  # not what the other gateway may still read
    assert flow.sent(G1, "w1", 6.6) == {"w1": 2}
    assert flow.read(G1, 1, 6.7) == {}
    send(flow, G1, "w1", now=6.8)
    assert flow.read(G1, 4, 6.9) == {"w1": 3}


def test_a_gateway_without_anything_to_read_is_not_stuck() -> None:
    flow = Script()
    send(flow, G1, "w1")
    assert flow.read(G1, 1, 0.0) == {"w1": 1}
    assert flow.look(100.0) == {}
    send(flow, G1, "w1", now=100.0)  # counts from the first that waits
    assert flow.look(100.5) == {}


def test_a_gateway_is_stuck_by_its_oldest_unread_message() -> None:
    flow = Script()
    send(flow, G1, "w1", now=0.0)
    send(flow, G1, "w1", now=0.9)
    assert flow.look(1.49) == {}
    assert flow.look(1.5) == {"w1": 2}


def test_after_a_pause_of_everything_a_gateway_has_its_time_anew() -> None:
    s = Script()
    s.sent(G1, "w1", 10.0)
    s.tell(PauseEnded(), 11.4)
    assert s.look(12.8) == {}
    assert s.look(12.9) == {"w1": 1}


def test_the_oldest_unread_message_counts_and_reading_some_starts_anew() -> None:
    flow = Script()
    send(flow, G1, "w1", now=0.0)
    send(flow, G1, "w1", "w1", now=0.9)
    assert flow.look(1.49) == {}
    assert flow.read(G1, 1, 1.49) == {"w1": 1}
    assert flow.look(2.5) == {}
    assert flow.look(2.99) == {"w1": 3}


def test_a_gateway_that_reads_again_settles_only_what_it_has_read() -> None:
    flow = Script()
    send(flow, G1, "w1", "w1", "w1")
    assert flow.look(1.5) == {"w1": 3}
    assert flow.read(G1, 1, 1.6) == {}
    send(flow, G1, "w1", "w1", now=1.7)
    assert flow.read(G1, 4, 1.8) == {"w1": 4}
    assert flow.read(G1, 5, 1.9) == {"w1": 5}


def test_two_stuck_gateways_make_one_count() -> None:
    flow = Script()
    send(flow, G1, "w1")
    send(flow, G2, "w1", "w1")
    assert flow.look(1.5) == {"w1": 3}


def test_a_gateway_that_counts_what_it_got_before_its_hello_is_followed() -> None:
    flow = Script()
    send(flow, G1, "w1", "w1")
    assert flow.read(G1, 10, 0.0) == {"w1": 2}
    send(flow, G1, "w1")
    assert flow.read(G1, 10, 0.0) == {}
    assert flow.read(G1, 11, 0.0) == {"w1": 3}


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("sent"), st.sampled_from([G1, G2]), st.sampled_from(["w1", "w2", ""])),
        st.tuples(st.just("read"), st.sampled_from([G1, G2]), st.integers(0, 5)),
        st.tuples(st.sampled_from(["left", "back"]), st.sampled_from([G1, G2]), st.just(0)),
        st.tuples(st.just("look"), st.just(G1), st.integers(0, 2)),
        st.tuples(st.just("dropped"), st.just(G1), st.sampled_from(["w1", "w2"])),
    ),
    max_size=60,
)


@given(_EVENTS)
def test_in_any_history_each_message_is_settled_once(events: list[tuple[str, bytes, object]]) -> None:
    """Counts only grow, never beyond what a worker has sent, and reach it when all gateways have gone."""
    flow, now = Script(), 0.0
    sent: Counter[str] = Counter()
    told: dict[str, int] = {"w1": 0, "w2": 0}

    def hear(news: dict[str, int]) -> None:
        for worker, total in news.items():
            assert told[worker] < total <= sent[worker]
        told.update(news)

    read = {G1: 0, G2: 0}
    for kind, gateway, value in events:
        match kind, value:
            case "sent", str(worker):
                sent[worker] += 1
                hear(flow.sent(gateway, worker, now))
            case "read", int(count):
                read[gateway] += count
                hear(flow.read(gateway, read[gateway], now))
            case "look", int(seconds):
                now += seconds
                hear(flow.look(now))
            case "dropped", str(worker):
                sent[worker] += 1
                hear(flow.dropped(worker))
            case "left", _:
                hear(flow.left(gateway))
            case "back", _:
                read[gateway] = 0
                hear(flow.left(gateway))
                flow.greeted(gateway)
    for gateway in (G1, G2):
        hear(flow.left(gateway))
    assert told == {"w1": sent["w1"], "w2": sent["w2"]}
