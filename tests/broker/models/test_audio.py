"""Audio models: by which files they are found, what they can, and which are refused before a process starts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.models.architectures import Table, audio_tasks, unknown_architecture
from broker.models.catalog import Catalog
from broker.models.entry import ModelOverride
from broker.policy.admission import wrong_task
from broker.wire.audio_models import audio_family
from broker.wire.kinds import Task
from tests.broker.models.audio_configs import OTHERS, SPEAKERS, TRANSCRIBERS
from tests.broker.models.model_folders import LLAMA, make_hub_model, make_model, refusal
from tests.service import ROOT

WHISPER = TRANSCRIBERS[0][0]
KOKORO = SPEAKERS[0][0]


def make_audio(folder: Path, config: dict[str, Any], weights: dict[str, int] | None = None) -> Path:
    """With a tokenizer, as the repositories have that need one."""
    made = make_model(folder, config, weights)
    (made / "tokenizer.json").write_text("{}")
    return made


@pytest.mark.parametrize(("config", "family"), TRANSCRIBERS)
def test_a_model_that_transcribes(catalog: Catalog, models: Path, config: dict[str, Any], family: str) -> None:
    assert audio_family(config) == family
    make_audio(models / "m", config)
    [entry] = catalog.entries()
    assert (entry.spec.model_type, entry.capabilities) == ("audio", ("transcribe",))
    assert entry.spec.tasks == {Task.TRANSCRIBE}


@pytest.mark.parametrize(("config", "family"), SPEAKERS)
def test_a_model_that_speaks(catalog: Catalog, models: Path, config: dict[str, Any], family: str) -> None:
    assert audio_family(config) == family
    make_model(models / "m", config)
    [entry] = catalog.entries()
    assert (entry.spec.model_type, entry.capabilities) == ("audio", ("speak", "voices"))
    assert entry.spec.tasks == {Task.SPEAK, Task.VOICES}


@pytest.mark.parametrize(("config", "model_type"), OTHERS)
def test_a_model_of_another_type_that_has_something_of_one(
    catalog: Catalog, models: Path, config: dict[str, Any], model_type: str
) -> None:
    make_model(models / "m", config)
    assert catalog.find("m").model_type == model_type


def test_no_context_length_and_what_a_list_shows(catalog: Catalog, models: Path) -> None:
    config = WHISPER | {"quantization": {"bits": 4, "group_size": 64}, "max_position_embeddings": 448}
    make_audio(models / "m", config)
    [entry] = catalog.entries()
    assert (entry.quantization, entry.context_length, entry.architecture) == ("4-bit", 0, "whisper")
    (models / "m" / "config.json").write_text(json.dumps(KOKORO))
    assert [entry.architecture for entry in catalog.entries()] == ["kokoro"]  # which the file does not say


@pytest.mark.parametrize("name", ["kokoro-v1_0.safetensors", "weights.safetensors", "model-00001-of-00001.safetensors"])
def test_weights_by_any_name_and_in_folders_count(catalog: Catalog, models: Path, name: str) -> None:
    folder = make_model(models / "m", KOKORO, {name: 1000})
    for part, size in (("voices/one", 30), ("speech_tokenizer/model", 500), ("original/model", 9000)):
        path = folder / f"{part}.safetensors"
        path.parent.mkdir()
        path.write_bytes(bytes(size))
    assert catalog.find("m").weight_bytes == 1530
    # The file of another change is seen, too.
    (folder / "voices" / "two.safetensors").write_bytes(bytes(70))
    assert catalog.find("m").weight_bytes == 1600


def test_a_link_that_leads_nowhere_hides_no_model(catalog: Catalog, models: Path) -> None:
    for name, config in (("speaks", KOKORO), ("text", LLAMA)):
        folder = make_model(models / name, config)
        (folder / "loop").symlink_to("loop")
        (folder / "voices").mkdir()
        (folder / "voices" / "gone.safetensors").symlink_to("nowhere")
        (folder / "voices" / "one.safetensors").write_bytes(bytes(30))
    assert {entry.spec.model_id: entry.spec.weight_bytes for entry in catalog.entries()} == {
        "speaks": 1030,
        "text": 1000,
    }


def test_only_audio_models_are_looked_through(catalog: Catalog, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder within that of a text model may lie on a disk that is slow, and may be large."""
    looked: list[str] = []
    scan = os.scandir

    def scandir(folder: Any) -> Any:
        looked.append(Path(folder).name)
        return scan(folder)

    for name, config in (("speaks", KOKORO), ("text", LLAMA)):
        (make_model(models / name, config) / f"within-{name}").mkdir()
    monkeypatch.setattr("broker.models.weights.os.scandir", scandir)
    for name in ("speaks", "text"):
        catalog.find(name)
    assert set(looked) == {"speaks", "within-speaks", "text"}


def test_parameters_are_those_of_the_model_and_not_of_its_voices(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "m", KOKORO, {})
    (folder / "voices").mkdir()
    for name, shape in (("kokoro-v1_0", [80, 100]), ("voices/one", [510, 256])):
        header = json.dumps({"weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
        (folder / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    [entry] = catalog.entries()
    assert entry.parameters == 8000


def test_what_lies_in_folders_of_other_models_is_not_theirs(catalog: Catalog, models: Path) -> None:
    for name, config in (("reads", LLAMA), ("sees", {"model_type": "qwen2_vl", "vision_config": {}})):
        folder = make_model(models / name, config)
        (folder / "model_parts").mkdir()
        (folder / "model_parts" / "model.safetensors").write_bytes(bytes(77))
        assert catalog.find(name).weight_bytes == 1000


def test_a_part_in_a_folder_does_not_stand_for_the_model(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "m", KOKORO, {})
    (folder / "voices").mkdir()
    (folder / "voices" / "one.safetensors").write_bytes(bytes(5))
    assert refusal(catalog, "m") == ("load_failed", f"no .safetensors file in {folder}")


def test_weights_in_npz_files_are_refused_with_the_reason(catalog: Catalog, models: Path) -> None:
    folder = make_audio(models / "m", WHISPER, {"weights.npz": 10})
    says = f"{folder} has its weights in .npz files, which are not read; convert them to .safetensors"
    assert refusal(catalog, "m") == ("load_failed", says)
    # Voices may be in one.
    make_model(models / "kitten", {"model_type": "kitten_tts"}, {"model.safetensors": 10, "voices.npz": 10})
    assert catalog.find("kitten").weight_bytes == 10


def test_a_whisper_without_a_tokenizer_is_refused_and_others_need_none(catalog: Catalog, models: Path) -> None:
    folder = make_model(models / "m", TRANSCRIBERS[1][0], {"weights.safetensors": 10})
    code, message = refusal(catalog, "m")
    assert code == "load_failed"
    assert message.startswith(f"{folder} has no tokenizer: copy preprocessor_config.json")
    make_model(models / "parakeet", TRANSCRIBERS[3][0])
    assert catalog.find("parakeet").tasks == {Task.TRANSCRIBE}


def test_a_download_needs_no_tokenizer_either(catalog: Catalog, hub: Path) -> None:
    snapshot = make_hub_model(hub, "org/voice")
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").write_text('{"model_type": "kokoro"}')
    assert catalog.find("org/voice").model_type == "audio"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "zork_tts", "sample_rate": 24000}, "names the architecture 'zork_tts', unknown for type audio"),
        ({"model_type": "moshi", "audio_config": {}}, "names the architecture 'moshi', unknown for type audio"),
        ({"sample_rate": 24000}, "names no architecture of audio models"),
        ({"target": "nemo.collections.asr.models.x.Sortformer", "sample_rate": 1}, "names no architecture of audio"),
    ],
)
def test_an_unknown_audio_model_is_refused(catalog: Catalog, models: Path, config: dict[str, Any], says: str) -> None:
    make_model(models / "m", config)
    code, message = refusal(catalog, "m")
    assert code == "load_failed"
    assert message.startswith(f"m: config.json {says}")


def test_an_aligner_is_no_transcriber(catalog: Catalog, models: Path) -> None:
    config = {"model_type": "qwen3_asr", "thinker_config": {"model_type": "qwen3_forced_aligner"}}
    make_model(models / "m", config)
    assert refusal(catalog, "m")[0] == "load_failed"
    overridden = Catalog(models, models, {"m": ModelOverride("audio")})
    assert "'qwen3_forced_aligner', unknown for type audio" in refusal(overridden, "m")[1]


def test_the_settings_make_a_model_one_of_audio(models: Path, hub: Path) -> None:
    make_model(models / "odd", {"vision_config": {}, "model_type": "qwen2_vl"})
    make_model(models / "llama", LLAMA)
    catalog = Catalog(models, hub, {name: ModelOverride("audio") for name in ("odd", "llama")})
    says = "config.json names the architecture '{}', unknown for type audio"
    assert refusal(catalog, "odd") == ("load_failed", f"odd: {says.format('qwen2_vl')}")
    assert refusal(catalog, "llama") == ("load_failed", f"llama: {says.format('llama')}")
    assert Catalog(models, hub, {"odd": ModelOverride("vision")}).find("odd").model_type == "vision"
    # A name that a text model has too: what it is, only the settings can say.
    make_model(models / "shared", {"model_type": "glm", "architectures": ["GlmForCausalLM"]})
    assert Catalog(models, hub, {}).find("shared").model_type == "text-gen"
    spec = Catalog(models, hub, {"shared": ModelOverride("audio")}).find("shared")
    assert (spec.model_type, spec.tasks) == ("audio", frozenset({Task.TRANSCRIBE}))


def test_an_engine_of_its_own_may_do_all_work_of_the_type(models: Path, hub: Path) -> None:
    catalog = Catalog(models, hub, {"m": ModelOverride("audio", "tests.engines:Any")})
    assert catalog.find("m").tasks == frozenset()
    [entry] = catalog.entries()
    assert entry.capabilities == ("speak", "transcribe", "voices")


@pytest.mark.parametrize(
    ("config", "task", "says"),
    [
        (WHISPER, "transcribe", None),
        (WHISPER, "speak", "it can transcribe, not speak"),
        (WHISPER, "voices", "it can transcribe, not speak"),
        (WHISPER, "generate", "it can transcribe, not generate"),
        (WHISPER, "count", "it can transcribe, not generate"),
        (KOKORO, "speak", None),
        (KOKORO, "voices", None),
        (KOKORO, "transcribe", "it can speak, not transcribe"),
        (KOKORO, "embed", "it can speak, not embed"),
        (LLAMA, "transcribe", "m is a model of type text-gen: it can generate, not transcribe"),
        (LLAMA, "voices", "m is a model of type text-gen: it can generate, not speak"),
    ],
)
def test_the_wrong_work_is_refused_before_a_process_starts(
    catalog: Catalog, models: Path, config: dict[str, Any], task: str, says: str | None
) -> None:
    make_audio(models / "m", config)
    problem = wrong_task(catalog.find("m"), task)
    if says is None:
        assert problem is None
    else:
        assert problem is not None
        assert (problem.code, problem.param) == ("invalid_request", "model")
        assert says in problem.message


def test_a_reranker_and_an_embedder_are_told_apart_before_a_process_starts(catalog: Catalog, models: Path) -> None:
    make_model(models / "ranks", {"architectures": ["BertForSequenceClassification"], "model_type": "bert"})
    make_model(models / "embeds", {"architectures": ["BertModel"], "model_type": "bert"})
    for name, does, not_that in (("ranks", "rerank", "embed"), ("embeds", "embed", "rerank")):
        assert wrong_task(catalog.find(name), does) is None
        problem = wrong_task(catalog.find(name), not_that)
        assert problem is not None
        assert problem.message == f"{name} is a model of type embeddings: it can {does}, not {not_that}"


def test_a_table_of_another_version_leaves_new_families_to_the_worker() -> None:
    names = {"text-gen": frozenset({"llama"}), "vision": frozenset[str](), "audio": frozenset({"whisper"})}
    audio = {"transcribe": frozenset({"whisper"})}
    for is_complete, new in ((True, "zork"), (False, None)):
        table = Table(names, is_complete, audio)
        assert table.unknown({"model_type": "Zork"}, "audio") == new
        assert table.unknown({"model_type": "llama"}, "audio") == "llama"
        assert table.unknown({"model_type": "Whisper"}, "audio") is None
        assert table.unknown({"model_type": "whisper"}, "text-gen") == "whisper"
        assert table.audio_tasks("zork") == {Task.TRANSCRIBE, Task.SPEAK, Task.VOICES}


@pytest.mark.parametrize("config", [{}, {"model_type": 3}, {"architectures": 3, "target": 3, "model": [], "data": 1}])
def test_odd_configurations_name_no_family(config: dict[str, Any]) -> None:
    assert audio_family(config) is None
    assert unknown_architecture(config, "audio") is None
    assert audio_tasks(config) == {Task.TRANSCRIBE, Task.SPEAK, Task.VOICES}


def test_asking_imports_no_library() -> None:
    probe = (
        "import sys; from broker.models.architectures import audio_tasks as a, is_audio as i;"
        'assert i({"model_type": "whisper"}) and a({"model_type": "whisper"}) == {"transcribe"};'
        'assert not {"mlx", "mlx_audio", "numpy"} & sys.modules.keys()'
    )
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, timeout=30, check=True)
