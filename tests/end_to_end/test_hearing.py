"""Chats with sounds through gateway, broker and worker, as OpenAI's own client sends them."""

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from broker.wire.to_workers import Assign
from tests.service import Service
from tests.tiny_hearing import make_tiny_hearing, sound
from tests.tiny_models import make_tiny_model
from tests.tiny_vision import make_tiny_vision
from tests.worker.engine_runs import answer
from worker.vision.engine import VisionEngine

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:At least one mel filter")]

HELLO = {"type": "text", "text": "what is "}


def part(data: bytes, kind: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def asked(*parts: dict[str, Any]) -> Any:
    return [{"role": "user", "content": [HELLO, *parts]}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_hearing(folder / "hears")
    make_tiny_hearing(folder / "deaf", hears=False)
    make_tiny_vision(folder / "sees")
    make_tiny_model(folder / "text")
    return folder


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[Service]:
    with Service(models) as service:
        yield service


@pytest.fixture(scope="module")
def engine(models: Path) -> VisionEngine:
    """The same model without the service."""
    return VisionEngine(Assign("hears", str(models / "hears"), "vision"), lambda _stage, _fraction: None)


def expected(engine: VisionEngine, sounds: list[bytes], count: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": [HELLO, *[{"type": "audio"}] * len(sounds)]}]
    return answer(engine, messages=messages, audios=sounds, temperature=0.0, max_tokens=count)


def test_sounds_through_openais_client(client: OpenAI, engine: VisionEngine) -> None:
    chat = {"model": "hears", "temperature": 0, "max_tokens": 20}
    said = []
    for sounds in ([sound(1)], [sound(2)], [sound(1), sound(2, seconds=0.9)]):
        wanted = expected(engine, sounds, 20)
        got = client.chat.completions.create(**chat, messages=asked(*map(part, sounds)))  # type: ignore[call-overload]
        assert got.choices[0].message.content == wanted["text"]
        assert got.usage.prompt_tokens == wanted["prompt_tokens"]
        stream = client.chat.completions.create(**chat, messages=asked(*map(part, sounds)), stream=True)  # type: ignore[call-overload]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == wanted["text"]
        said.append(wanted["text"])
    assert len(set(said)) == 3
    abilities = {model.id: (model.model_extra or {})["capabilities"] for model in client.models.list()}
    assert {name for name, able in abilities.items() if "audio" in able} == {"hears"}


def test_an_answer_about_a_sound_goes_on_after_a_death(service: Service, engine: VisionEngine) -> None:
    wanted = expected(engine, [sound(3)], 1500)["text"]
    fields = {"messages": asked(part(sound(3))), "temperature": 0, "max_tokens": 1500}
    with service.stream("hears", **fields) as stream:
        stream.next_text()
        os.kill(service.model("hears")["pid"], signal.SIGKILL)
        stream.finish()
    assert (stream.error, stream.text) == (None, wanted)
    assert service.model("hears")["resumes"] == 1


def test_what_cannot_be_heard_is_named_and_the_model_keeps_serving(service: Service, client: OpenAI) -> None:
    broken = [b"", b"no sound" * 9, sound(1)[:44], sound(1, seconds=31)]
    bad = [("hears", part(data)) for data in broken] + [(name, part(sound(1))) for name in ("deaf", "sees", "text")]
    bad += [("hears", {"type": "input_audio", "input_audio": {"data": "%%%", "format": "wav"}})]
    before = service.model("hears")["restarts"]
    for model, wrong in bad:
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model=model, messages=asked(wrong))
        assert (raised.value.code, raised.value.param) == ("invalid_request", "messages[0].content[1]")
        assert "messages[0].content[1]" in raised.value.message
    with pytest.raises(openai.APIStatusError) as too_large:
        client.chat.completions.create(model="hears", messages=asked(part(bytes(60 << 20))))
    assert too_large.value.status_code == 413
    assert client.chat.completions.create(model="hears", messages=asked(part(sound(1))), max_tokens=3).usage is not None
    assert service.model("hears")["restarts"] == before
