"""Every family of mlx-vlm at tiny size: alone and beside others the tokens of mlx-vlm, and pictures count.

docs/families.md says of every family what is found out here.
"""

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_vlm.generate import generate_step

from broker.wire.outputs import Output
from broker.wire.work import Generate
from tests.every_vision_family import SIGHTED, families, tiny_model
from tests.service import ROOT
from tests.tiny_families import _random_weight
from tests.tiny_models import CHAT_TEMPLATE, EOS, VOCABULARY, make_tiny_model, write_tokenizer
from tests.worker.engine_runs import joined
from tests.worker.going_on import begun_after
from tests.worker.stepping import steps
from tests.worker.vision.sights import sights
from tests.worker.vision.vision_runs import load
from worker.begun import Begun
from worker.vision.batch import Turns
from worker.vision.engine import VisionEngine
from worker.vision.model import Prompt
from worker.vision.requests import Waiting

pytestmark = pytest.mark.exact

PAGE = (ROOT / "docs" / "families.md").read_text().partition("## Vision models\n")[2].partition("\n## ")[0]
# Family -> (batch, what was tried), as the page has it.
ROWS = {
    family: (cells[0], cells[1])
    for line in PAGE.splitlines()
    if len(cells := [cell.strip() for cell in line.strip("| ").split(" | ")]) == 3
    for family in re.findall(r"`([\w.-]+)`", cells[2])
}
REFUSED = ("diffusion_gemma", "embedding_gemma2", "llada2_moe", "llama_nemotron_vl_embedding")
# They want parts of a fixed size, make vectors or decisions, or a configuration that nothing here knows.
CANNOT = {
    *("deepseek_v41", "deepseekocr", "deepseekocr_2", "falcon_ocr", "falcon_perception", "fastvlm", "gemma3n"),
    *("mimo_v2", "molmo2", "muse_spark", "phi4mm", "clef", "colidefics3", "d1", "ernie4_5_moe_vl", "florence2"),
    *("glm5_next", "granite4_vision", "limite", "molmo_point", "multi_modality", "nemotron_h_nano_omni"),
    *("nemotron_parse", "olmo", "phi3_v", "qwen3_omni_moe", "unlimited_ocr"),
}
TRIED = [family for family in families() if family not in {*CANNOT, *REFUSED}]

LENGTHS = (1, 2, 9, 31, 33, 64, 200)
TOKENS = 8
# Of a log-probability; what a batch computes in another order differs by a hundredth of it.
CLOSE = 2e-3


def random_model(family: str) -> Any:
    _, model = tiny_model(family)
    keys = iter(mx.random.split(mx.random.key(0), len(tree_flatten(model.parameters()))))
    model.update(tree_map_with_path(lambda path, weight: _weight(path, weight, next(keys)), model.parameters()))
    model.eval()
    return model


def _weight(path: str, weight: mx.array, key: mx.array) -> mx.array:
    return _random_weight(path, weight, key) if weight.dtype == mx.float32 else weight


def load_family(family: str, folder: Path, patch: pytest.MonkeyPatch) -> VisionEngine:
    """The folder has a tokenizer of bytes; the model comes from memory: each family stores weights in its own form."""
    model = random_model(family)
    make_tiny_model(folder)
    write_tokenizer(folder, 8192, CHAT_TEMPLATE, tuple(f"<more{n}>" for n in range(SIGHTED - VOCABULARY)))
    patch.setattr("worker.vision.model.load_model", lambda *_arguments, **_options: model)
    return load(folder, prefill_step_size=32)


def texts(engine: VisionEngine) -> list[Prompt]:
    tokens = [[(7 * i * i + 13 * i + 31 * length) % 256 for i in range(length)] for length in LENGTHS]
    return [engine.model.prompt_of(of_one) for of_one in tokens]


def directly(engine: VisionEngine, prompt: Prompt) -> list[float]:
    """The log-probabilities of the tokens that mlx-vlm draws."""
    others = dict(prompt.inputs)
    pixels, mask = others.pop("pixel_values", None), others.pop("attention_mask")
    options: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0.0, "prefill_step_size": None}
    found = []
    for token, logprobs in generate_step(
        mx.array([prompt.tokens]), engine.model.vlm, pixels, mask, **options, **others
    ):
        if token == EOS:
            break
        found.append(float(logprobs[token].item()))
    return found


def through(engine: VisionEngine, prompts: list[Prompt], *, apart: bool = False) -> list[list[float]]:
    """The same from the engine. apart: each prompt joins after the others have gone on for some steps."""
    outputs: list[Output] = []
    ids = []
    for number, prompt in enumerate(prompts):
        request = Generate(prompt=prompt.tokens, temperature=0.0, max_tokens=TOKENS, logprobs=0)
        ids.append(b"gateway1" + number.to_bytes(8, "big"))
        # Past the processor, which nothing here can make.
        engine._waiting[ids[-1]] = Waiting(request, *engine.generation.sampling(request), prompt, "", [], None, {})
        for _ in range((1 + number % 3) * apart):
            outputs += engine.step()
    outputs += steps(engine)
    return [drawn([one for one in outputs if one.request_id == request_id]) for request_id in ids]


def goes_on(engine: VisionEngine, prompt: Prompt) -> None:
    """Cut after each output, an answer goes on as it was."""
    asked: dict[str, Any] = {"temperature": 0.0, "max_tokens": 16, "logprobs": 0, "stream": True, "tells_tokens": True}
    request = Generate(prompt=prompt.tokens, **asked)

    def outputs(begun: Begun | None) -> list[Output]:
        sampling = engine.generation.sampling(request)
        engine._waiting[b"gateway1" + bytes(8)] = Waiting(request, *sampling, prompt, "", [], None, {}, begun=begun)
        return steps(engine)

    whole = outputs(None)
    for cut in range(1, len(whole), 3):
        rest = outputs(Begun(**begun_after(whole[:cut])))
        assert drawn([*whole[:cut], *rest]) == pytest.approx(drawn(whole), abs=CLOSE)


def drawn(outputs: list[Output]) -> list[float]:
    body = joined(outputs)
    count = body["completion_tokens"] - (body["finish_reason"] == "stop")
    return [entry["logprob"] for entry in body["logprobs"]][:count]


def test_every_family_has_a_row_or_a_reason() -> None:
    assert ROWS.keys() == set(TRIED)
    reasons = PAGE.partition("Not in the table")[2]
    assert [name for name in (*CANNOT, *REFUSED) if f"`{name}`" not in reasons] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", REFUSED)
def test_what_writes_no_text_token_by_token_is_refused(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="does not generate token by token"):
        load_family(family, tmp_path / "tiny", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("family", TRIED)
def test_the_tokens_are_mlx_vlms(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_family(family, tmp_path / "tiny", monkeypatch)
    shown = sights(engine.model, 3)
    batch = "in turns" if isinstance(engine._batch, Turns) else "together"
    assert ROWS[family] == (batch, "pictures and texts" if shown else "texts")
    prompts = [*shown[:1], *texts(engine), *shown[1:]]
    expected = [pytest.approx(directly(engine, prompt), abs=CLOSE) for prompt in prompts]
    assert [through(engine, [prompt])[0] for prompt in prompts] == expected
    assert through(engine, prompts) == expected
    assert through(engine, prompts, apart=True) == expected
    assert len({str(through(engine, [prompt])) for prompt in shown}) == len(shown)
    for place in (0, 3):
        assert through(engine, [prompts[place]] * 3) == [expected[place]] * 3  # read once
    for prompt in (*shown[:1], prompts[3]):
        goes_on(engine, prompt)
