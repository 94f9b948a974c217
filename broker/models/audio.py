"""What an audio model's folder must have, so that one which cannot run is refused before a process starts."""

from pathlib import Path
from typing import Any

from broker.models.entry import CatalogError
from broker.wire.audio_models import audio_family
from broker.wire.failure import Code

AUDIO = "audio"
# Any of these is a tokenizer.
_TOKENIZERS = ("tokenizer*", "vocab*", "*.tiktoken", "tekken.json", "spiece.model", "sentencepiece*")


def has_tokenizer(folder: Path) -> bool:
    """Whether this folder has a tokenizer in any form."""
    return any(True for pattern in _TOKENIZERS for _ in folder.glob(pattern))


def check_audio(model_id: str, config: dict[str, Any], folder: Path, *, fetchable: bool) -> None:
    """Raises CatalogError for what mlx-audio cannot run although it may know the architecture. fetchable: a download
    could complete the folder."""
    family = audio_family(config)
    if family is None:
        raise CatalogError(Code.LOAD_FAILED, f"{model_id}: config.json names no architecture of audio models")
    has_weights = any(True for _ in folder.glob("*.safetensors"))
    if not has_weights and any(True for _ in folder.glob("*.npz")):
        message = f"{folder} has its weights in .npz files, which are not read; convert them to .safetensors"
        raise CatalogError(Code.LOAD_FAILED, message)
    if family == "whisper" and not has_tokenizer(folder):
        message = (
            f"{folder} has no tokenizer: copy preprocessor_config.json, tokenizer_config.json and tokenizer.json of "
            "this model from OpenAI's repository into it"
        )
        raise CatalogError(Code.LOAD_FAILED, message, fetchable=fetchable)
