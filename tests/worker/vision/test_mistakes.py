"""What clients get wrong: it is named, and disturbs nobody."""

import io
import struct
import zlib
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from broker.wire.failure import FailureError
from broker.wire.outputs import ERROR
from tests.tiny_vision import picture
from tests.worker.engine_runs import add, answer, joined
from tests.worker.stepping import steps
from tests.worker.vision.failing import failure
from tests.worker.vision.vision_runs import (
    IMAGE,
    ONE,
    TEXT_ONLY,
    TWO_TURNS,
    text,
    user,
)
from worker.vision.engine import VisionEngine
from worker.vision.model import _marks

pytestmark = pytest.mark.exact


def bomb(width: int, height: int) -> bytes:
    """The head of a PNG that claims so many pixels, and hardly more."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bitmap() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "BMP")
    return file.getvalue()


BROKEN = {
    "nothing": (b"", "formats are PNG"),
    "no image": (b"<svg/>" * 20, "formats are PNG"),
    "another format": (bitmap(), "formats are PNG"),
    "cut off": (picture(1, width=64, height=64)[:100], "not an image that can be decoded"),
    "half a JPEG": (picture(1, width=64, height=64, format_="JPEG")[:-300], "not an image that can be decoded"),
    "bad data": (picture(1)[:60] + b"\0" * 40, "not an image that can be decoded"),
    "a bomb": (bomb(20_000, 20_000), "too many pixels"),
    "a small bomb": (bomb(10_000, 10_000), "too many pixels"),
    "a line": (picture(1, width=4000, height=2), "aspect ratio"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_image_is_named_and_does_not_disturb_others(engine: VisionEngine, data: bytes, message: str) -> None:
    fields: dict[str, Any] = {**TWO_TURNS, "temperature": 0.0, "max_tokens": 30}
    expected = answer(engine, **fields)
    neighbour = add(engine, 7, **fields)
    first = engine.step()
    broken = {"messages": [TEXT_ONLY["messages"][0], user(text("a"), IMAGE, IMAGE)], "images": [picture(1), data]}
    try:
        bad = add(engine, 8, **broken)
    except FailureError as error:
        code, param, said = error.failure.code, error.failure.param or "", str(error)
        outputs = steps(engine)
    else:
        outputs = steps(engine)
        (end,) = (output for output in outputs if output.request_id == bad)
        assert end.kind == ERROR
        code, param, said = end.body["code"], end.body["param"], end.body["message"]
    assert (code, param) == ("invalid_request", "images[1]")
    assert param in said
    assert message in said
    assert joined([o for o in first + outputs if o.request_id == neighbour]) == {**expected, "cached_tokens": 0}


def test_all_images_of_a_request_together_have_a_limit(engine: VisionEngine) -> None:
    images = [bomb(9000, 9000), bomb(3000, 3000)]
    got = failure(engine, messages=[user(IMAGE, IMAGE)], images=images)
    assert got["param"] == "images[1]"
    assert "more than" in got["message"]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, "messages", "either"),
        ({**ONE, "prompt": "x"}, "messages", "either"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": ONE["messages"]}, "messages", "1 images, but 0 came"),
        ({"messages": TEXT_ONLY["messages"], "images": ONE["images"]}, "messages", "0 images, but 1 came"),
        ({"prompt": "x", "images": ONE["images"]}, "messages", "images belong in messages"),
        ({"messages": [user({"type": "video"})]}, "messages[0].parts[0]", "not a text part"),
        ({"messages": [user(IMAGE, {"type": "video"})]}, "messages[0].parts[1]", "not a text part"),
        ({"messages": [user({"type": "audio"})], "audios": [b"RIFF"]}, "audios[0]", "does not hear"),
        ({"messages": [user({"type": "audio"})]}, "audios[0]", "does not hear"),
        ({"messages": TEXT_ONLY["messages"], "audios": [b"RIFF"]}, "messages", "0 audios, but 1 came"),
        ({"prompt": "x", "audios": [b"RIFF"]}, "messages", "audio belongs in messages"),
        (
            {"messages": [{"role": "system", "content": [IMAGE]}], "images": ONE["images"]},
            "images[0]",
            "role user",
        ),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]", "unknown role wizard"),
        ({**ONE, "chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "tokenize"),
        ({**ONE, "max_tokens": 0}, "max_tokens", "at least 1"),
        ({**ONE, "temperature": -1.0}, "temperature", "at least 0"),
        ({**ONE, "grammar": "start: ("}, "grammar", "grammar"),
        # Its processor takes this for a picture too.
        ({"messages": [user(IMAGE, text("<|placeholder|>"))], "images": ONE["images"]}, "messages", "cannot take"),
    ],
)
def test_bad_requests(engine: VisionEngine, fields: dict[str, Any], param: str, message: str) -> None:
    got = failure(engine, **fields)
    assert (got["code"], got["param"]) == ("invalid_request", param)
    assert message in got["message"]


VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [user(text("a <|image_pad|>"), IMAGE)]}, "messages[0].parts[0].text"),
        ({"messages": [user(IMAGE, text("a"), text(VIDEO))]}, "messages[0].parts[2].text"),
        ({"messages": [user(IMAGE), {"role": "assistant", "content": VIDEO}]}, "messages[1].content"),
        ({"messages": [user(IMAGE)], "chat_template_kwargs": {"suffix": VIDEO}}, "chat_template_kwargs.suffix"),
        (
            {
                "messages": [user(IMAGE)],
                "tools": [{"type": "function", "function": {"name": "f", "description": VIDEO}}],
            },
            "tools[0].function.description",
        ),
    ],
)
def test_marks_for_pictures_in_what_the_client_says(engine: VisionEngine, fields: dict[str, Any], param: str) -> None:
    got = failure(engine, images=ONE["images"], **fields)
    assert (got["code"], got["param"]) == ("invalid_request", param)
    assert "takes it for one" in got["message"]
    # Where there is no image, they are words.
    assert answer(engine, messages=[user(text(VIDEO))], max_tokens=2)["completion_tokens"] == 2


def test_marks_are_those_of_the_processor_and_of_the_tokenizer() -> None:
    tokenizer = SimpleNamespace(get_added_vocab=lambda: {"<s>": 0, "[IMG]": 1, "<|Vision_start|>": 2})
    processor = SimpleNamespace(image_token="<pic>")  # noqa: S106 # no password
    assert _marks(processor, tokenizer) == {"<pic>", "[IMG]", "<|Vision_start|>"}
