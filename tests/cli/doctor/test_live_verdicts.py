"""What the doctor says about what the live checks have measured."""

import pytest

from cli.doctor import live_verdicts
from cli.doctor.facts import Finding, Rating
from cli.speed.streams import Level

MIB = 1 << 20


def level(streams: int, in_total: float, cpu: float = 0.1) -> Level:
    return Level(streams, streams, 64 * streams, 32.0, 0.1, 0.2, in_total / streams, in_total, cpu)


SIZES = {"asked": 256 * MIB, "resident": 33 * MIB, "footprint": 257 * MIB, "active": 256 * MIB}
STILL = {"monotonic": 100.0, "running": 100.0, "since_boot": 3700.0, "loop": 3700.0}

CASES: dict[str, tuple[Finding, Rating, str]] = {
    "notices": (live_verdicts.exit_notices({"before": 0.1, "after": 0.2, "group": 0.3}), Rating.OK, "0.2 ms"),
    "slow notice": (
        live_verdicts.exit_notices({"before": 0.1, "after": 900.0, "group": 0.3}),
        Rating.WARNING,
        "900.0 ms",
    ),
    "no notice": (live_verdicts.exit_notices({"before": None, "after": 0.2, "group": 0.3}), Rating.FAILED, "no notice"),
    "footprint beyond RSS, as on a Mac": (live_verdicts.footprint(SIZES), Rating.OK, "RSS 33 MiB, footprint 257 MiB"),
    "blind footprint": (live_verdicts.footprint({**SIZES, "footprint": 33 * MIB}), Rating.FAILED, "footprint 33 MiB"),
    "a Mac that slept an hour": (
        live_verdicts.clocks(STILL),
        Rating.OK,
        "3600 s; the broker's clock leaves that out, the gateway's loop counts it",
    ),
    "a clock that counts sleep": (
        live_verdicts.clocks({**STILL, "monotonic": 3700.0}),
        Rating.FAILED,
        "3600 s; the broker's clock counts it",
    ),
    "equal": (live_verdicts.company({"float32": 0.0}, metal=True), Rating.OK, "float32: equal"),
    "Metal's rounding": (live_verdicts.company({"bf16": 0.004}, metal=True), Rating.FACT, "bf16: differs by 4e-03"),
    "a CPU's rounding": (live_verdicts.company({"bf16": 0.004}, metal=False), Rating.WARNING, "differs"),
    "service": (live_verdicts.service_start(0.5), Rating.OK, "0.50 s"),
    "worker": (
        live_verdicts.worker_start(1.5, {"weights": 1.0, "warm-up": 0.4}, spare=True),
        Rating.OK,
        "1.50 s from a warm spare (weights 1.00, warm-up 0.40)",
    ),
    "slow worker": (live_verdicts.worker_start(99.0, {}, spare=False), Rating.WARNING, "99.00 s without a spare"),
    "warm": (live_verdicts.first_tokens(0.3, 0.1), Rating.OK, "300 ms, then 100 ms"),
    "cold": (live_verdicts.first_tokens(1.3, 0.1), Rating.WARNING, "1300 ms, then 100 ms"),
    "decode": (live_verdicts.decode(level(1, 50), level(8, 200)), Rating.OK, "200 with 8 streams, 25 each"),
    "no gain": (live_verdicts.decode(level(1, 50), level(8, 40)), Rating.WARNING, "40 with 8"),
    "busy client": (live_verdicts.decode(level(1, 50), level(8, 40, 0.9)), Rating.FACT, "40 with 8"),
    "prefill": (live_verdicts.prefill({512: 1000.4, 2048: 900.0}), Rating.OK, "1000 tokens/s at 512 tokens"),
    "recovery": (
        live_verdicts.recovery("kill", framed=True, until_error=0.01, until_answer=0.5),
        Rating.OK,
        "after 10 ms; the model answered again after 0.50 s",
    ),
    "slow recovery": (
        live_verdicts.recovery("kill", framed=True, until_error=0.01, until_answer=45.0),
        Rating.WARNING,
        "45.00 s",
    ),
    "broken stream": (
        live_verdicts.recovery("kill", framed=False, until_error=0.01, until_answer=0.5),
        Rating.FAILED,
        "0.50 s",
    ),
    "neighbour": (
        live_verdicts.neighbour([0.01, 0.01, 0.02], [0.05, 0.3]),
        Rating.OK,
        "alone: median 10.0 ms, longest 20 ms; beside a prefill: median 175.0 ms, longest 300 ms",
    ),
    "starved neighbour": (live_verdicts.neighbour([0.01], [3.0]), Rating.WARNING, "longest 3000 ms"),
    "no token beside": (live_verdicts.neighbour([0.01], []), Rating.WARNING, "beside a prefill: none"),
    "wired given back": (live_verdicts.wired({"before": 3 << 30, "after": 3 << 30}), Rating.OK, "before 3.00 GiB"),
    "wired kept": (live_verdicts.wired({"before": 3 << 30, "after": 7 << 30}), Rating.WARNING, "after 7.00 GiB"),
    "lifeline": (live_verdicts.lifeline(0.02, 10), Rating.OK, "ended 20 ms after"),
    "slow lifeline": (live_verdicts.lifeline(4.0, 10), Rating.WARNING, "4000 ms"),
    "orphan": (live_verdicts.lifeline(None, 10), Rating.FAILED, "ran on for 10 s"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said(case: str) -> None:
    finding, rating, words = CASES[case]
    assert (finding.rating, words in finding.found) == (rating, True), finding
    assert bool(finding.advice) == (rating is not Rating.OK)
