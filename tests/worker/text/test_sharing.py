"""What cannot share a batch takes turns: found out by computing, whatever the family is called."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten, tree_map_with_path

from tests.device_errors import DEVICE_ERRORS
from tests.every_family import tiny_model
from tests.tiny_families import _random_weight
from worker.text.sharing import Sharing, sharing_of
from worker.text.sharing_memo import remembered_sharing

pytestmark = pytest.mark.exact

EXPECTED = {
    "llama": Sharing.ALL,
    "gemma3_text": Sharing.ALL,
    "mamba": Sharing.DECODE,
    "mamba2": Sharing.ALL,
    "jamba": Sharing.DECODE,
    "nemotron_h": Sharing.DECODE,
    "gemma2": Sharing.NOTHING,
    "longcat_flash_ngram": Sharing.NOTHING,
    "afm7": Sharing.NOTHING,
}


def random_model(family: str) -> Any:
    _, model = tiny_model(family)
    keys = iter(mx.random.split(mx.random.key(0), len(tree_flatten(model.parameters()))))
    model.update(tree_map_with_path(lambda path, weight: _random_weight(path, weight, next(keys)), model.parameters()))
    return model


@pytest.mark.parametrize("family", EXPECTED)
def test_it_is_found_out_from_the_model_itself(family: str) -> None:
    assert sharing_of(random_model(family)) is EXPECTED[family]


def test_an_error_of_the_gpu_says_nothing_about_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be remembered: all prompts of this architecture would take turns from then on."""
    model = random_model("llama")

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError(DEVICE_ERRORS["victim"])

    monkeypatch.setattr(type(model), "__call__", fails)
    with pytest.raises(RuntimeError, match="InnocentVictim"):
        sharing_of(model)


@pytest.mark.parametrize("form", [mx.float16, mx.bfloat16, "4 bits"], ids=str)
@pytest.mark.parametrize("family", ["llama", "mamba", "gemma2"])
def test_rounding_is_no_difference(family: str, form: mx.Dtype | str) -> None:
    model = random_model(family)
    if isinstance(form, mx.Dtype):
        model.set_dtype(form)
    else:
        nn.quantize(  # type: ignore[attr-defined] # exported, though not in the checker's eyes
            model, group_size=32, bits=4, class_predicate=_can_be_quantised
        )
    assert sharing_of(model) is EXPECTED[family]


def _can_be_quantised(_path: str, layer: Any) -> bool:
    return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % 32 == 0


def counting(asked: list[Any]) -> Callable[[Any], Sharing]:
    def find_out(model: Any) -> Sharing:
        asked.append(model)
        return sharing_of(model)

    return find_out


def test_a_slow_answer_is_remembered_for_this_architecture_alone(tmp_path: Path) -> None:
    asked: list[Any] = []
    jamba, llama = random_model("jamba"), random_model("llama")
    for model in (jamba, jamba, llama):
        assert remembered_sharing(model, tmp_path, slow=0.0, find_out=counting(asked)) is sharing_of(model)
    assert asked == [jamba, llama]
    for file in tmp_path.iterdir():
        file.write_text("NONSENSE")
    assert remembered_sharing(jamba, tmp_path, slow=0.0, find_out=counting(asked)) is Sharing.DECODE
    assert len(asked) == 3


def test_a_fast_answer_leaves_no_file(tmp_path: Path) -> None:
    assert remembered_sharing(random_model("llama"), tmp_path, slow=60.0) is Sharing.ALL
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert remembered_sharing(random_model("llama"), blocked, slow=0.0) is Sharing.ALL
