"""Audio models as victims and as bystanders: one that transcribes, or one that speaks, dies in a phase of its life.

Whoever is not hit hears the same as alone and keeps its process: a language model's client, and one of the other audio
model. The victim's own clients: a whole transcript is made again in the next process, and a streamed one that has begun
goes on there. Speech that has begun cannot go on: as bytes it is cut, as events it ends with an error; speech of which
nothing has come is spoken in the next process. And the next request is served.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from broker.wire.failure import DEVICE_EXIT_CODE
from tests.isolation.audio_clients import HEARS, SENTENCE, SPEAKS, Speech, Transcript, transcribing
from tests.isolation.gated_engine import Gate
from tests.isolation.speakers import CHAT, Heard
from tests.isolation.test_matrix import Client, streaming
from tests.isolation.test_own_clients import MEMORY_LIMIT_GB, strike
from tests.service import Service, wait_until
from tests.tiny_audio import HESITANT, make_tiny_whisper, write_sound
from tests.tiny_models import make_tiny_model
from tests.tiny_speech import make_tiny_pocket

# Of the bystanders: some seconds of work, so that none ends before the blow.
TOKENS = 1800
LONG_SECONDS = 600
LONG_TEXT = " ".join([SENTENCE] * 200)
# Of the victim: several windows, and several sentences.
SHORT_SECONDS = 120
SHORT_TEXT = " ".join([SENTENCE] * 4)

# Seconds. A process that fills memory says little meanwhile, and nearly nothing where others need the cores.
HEARTBEAT_TIMEOUT = 8.0

SIGNALS = ("SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM", "SIGSTOP")
PHASES = ("starting", "idle", "working")
QUICK = frozenset({(HEARS, "SIGKILL", "working"), (SPEAKS, "memory", "working")})


def cells() -> Iterator[Any]:
    """An idle process takes no memory, and one that starts is held by nothing that could make it."""
    blows = [(blow, phase) for blow in (*SIGNALS, "GPU") for phase in PHASES] + [("memory", "working")]
    for victim in (HEARS, SPEAKS):
        for blow, phase in blows:
            marks = () if (victim, blow, phase) in QUICK else (pytest.mark.slow,)
            yield pytest.param(victim, blow, phase, id=f"{victim}-{blow}-{phase}", marks=marks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whisper`, `pocket`, `text`: tiny models. And `long.wav`, `short.wav`."""
    folder = tmp_path_factory.mktemp("audio-models")
    make_tiny_whisper(folder / HEARS, **HESITANT)
    make_tiny_pocket(folder / SPEAKS)
    make_tiny_model(folder / "text", seed=2, layers=4)
    write_sound(folder / "long.wav", LONG_SECONDS)
    write_sound(folder / "short.wav", SHORT_SECONDS)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    broker = {
        "warm_spares": 1,
        "heartbeat_interval_seconds": 0.1,
        "heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT,
        "memory_sample_seconds": 0.1,
    }

    def gated(name: str) -> dict[str, object]:
        engine = "tests.isolation.gated_audio:GatedAudio"
        options = {"folder": str(folder / name)}
        return {"engine": engine, "type": "audio", "options": options, "memory_limit_gb": MEMORY_LIMIT_GB}

    with Service(folder, {"broker": broker, "models": {name: gated(name) for name in (HEARS, SPEAKS)}}) as service:
        for model in ("text", HEARS, SPEAKS):
            service.load(model).raise_for_status()
        yield service


@dataclass(frozen=True)
class Alone:
    """What is said when nothing else happens."""

    text: str
    long_transcript: str
    short_transcript: str
    long_speech: bytes
    short_speech: bytes


@pytest.fixture(scope="module")
def alone(service: Service, folder: Path) -> Alone:
    text = service.chat("text", max_tokens=TOKENS).json()["choices"][0]["message"]["content"]
    heard = [transcribing(service, folder / name).join().response for name in ("long.wav", "short.wav")]
    transcripts = [answer.json()["text"] for answer in heard if answer is not None]
    spoken = [Speech(service, said).join().audio for said in (LONG_TEXT, SHORT_TEXT)]
    return Alone(text, *transcripts, *spoken)


class Bystanders:
    """A client of the language model, and one of each audio model but the victim, all within their answers."""

    def __init__(self, service: Service, folder: Path, victim: str) -> None:
        self._service = service
        names = {"text", HEARS, SPEAKS} - {victim}
        self._pids = {name: service.model(name)["pid"] for name in names}
        # One after the other, the slowest to begin first.
        self._transcript = begun(Transcript(service, folder / "long.wav")) if HEARS in names else None
        self._speech = begun(Speech(service, LONG_TEXT)) if SPEAKS in names else None
        self._text = streaming(service, "text", "Hello", TOKENS, CHAT) if "text" in names else None
        heard = [one for one in (self._speech, self._transcript) if one is not None]
        self._clients = [one.client for one in heard]
        if self._text is not None:
            must_begin(self._text)
            self._clients.append(self._text)

    def must_be_at_work(self) -> None:
        """Else the cell proves nothing."""
        assert not any(client.is_done for client in self._clients), "ended before the blow"

    def must_say(self, alone: Alone) -> None:
        """What they say alone, from the same processes."""
        if self._text is not None:
            assert self._text.join().heard == Heard(text=alone.text, is_ended=True)
        if self._speech is not None:
            self._speech.must_say(alone.long_speech)
        if self._transcript is not None:
            self._transcript.must_say(alone.long_transcript)
        assert {name: self._service.model(name)["pid"] for name in self._pids} == self._pids


def must_begin(client: Client) -> None:
    """Its first piece comes."""
    wait_until(lambda: client.started.is_set() or client.is_done, what="the first piece")
    if client.is_done:
        client.join()  # which says why


Streamed = TypeVar("Streamed", Speech, Transcript)


def begun(client: Streamed) -> Streamed:
    """The same, once its first piece has come."""
    must_begin(client.client)
    return client


def must_transcribe(client: Client, alone: Alone) -> None:
    response = client.join().response
    assert response is not None
    assert response.status_code == 200, response.text
    assert response.json()["text"] == alone.short_transcript


# What is left to check of the victim's clients.
Check = Callable[[], None]


def bring_into_transcripts(service: Service, folder: Path, alone: Alone, gate: Gate) -> Check:
    """A stream that has begun, and a whole transcript."""
    streamed, whole = Transcript(service, folder / "short.wav"), transcribing(service, folder / "short.wav")
    wait_until(lambda: gate.holds(0, 2), what="both requests in the engine")
    gate.close(1)
    wait_until(lambda: gate.holds(1, 2), what="the first piece of the stream")
    must_begin(streamed.client)

    def check() -> None:
        streamed.must_say(alone.short_transcript)
        must_transcribe(whole, alone)

    return check


def bring_into_speech(service: Service, folder: Path, alone: Alone, gate: Gate) -> Check:
    """Two that have begun, as bytes and as events, and one whose turn has not come."""
    cut, told = Speech(service, SHORT_TEXT), Speech(service, SHORT_TEXT, events=True)
    wait_until(lambda: gate.holds(0, 2), what="two requests in the engine")
    waiting = Speech(service, SHORT_TEXT)
    wait_until(lambda: gate.holds(0, 3), what="the third one")
    gate.close(2)
    wait_until(lambda: gate.holds(2, 3), what="the first samples of two")
    must_begin(cut.client)
    must_begin(told.client)
    assert not waiting.client.started.is_set()

    def check() -> None:
        cut.must_break("cut", alone.short_speech)
        told.must_break("worker_died", alone.short_speech)
        waiting.must_say(alone.short_speech)

    return check


def ask_again(service: Service, folder: Path, alone: Alone, victim: str) -> Check:
    """A request, and the check of its answer."""
    if victim == HEARS:
        transcript = transcribing(service, folder / "short.wav")
        return lambda: must_transcribe(transcript, alone)
    speech = Speech(service, SHORT_TEXT)
    return lambda: speech.must_say(alone.short_speech)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("victim", "blow", "phase"), list(cells()))
def test_an_audio_model_that_dies_disturbs_nobody(
    *, service: Service, folder: Path, alone: Alone, victim: str, blow: str, phase: str
) -> None:
    service.load(victim).raise_for_status()  # also resets the count of deaths
    wait_until(lambda: service.model(victim)["in_flight"] == 0, what="the end of a cell that failed")
    gate = Gate(folder / victim)
    checks: list[Check] = []
    try:
        if phase == "starting":
            service.unload(victim).raise_for_status()
        if phase == "working":
            gate.close(0)
            bring = bring_into_transcripts if victim == HEARS else bring_into_speech
            checks.append(bring(service, folder, alone, gate))
        if phase == "starting" and blow == "GPU":  # which it meets when it has loaded
            gate.close(0)
            checks.append(ask_again(service, folder, alone, victim))
            wait_until(lambda: service.model(victim).get("stage") == "held", what="the end of its load")
        bystanders = Bystanders(service, folder, victim)
        if phase == "starting" and blow != "GPU":  # which may hit it before it has begun to load
            checks.append(ask_again(service, folder, alone, victim))
        pid = wait_until(lambda: service.model(victim).get("pid"), what="a process")
        bystanders.must_be_at_work()
        strike(blow, pid, gate)
        if phase == "idle":
            checks.append(ask_again(service, folder, alone, victim))
        wait_until(lambda: not psutil.pid_exists(pid), what="the end of the process")
    finally:
        gate.open()
    for check in checks:
        check()
    ask_again(service, folder, alone, victim)()
    entry = service.model(victim)
    assert entry["pid"] != pid
    assert blow != "GPU" or entry["last_exit"]["code"] == DEVICE_EXIT_CODE, entry["last_exit"]
    assert blow != "memory" or entry["last_exit"]["reason"].startswith("memory_limit"), entry["last_exit"]
    bystanders.must_say(alone)


@pytest.mark.slow
def test_audio_does_not_notice_that_its_neighbour_dies(service: Service, folder: Path, alone: Alone) -> None:
    service.load("text").raise_for_status()
    bystanders = Bystanders(service, folder, "text")
    pid = service.model("text")["pid"]
    victim = streaming(service, "text", "Hello", TOKENS, CHAT)
    assert victim.started.wait(10)
    bystanders.must_be_at_work()
    strike("SIGKILL", pid, Gate(folder / "text"))
    victim.join()
    bystanders.must_say(alone)
