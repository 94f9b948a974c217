"""Models that hear, against mlx-vlm called directly, token for token: alone, in a changing batch, and cut off."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from mlx_vlm.generate import generate_step
from mlx_vlm.models.gemma4.audio import AudioEncoder
from mlx_vlm.models.gemma4.config import AudioConfig
from mlx_vlm.utils import load_model, load_processor, prepare_inputs

from broker.wire.kinds import HEARING
from broker.wire.packing import pack
from broker.wire.work import Generate
from tests.tiny_gemma3n import make_tiny_gemma3n
from tests.tiny_hearing import make_tiny_hearing, sound
from tests.tiny_qwen3_omni import make_tiny_qwen3_omni
from tests.tiny_vision import picture
from tests.worker.engine_runs import answer, counted, joined, run
from tests.worker.going_on import assert_goes_on
from tests.worker.vision.failing import failure
from tests.worker.vision.vision_runs import IMAGE, TEXT_ONLY, decoded, in_company, load, rounded, spoken, text, user
from worker.vision.engine import VisionEngine
from worker.vision.hearing import _EARS, _runs
from worker.vision.memory_plan import encoding_bytes
from worker.vision.model import VisionModel

# Gemma 4's own filters of 128 heights have some that hear nothing.
pytestmark = [pytest.mark.exact, pytest.mark.filterwarnings("ignore:At least one mel filter")]

AUDIO = {"type": "audio"}
ONE: dict[str, Any] = {"messages": [user(text("what is "), AUDIO, text("?"))], "audios": [sound(1)]}
OTHER: dict[str, Any] = {**ONE, "audios": [sound(2)]}
TWO: dict[str, Any] = {
    "messages": [user(AUDIO, text(" a ")), {"role": "assistant", "content": [text("é")]}, user(text("b "), AUDIO)],
    "audios": [sound(1), sound(2, seconds=0.9)],
}


OTHERS = ("gemma4_unified", "gemma3n", "qwen3_omni_moe")
# Those whose models come from memory.
MADE = {"gemma3n": make_tiny_gemma3n, "qwen3_omni_moe": make_tiny_qwen3_omni}
# Family -> tokens of the sounds of TWO, and those around each.
SIZES = {
    "gemma3n": ([188, 188], 6),
    "gemma4": ([13, 23], 2),
    "gemma4_unified": ([13, 23], 2),
    "qwen3_omni_moe": ([7, 12], 2),
}


@pytest.fixture(scope="module", params=["gemma4", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hearing") / "tiny"
    if request.param not in MADE:
        yield make_tiny_hearing(folder, family=request.param)
        return
    model = MADE[request.param](folder)

    def load_one(path: Path, **options: Any) -> Any:
        return model if path == folder else load_model(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.vision.model.load_model", load_one)
        yield folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> VisionEngine:
    return load(folder)


def encoded(kind: str, *, rate: int = 44_100, channels: int = 2) -> bytes:
    """The same in each encoding: two voices that are not alike."""
    places = np.arange(rate // 2) / rate
    voices = [0.3 * np.sin(2 * np.pi * (300 + 200 * voice) * places) for voice in range(channels)]
    file = io.BytesIO()
    soundfile.write(file, np.stack(voices, axis=1), rate, format=kind)
    return file.getvalue()


def directly(engine: VisionEngine, folder: Path, fields: dict[str, Any], count: int) -> list[int]:
    """mlx-vlm's tokens, from files of their own."""
    paths = [folder / f"asked{number}.sound" for number in range(len(fields["audios"]))]
    for path, data in zip(paths, fields["audios"], strict=True):
        path.write_bytes(data)
    processor: Any = load_processor(folder, trust_remote_code=False)
    rendered = processor.tokenizer.apply_chat_template(fields["messages"], tokenize=False, add_generation_prompt=True)
    files = list(map(str, paths))
    inputs: dict[str, Any] = prepare_inputs(processor, audio=files, prompts=rendered, add_special_tokens=False)
    tokens, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    options: dict[str, Any] = {"prefill_step_size": None, "max_tokens": count, "temperature": 0.0}
    generated = generate_step(tokens, engine.model.vlm, None, mask, **options, **inputs)
    return [int(token) for token, _ in generated]


SLOWER = ("one sample more than a token", "flac of 44.1 kHz")
# What files of other kinds become is in test_sounds.py.
SOUNDS = {
    "wav": sound(1),
    "one sample more than a token": sound(3, seconds=641 / 16_000),
    "flac of 44.1 kHz": encoded("FLAC"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "wav" else pytest.mark.slow) for name in SOUNDS]
)
def test_greedy_tokens_are_mlx_vlms(engine: VisionEngine, folder: Path, name: str) -> None:
    fields = {**ONE, "audios": [SOUNDS[name]]}
    got = answer(engine, **fields, temperature=0.0, max_tokens=12)
    assert got["text"] == spoken(engine, directly(engine, folder, fields, 12))


@pytest.mark.slow
def test_several_sounds_are_heard_as_mlx_vlm_hears_them_unless_it_mixes_them(
    engine: VisionEngine, folder: Path
) -> None:
    """It does with Gemma 4. With gemma4_unified it does so only if it counts the tokens of the first wrongly."""
    family = engine.model.vlm.config.model_type
    got = answer(engine, **TWO, temperature=0.0, max_tokens=24)
    assert (got["text"] == spoken(engine, directly(engine, folder, TWO, 24))) == (family != "gemma4")
    assert engine._reads_as_it_says == (family != "gemma3n")


def test_the_context_is_that_of_the_part_that_writes(engine: VisionEngine) -> None:
    assert engine.facts.context_length == 8192


def test_a_sound_changes_the_answer(engine: VisionEngine) -> None:
    asked: dict[str, Any] = {"temperature": 0.0, "max_tokens": 10, "logprobs": 0}
    one, other, again = (rounded(answer(engine, **fields, **asked)) for fields in (ONE, OTHER, ONE))
    assert one == again
    assert one["prompt_tokens"] == other["prompt_tokens"]
    assert one["logprobs"] != other["logprobs"]


@pytest.mark.parametrize("changes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_requests_with_different_sounds_share_a_batch(engine: VisionEngine, changes: bool) -> None:
    """changes: others join and leave it at every step."""
    asked: dict[str, Any] = {"temperature": 0.0, "max_tokens": 10}
    requests = [
        {**ONE, **asked},
        {**OTHER, **asked},
        {**TWO, **asked},
        {**TEXT_ONLY, **asked},
        {**ONE, "seed": 3, "max_tokens": 10},
        {**OTHER, "seed": 3, "max_tokens": 10, "stream": True},
    ]
    alone = [answer(engine, **fields) for fields in requests]
    assert len({body["text"] for body in alone}) >= len(alone) - 1
    together = in_company(engine, requests) if changes else [joined(outputs) for outputs in run(engine, requests)]
    assert [body["text"] for body in together] == [body["text"] for body in alone]


def test_equal_prompts_with_equal_sounds_are_read_once(engine: VisionEngine) -> None:
    requests = [{**ONE, "seed": seed, "max_tokens": 4} for seed in (1, 2)]
    before = engine.stats().prompt_tokens
    same = run(engine, requests)
    assert engine.stats().prompt_tokens - before == same[0][-1].body["prompt_tokens"]
    before = engine.stats().prompt_tokens
    run(engine, [requests[0], {**requests[1], "audios": OTHER["audios"]}])
    assert engine.stats().prompt_tokens - before == 2 * same[0][-1].body["prompt_tokens"]


@pytest.mark.slow
def test_each_sound_of_a_request_is_heard_as_if_alone(engine: VisionEngine) -> None:
    """Padded to one length, the tokens of one could get the features of the other. Gemma 3n's own code knows where each
    begins; the silence behind the shorter one reaches into its last tokens. So it is with Qwen3-Omni's, a little."""
    model, family = engine.model, engine.model.vlm.config.model_type
    together = embeds_of(model, TWO)
    for number, data in enumerate(TWO["audios"]):
        (alone,) = embeds_of(model, {**ONE, "audios": [data]})
        certain = slice(None) if family != "gemma3n" else slice(2)
        close = 1e-5 if family != "qwen3_omni_moe" else 0.1
        assert mx.allclose(together[number][:, certain], alone[:, certain], atol=close)
        assert not mx.allclose(alone, mx.broadcast_to(alone[:, :1], alone.shape))
    sizes, _ = SIZES[family]
    assert [embeds.shape[1] for embeds in together] == sizes


def embeds_of(model: VisionModel, fields: dict[str, Any]) -> list[mx.array]:
    """Of the tokens of each sound."""
    assert model.hearing is not None
    written, _ = model.chat(Generate(**fields), fields["messages"])
    heard = [decoded(data, model.hearing.rate, model.hearing.longest) for data in fields["audios"]]
    prompt = model.read_chat(written, [], {}, heard)
    embeds = model.see(prompt)["inputs_embeds"]
    return [embeds[:, begin:end] for begin, end in _runs(prompt.tokens, model.hearing.token)]


def test_sounds_and_images_stay_where_the_client_has_put_them(tmp_path: Path) -> None:
    engine = load(make_tiny_hearing(tmp_path / "tiny"))
    chat = [user(AUDIO, text("a"), IMAGE, text("b"), AUDIO), {"role": "assistant", "content": "c"}, user(IMAGE, AUDIO)]
    files: dict[str, Any] = {"audios": [sound(n) for n in range(3)], "images": [picture(n) for n in range(2)]}
    written, _ = engine.model.chat(Generate(messages=chat, **files), chat)
    assert written == "[user] <|audio|>a<|image|>b<|audio|>[assistant] c[user] <|image|><|audio|>[assistant] "
    asked: dict[str, Any] = {"messages": chat, "temperature": 0.0, "max_tokens": 4, "logprobs": 0}
    bodies = [
        answer(engine, **asked, **files),
        answer(engine, **asked, **{**files, "audios": files["audios"][::-1]}),
        answer(engine, **asked, **{**files, "images": files["images"][::-1]}),
    ]
    assert len({str([entry["logprob"] for entry in body["logprobs"]]) for body in bodies}) == 3
    assert len({body["prompt_tokens"] for body in bodies}) == 1


def test_an_answer_goes_on_after_every_output(engine: VisionEngine) -> None:
    assert_goes_on(engine, engine, **OTHER, temperature=0.0, stream=True, max_tokens=12)
    assert_goes_on(engine, engine, **TWO, seed=1, max_tokens=8)


@pytest.mark.slow
def test_a_prompt_in_pieces_is_read_as_a_whole(engine: VisionEngine, folder: Path) -> None:
    fields: dict[str, Any] = {**TWO, "temperature": 0.0, "max_tokens": 10}
    assert answer(load(folder, prefill_step_size=16), **fields)["text"] == answer(engine, **fields)["text"]


def test_a_count_is_the_number_that_the_same_request_reports(engine: VisionEngine) -> None:
    sizes, around = SIZES[engine.model.vlm.config.model_type]
    for fields, tokens in ((ONE, sizes[0]), (TWO, sum(sizes))):
        count = counted(engine.count, **fields)
        (outputs,) = run(engine, [{**fields, "max_tokens": 2}])
        silent = [
            {**turn, "content": [part for part in turn["content"] if part != AUDIO]} for turn in fields["messages"]
        ]
        rest = counted(engine.count, messages=silent)
        assert outputs[-1].body["prompt_tokens"] == count == rest + tokens + around * len(fields["audios"])
    assert list(engine.count(pack(Generate(**TWO))))[:-1] == [None, None]


def test_a_long_sound_is_decoded_in_several_steps(engine: VisionEngine) -> None:
    fields = {**ONE, "audios": [sound(1, seconds=29, rate=44_100)]}
    *steps, _ = engine.count(pack(Generate(**fields)))
    assert len(steps) > 2


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({**ONE, "audios": [b""]}, "audios[0]", "empty"),
        ({**TWO, "audios": [sound(1), b"ID3 or so" * 9]}, "audios[1]", "formats are wav, mp3 and flac"),
        ({**ONE, "audios": []}, "messages", "1 audios, but 0 came"),
        ({**TEXT_ONLY, "audios": [sound()]}, "messages", "0 audios, but 1 came"),
        ({"prompt": "x", "audios": [sound()]}, "messages", "audio belongs in messages"),
        ({"messages": [user(*[AUDIO] * 65)], "audios": [sound()] * 65}, "audios[64]", "64 sounds at most"),
        ({"messages": [{"role": "system", "content": [AUDIO]}], "audios": [sound()]}, "audios[0]", "role user"),
    ],
)
def test_bad_requests(engine: VisionEngine, fields: dict[str, Any], param: str, message: str) -> None:
    got = failure(engine, **fields)
    assert (got["code"], got["param"]) == ("invalid_request", param)
    assert message in got["message"]


def test_marks_in_what_the_client_says(engine: VisionEngine) -> None:
    for mark in (engine.model.processor.audio_token, engine.model.processor.image_token):
        got = failure(engine, messages=[user(AUDIO, text(f"a {mark}"))], audios=[sound()])
        assert (got["code"], got["param"]) == ("invalid_request", "messages[0].parts[1].text")
        assert mark in got["message"]


def test_a_sound_that_is_too_long_does_not_disturb_others(engine: VisionEngine) -> None:
    assert engine.model.hearing is not None
    longest = engine.model.hearing.longest
    assert longest == (300.0 if engine.model.vlm.config.model_type == "qwen3_omni_moe" else 30.0)
    asked = {**ONE, "temperature": 0.0, "max_tokens": 20}
    broken = {**TWO, "audios": [sound(1), sound(1, seconds=longest + 1, rate=1000)]}
    good, bad = run(engine, [{**asked, "stream": False}, broken])
    assert good[-1].body["text"] == answer(engine, **asked)["text"]
    assert bad[-1].body["param"] == "audios[1]"
    assert f"longer than the {longest:g} s" in bad[-1].body["message"]


@pytest.mark.slow
def test_a_prompt_longer_than_the_context_is_refused_before_it_is_heard(folder: Path) -> None:
    short = load(folder, context_length=30)
    assert failure(short, **TWO)["code"] == "context_length_exceeded"


def test_a_larger_model_of_the_family_does_not_hear(tmp_path: Path) -> None:
    engine = load(make_tiny_hearing(tmp_path / "deaf", hears=False))
    got = failure(engine, **ONE)
    assert (got["code"], got["param"]) == ("invalid_request", "audios[0]")
    assert "does not hear" in got["message"]


def test_the_families_are_those_that_the_catalog_names() -> None:
    assert _EARS.keys() == HEARING == SIZES.keys()


@pytest.mark.slow
def test_encoding_takes_at_most_what_is_counted(tmp_path: Path) -> None:
    """The convolutions of a real Gemma 4, which make what is heard wide; what follows them is narrow."""
    engine = load(make_tiny_hearing(tmp_path / "tiny"))
    model, chat = engine.model, [user(AUDIO)]
    written, _ = model.chat(Generate(messages=chat, audios=[b""]), chat)
    samples = decoded(sound(1, seconds=5), 16_000, 30.0)
    prompt = model.read_chat(written, [], {}, [samples])
    (features,) = prompt.heard
    ear = AudioEncoder(AudioConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=4))
    mx.eval(ear.parameters())
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    heard, _ = ear(features["input_features"], ~features["input_features_mask"])
    mx.eval(heard)
    taken = mx.get_peak_memory() - before
    assert taken / 2 < encoding_bytes(prompt, model.hearing) - encoding_bytes(prompt, None) < 2 * taken
