"""Vision engines in the test's own process, requests to them, and what mlx-vlm says to the same, called directly."""

import io
import json
import random
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.generate import generate_step
from mlx_vlm.utils import load_processor, prepare_inputs
from PIL import Image

from broker.wire.outputs import FINAL, Output
from broker.wire.to_workers import Assign
from tests.tiny_vision import picture
from tests.worker.engine_runs import add, assert_empty, joined
from tests.worker.stepping import MOST_STEPS
from worker.generation.text_stream import make_detokenizer
from worker.sound.resampling import Samples
from worker.vision.batch import Turns
from worker.vision.engine import VisionEngine
from worker.vision.sounds import open_sound

IMAGE = {"type": "image"}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def user(*parts: dict[str, str]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def decoded(data: bytes, rate: int, longest: float) -> Samples:
    """All samples of a sound file."""
    return np.concatenate(list(open_sound(data, "audios[0]").pieces(rate, longest)))


def load(folder: Path, *, share: int = 0, **options: Any) -> VisionEngine:
    """share: of memory, 0 for no bound."""
    assign = Assign(folder.name, str(folder), "vision", None, options, share)
    return VisionEngine(assign, lambda _stage, _fraction: None)


def assert_nothing_left(engine: VisionEngine) -> None:
    assert_empty(engine)
    batch: Any = engine._batch  # mlx-vlm's, which stats() does not count
    assert not batch.has_work
    if not isinstance(batch, Turns):
        assert not batch._generation_batch.prompt_cache


ONE: dict[str, Any] = {"messages": [user(text("what is "), IMAGE, text("?"))], "images": [picture(1)]}
THREE: dict[str, Any] = {
    "messages": [user(IMAGE, text(" a "), IMAGE, text(" b "), IMAGE)],
    "images": [picture(2), picture(3, width=32), picture(4, height=40)],
}
TWO_TURNS: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "look"},
        user(text("first "), IMAGE),
        {"role": "assistant", "content": "é"},
        user(IMAGE, text("second")),
    ],
    "images": [picture(5, width=24), picture(6)],
}
TEXT_ONLY: dict[str, Any] = {
    "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi é"}]
}
PROMPTS = {"one": ONE, "three": THREE, "two turns": TWO_TURNS, "text": TEXT_ONLY}


MIXED: list[dict[str, Any]] = [
    {**ONE, "temperature": 0.0, "max_tokens": 60},
    {**THREE, "seed": 1, "max_tokens": 50},
    {**TWO_TURNS, "seed": 2, "temperature": 0.7, "top_p": 0.9, "max_tokens": 40, "stream": True},
    {**TEXT_ONLY, "temperature": 0.0, "max_tokens": 30, "logprobs": 2},
    {"prompt": "x", "seed": 4, "top_k": 9, "min_p": 0.01, "xtc_probability": 0.5, "max_tokens": 45},
    {**ONE, "seed": 5, "frequency_penalty": 1.5, "logit_bias": {"65": 5.0, "66": -100}, "max_tokens": 55},
    {"prompt": "p" * 30, "temperature": 0.0, "repetition_penalty": 1.3, "presence_penalty": 0.5, "max_tokens": 50},
    {**ONE, "seed": 2**63, "temperature": 2.0, "max_tokens": 64, "grammar": 'start: /[a-z ]+/ "."', "logprobs": 0},
]


def rounded(body: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities to five digits: sums of floats depend on the size of the batch."""
    return dict(
        json.loads(re.sub(r"-?\d+\.\d{6,}", lambda found: f"{float(found[0]):.4f}", json.dumps(body, default=list)))
    )


def in_one_process(
    engine: VisionEngine, folder: Path, fields: dict[str, Any], count: int, *, seed: int = 0, **options: Any
) -> list[int]:
    """The tokens that mlx-vlm generates, called directly: nothing of the prompt goes through the engine. options: of
    its generate_step."""
    model = engine.model.vlm
    processor: Any = load_processor(folder, trust_remote_code=False)
    rendered = processor.apply_chat_template(fields["messages"], tokenize=False, add_generation_prompt=True)
    images = [Image.open(io.BytesIO(data)) for data in fields.get("images", [])]
    inputs: dict[str, Any] = prepare_inputs(processor, images=images or None, prompts=rendered, add_special_tokens=True)
    tokens, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    mx.random.seed(seed)
    # In one piece: of a prompt in pieces its penalties would know the last token only.
    options = {"prefill_step_size": None, "max_tokens": count, **options}
    generated = generate_step(tokens, model, inputs.pop("pixel_values", None), mask, **options, **inputs)
    return [int(token) for token, _ in generated]


def spoken(engine: VisionEngine, tokens: list[int]) -> str:
    detokenizer: Any = make_detokenizer(engine.model.tokenizer)
    said = ""
    for token in tokens:
        detokenizer.add_token(token)
        said += detokenizer.last_segment
    detokenizer.finalize()
    return str(said + detokenizer.last_segment)


def in_company(engine: VisionEngine, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers to these requests while others, with images and without, join and are cancelled at every step."""
    ids = [add(engine, number, **fields) for number, fields in enumerate(requests)]
    generator = random.Random(3)
    guests: list[bytes] = []
    outputs: dict[bytes, list[Output]] = {request_id: [] for request_id in ids}
    for number in range(1000, 1000 + MOST_STEPS):
        if all(of_one and of_one[-1].kind == FINAL for of_one in outputs.values()):
            break
        if generator.random() < 0.3:
            guest = generator.choice([ONE, THREE, TEXT_ONLY, {"prompt": "g" * generator.randint(1, 60)}])
            guests.append(add(engine, number, **guest, max_tokens=generator.randint(1, 60)))
        if guests and generator.random() < 0.3:
            engine.cancel(guests.pop(generator.randrange(len(guests))))
        for output in engine.step():
            if output.request_id in outputs:
                outputs[output.request_id].append(output)
    for guest_id in guests:
        engine.cancel(guest_id)
    assert_nothing_left(engine)
    return [joined(outputs[request_id]) for request_id in ids]
