"""What a family prints, and what it needs and does not find."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_audio import make_tiny_moonshine
from tests.worker.audio.transcription_runs import load


def test_a_model_that_transcribes_prints_nothing_and_names_the_repository_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def lacking(*_: Any, **__: Any) -> Any:
        sys.stdout.write("Loading ...\n")
        try:
            raise OSError("https://huggingface.co/Qwen/Qwen2.5-7B/resolve/main/tokenizer.json: offline")
        except OSError as error:
            raise RuntimeError("no tokenizer") from error

    monkeypatch.setattr("worker.audio.transcription.load", lacking)
    with pytest.raises(ValueError, match=r"^the model's files: .* fetch them: mlx-broker pull Qwen/Qwen2\.5-7B$"):
        load(make_tiny_moonshine(tmp_path / "m"))
    assert capfd.readouterr().out == ""
