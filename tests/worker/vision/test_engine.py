"""The vision engine in this process, on tiny models with real weights. Against mlx-vlm: test_vision_golden.py."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoTokenizer

from broker.wire.work import Generate
from tests.tiny_models import make_tiny_model
from tests.tiny_vision import CHAT_TEMPLATE, LARGEST_PIXELS, make_tiny_vision, picture
from tests.worker import engine_runs
from tests.worker.engine_runs import answer, joined, run
from tests.worker.vision.failing import failure
from tests.worker.vision.vision_runs import (
    IMAGE,
    MIXED,
    ONE,
    TEXT_ONLY,
    THREE,
    assert_nothing_left,
    in_company,
    load,
    rounded,
    text,
    user,
)
from worker.loading.foreign_code import no_foreign_code
from worker.vision.engine import VisionEngine

pytestmark = pytest.mark.exact


def test_an_image_counts_and_so_does_its_place(engine: VisionEngine) -> None:
    def said(**fields: Any) -> str:
        return str(answer(engine, temperature=0.0, max_tokens=30, **fields)["text"])

    words = user(text("what is "), text("?"))
    answers = {
        said(**ONE),
        said(messages=ONE["messages"], images=[picture(9)]),
        said(messages=[words]),
        said(messages=[user(IMAGE, text("what is ?"))], images=ONE["images"]),
        said(messages=THREE["messages"], images=THREE["images"]),
        said(messages=THREE["messages"], images=THREE["images"][::-1]),
    }
    assert len(answers) == 6
    assert (
        answer(engine, **ONE, max_tokens=1)["prompt_tokens"]
        == answer(engine, messages=[words], max_tokens=1)["prompt_tokens"] + 4 + 2
    )


def test_a_prompt_of_text_or_tokens(engine: VisionEngine, folder: Path) -> None:
    got = answer(engine, prompt="once upon", temperature=0.0, max_tokens=20)
    tokens = engine.model.tokenizer.encode("once upon")
    assert answer(engine, prompt=tokens, temperature=0.0, max_tokens=20) == got
    rendered = "[system] be brief[user] hi é[assistant] "
    direct = answer(engine, prompt=rendered, temperature=0.0, max_tokens=20)
    assert answer(engine, **TEXT_ONLY, temperature=0.0, max_tokens=20) == direct


# ---- in company ---------------------------------------------------------------------------------------------------


def test_a_batch_of_mixed_requests_says_what_each_says_alone(engine: VisionEngine) -> None:
    alone = [run(engine, [fields])[0] for fields in MIXED]
    together = run(engine, MIXED)
    for one, other in zip(alone, together, strict=True):
        assert [(o.kind, rounded(o.body)) for o in one] == [(o.kind, rounded(o.body)) for o in other]
    assert_nothing_left(engine)


def test_company_that_comes_and_goes_changes_nothing(engine: VisionEngine) -> None:
    """The same again while others, with images and without, join and are cancelled at every step."""
    alone = [rounded(joined(run(engine, [fields])[0])) for fields in MIXED]
    assert [rounded(body) for body in in_company(engine, MIXED)] == alone


def test_seeds(engine: VisionEngine) -> None:
    def said(**fields: Any) -> str:
        return str(answer(engine, **ONE, max_tokens=40, **fields)["text"])

    assert said(seed=7) == said(seed=7)
    assert said(seed=7) != said(seed=8)
    assert said() != said()
    assert said(temperature=0.0) == said(temperature=0.0, seed=1) == said(temperature=1e-9)


def test_stop_strings_and_streams(engine: VisionEngine) -> None:
    full = str(answer(engine, **ONE, temperature=0.0, max_tokens=100)["text"])
    stop = next(full[i : i + 3] for i in range(20, 90) if "\ufffd" not in full[i : i + 3])
    fields = {**ONE, "temperature": 0.0, "max_tokens": 100, "stop": [stop]}
    whole, streamed = run(engine, [fields, {**fields, "stream": True}])
    assert joined(streamed) == joined(whole)
    assert joined(whole)["text"] == full[: full.index(stop)]
    assert joined(whole)["finish_reason"] == "stop"
    assert len(streamed) > 5
    assert_nothing_left(engine)


def test_an_answer_that_must_be_json(engine: VisionEngine) -> None:
    ok = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema = {**ok, "additionalProperties": False}
    got = answer(engine, **ONE, json_schema=schema, seed=3, max_tokens=100)
    assert json.loads(got["text"]) in ({"ok": True}, {"ok": False})
    assert got["finish_reason"] == "stop"


def test_a_required_call(engine: VisionEngine) -> None:
    parameters = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    tools = [{"type": "function", "function": {"name": "count", "parameters": parameters}}]
    asked: dict[str, Any] = {"tools": tools, "required_tools": ["count"], "one_call": True}
    got = answer(engine, **ONE, **asked, seed=3, max_tokens=200)
    assert [(call["name"], json.loads(call["arguments"])["n"] in (1, 2)) for call in got["tool_calls"]] == [
        ("count", True)
    ]
    assert got["finish_reason"] == "tool_calls"


# ---- the context and pictures ---------------------------------------------------------------------------------------


def test_the_context_counts_images_too(tmp_path: Path) -> None:
    engine = load(make_tiny_vision(tmp_path / "short", context_length=64))
    got = answer(engine, messages=[user(IMAGE)], images=[picture(1, width=32)], temperature=0.0)
    assert got["prompt_tokens"] + got["completion_tokens"] == 64
    # 32 by 32 pixels are 16 tokens: three of them and the text around are too long, as are four alone.
    for count, size in ((3, 73), (4, 64)):
        too_long = failure(engine, messages=[user(*[IMAGE] * count)], images=[picture(1, width=32, height=32)] * count)
        assert too_long["code"] == "context_length_exceeded"
        assert f"{size} tokens" in too_long["message"]
        assert "64 tokens" in too_long["message"]
    assert failure(engine, prompt="x" * 64)["code"] == "context_length_exceeded"


def test_a_setting_decides_about_the_context(tmp_path: Path) -> None:
    folder = make_tiny_vision(tmp_path / "short", context_length=64)
    assert [load(folder, context_length=length).facts.context_length for length in (0, 32, 100)] == [64, 32, 100]


@pytest.mark.parametrize(
    ("format_", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        *(("GIF", mode) for mode in ("RGB", "P", "L")),
    ],
)
def test_formats_and_modes(engine: VisionEngine, format_: str, mode: str) -> None:
    data = picture(1, format_=format_, mode=mode)
    assert answer(engine, messages=[user(IMAGE)], images=[data], max_tokens=2)["completion_tokens"] == 2


def test_a_large_image_is_scaled_down_as_the_model_wants_it(engine: VisionEngine, folder: Path) -> None:
    def tokens(engine: VisionEngine, data: bytes) -> int:
        return int(answer(engine, messages=[user(IMAGE)], images=[data], max_tokens=1)["prompt_tokens"])

    around = tokens(engine, picture(1)) - 4
    assert tokens(engine, picture(1, width=600, height=400)) - around <= LARGEST_PIXELS // 64
    # Or as the settings have it.
    small = load(folder, max_image_pixels=1024)
    for data in (picture(1, width=64, height=64), picture(1, width=300, height=300, format_="JPEG")):
        assert tokens(small, data) - around == 16


def test_a_picture_is_upright(engine: VisionEngine) -> None:
    flat = Image.open(io.BytesIO(picture(1, width=32, height=16)))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    turned, upright = io.BytesIO(), io.BytesIO()
    flat.save(turned, "PNG", exif=exif)
    flat.transpose(Image.Transpose.ROTATE_270).save(upright, "PNG")
    fields: dict[str, Any] = {"messages": [user(IMAGE)], "temperature": 0.0, "max_tokens": 20}
    expected = answer(engine, **fields, images=[upright.getvalue()])
    assert answer(engine, **fields, images=[turned.getvalue()]) == expected


# ---- thinking -----------------------------------------------------------------------------------------------------


THINKING = CHAT_TEMPLATE.replace("[assistant]{{ suffix or '' }} ", "[assistant]<think>")


def test_a_model_that_thinks(tmp_path: Path) -> None:
    folder = make_tiny_vision(tmp_path / "thinks", more_tokens=("<think>", "</think>"), chat_template=THINKING)
    engine = load(folder)
    end = engine.model.tokenizer.convert_tokens_to_ids("</think>")
    fields: dict[str, Any] = {**ONE, "seed": 3, "max_tokens": 100}
    got = answer(engine, **fields, logit_bias={str(end): 8.0}, logprobs=0)
    tokens = [bytes(entry["bytes"]) for entry in got["logprobs"]]
    first = tokens.index(b"</think>")
    assert 0 < first < 99
    assert got["reasoning"] == b"".join(tokens[:first]).decode(errors="replace")
    assert "</think>" not in got["reasoning"]
    # Reasoning is not constrained, the answer after it is.
    bound: dict[str, Any] = {"json_schema": {"type": "boolean"}, "logit_bias": {str(end): 8.0}}
    got = answer(engine, **fields, **bound)
    assert got["reasoning"]
    assert json.loads(got["text"]) in (True, False)
    assert got["finish_reason"] == "stop"
    # It ends where a budget says so, in company too.
    bounds = [{**fields, **more, "thinking_budget": most} for most in (0, 4) for more in ({}, bound, {"stream": True})]
    for asked, outputs in zip(bounds, run(engine, bounds), strict=True):
        got = joined(outputs)
        assert got.get("reasoning_tokens", 0) == asked["thinking_budget"]
        assert bool(got.get("reasoning")) == bool(asked["thinking_budget"])
        assert "ignored" not in got
    # Also without an image; and without reasoning if the template does not open it.
    assert answer(engine, **TEXT_ONLY, seed=3, max_tokens=10)["reasoning"]
    calm = load(make_tiny_vision(tmp_path / "calm", more_tokens=("<think>", "</think>")))
    assert "reasoning" not in answer(calm, **fields)


# ---- loading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefil_step_size": 1}, "'prefil_step_size' is unknown"),
        ({"max_image_pixels": 0}, "whole number of at least 1"),
        ({"completion_batch_size": "8"}, "whole number of at least 1"),
        ({"context_length": -1}, "whole number of at least 0"),
    ],
)
def test_bad_options(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(folder, **options)


def test_folders_that_cannot_be_loaded(tmp_path: Path) -> None:
    def broken(name: str, **config: Any) -> Path:
        made = make_tiny_vision(tmp_path / name)
        content = {**json.loads((made / "config.json").read_text()), **config}
        (made / "config.json").write_text(json.dumps(content))
        return made

    with pytest.raises(ValueError, match="no such model folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"config.json: model_file is not allowed: code .* never run"):
        load(broken("code", model_file="model.py"))
    with pytest.raises(ValueError, match=r"config.json: .*zork"):
        load(broken("strange", model_type="zork"))
    with pytest.raises(ValueError, match=r"config.json: granite4_vision is not supported: mlx-vlm cannot batch it"):
        load(broken("alone", model_type="granite4_vision"))
    with pytest.raises(ValueError, match=r"^config.json: text_config must be an object"):
        load(broken("listed", text_config=[1]))
    weightless = broken("weightless")
    (weightless / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"safetensors"):
        load(weightless)
    speechless = broken("speechless")
    (speechless / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer's files"):
        load(speechless)


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    """Also not when a processor asks for it, as some of mlx-vlm's do."""
    folder = make_tiny_vision(tmp_path / "foreign")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = {"AutoTokenizer": [None, "code.Mine"], "AutoProcessor": "code.Mine"}
        (folder / name).write_text(json.dumps(content))
    with no_foreign_code(), pytest.raises(ValueError, match="comes with the model, which is never run"):
        AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert answer(load(folder), **ONE, max_tokens=2)["completion_tokens"] == 2
    assert not (tmp_path / "ran").exists()


def test_another_chat_template(folder: Path) -> None:
    template = "{% for message in messages %}<{{ message['content'][0]['text'] }}>{% endfor %}"
    engine = load(folder, chat_template=template)
    messages = TEXT_ONLY["messages"]
    assert engine.model.chat(Generate(messages=messages), messages)[0] == "<be brief><hi é>"


def test_a_template_that_takes_a_text_gets_no_list(folder: Path) -> None:
    """mlx-vlm makes lists of parts, which such a template would write as Python does."""
    engine = load(folder, chat_template="{% for message in messages %}<{{ message['content'] | trim }}>{% endfor %}")
    messages = TEXT_ONLY["messages"]
    assert engine.model.chat(Generate(messages=messages), messages)[0] == "<be brief><hi é>"


def test_an_image_that_the_template_does_not_write_is_refused(folder: Path) -> None:
    template = (
        "{% for message in messages %}{% for part in message['content'] %}{{ part.text }}{% endfor %}{% endfor %}"
    )
    got = failure(load(folder, chat_template=template), **ONE)
    assert (got["code"], got["param"]) == ("invalid_request", "images[0]")


def test_a_model_without_a_template_still_chats(tmp_path: Path) -> None:
    folder = make_tiny_vision(tmp_path / "plain")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings.pop("chat_template") == CHAT_TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    engine = load(folder)
    assert answer(engine, **ONE, max_tokens=5)["completion_tokens"] == 5
    tools = [{"type": "function", "function": {"name": "f"}}]
    with_tools = answer(engine, **ONE, tools=tools, max_tokens=5)  # in the generic form
    assert with_tools["prompt_tokens"] > answer(engine, **ONE, max_tokens=5)["prompt_tokens"] + len("<tool_call>")


def test_a_family_without_eyes(tmp_path: Path) -> None:
    """Some text models only mlx-vlm has. Shown with one that both have: the same words from both."""
    folder = make_tiny_model(tmp_path / "blind")
    text_engine, engine = engine_runs.load(folder), load(folder)
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    requests: list[dict[str, Any]] = [{"prompt": "once upon", "temperature": 0.0}, {**chat, "seed": 3, "logprobs": 1}]
    for fields in requests:
        assert answer(engine, **fields, max_tokens=30)["text"] == answer(text_engine, **fields, max_tokens=30)["text"]
    assert failure(engine, **ONE)["param"] == "images[0]"
