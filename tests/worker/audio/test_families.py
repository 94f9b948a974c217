"""What families that transcribe are given of a request, compared with what mlx-audio makes of it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlx_audio.stt.models.fun_asr_nano.fun_asr_nano import SUPPORTED_ISO_LANGUAGES
from mlx_audio.stt.models.granite_speech import granite_speech

from broker.wire.failure import Code, FailureError
from broker.wire.work import Transcribe
from worker.audio.families import FAMILIES
from worker.audio.pieces import PieceTranscriber

# What the families look into for the languages that a model knows.
MODEL = SimpleNamespace(
    _tokenizer=SimpleNamespace(token2id={"<|en|>": 1, "<|de|>": 2, "<|pnc|>": 3}),
    config=SimpleNamespace(supported_languages=["en", "de"], support_languages=["English", "German", "Cantonese"]),
    prompt_dictionary={"auto": 0, "en-US": 1, "de-AT": 2, "de-DE": 3, "ja": 4},
)


def options(family: str, **fields: Any) -> dict[str, Any]:
    return FAMILIES[family].options(MODEL, Transcribe("", **fields))


@pytest.mark.parametrize(
    ("family", "language", "given"),
    [
        ("canary", "de", {"source_lang": "de", "target_lang": "de"}),
        ("cohere_asr", "de", {"language": "de"}),
        ("granite_speech", "de", {"source_language": "de"}),
        ("mega_asr", "de", {"language": "German"}),
        ("nemotron_asr", "de", {"language": "de-AT"}),
        ("nemotron_asr", "ja", {"language": "ja"}),
        ("phonon", "en", {"language": "English"}),
        ("qwen3_asr", "yue", {"language": "Cantonese"}),
        ("vibevoice_asr", "de", {}),
        ("voxtral", "de", {"language": "de"}),
    ],
)
def test_a_language_is_what_the_family_calls_it(family: str, language: str, given: dict[str, str]) -> None:
    assert options(family, language=language) == given


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.naming is not None])
@pytest.mark.parametrize("language", ["pnc", "elvish"])
def test_a_language_that_the_family_does_not_know_is_refused(family: str, language: str) -> None:
    with pytest.raises(FailureError, match=f"^language '{language}' is unknown to this model$") as raised:
        options(family, language=language)
    assert (raised.value.failure.code, raised.value.failure.param) == (Code.INVALID_REQUEST, "language")


def test_granite_transcribes_in_the_language_that_is_named() -> None:
    assert set(granite_speech.LANGUAGE_CODES) == {code for code in granite_speech.LANGUAGE_CODES if knows_granite(code)}
    given = options("granite_speech", language="de", prompt="Mrs Miller of the bank")
    instruction = granite_speech._resolve_prompt("asr", given.get("prompt"), given.get("language"), **given)
    assert instruction.startswith("The speech is in German. Transcribe it exactly; do not translate.")
    assert "Miller" not in instruction


def knows_granite(code: str) -> bool:
    return options("granite_speech", language=code) == {"source_language": code}


def test_the_languages_of_fun_asr_are_mlx_audios() -> None:
    for code in SUPPORTED_ISO_LANGUAGES.split(", "):
        assert options("fun_asr_nano", language=code) == {"language": code}


def test_a_prompt_goes_only_where_it_precedes_the_text() -> None:
    given = {family: options(family, prompt="a name") for family in FAMILIES}
    assert {family: options for family, options in given.items() if options} == {
        "fun_asr_nano": {"context": "a name"},
        "mega_asr": {"system_prompt": "a name"},
        "phonon": {"system_prompt": "a name"},
        "qwen3_asr": {"system_prompt": "a name"},
        "vibevoice_asr": {"context": "a name"},
    }


class _Endless:
    """A family that hands its options on; as a model, one that would repeat itself."""

    __module__ = "mlx_audio.stt.models.mega_asr.mega_asr"
    config = MODEL.config

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def generate(self, audio: Any, **given: Any) -> Any:
        self.given.append({"audio": np.asarray(audio), **given})
        return SimpleNamespace(text="word")


class _Bounded(_Endless):
    """One with a limit of its own."""

    __module__ = "mlx_audio.stt.models.moonshine.moonshine"

    def generate(self, audio: Any, *, max_tokens: int = 200, **given: Any) -> Any:
        return super().generate(audio, max_tokens=max_tokens, **given)


@pytest.mark.parametrize(("kind", "most"), [(_Endless, 512), (_Bounded, 200)])
def test_a_piece_has_a_bounded_number_of_tokens(kind: type[_Endless], most: int) -> None:
    model = kind()
    asked = Transcribe("", language="de", temperature=0.5)
    transcriber = PieceTranscriber(model)
    transcriber.check(asked)
    (heard,) = transcriber.listen(asked, iter([np.ones(16_000, np.float32)]))
    assert heard is not None
    assert heard.text == "word"
    (given,) = model.given
    assert given["max_tokens"] == most
    told = {name: value for name, value in given.items() if name not in {"audio", "max_tokens"}}
    assert told == ({"language": "German", "temperature": 0.5} if kind is _Endless else {})


def test_what_a_step_takes_is_measured_with_a_sound() -> None:
    model = _Endless()
    PieceTranscriber(model).step_bytes()
    (given,) = model.given
    assert given["audio"].shape == (30 * 16_000,)
    assert float(given["audio"].std()) == pytest.approx(0.1, rel=0.01)


def test_what_is_asked_is_checked_before_the_file_is_read() -> None:
    with pytest.raises(FailureError, match="language 'elvish'"):
        PieceTranscriber(_Endless()).check(Transcribe("", language="elvish"))
