"""The promise to the clients of the model that dies: a pause, and nothing else.

Eight clients of model A, a stream and a whole answer in each dialect, are brought into the very step of their answers
that a cell is about; then the process is ended in one of six ways. Each of them gets all of its answer, in the same
words as when nothing happens: text, reasoning, calls, ends, usage, and the log-probabilities of the whole answer of a
chat. Ids and times are another's with every answer. One of the eight draws with a seed.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.device_errors import DEVICE_ERRORS
from tests.isolation.gated_engine import Gate
from tests.isolation.own_clients import CLIENTS, Wish, logprobs
from tests.scripted_model import make_scripted_model
from tests.service import Service, wait_until
from tests.tiny_models import make_tiny_model
from tests.worker.generation.scripted import CALL, TAGS, TOOL_TEMPLATE

SCRIPT = ("<think>", "hm", ", so", " be", " it", "</think>", "Well: ", *CALL)
TOKENS = 80
PIECE = 32  # tokens of a prompt
MEMORY_LIMIT_GB = 0.9
# Seconds. A process that fills memory says little meanwhile.
HEARTBEAT_TIMEOUT = 6.0
# The two best logits of every step differ by more: the order of a sum changes no token.
MARGIN = 1e-3


@dataclass(frozen=True)
class Point:
    """Where in an answer. step: how many steps may follow the first output; of some points the answer tells it.
    in_prompt: the steps are pieces of a prompt."""

    wish: Wish
    step: Callable[["Answer"], int]
    in_prompt: bool = False


@dataclass(frozen=True)
class Answer:
    """The plain model's, token by token."""

    tokens: list[bytes]

    def within_a_character(self) -> int:
        """After the first byte of a character of two."""
        return self._where(lambda one, two: 0xC2 <= one[0] <= 0xDF and 0x80 <= two[0] <= 0xBF)

    def within_a_stop(self) -> int:
        """After the first byte of what begins like the stop string."""
        return self._where(lambda one, two: one.isalpha() and two.isalpha())

    @property
    def stop(self) -> str:
        at = self.within_a_stop()
        return b"".join(self.tokens[at - 1 : at + 1]).decode() + " but never so"

    def _where(self, fits: Callable[[bytes, bytes], bool]) -> int:
        pairs = enumerate(zip(self.tokens, self.tokens[1:], strict=False), 1)
        return next(at for at, (one, two) in pairs if at > 3 and len(one) == len(two) == 1 and fits(one, two))


PLAIN, SCRIPTED = Wish("plain", TOKENS), Wish("scripted", TOKENS, has_tools=True)
CALLING = Wish("calling", TOKENS, has_tools=True)
LONG = Wish("slow_reader", TOKENS, said="What is said here is read in several pieces. " * 5)
POINTS: dict[str, Point] = {
    "before": Point(PLAIN, lambda _: 0),
    "prefill": Point(LONG, lambda _: 3, in_prompt=True),
    "token 1": Point(PLAIN, lambda _: 1),
    "token 50": Point(PLAIN, lambda _: 50),
    "call": Point(SCRIPTED, lambda _: len(SCRIPT) - 2),
    "call at once": Point(CALLING, lambda _: len(CALL) - 2),
    "schema": Point(Wish("plain", TOKENS, has_schema=True), lambda _: 14),
    "reasoning": Point(SCRIPTED, lambda _: 3),
    "character": Point(PLAIN, Answer.within_a_character),
    "stop": Point(PLAIN, Answer.within_a_stop),
}
BLOWS = ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGSTOP", "memory", "GPU"]
# Each blow and each point once; the others with `make test-isolation`.
QUICK = frozenset(
    {
        *(("SIGKILL", "token 50"), ("SIGSEGV", "before"), ("SIGABRT", "call"), ("SIGSTOP", "reasoning")),
        *(("memory", "schema"), ("GPU", "stop"), ("SIGKILL", "character"), ("SIGKILL", "token 1")),
        *(("SIGABRT", "prefill"), ("SIGSEGV", "call at once")),
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("own-clients")
    for name in ("plain", "slow_reader"):
        make_tiny_model(directory / name, seed=5)
    options: dict[str, Any] = {"tags": TAGS, "tool_parser": "json_tools", "chat_template": TOOL_TEMPLATE}
    make_scripted_model(directory / "scripted", SCRIPT, **options)
    make_scripted_model(directory / "calling", CALL, **options)
    return directory


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    """The models are pinned, so that the next process loads at once."""

    def gated(name: str, **more: object) -> dict[str, object]:
        # Without a prompt cache usage does not depend on what was asked before.
        options = {"folder": str(folder / name), "prompt_cache_tokens": 0, **more}
        engine = "tests.isolation.gated_engine:GatedEngine"
        return {"engine": engine, "type": "text-gen", "options": options, "memory_limit_gb": MEMORY_LIMIT_GB}

    broker = {
        "warm_spares": 2,
        "heartbeat_interval_seconds": 0.1,
        "heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT,
        "memory_sample_seconds": 0.1,
    }
    models = {name: gated(name) for name in ("plain", "scripted", "calling")}
    models["slow_reader"] = gated("slow_reader", prefill_step_size=PIECE, from_the_first=True)
    running = Service(folder, {"broker": broker, "gateway": {"resume_limit": 2}, "models": models})
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="module")
def answer(service: Service) -> Answer:
    """The tokens of the plain model's answer."""
    return Answer([bytes(entry["bytes"]) for entry in logprobs(service.client, PLAIN)])


@pytest.fixture(scope="module")
def undisturbed(service: Service) -> Callable[[Wish], list[Any]]:
    """What the clients are told when nothing happens."""
    known: dict[Wish, list[Any]] = {}

    def told(wish: Wish) -> list[Any]:
        if wish not in known:
            with ThreadPoolExecutor(len(CLIENTS)) as pool:
                known[wish] = list(pool.map(lambda client: client.ask(service.client, wish), CLIENTS))
                assert is_clear(service, wish)
        return known[wish]

    return told


def is_clear(service: Service, wish: Wish) -> bool:
    """Whether the best token is everywhere so much better than the next one that rounding decides nothing."""
    best = [entry["top_logprobs"] for entry in logprobs(service.client, wish)]
    return all(first["logprob"] - second["logprob"] > MARGIN for first, second in best)


def cells() -> Iterator[Any]:
    for blow in BLOWS:
        for name in POINTS:
            marks = () if (blow, name) in QUICK else (pytest.mark.slow,)
            yield pytest.param(blow, name, id=f"{blow}-{name}", marks=marks)


def strike(blow: str, pid: int, gate: Gate) -> None:
    if blow == "GPU":
        whole = gate.gpu_error.with_name("gpu_error.new")  # the engine must not read half of it
        whole.write_text(DEVICE_ERRORS["victim"])
        whole.rename(gate.gpu_error)
    elif blow == "memory":
        gate.hunger.touch()
    else:
        os.kill(pid, signal.Signals[blow])


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), what="the end of the process")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("blow", "name"), list(cells()))
def test_its_own_clients_hear_a_pause(
    *, service: Service, folder: Path, answer: Answer, undisturbed: Callable[[Wish], list[Any]], blow: str, name: str
) -> None:
    point = POINTS[name]
    wish = point.wish if name != "stop" else Wish("plain", TOKENS, stop=answer.stop)
    wanted = undisturbed(wish)
    service.load(wish.model).raise_for_status()  # forgets deaths
    resumes, pid = service.model(wish.model)["resumes"], service.model(wish.model)["pid"]
    gate = Gate(folder / wish.model)
    gate.close(0)
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        try:
            asking = [pool.submit(client.ask, service.client, wish) for client in CLIENTS]
            wait_until(lambda: gate.holds(0, len(CLIENTS)), what="all clients in the engine")
            if (step := point.step(answer)) > 0:
                gate.close(step)
                wait_until(lambda: gate.holds(step, len(CLIENTS)), what="the point")
            if point.in_prompt:
                wait_until(lambda: service.model(wish.model)["prefilling"] == len(CLIENTS), what="begun prompts")
            assert not any(client.done() for client in asking)
            strike(blow, pid, gate)
            wait_until(lambda: not psutil.pid_exists(pid), what="the end of the process")
            gate.open()
            told = [client.result(60) for client in asking]
        finally:
            gate.open()  # else those that still wait would wait for ever
    for client, was, is_now in zip(CLIENTS, wanted, told, strict=True):
        assert is_now == was, client
    entry = service.model(wish.model)
    assert entry["pid"] != pid
    has_output = step > 0 and not point.in_prompt
    assert entry["resumes"] - resumes == (len(CLIENTS) if has_output else 0)


@pytest.mark.timeout(120)
def test_a_call_that_two_processes_begin_is_nobodys_fault(
    service: Service, folder: Path, undisturbed: Callable[[Wish], list[Any]]
) -> None:
    """A call is sent as a whole, at its end. Before that its client has nothing, but its prompt has been read."""
    wanted = undisturbed(CALLING)
    service.load(CALLING.model).raise_for_status()
    resumes = service.model(CALLING.model)["resumes"]
    gate, step = Gate(folder / CALLING.model), len(CALL) - 2
    gate.close(0)
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        try:
            asking = [pool.submit(client.ask, service.client, CALLING) for client in CLIENTS]
            for _ in range(2):
                wait_until(lambda: gate.holds(0, len(CLIENTS)), what="all clients in the engine")
                gate.close(step)
                wait_until(lambda: gate.holds(step, len(CLIENTS)), what="all clients in mid-call")
                gate.close(0)
                end(service.model(CALLING.model)["pid"])
            gate.open()
            told = [client.result(60) for client in asking]
        finally:
            gate.open()
    assert told == wanted
    assert service.model(CALLING.model)["resumes"] - resumes == 2 * len(CLIENTS)
