"""An engine that goes on from what another has left on disk answers byte for byte as one that has kept it in memory."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.tiny_families import FAMILIES, make_tiny_family
from tests.tiny_models import make_tiny_llama4, make_tiny_model
from tests.worker.cache.disk.disk_runs import over, written
from tests.worker.engine_runs import answer, load, run, without_count
from worker.cache.disk import fingerprint
from worker.text import make_disk

LONG: dict[str, Any] = {"prompt": "once upon a time " * 60, "max_tokens": 24}  # 1,020 tokens: three blocks and a rest
FIRST: dict[str, Any] = {**LONG, "max_tokens": 1}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "quantised": {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0},
    "quantised later": {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 600, "prefill_step_size": 512},
    "window": {},
    "llama4": {},
    "draft": {},
    "adapter": {},
    "quantised adapter": {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 0},
    **{family: {} for family in FAMILIES},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def model_of(kind: str, made: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a model of this kind, and options."""
    folder, options = made / kind.replace(" ", "_"), dict(KINDS[kind])
    if kind in FAMILIES:
        return make_tiny_family(folder, kind), options
    if kind == "llama4":
        return make_tiny_llama4(folder), options
    if kind == "window":
        return make_tiny_model(folder, layers=2, sliding_window=32), options
    hidden_size = 128 if kind.startswith("quantised") else 32
    make_tiny_model(folder, layers=2, hidden_size=hidden_size)
    if kind == "draft":
        options["draft_model"] = str(make_tiny_model(made / "drafts", seed=1))
    if kind.endswith("adapter"):
        options["adapter_path"] = str(adapter(made / f"{folder.name}s", seed=3, hidden_size=hidden_size))
    return folder, options


def adapter(folder: Path, seed: int, hidden_size: int = 32) -> Path:
    """A LoRA adapter of random numbers for a tiny Llama."""
    folder.mkdir(exist_ok=True)
    parameters = {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.v_proj"]}
    about = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    keys = mx.random.split(mx.random.key(seed), 4)
    weights = {}
    for layer in range(2):
        place = f"model.layers.{layer}.self_attn.v_proj"
        weights[f"{place}.lora_a"] = mx.random.normal((hidden_size, 4), key=keys[2 * layer])
        weights[f"{place}.lora_b"] = mx.random.normal((4, hidden_size // 2), key=keys[2 * layer + 1])
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_that_of_a_live_cache(kind: str, made: Path, tmp_path: Path) -> None:
    folder, options = model_of(kind, made)
    asked = [{**LONG, "temperature": 0.0}, {**LONG, "temperature": 0.9, "seed": 5}]
    # Quantised caches are cut at blocks where there is a disk.
    live = over(tmp_path / "live", folder, **options) if "kv_bits" in options else load(folder, **options)
    first = over(tmp_path, folder, **options)
    assert answer(first, **asked[0]) == answer(live, **asked[0])
    run(first, [FIRST])  # which ends within a block
    assert written(first, tmp_path)
    second = over(tmp_path, folder, **options)
    for number, fields in enumerate(asked):
        expected = run(live, [fields])[0][-1].body
        body = run(second, [fields])[0][-1].body
        assert without_count(body) == without_count(expected)
        assert body["cached_tokens"] >= expected["cached_tokens"] - 256
        assert body["cached_tokens"] >= 512
        if kind in ("llama", "draft", "adapter") and not number:
            assert body["cached_tokens"] == 1019
    assert second.stats().disk_hits >= 1


def test_a_chat_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "why? " * 200}]
    fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": 100}
    live, first = load(tiny_model), over(tmp_path, tiny_model)
    said = answer(live, messages=chat, **fields)
    assert answer(first, messages=chat, **fields) == said
    written(first, tmp_path)
    chat += [{"role": "assistant", "content": said["text"]}, {"role": "user", "content": "and then?"}]
    expected = run(live, [{"messages": chat, **fields}])[0][-1].body
    body = run(over(tmp_path, tiny_model), [{"messages": chat, **fields}])[0][-1].body
    assert without_count(body) == without_count(expected)
    assert expected["cached_tokens"] - 256 < body["cached_tokens"] <= expected["cached_tokens"]


def test_what_is_not_the_same_is_never_used(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = model_of("adapter", made)
    other_weights = make_tiny_model(made / "others", layers=2, seed=9)
    adapters = [str(adapter(made / f"adapter{seed}", seed)) for seed in (4, 5)]
    written_by = over(tmp_path, folder, adapter_path=adapters[0])
    run(written_by, [FIRST])
    written(written_by, tmp_path)

    def cached(model: Path, **options: Any) -> int:
        engine = over(tmp_path, model, **options)
        body = run(engine, [FIRST])[0][-1].body
        written(engine, tmp_path)
        return int(body["cached_tokens"])

    assert cached(folder, adapter_path=adapters[0]) == 1019
    assert cached(folder, adapter_path=adapters[1]) == 0
    assert cached(folder) == 0
    assert cached(other_weights) == 0
    assert cached(folder, chat_template="{{ messages[0].content }}") == 0
    assert cached(folder) == 1019
    tokenizer = folder / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert cached(folder) == 0
    for library in ("mlx", "mlx-lm"):
        versions = {"mlx": "1", "mlx-lm": "1", library: "2"}
        with monkeypatch.context() as patch:
            patch.setattr(fingerprint, "version", versions.__getitem__)
            assert cached(folder) == 0
    with monkeypatch.context() as patch:
        patch.setattr(make_disk, "loaded_blas", lambda: "/usr/lib/libopenblas.so 30000000 1")
        assert cached(folder) == 0
    assert cached(folder) == 1019
