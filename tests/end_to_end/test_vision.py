"""Chats about images through gateway, broker and worker, as OpenAI's own client sends them."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from broker.wire.to_workers import Assign
from tests.end_to_end.openai_clients import client_of
from tests.service import Service, wait_until
from tests.tiny_models import make_tiny_model
from tests.tiny_vision import make_tiny_vision, picture
from tests.worker.engine_runs import answer
from worker.vision.engine import VisionEngine


@pytest.fixture
def models(tmp_path: Path) -> Path:
    make_tiny_model(tmp_path / "models" / "tiny-text")
    make_tiny_vision(tmp_path / "models" / "tiny-vision")
    return tmp_path / "models"


@pytest.fixture
def service(make_service: Callable[..., Service], models: Path) -> Service:
    return make_service(models_path=models, models={"tiny-vision": {"options": {"prefill_step_size": 16}}})


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with client_of(service) as client:
        yield client


def image(data: bytes, kind: str = "png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def user(*parts: dict[str, Any]) -> Any:
    return {"role": "user", "content": list(parts)}


def test_images_and_text_through_openais_client(service: Service, client: OpenAI, models: Path) -> None:
    first, second = picture(1), picture(2, width=32, format_="WEBP")
    asked: dict[str, Any] = {"model": "tiny-vision", "temperature": 0, "max_tokens": 40}
    chat: Any = [
        user(text("what is "), image(first), text("?")),
        {"role": "assistant", "content": "é"},
        user(image(second, "webp"), text("and this?")),
    ]
    got = client.chat.completions.create(**asked, messages=chat)
    # The same model without the service.
    engine = VisionEngine(Assign("tiny-vision", str(models / "tiny-vision"), "vision"), lambda _stage, _fraction: None)
    plain = [
        user(text("what is "), {"type": "image"}, text("?")),
        chat[1],
        user({"type": "image"}, text("and this?")),
    ]
    expected = answer(engine, messages=plain, images=[first, second], temperature=0.0, max_tokens=40)
    assert got.choices[0].message.content == expected["text"]
    assert got.usage is not None
    assert got.usage.prompt_tokens == expected["prompt_tokens"]
    stream = client.chat.completions.create(**asked, messages=chat, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected["text"]
    words: Any = [{"role": "user", "content": "words only"}]
    said = client.chat.completions.create(**asked, messages=words).choices[0].message.content
    assert said == answer(engine, messages=words, temperature=0.0, max_tokens=40)["text"]
    status = service.model("tiny-vision")
    assert (status["model_type"], status["state"], status["restarts"]) == ("vision", "ready", 0)
    # As the next heartbeat says.
    wait_until(lambda: service.model("tiny-vision")["mlx_active_bytes"] > 0, what="bytes of MLX")


def test_an_unusable_image_is_named_and_the_model_keeps_serving(service: Service, client: OpenAI) -> None:
    good = [user(image(picture(1)))]
    cut_off = picture(1, width=64, height=64)[:100]
    for model, parts in (("tiny-vision", [image(picture(1)), image(cut_off)]), ("tiny-text", [text("a"), image(b"x")])):
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model=model, messages=[user(*parts)])
        assert (raised.value.code, raised.value.param) == (
            "invalid_request",
            "messages[0].content[1].image_url",
        )
    answered = client.chat.completions.create(model="tiny-vision", messages=good, max_tokens=3)
    assert answered.choices[0].finish_reason == "length"
    assert [service.model(name)["restarts"] for name in ("tiny-vision", "tiny-text")] == [0, 0]
