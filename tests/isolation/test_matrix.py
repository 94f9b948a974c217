"""The promise, cell by cell: a signal, or an error of the GPU, hits model A in one phase of its life while model B
streams.

Real processes, real MLX, tiny models. B streams to a client of each dialect, and so does A where it decodes. In every
cell B's text is byte for byte what it is alone and ends as its dialect has it, its process is the same; A's clients get
all of their answers in time, A's process is gone from the process table, and A answers again. What A's own clients hear
in each step of an answer: test_own_clients.py.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.device_errors import DEVICE_ERRORS
from tests.isolation.conftest import HEARTBEAT_TIMEOUT
from tests.isolation.held_engine import gpu_error, stepping
from tests.isolation.speakers import SPEAKERS, Heard, Speaker
from tests.service import Service, wait_until
from tests.timing import assert_below


@dataclass(frozen=True)
class Blow:
    """What hits A. number: of a signal, None for an error of the GPU."""

    name: str
    number: signal.Signals | None

    def strike(self, pid: int, hold: Path) -> None:
        if self.number is not None:
            os.kill(pid, self.number)
        else:
            whole = hold.with_name("gpu_error.new")  # the engine must not read half of it
            whole.write_text(DEVICE_ERRORS["victim"])
            whole.rename(gpu_error(hold))

    @property
    def is_silent(self) -> bool:
        return self.number == signal.SIGSTOP


BLOWS = [
    *(Blow(n.name, n) for n in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM)),
    Blow("SIGSTOP", signal.SIGSTOP),
    Blow("GPU", None),
]
PHASES = ["loading", "prefill", "decode", "idle", "draining"]

LONG_PROMPT = "tell me more " * 500
# Tokens of B's stream: it must outlast the cell, and with a stopped A also the heartbeat timeout.
TOKENS, TOKENS_BESIDE_SILENCE = 1800, 3500
TOKENS_OF_A = 400
# Seconds until A's client has its end, on top of the time that its answer takes undisturbed; of a slow answer once more
# its time.
IN_TIME = 1.0
# A stopped process is found by its missing heartbeats: the timeout and two intervals.
SILENCE = HEARTBEAT_TIMEOUT + 0.2


@dataclass
class Client:
    """One request in its own thread. ended_at: when its last byte came."""

    run: Callable[["Client"], None]
    response: httpx.Response | None = None
    heard: Heard = field(default_factory=Heard)
    ended_at: float = 0.0
    failure: BaseException | None = None
    started: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._main)
        self._thread.start()

    def _main(self) -> None:
        try:
            self.run(self)
        except BaseException as error:  # noqa: BLE001 # reported by join
            self.failure = error
        self.ended_at = time.monotonic()

    def join(self) -> "Client":
        self._thread.join(60)
        assert not self._thread.is_alive(), "the client still waits"
        if self.failure is not None:
            raise self.failure
        return self

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()


def streaming(service: Service, model: str, content: str, tokens: int, speaker: Speaker) -> Client:
    def run(client: Client) -> None:
        body = speaker.body(model, content, tokens)
        with service.client.stream("POST", speaker.path, json=body) as response:
            assert response.status_code == 200, response.read()
            for heard in speaker.read(response, client.heard):
                if heard.text:
                    client.started.set()

    return Client(run)


def streaming_in_all(service: Service, model: str, content: str, tokens: int) -> list[Client]:
    """A client of each dialect, all of them within their answers."""
    clients = [streaming(service, model, content, tokens, speaker) for speaker in SPEAKERS]
    for client in clients:
        assert client.started.wait(10), client.heard
    return clients


def asking(service: Service, model: str, content: str, **fields: object) -> Client:
    def run(client: Client) -> None:
        client.response = service.chat(model, content, **fields)

    return Client(run)


@pytest.fixture(scope="module")
def alone(isolated: Service) -> dict[int, str]:
    """B's text when nothing else happens, by number of tokens, and A's."""
    answers = {n: isolated.chat("b", max_tokens=n).json() for n in (TOKENS, TOKENS_BESIDE_SILENCE)}
    answers[TOKENS_OF_A] = isolated.chat("a", max_tokens=TOKENS_OF_A).json()
    return {n: answer["choices"][0]["message"]["content"] for n, answer in answers.items()}


@pytest.fixture(scope="module")
def undisturbed(isolated: Service) -> dict[str, float]:
    return usual(isolated)


def usual(service: Service) -> dict[str, float]:
    """Seconds that A's answer takes now, when no process dies, by phase."""

    def seconds(ask: Callable[[], object]) -> float:
        began = time.monotonic()
        ask()
        return time.monotonic() - began

    def stream() -> None:
        for client in streaming_in_all(service, "a", "Hello", TOKENS_OF_A):
            client.join()

    for model in ("a", "loading"):
        service.unload(model)
    _wait_for_spares(service)
    loading = seconds(lambda: service.chat("loading"))
    reload = seconds(lambda: service.chat("a"))
    prefill = seconds(lambda: service.chat("a", LONG_PROMPT, max_tokens=4))
    answers = reload + seconds(stream)
    return {"loading": loading, "idle": reload, "prefill": reload + prefill, "decode": answers, "draining": answers}


# The cells that come with every change: each blow and each phase. The others take five minutes more, for processes that
# end in the same way.
QUICK = frozenset(
    {
        ("SIGKILL", "loading"),
        ("SIGKILL", "decode"),
        ("SIGSEGV", "prefill"),
        ("SIGABRT", "idle"),
        ("SIGTERM", "draining"),
        ("SIGSTOP", "decode"),
        ("GPU", "decode"),
    }
)


def cells() -> Iterator[Any]:
    """All of the matrix."""
    for blow in BLOWS:
        for phase in PHASES:
            marks = () if (blow.name, phase) in QUICK else (pytest.mark.slow,)
            yield pytest.param(blow, phase, id=f"{blow.name}-{phase}", marks=marks)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("blow", "phase"), list(cells()))
def test_b_cannot_tell(
    *,
    isolated: Service,
    hold: Path,
    alone: dict[int, str],
    undisturbed: dict[str, float],
    phase: str,
    blow: Blow,
) -> None:
    unread = (f"{blow.name} {tried}: {LONG_PROMPT}" for tried in count())
    # In a second try the machine may be slower than it was at first.
    answers = chain([undisturbed], (usual(isolated) for _ in count()))

    def share_of_its_time() -> float:
        answer = next(answers)[phase]
        in_time = max(IN_TIME, answer) + answer + (SILENCE if blow.is_silent else 0.0)
        return _hit(isolated, alone, phase, blow, hold=hold, unread=next(unread)) / in_time

    assert_below(1.0, share_of_its_time)


def _hit(service: Service, alone: dict[int, str], phase: str, blow: Blow, *, hold: Path, unread: str) -> float:
    """Seconds that A's client waited for its end after the blow."""
    model = "loading" if phase == "loading" else "a"
    service.load(model).raise_for_status()  # also resets the count of deaths
    if phase == "loading":
        service.unload(model).raise_for_status()
    _wait_for_spares(service)
    b_pid = service.model("b")["pid"]

    tokens = TOKENS_BESIDE_SILENCE if blow.is_silent else TOKENS
    bystanders = streaming_in_all(service, "b", "Hello", tokens)
    hold.touch()
    try:
        clients, unload, a_pid = _bring_into(service, phase, model, unread, hold)
        assert not any(b.is_done for b in bystanders), "B ended before the blow; the cell proves nothing"
        hit_at = time.monotonic()
        blow.strike(a_pid, hold)
    finally:
        hold.unlink(missing_ok=True)
    clients = clients or [asking(service, model, "Are you there?")]
    for a in clients:
        _check_a(phase, a.join(), alone[TOKENS_OF_A])
    ended_at = max(a.ended_at for a in clients)
    if unload is not None:
        assert unload.join().response is not None
        assert unload.response is not None
        assert unload.response.status_code == 200
    wait_until(lambda: not psutil.pid_exists(a_pid), what="the end of A's process")
    again = service.chat(model, "And now?")
    assert again.status_code == 200, again.text
    assert service.model(model)["pid"] != a_pid

    for b in bystanders:
        assert b.join().heard == Heard(text=alone[tokens], is_ended=True)
    assert service.model("b")["pid"] == b_pid
    return ended_at - hit_at


def _wait_for_spares(service: Service) -> None:
    wait_until(lambda: [s["state"] for s in service.status()["spares"]] == ["imported"] * 2, 40, "two spares")


def _bring_into(
    service: Service, phase: str, model: str, unread: str, hold: Path
) -> tuple[list[Client], Client | None, int]:
    """A's clients (if they ask before the blow), the pending unload (if any), and A's pid, once A is in this phase.

    unread: a long prompt that is not in A's prompt cache.
    """
    if phase == "loading":
        a = asking(service, model, "Hello")
        # One status request, so that state, stage and pid are of the same moment.
        entry = wait_until(lambda: (m := service.model(model)).get("stage") == "held" and m, what="A's load")
        assert entry["state"] == "loading"
        return [a], None, entry["pid"]
    pid = service.model(model)["pid"]
    if phase == "idle":
        return [], None, pid
    if phase == "prefill":
        stepping(hold).unlink(missing_ok=True)
        a = asking(service, model, unread, stream=False, max_tokens=4)
        # Not while it is being taken in: a request is blamed for a death then.
        wait_until(stepping(hold).exists, what="A's prefill")
        assert not a.is_done
        return [a], None, pid
    clients = streaming_in_all(service, model, "Hello", TOKENS_OF_A)
    if phase == "decode":
        return clients, None, pid

    def run_unload(client: Client) -> None:
        client.response = service.unload(model, timeout=30)

    unload = Client(run_unload)
    service.wait_state(model, "draining")
    return clients, unload, pid


def _check_a(phase: str, a: Client, text: str) -> None:
    if phase in ("decode", "draining"):
        assert a.heard == Heard(text=text, is_ended=True)
    else:
        # No output had been sent, so the request was replayed on the next process.
        assert a.response is not None
        assert a.response.status_code == 200, a.response.text
