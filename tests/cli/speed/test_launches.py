"""How often the device of a model has waited, as `mlx-broker bench` asks for it."""

from itertools import count

from cli.gateway import Gateway
from cli.speed.launches import Launches, launches
from tests.cli.played import PlayedService
from tests.gateway.http.test_gateway import LOADED, STATUS


def told(service: PlayedService, **fields: object) -> None:
    service.status = {**STATUS, "models": [{**LOADED, **fields}]}


def test_the_share_of_the_steps_in_between() -> None:
    assert Launches(300, 12).since(Launches(100, 2)) == 0.05
    assert Launches(300, 2).since(Launches(300, 2)) is None
    assert Launches(300, 1).since(Launches(100, 2)) is None  # another process counts from 0


def test_a_heartbeat_from_before_is_not_enough(service: PlayedService) -> None:
    told(service, decode_steps=10, late_steps=1, heartbeat_age_seconds=0.4)
    looks = count()

    def sleep(_seconds: float) -> None:
        if next(looks) == 1:
            told(service, decode_steps=90, late_steps=2, heartbeat_age_seconds=0.05)

    times = iter((0.0, 0.1, 0.2, 0.3))
    assert launches(Gateway(service.url), "org/tiny", lambda: next(times), sleep) == Launches(90, 2)


def test_what_is_not_told(service: PlayedService) -> None:
    assert launches(Gateway(service.url), "org/other") is None
    told(service, decode_steps=10, late_steps=1, heartbeat_age_seconds=9.0)  # and no other one comes
    times = iter((0.0, 4.0))
    assert launches(Gateway(service.url), "org/tiny", lambda: next(times)) == Launches(10, 1)
