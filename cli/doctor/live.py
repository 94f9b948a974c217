"""The live checks, one function each, in the order in which they run. Each measures and leaves judging to
live_verdicts.py. What happens around them is in examine.py.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cli.doctor import live_verdicts
from cli.doctor.facts import Finding
from cli.doctor.own_service import OwnService, is_running
from cli.doctor.programs import ProgramError, ask_inside
from cli.doctor.subject import NEIGHBOUR
from cli.gateway import model_path
from cli.speed.streams import Level, TimedAnswer
from cli.speed.traffic import Aside, Prompts, ask, measure

_FOOTPRINT_MIB = 256
_PREFILL_TOKENS = (512, 2048)
_STREAMS = 8
_TOKENS = 48
_FEWEST_TOKENS = 8
_DECODE_SECONDS = 3.0
_ALONE_SECONDS = 1.5
_SPARE_SECONDS = 30.0
_LIFELINE_SECONDS = 10.0
_POLL_SECONDS = 0.005


@dataclass(slots=True)
class Lab:
    """What the checks work on. model: of the service. metal: whether MLX computes on it. wired_now: bytes, None where
    the system does not say it; wired: what it was at moments."""

    service: OwnService
    model: str
    metal: bool
    wired_now: Callable[[], int | None]
    prompts: Prompts = field(default_factory=Prompts)
    wired: dict[str, int] = field(default_factory=dict)

    def ask(self, words: str, tokens: int, model: str | None = None) -> TimedAnswer:
        """One streamed chat. Raises ProgramError if it ends with an error."""
        answer = ask(self.service.gateway, model or self.model, words, tokens)
        if answer.ttft is None or answer.error is not None:
            raise ProgramError(answer.error or "an answer without a text")
        return answer

    def prompt(self, tokens: int) -> str:
        """Of about so many tokens."""
        if not self.prompts.is_calibrated:
            self.prompts.calibrate(lambda prompt: self.ask(prompt, 1))
        return self.prompts.of_tokens(tokens)

    def note_wired(self, moment: str) -> None:
        """Remember it."""
        if (count := self.wired_now()) is not None:
            self.wired[moment] = count

    def load(self, model: str) -> float:
        """Seconds until it is ready."""
        began = time.monotonic()
        self.service.gateway.waiting(None).post(model_path("load", model))
        return time.monotonic() - began

    def wait_for_spare(self) -> int | None:
        """The pid of a spare that has imported everything, None if none comes."""
        deadline = time.monotonic() + _SPARE_SECONDS
        while time.monotonic() < deadline:
            for spare in self.service.spares():
                if spare.get("state") == "imported":
                    return int(spare["pid"])
            time.sleep(0.05)
        return None


# ---- without a service -----------------------------------------------------------------------------------------------


def exit_notices(_lab: Lab) -> Finding:
    """Whether the system tells of exits."""
    return live_verdicts.exit_notices(ask_inside("exits", seconds=20))


def footprint(_lab: Lab) -> Finding:
    """Whether the system sees memory that MLX takes."""
    return live_verdicts.footprint(ask_inside("footprint", str(_FOOTPRINT_MIB), seconds=30))


def clocks(_lab: Lab) -> Finding:
    """Whether the clock of the processes stands still in sleep."""
    return live_verdicts.clocks(ask_inside("clocks", seconds=20))


def company(lab: Lab) -> Finding:
    """Whether a row of a product is the same in company."""
    differences = ask_inside("metal", "--compare", seconds=30)["differences"]
    return live_verdicts.company(differences, metal=lab.metal)


# ---- with one --------------------------------------------------------------------------------------------------------


def service_start(lab: Lab) -> Finding:
    """Of broker and gateway."""
    return live_verdicts.service_start(lab.service.start())


def worker_start(lab: Lab) -> Finding:
    """From a warm spare, as a user meets it."""
    spare = lab.wait_for_spare()
    lab.note_wired("before")
    seconds = lab.load(lab.model)
    stages = lab.service.model(lab.model).get("load_seconds") or {}
    lab.note_wired("loaded")
    return live_verdicts.worker_start(seconds, stages, spare=spare is not None)


def first_tokens(lab: Lab) -> Finding:
    """Of two short requests."""
    times = [lab.ask(lab.prompts.text(8), 8).ttft or 0.0 for _ in range(2)]
    return live_verdicts.first_tokens(*times)


def recovery_with_spare(lab: Lab) -> Finding:
    """A kill -9 in decode while a spare waits."""
    lab.wait_for_spare()
    return _recovery(lab, "kill -9 with a warm spare", with_spare=True)


def decode(lab: Lab) -> Finding:
    """One stream, then several, with answers as long as a slow machine can give in a few seconds."""

    def level(streams: int, tokens: int) -> Level:
        gateway = lab.service.gateway
        return measure(gateway, lab.model, lab.prompts, streams=streams, rounds=1, prompt_tokens=32, tokens=tokens)

    one = level(1, _TOKENS)
    alone = one.per_stream or one.in_total
    return live_verdicts.decode(one, level(_STREAMS, max(_FEWEST_TOKENS, min(_TOKENS, int(alone * _DECODE_SECONDS)))))


def prefill(lab: Lab) -> Finding:
    """By the time of the first token."""
    speeds = {}
    for prompt in [lab.prompt(tokens) for tokens in _PREFILL_TOKENS]:
        answer = lab.ask(prompt, 1)
        speeds[answer.prompt_tokens] = answer.prompt_tokens / (answer.ttft or 1e-9)
    return live_verdicts.prefill(speeds)


def neighbour(lab: Lab) -> Finding:
    """Another model's tokens, alone and while this one prefills."""
    long = lab.prompt(_PREFILL_TOKENS[-1])
    lab.ask(lab.prompts.text(4), 2, NEIGHBOUR)
    aside = Aside(lambda stop: ask(lab.service.gateway, NEIGHBOUR, lab.prompts.text(4), 4096, stop)).start()
    began = time.monotonic()
    time.sleep(_ALONE_SECONDS)
    busy = time.monotonic()
    lab.ask(long, 1)
    ended = time.monotonic()
    answers = aside.leave()
    alone = [gap for answer in answers for gap in answer.gaps(began, busy)]
    beside = [gap for answer in answers for gap in answer.gaps(busy, ended)]
    return live_verdicts.neighbour(alone, beside)


def recovery_without_spare(lab: Lab) -> Finding:
    """A kill -9 of the worker and of every spare at once."""
    return _recovery(lab, "kill -9 without a spare", with_spare=False)


def wired(lab: Lab) -> Finding | None:
    """Before a load, loaded, and after the kills. None where the system does not say it."""
    if not lab.wired:
        return None
    lab.service.gateway.waiting(None).post(model_path("unload", lab.model), {"force": "true"})
    time.sleep(1.0)  # the system takes its time to give back what a process had
    lab.note_wired("after all kills")
    return live_verdicts.wired(lab.wired)


def lifeline(lab: Lab) -> Finding:
    """A kill -9 of the broker, and its workers' ends. Ends the service."""
    lab.ask(lab.prompts.text(4), 1)
    pid = int(lab.service.model(lab.model)["pid"])
    began = time.monotonic()
    lab.service.kill_broker()
    while time.monotonic() - began < _LIFELINE_SECONDS:
        if not is_running(pid):
            return live_verdicts.lifeline(time.monotonic() - began, _LIFELINE_SECONDS)
        time.sleep(_POLL_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return live_verdicts.lifeline(None, _LIFELINE_SECONDS)


def _recovery(lab: Lab, name: str, *, with_spare: bool) -> Finding:
    pieces = 0

    def is_flowing() -> bool:
        nonlocal pieces
        pieces += 1
        return False

    aside = Aside(lambda _stop: ask(lab.service.gateway, lab.model, lab.prompts.text(8), 4096, is_flowing), once=True)
    aside.start()
    while pieces < 5 and aside.is_running:
        time.sleep(_POLL_SECONDS)
    worker = int(lab.service.model(lab.model)["pid"])
    spares = [] if with_spare else [int(spare["pid"]) for spare in lab.service.spares() if spare.get("pid")]
    killed = time.monotonic()
    for pid in (worker, *spares):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    answer = lab.ask(lab.prompts.text(8), 1)
    broken = next(iter(aside.leave()), None)
    if broken is None:
        raise ProgramError("the stream that the kill broke never began")
    return live_verdicts.recovery(
        name,
        framed=broken.error is not None,
        until_error=broken.ended_at - killed,
        until_answer=answer.sent_at + (answer.ttft or 0.0) - killed,
    )


@dataclass(slots=True, frozen=True)
class Check:
    """name: as in the report. seconds: it may take. needs_service: it is skipped if none runs."""

    name: str
    run: Callable[[Lab], Finding | None]
    seconds: float
    needs_service: bool = True


CHECKS = (
    Check("exit notices", exit_notices, 25, needs_service=False),
    Check("footprint", footprint, 40, needs_service=False),
    Check("clocks", clocks, 25, needs_service=False),
    Check("alone and in a batch", company, 40, needs_service=False),
    Check("start of the service", service_start, 60, needs_service=False),
    Check("start of a worker", worker_start, 300),
    Check("first token", first_tokens, 60),
    Check("kill -9 with a warm spare", recovery_with_spare, 180),
    Check("decode", decode, 120),
    Check("prefill", prefill, 120),
    Check("gap between tokens", neighbour, 120),
    Check("kill -9 without a spare", recovery_without_spare, 180),
    Check("wired memory", wired, 60),
    Check("lifeline", lifeline, 60),
)
