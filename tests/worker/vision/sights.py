"""Prompts with pictures for families whose processors nothing here can make: pixels in the few forms that most families
take them in, and the right number of tokens, found by trying.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from tests.every_vision_family import END_TOKEN, IMAGE_TOKEN, PATCH, SIDE, START_TOKEN
from worker.vision.model import Prompt, VisionModel

_GRID = SIDE // PATCH
_COUNTS = (4, 16, 1, 15, 17, 64, 8, 9, 2, 5, 6, 20, 3)


def _forms() -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
    """(shape of the pixels, what comes with them), of one square picture."""
    yield (1, 3, SIDE, SIDE), {}
    yield (1, 1, 3, SIDE, SIDE), {}
    yield (1, SIDE, SIDE, 3), {}
    for frames in (2, 1):
        yield (_GRID * _GRID, 3 * frames * PATCH * PATCH), {"image_grid_thw": mx.array([[1, _GRID, _GRID]])}
    yield (_GRID * _GRID, 3, PATCH, PATCH), {"image_grid_hws": mx.array([[_GRID, _GRID]])}
    yield (_GRID * _GRID, 3, PATCH, PATCH), {"grid_thws": mx.array([[1, _GRID, _GRID]])}


def sights(model: VisionModel, count: int) -> list[Prompt]:
    """Prompts that differ in their pictures alone, all of whose tokens and no others depend on them; none if no form
    fits."""
    for shape, others in _forms():
        for tokens in _COUNTS:
            prompts = [_prompt(shape, others, tokens, number) for number in range(count)]
            if _fits(model, prompts[:2]):
                return prompts
    return []


def _prompt(shape: tuple[int, ...], others: dict[str, Any], count: int, number: int) -> Prompt:
    tokens = [*b"look: ", START_TOKEN, *[IMAGE_TOKEN] * count, END_TOKEN, *b" what is it?"]
    pixels = mx.random.uniform(-1.0, 1.0, shape, key=mx.random.key(number))
    return Prompt(tokens, {"attention_mask": mx.ones((1, len(tokens)), mx.int32), "pixel_values": pixels, **others})


def _fits(model: VisionModel, prompts: list[Prompt]) -> bool:
    try:
        one, other = (model.see(prompt)["inputs_embeds"] for prompt in prompts)
        changed = mx.any(one != other, axis=-1)[0].tolist()
    except Exception:  # noqa: BLE001 # a model's code raises what it likes for another form than its own
        return False
    return bool(changed == [token == IMAGE_TOKEN for token in prompts[0].tokens])
