"""What mlx-audio's families that transcribe, other than Whisper, make of a request's fields.

The same name means different things to them: `language` makes Granite translate, and `prompt` replaces the instruction
of some. What is not in the table here is not given to a family.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES

from broker.wire.failure import invalid
from broker.wire.work import Transcribe

# What a model calls a language that a request names by its code; None: it does not know it.
_Naming = Callable[[Any, str], str | None]


@dataclass(slots=True, frozen=True)
class Family:
    """naming: of the languages in which it can be told to hear, None where it finds out alone; language: the
    parameters for that; prompt: the parameter for a text that precedes the first words; passes: parameters that its
    `generate` hands on to another one."""

    naming: _Naming | None = None
    language: tuple[str, ...] = ("language",)
    prompt: str | None = None
    passes: frozenset[str] = frozenset()

    def options(self, model: Any, asked: Transcribe) -> dict[str, Any]:
        """Of `generate`, for this request. Raises FailureError for a language that the model does not know."""
        options: dict[str, Any] = {}
        if self.prompt and asked.prompt:
            options[self.prompt] = asked.prompt
        if self.naming is not None and asked.language is not None:
            name = self.naming(model, asked.language)
            if name is None:
                raise invalid(f"language {asked.language!r:.40} is unknown to this model", param="language")
            options |= dict.fromkeys(self.language, name)
        return options


def family_of(model: Any) -> Family:
    """model: mlx-audio's."""
    name = type(model).__module__.removeprefix("mlx_audio.stt.models.").partition(".")[0]
    return FAMILIES.get(name, Family())


def _among(codes: str) -> _Naming:
    known = frozenset(codes.split())
    return lambda _model, code: code if code in known else None


def _marked(model: Any, code: str) -> str | None:
    """By the marks of its tokenizer, some of which have three letters and are no languages."""
    return code if len(code) == 2 and f"<|{code}|>" in model._tokenizer.token2id else None  # noqa: SLF001


def _configured(model: Any, code: str) -> str | None:
    return code if code in model.config.supported_languages else None


def _english(model: Any, code: str) -> str | None:
    """By their English names, as its config has them."""
    names = model.config.support_languages or [name.title() for name in LANGUAGES.values()]
    return {name.lower(): name for name in names}.get(LANGUAGES.get(code, code))


def _regional(model: Any, code: str) -> str | None:
    """By codes with a region: the first one of the language, unless it is there without."""
    known: Mapping[str, int] = model.prompt_dictionary
    return next((name for name in (code, *known) if name in known and name.partition("-")[0] == code), None)


def _two_letters(_model: Any, code: str) -> str | None:
    return code if len(code) == 2 and code in LANGUAGES else None


_QWEN3 = Family(_english, prompt="system_prompt")
FAMILIES: dict[str, Family] = {
    "canary": Family(_marked, ("source_lang", "target_lang")),
    "cohere_asr": Family(_configured),
    "fun_asr_nano": Family(_among("cjy cmn en gan hak hsn ja nan wuu yue zh"), prompt="context"),
    "granite_speech": Family(_among("de en es fr it ja pt zh"), ("source_language",)),
    "mega_asr": Family(_english, prompt="system_prompt", passes=frozenset({"max_tokens", "temperature"})),
    "mimo_v2_asr": Family(_among("en zh")),
    "ming_v3_asr": Family(_among("en zh")),
    "nemotron_asr": Family(_regional),
    "phonon": _QWEN3,
    "qwen3_asr": _QWEN3,
    "sensevoice": Family(_among("en ja ko yue zh")),
    "vibevoice_asr": Family(prompt="context"),
    "voxtral": Family(_two_letters),
}
