"""Loading a speech model: what is found in its folder, and what is refused."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
import pytest

from tests.tiny_speech import make_tiny_kitten, make_tiny_pocket
from tests.worker.audio.speech_runs import SENTENCES, add, load, refusal
from tests.worker.stepping import steps
from worker.audio.guard import quiet
from worker.audio.speech import SpeechEngine
from worker.audio.voices import voices_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SpeechEngine:
    return load(make_tiny_pocket(tmp_path_factory.mktemp("models") / "tiny"))


def test_a_family_whose_package_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^kitten_tts needs .* pip install 'phonemizer-fork'$"):
        load(make_tiny_kitten(tmp_path / "m"))


@pytest.mark.parametrize(
    ("family", "files", "config", "voices"),
    [
        ("kokoro", ["voices/af_alloy", "voices/af_heart"], {}, ["af_heart", "af_alloy"]),
        ("voxtral_tts", ["voice_embedding/a", "voice_embedding/casual_male"], {}, ["casual_male", "a"]),
        ("qwen3_tts", [], {"talker_config": {"spk_id": {"vivian": [1], "ryan": [2]}}}, ["ryan", "vivian"]),
        ("melotts", [], {"spk2id": {"EN-BR": 1, "EN-Default": 0}}, ["EN-Default", "EN-BR"]),
        ("rumik_oss", [], {"speakers": ["b", "a"]}, ["a", "b"]),
        ("pocket_tts", ["default-voice", "embeddings/jean"], {}, ["default", "jean"]),
        ("soprano", [], {}, ["default"]),
    ],
)
def test_voices_are_what_the_folder_has(
    tmp_path: Path, family: str, files: list[str], config: dict[str, object], voices: list[str]
) -> None:
    for file in files:
        path = tmp_path / f"{file}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert voices_of(tmp_path, family, config) == voices


def test_voices_in_one_file_and_their_other_names_are_found(tmp_path: Path) -> None:
    folder = make_tiny_kitten(tmp_path / "m")
    config = json.loads((folder / "config.json").read_bytes())
    assert voices_of(folder, "kitten_tts", config) == ["expr-voice-5-m", "Bella", "expr-voice-2-f"]


def test_the_name_of_a_folder_decides_nothing(tmp_path: Path) -> None:
    folder = make_tiny_pocket(tmp_path / "kokoro-dia-soprano")
    config = json.loads((folder / "config.json").read_bytes())
    config.pop("model_type", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).speaker.family == "pocket_tts"
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^config\.json: names no architecture of audio models"):
        load(folder)


def test_a_defect_of_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such model folder"):
        load(tmp_path / "none")
    folder = make_tiny_pocket(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"^\*\.safetensors or config\.json: "):
        load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"^config\.json: must be an object"):
        load(folder)


def test_a_repository_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as in a worker
    with pytest.raises(ValueError, match=r"mlx-broker pull kyutai/pocket-tts-without-voice-cloning$"):
        load(make_tiny_pocket(tmp_path / "m", voices=()))


def test_what_mlx_audio_prints_becomes_lines_of_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", "worker"), quiet():
        sys.stdout.write("a voice is loaded\n")
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == ["mlx-audio: a voice is loaded"]


class _Family:
    """A family that makes what it is told: samples of each result, or an error in their place."""

    sample_rate = 800

    def __init__(self, *makes: list[Any] | BaseException) -> None:
        self._makes = makes

    def generate(self, text: str, **settings: Any) -> Iterator[Any]:
        for number, made in enumerate(self._makes):
            if isinstance(made, BaseException):
                raise made
            audio = mx.array(made, dtype=mx.bfloat16)
            yield SimpleNamespace(audio=audio, sample_rate=self.sample_rate, token_count=number + 1)


@pytest.mark.parametrize(
    ("makes", "samples"),
    [
        ([[0.5, -0.5]], [0.5, -0.5]),
        ([[[[0.5, -0.5]]]], [0.5, -0.5]),
        ([[[0.5, 0.0, 1.0], [0.0, 0.5, 0.0]]], [0.25, 0.25, 0.5]),
        ([[[0.5, 0.0], [0.0, 0.5], [1.0, 0.0]]], [0.25, 0.25, 0.5]),
        ([[0.5], [], [0.25]], [0.5, 0.25]),
    ],
)
def test_whatever_shape_samples_have_they_become_one_channel(
    tiny: SpeechEngine, monkeypatch: pytest.MonkeyPatch, makes: list[Any], samples: list[float]
) -> None:
    monkeypatch.setattr(tiny.speaker, "_model", _Family(*makes))
    assert np.concatenate([sound.samples for sound in tiny.speaker.speak("Hi", 1)]).tolist() == samples


@pytest.mark.parametrize("makes", [(), ([],), (AssertionError("No audio generated"),)])
def test_a_text_without_a_sound_is_refused(
    tiny: SpeechEngine, monkeypatch: pytest.MonkeyPatch, makes: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(tiny.speaker, "_model", _Family(*makes))
    for stream in (False, True):
        failure = refusal(tiny, "...", stream=stream)
        assert (failure.code, failure.param, failure.message) == ("invalid_request", "text", "text gives no sound")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ImportError("misaki"), "not_implemented", "this voice cannot speak: pocket_tts needs a package"),
        (AssertionError("512"), "internal_error", "the text cannot be spoken: AssertionError: 512"),
        (RuntimeError("shapes"), "internal_error", "the text cannot be spoken: RuntimeError: shapes"),
        (
            SystemExit(3),
            "internal_error",
            "the text cannot be spoken: RuntimeError: pocket_tts wanted to end the process, ",
        ),
    ],
)
def test_an_error_of_the_family_ends_the_request_alone(
    tiny: SpeechEngine, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: str, words: str
) -> None:
    monkeypatch.setattr(tiny.speaker, "_model", _Family(error))
    failure = refusal(tiny, "Hi")
    assert failure.code == code
    assert failure.message.startswith(words)


def test_kokoro_downloads_nothing_while_it_speaks(
    tiny: SpeechEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """misaki's English asks spacy for a package that is on no index, which ends the process if it cannot be had."""
    speaker = tiny.speaker
    monkeypatch.setattr(speaker, "family", "kokoro")
    monkeypatch.setattr(speaker, "voices", ["af_heart", "jf_alpha"])
    monkeypatch.setattr(speaker, "_model", _Kokoro())
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "spacy.py").write_text("def download(name):\n    raise SystemExit(1)\n")
    failure = refusal(tiny, "Hi", voice="af_heart")
    assert failure.code == "not_implemented"
    assert "install 'misaki[en]' and python -m spacy download en_core_web_sm" in failure.message
    with pytest.raises(ValueError, match="python -m spacy download en_core_web_sm"):
        speaker._try()
    assert [sound.samples.tolist() for sound in speaker.speak("Hi", 1, voice="jf_alpha")] == [[0.5]]
    (tmp_path / "en_core_web_sm.py").write_text("")
    with pytest.raises(ValueError, match="kokoro cannot speak: RuntimeError: kokoro wanted to end the process"):
        speaker._try()


class _Kokoro:
    """Speaks Japanese; its English wants a download while `generate` is called."""

    sample_rate = 800

    def generate(self, text: str, *, lang_code: str, **settings: Any) -> Iterator[Any]:
        if lang_code == "a":
            import_module("spacy").download("en_core_web_sm")
        return _Family([0.5]).generate(text)


class _Voxtral(_Family):
    """Notes the limits that it is given."""

    limits: ClassVar[list[int]] = []

    def generate(self, text: str, *, max_tokens: int = 4096, **settings: Any) -> Iterator[Any]:
        self.limits.append(max_tokens)
        return super().generate(text)


def test_a_short_text_is_not_spoken_for_minutes(tiny: SpeechEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    speaker, model = tiny.speaker, _Voxtral([0.5])
    monkeypatch.setattr(speaker, "_model", model)
    monkeypatch.setattr(speaker, "_takes", signature(model.generate).parameters)
    texts = ["Yes.", "a" * 240, "a" * 1000]
    for family in ("voxtral_tts", "soprano"):
        monkeypatch.setattr(speaker, "family", family)
        for text in texts:
            assert list(speaker.speak(text, 1))
    assert model.limits == [88, 1563, 4096, *[4096] * 3]


def test_an_error_of_the_gpu_ends_the_process(tiny: SpeechEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("[METAL] Command buffer execution failed: out of memory")
    monkeypatch.setattr(tiny.speaker, "_model", _Family(error))
    with pytest.raises(RuntimeError, match="METAL"):
        refusal(tiny, "Hi")
    tiny.cancel(b"r")


def test_a_sentence_waits_for_memory_and_is_refused_where_there_can_never_be_enough(tmp_path: Path) -> None:
    folder = make_tiny_pocket(tmp_path / "m")
    fixed = load(folder, share=2**30).room.needs(0, 0)
    engine = load(folder, share=fixed + 1, limit=2**30)
    needed = engine.room.needs(1, len(SENTENCES[0]))
    add(engine, b"r", SENTENCES[0])
    assert not engine.has_work
    assert engine.room.waiting == 1
    wish = engine.room.wish()
    assert wish is not None
    assert wish.least == needed
    engine.room.granted(wish.wanted, 2**30)
    assert steps(engine)
    limit = (fixed + needed) // 2
    engine = load(folder, share=limit, limit=limit)
    assert "there can be" in refusal(engine, SENTENCES[0]).message
