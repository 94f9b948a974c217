"""An audio model as victim and as bystander: a signal hits it, or its neighbour, while it transcribes.

Whoever is not hit hears the same as alone and keeps its process. A whole transcript is made again in the next process,
and a stream that has begun goes on there.
"""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.isolation.conftest import HEARTBEAT_TIMEOUT
from tests.isolation.speakers import CHAT, Heard
from tests.isolation.test_matrix import Client, streaming
from tests.service import Service, wait_until
from tests.tiny_audio import HESITANT, make_tiny_whisper, write_sound
from tests.tiny_models import make_tiny_model

TOKENS = 1200
# Long enough to be hit within: some seconds of work for a model that needs several attempts.
SECONDS = 300

QUICK = frozenset({("SIGKILL", "transcribing")})
BLOWS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGSTOP)


def cells() -> Iterator[Any]:
    for number in BLOWS:
        for phase in ("starting", "idle", "transcribing"):
            marks = () if (number.name, phase) in QUICK else (pytest.mark.slow,)
            yield pytest.param(number, phase, id=f"{number.name}-{phase}", marks=marks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whisper`, `text`: tiny models. And `long.wav`."""
    folder = tmp_path_factory.mktemp("audio-models")
    make_tiny_whisper(folder / "whisper", **HESITANT)
    make_tiny_model(folder / "text", seed=2, layers=4)
    write_sound(folder / "long.wav", SECONDS)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    broker = {"warm_spares": 1, "heartbeat_interval_seconds": 0.1, "heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT}
    with Service(folder, {"broker": broker}) as service:
        for model in ("text", "whisper"):
            service.load(model).raise_for_status()
        yield service


@pytest.fixture(scope="module")
def alone(service: Service, folder: Path) -> tuple[str, str]:
    """The transcript and the text when nothing else happens."""
    text = service.chat("text", max_tokens=TOKENS).json()["choices"][0]["message"]["content"]
    transcript = transcribing(service, folder).join()
    assert transcript.response is not None
    return str(transcript.response.json()["text"]), text


def transcribing(service: Service, folder: Path, **fields: str) -> Client:
    """A request for a whole transcript."""

    def run(client: Client) -> None:
        with (folder / "long.wav").open("rb") as file:
            data = {"model": "whisper", **fields}
            client.response = service.client.post("/v1/audio/transcriptions", data=data, files={"file": file})

    return Client(run)


class Transcript:
    """A streamed transcript in a thread. events: what has come; begun: after the first."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self.begun = threading.Event()

        def run(_client: Client) -> None:
            with (folder / "long.wav").open("rb") as file:
                data = {"model": "whisper", "stream": "true"}
                sent = service.client.stream("POST", "/v1/audio/transcriptions", data=data, files={"file": file})
                with sent as response:
                    assert response.status_code == 200, response.read()
                    for line in response.iter_lines():
                        if line.startswith("data: {"):
                            self.events.append(json.loads(line.removeprefix("data: ")))
                            self.begun.set()

        self.client = Client(run)

    @property
    def text(self) -> str:
        return "".join(event["delta"] for event in self.events if event.get("type") == "transcript.text.delta")


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("number", "phase"), list(cells()))
def test_an_audio_model_that_dies_disturbs_nobody(
    service: Service, folder: Path, alone: tuple[str, str], number: signal.Signals, phase: str
) -> None:
    service.load("whisper").raise_for_status()  # also resets the count of deaths
    if phase == "starting":
        service.unload("whisper").raise_for_status()
    neighbour = service.model("text")["pid"]
    streamed: Transcript | None = None
    whole: Client | None = None
    if phase == "transcribing":  # much longer than the neighbour's answer
        streamed, whole = Transcript(service, folder), transcribing(service, folder)
        assert streamed.begun.wait(20)
        wait_until(lambda: service.model("whisper")["in_flight"] == 2, what="both requests")
    bystander = streaming(service, "text", "Hello", TOKENS, CHAT)
    assert bystander.started.wait(10)
    if phase == "transcribing":
        pid = service.model("whisper")["pid"]
    elif phase == "starting":
        whole = transcribing(service, folder)
        pid = wait_until(lambda: service.model("whisper").get("pid"), what="a process")
    else:
        pid = service.model("whisper")["pid"]
    assert not bystander.is_done, "the neighbour ended before the blow; the cell proves nothing"
    os.kill(pid, number)
    whole = whole or transcribing(service, folder)
    if streamed is not None:
        streamed.client.join()
        assert streamed.events[-1] == {**streamed.events[-1], "type": "transcript.text.done", "text": alone[0]}
        assert streamed.text == alone[0]
    answer = whole.join().response
    assert answer is not None
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == alone[0]
    wait_until(lambda: not psutil.pid_exists(pid), what="the end of the process")
    assert service.model("whisper")["pid"] != pid
    assert bystander.join().heard == Heard(text=alone[1], is_ended=True)
    assert service.model("text")["pid"] == neighbour


@pytest.mark.slow
def test_a_transcript_does_not_notice_that_its_neighbour_dies(
    service: Service, folder: Path, alone: tuple[str, str]
) -> None:
    service.load("text").raise_for_status()
    service.load("whisper").raise_for_status()
    pid = service.model("whisper")["pid"]
    transcript = Transcript(service, folder)
    assert transcript.begun.wait(20)
    victim = streaming(service, "text", "Hello", TOKENS, CHAT)
    assert victim.started.wait(10)
    os.kill(service.model("text")["pid"], signal.SIGKILL)
    assert not transcript.client.is_done
    victim.join()
    transcript.client.join()
    assert transcript.events[-1] == {**transcript.events[-1], "type": "transcript.text.done", "text": alone[0]}
    assert service.model("whisper")["pid"] == pid
