"""Which of the two engines an audio model gets, as broker and worker must agree."""

import json
from pathlib import Path
from typing import Any

import pytest

from broker.models.architectures import audio_tasks
from broker.wire.to_workers import Assign
from tests.broker.models.audio_configs import SPEAKERS, TRANSCRIBERS
from tests.tiny_audio import make_tiny_whisper
from worker.audio.engine import _kind_of, audio_engine
from worker.audio.transcription import TranscriptionEngine


@pytest.mark.parametrize(("config", "_family"), [*TRANSCRIBERS, *SPEAKERS])
def test_the_worker_takes_a_model_for_what_the_broker_takes_it(config: dict[str, Any], _family: str) -> None:
    assert {"stt": "transcribe", "tts": "speak"}[_kind_of(config)] in audio_tasks(config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[]", "is not a JSON object"),
        ("{}", "names no architecture, which neither transcribes nor speaks"),
        ('{"model_type": "Silero_VAD"}', "names silero_vad, which neither transcribes nor speaks"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, config: str, says: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=rf"^config\.json: {says}"):
        audio_engine(Assign("m", str(tmp_path), "audio"), lambda *_: None)


def test_the_name_of_a_folder_decides_nothing(tmp_path: Path) -> None:
    folder = make_tiny_whisper(tmp_path / "parakeet-kokoro")
    config = json.loads((folder / "config.json").read_bytes())
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    engine = audio_engine(Assign("m", str(folder), "audio"), lambda *_: None)
    assert isinstance(engine, TranscriptionEngine)
