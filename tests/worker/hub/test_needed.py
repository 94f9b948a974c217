"""Which files of a repository are fetched."""

import pytest
from huggingface_hub.hf_api import RepoSibling

from broker.wire.failure import FailureError
from worker.hub.download import _needed


def needed(*names: str) -> list[str]:
    return [file.rfilename for file in _needed("org/m", [RepoSibling(name, size=1) for name in names])]


@pytest.mark.parametrize(
    ("fetched", "left"),
    [
        # mlx-community/Kokoro-82M-bf16
        (
            ["config.json", "kokoro-v1_0.safetensors", "voices/af_heart.safetensors"],
            ["voices/af_heart.pt", "samples/HEARME.wav", "README.md"],
        ),
        # Qwen/Qwen3-TTS
        (
            ["config.json", "vocab.json", "merges.txt", "model.safetensors", "speech_tokenizer/model.safetensors"],
            ["speech_tokenizer/code.py"],
        ),
        # Whisper, SenseVoice, KittenTTS
        (["config.json", "weights.safetensors", "preprocessor_config.json"], ["weights.npz", "pytorch_model.bin"]),
        (["config.json", "model.safetensors", "am.mvn", "config.yaml", "spectok.bpe.model"], ["example/en.mp3"]),
        (["config.json", "model.safetensors", "voices.npz"], ["other.npz", "model.onnx"]),
        (["config.json", "model.safetensors"], ["original/model.safetensors", "consolidated.safetensors"]),
    ],
)
def test_what_a_model_needs_and_nothing_that_runs(fetched: list[str], left: list[str]) -> None:
    assert needed(*left, *fetched) == fetched


def test_weights_in_npz_files_are_no_model() -> None:
    with pytest.raises(FailureError, match="only such weights are loaded"):
        needed("config.json", "weights.npz")
