"""Code that comes with an audio model is never run, and the error says why the model cannot be loaded."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_audio.stt.models.qwen3_asr import ModelConfig
from mlx_audio.stt.models.qwen3_asr.qwen3_asr import Qwen3ASRModel

from broker.wire.to_workers import Assign
from tests.tiny_speech import make_tiny_pocket
from worker.audio.engine import audio_engine
from worker.audio.speaker import Speaker
from worker.loading.model_folder import blame

AUDIO: dict[str, Any] = {
    "num_mel_bins": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "d_model": 16,
    "output_dim": 16,
    "downsample_hidden_size": 8,
    "n_window": 50,
    "max_source_positions": 1500,
}
TEXT: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the code writes if it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "ran"


def bring_code(folder: Path, ran: Path) -> None:
    """Into the folder: a tokenizer with code of its own."""
    named = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    lines = (
        f"open({str(ran)!r}, 'w').close()",
        "from transformers import PreTrainedTokenizer",
        "class Evil(PreTrainedTokenizer): pass",
    )
    (folder / "evil.py").write_text("\n".join(lines))


def test_a_model_that_transcribes(tmp_path: Path, ran: Path) -> None:
    """Of a family that trusts whatever comes with a model."""
    folder = tmp_path / "m"
    folder.mkdir()
    config = {"model_type": "qwen3_asr", "thinker_config": {"audio_config": AUDIO, "text_config": TEXT}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 16}))
    named: Any = tree_flatten(Qwen3ASRModel(ModelConfig.from_dict(dict(config))).parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(named))
    bring_code(folder, ran)
    with pytest.raises(ValueError, match=r"evil\.py is code that comes with the model, which is never run"):
        audio_engine(Assign("m", str(folder), "audio"), lambda _stage, _fraction: None)
    assert not ran.exists()


@pytest.mark.parametrize("step", ["load", "first words"])
def test_a_model_that_speaks(tmp_path: Path, ran: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Of a family that would trust it, while it loads or with its first words."""
    from transformers import AutoTokenizer

    folder = make_tiny_pocket(tmp_path / "m")
    bring_code(folder, ran)

    def trust(*_: Any, **__: Any) -> Any:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=True)

    if step == "load":
        monkeypatch.setattr("worker.audio.speaker.load_model", trust)
    else:
        monkeypatch.setattr("mlx_audio.tts.models.pocket_tts.Model.generate", trust)
        monkeypatch.setattr("worker.audio.speaker.signature", lambda _: type("_", (), {"parameters": {}}))
    with pytest.raises(ValueError, match=r"evil\.py is code that comes with the model, which is never run"):
        Speaker(folder, lambda _stage, _fraction: None)
    assert not ran.exists()


@pytest.mark.parametrize(("error", "named"), [(ValueError(), "ValueError"), (KeyError(), "KeyError")])
def test_an_error_without_words_is_told_by_its_name(tmp_path: Path, error: Exception, named: str) -> None:
    with pytest.raises(ValueError, match=rf"^config\.json: {named}$"), blame(tmp_path, "config.json"):
        raise error
