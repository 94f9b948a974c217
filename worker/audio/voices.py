"""The voices of a speech model, from what its folder holds.

mlx-audio takes whatever a request names: it opens paths, fetches addresses, and falls back to another voice. Here a
voice is one of this list.
"""

from pathlib import Path
from typing import Any

import numpy as np

# The name of the only voice of a model that has no names.
ONLY = "default"

# What a family speaks with if nothing is asked, where the folder has it.
_FIRST = {
    "kokoro": ("af_heart",),
    "kitten_tts": ("expr-voice-5-m",),
    "pocket_tts": ("default", "alba"),
    "voxtral_tts": ("casual_male",),
    "melotts": ("EN-Default",),
}

# Where families keep a file per voice.
_FOLDERS = ("voices", "embeddings", "voice_embedding")


def voices_of(folder: Path, family: str, config: dict[str, Any]) -> list[str]:
    """Names, the usual voice first; `default` alone where there are none."""
    names = sorted({*_in_config(config), *_in_files(folder, config)})
    if family == "pocket_tts" and (folder / "default-voice.safetensors").is_file() and "default" not in names:
        names.append("default")
    first = [name for name in _FIRST.get(family, ()) if name in names]
    return [*first, *(name for name in names if name not in first)] or [ONLY]


def _in_config(config: dict[str, Any]) -> set[str]:
    talker = config.get("talker_config")
    maps = (
        talker.get("spk_id") if isinstance(talker, dict) else None,
        config.get("spk2id"),
        config.get("speakers"),
        config.get("voice_aliases"),
    )
    return {name for names in maps if isinstance(names, dict | list) for name in names if isinstance(name, str)}


def _in_files(folder: Path, config: dict[str, Any]) -> set[str]:
    names = {file.stem for place in _FOLDERS for file in (folder / place).glob("*.safetensors")}
    archive = folder / str(config.get("voices_path", "voices.npz"))
    if archive.suffix == ".npz" and archive.is_file():
        with np.load(archive) as voices:
            names.update(voices.files)
    return names
