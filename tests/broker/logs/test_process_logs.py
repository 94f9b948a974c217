"""What processes print, by model; and those who read it."""

from typing import Any

import pytest

from broker.logs.process_logs import MAX_FOLLOWERS, ProcessLogs
from broker.logs.ring import MAX_LINES
from broker.processes.lines import LogEvent
from broker.wire.failure import FailureError

R1, R2 = b"gateway1" + bytes(8), b"gateway2" + bytes(8)


class House:
    """Logs with a clock, and what followers got."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: dict[bytes, list[list[Any]]] = {}
        self.outputs = 0
        self.logs = ProcessLogs(now=lambda: self.now, send=self._send)

    def _send(self, request_id: bytes, body: dict[str, Any]) -> None:
        self.outputs += 1
        self.sent.setdefault(request_id, []).extend(body["lines"])

    def say(self, worker_id: str, *texts: str) -> None:
        for text in texts:
            self.logs.said(worker_id, LogEvent(text))
        self.logs.flush()

    def got(self, request_id: bytes) -> list[tuple[int, str]]:
        return [(pid, text) for _at, pid, text in self.sent.get(request_id, [])]

    def tail(self, model_id: str, count: int = 1000) -> list[tuple[int, str]]:
        return [(pid, text) for _at, pid, text in self.logs.tail(model_id, count)["lines"]]


@pytest.fixture
def house() -> House:
    return House()


def test_the_lines_of_a_spare_join_the_model_that_it_gets(house: House) -> None:
    house.logs.started("w1", 11)
    house.say("w1", "imported")
    assert house.tail("m") == []
    house.logs.assigned("w1", "m")
    house.say("w1", "loaded")
    house.logs.ready("m")
    assert house.tail("m") == [
        (11, "imported"), (11, "broker: loads m"), (11, "loaded"), (11, "broker: m is ready"),
    ]  # fmt: skip
    assert house.tail("m", 2) == [(11, "loaded"), (11, "broker: m is ready")]
    assert house.tail("m", 0) == []


def test_a_dead_process_leaves_its_lines_and_the_next_one_has_another_pid(house: House) -> None:
    house.logs.started("w1", 11)
    house.logs.assigned("w1", "m")
    house.say("w1", "last words")
    house.logs.exited("w1", "signal SIGKILL")
    assert house.tail("m")[1:] == [(11, "last words"), (11, "broker: exited: signal SIGKILL")]
    house.logs.started("w2", 12)
    house.logs.assigned("w2", "m")
    assert house.tail("m")[-1] == (12, "broker: loads m")


def test_a_download_belongs_to_its_model_at_once(house: House) -> None:
    house.logs.started("d1", 13, "org/m")
    house.say("d1", "fetching")
    assert house.tail("org/m") == [(13, "broker: started"), (13, "fetching")]


def test_a_traceback_is_many_lines_and_the_request_is_named(house: House) -> None:
    house.logs.started("w1", 11)
    house.logs.assigned("w1", "m")
    house.logs.said("w1", LogEvent("it fails", 40, "my id", ("Traceback", "ValueError")))
    assert house.tail("m")[1:] == [(11, 'it fails request_id="my id"'), (11, "Traceback"), (11, "ValueError")]


def test_a_follower_gets_the_tail_and_then_each_line(house: House) -> None:
    house.logs.started("w1", 11, "m")
    house.say("w1", "a", "b")
    house.logs.follow(R1, "m", 1)
    assert house.got(R1) == [(11, "b")]
    house.say("w1", "c")
    house.say("w2", "of nobody")
    assert house.got(R1) == [(11, "b"), (11, "c")]


def test_one_who_follows_a_model_that_never_ran_waits_for_it(house: House) -> None:
    house.logs.follow(R1, "m", 100)
    assert house.got(R1) == []
    house.logs.started("w1", 11)
    house.say("w1", "imported")
    house.logs.assigned("w1", "m")
    house.logs.flush()
    assert house.got(R1) == [(11, "imported"), (11, "broker: loads m")]


def test_a_follower_who_has_left_gets_nothing(house: House) -> None:
    house.logs.started("w1", 11, "m")
    for request_id in (R1, R2):
        house.logs.follow(request_id, "m", 0)
    assert house.logs.leave(R1)
    assert not house.logs.leave(R1)
    house.logs.gateway_left(b"gateway2")
    house.say("w1", "a")
    assert house.sent == {}


def test_a_flood_of_lines_is_few_outputs_and_what_is_missed_is_told(house: House) -> None:
    house.logs.started("w1", 11, "m")
    house.logs.follow(R1, "m", 0)
    for n in range(3000):
        house.say("w1", str(n))
    assert house.outputs == 20
    house.now = 1.0
    house.logs.flush()
    texts = [text for _pid, text in house.got(R1)]
    assert texts[20] == f"broker: ({3000 - 20 - MAX_LINES} lines left out: this reader is too slow)"
    assert texts[21:] == [str(n) for n in range(3000 - MAX_LINES, 3000)]
    assert house.outputs == 21


def test_the_number_of_followers_is_bounded(house: House) -> None:
    for n in range(MAX_FOLLOWERS):
        house.logs.follow(b"gateway1" + n.to_bytes(8, "big"), f"model{n}", 10)
    with pytest.raises(FailureError, match="follow logs already"):
        house.logs.follow(R2, "m", 10)
    house.logs.gateway_left(b"gateway1")
    house.logs.follow(R2, "m", 10)


def test_the_number_of_models_is_bounded(house: House) -> None:
    house.logs.started("w1", 11, "kept")
    for n in range(2000):
        house.logs.started("d1", 13, f"model{n}")
    assert len(house.logs._rings) <= 300
    assert house.tail("kept") == [(11, "broker: started")]


def test_lines_of_an_unknown_process_are_logged_alone(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        house.say("w9", "hello")
    assert caplog.messages == ["w9: hello"]
