"""The clock by which processes judge each other stands still while nothing runs."""

from broker.wire.clock import PAUSE_SECONDS, Clock


class Time:
    """What the system's clock says."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


def test_it_counts_seconds() -> None:
    time = Time()
    clock = Clock(time)
    began = clock.now()
    for _ in range(10):
        time.now += PAUSE_SECONDS
        clock.now()
    assert clock.now() - began == 10 * PAUSE_SECONDS
    assert clock.take_pause() == 0


def test_a_pause_counts_for_nothing_and_is_told_once() -> None:
    time = Time()
    clock = Clock(time)
    time.now += 1
    before = clock.now()
    time.now += 3600
    assert clock.now() == before
    time.now += 0.5
    assert clock.now() == before + 0.5
    assert (clock.take_pause(), clock.take_pause()) == (3600, 0)


def test_pauses_add_up() -> None:
    time = Time()
    clock = Clock(time)
    began = clock.now()
    for _ in range(3):
        time.now += 100
        clock.now()
        time.now += 1
        clock.now()
    assert (clock.now() - began, clock.take_pause()) == (3, 300)
