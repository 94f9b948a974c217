"""Makes tiny random Whisper models, by mlx-audio's own classes, and sounds for them to hear. Downloads nothing.

Made of 16-bit numbers, as Whisper's are. The small vocabulary is that of an English model: 256 bytes, then what
Whisper's tokenizers mark. With the whole vocabulary a model hears 99 languages, and pairs of bytes fill it up.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import soundfile
from mlx.utils import tree_flatten, tree_map
from mlx_audio.stt.models import moonshine
from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES
from mlx_audio.stt.models.whisper.whisper import Model, ModelDimensions
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

RATE = 16_000

# See make_tiny_whisper.
HESITANT: dict[str, Any] = {"seed": 0, "rarity": 2.0}

_TIMES = tuple(f"<|{step * 0.02:.2f}|>" for step in range(1501))
_MARKS = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
_MULTILINGUAL = 51_865
_END = "<|endoftext|>"


def make_tiny_whisper(
    folder: Path,
    *,
    multilingual: bool = False,
    seed: int = 4,
    spread: float = 2.0,
    rarity: float = 1.0,
    context: int = 24,
    width: int = 16,
) -> Path:
    """Write a model into `folder` (made if missing) and return it.

    spread: of the logits: with much of it the model is sure of each token. rarity: of marks of time. By default a
    window has several segments and its first attempt is good enough; with HESITANT it has one, and needs several.
    context: tokens of its decoder, half of which a window can have. width: of its state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = _write_tokenizer(folder, multilingual=multilingual)
    config: dict[str, Any] = {
        "n_mels": 80,
        "n_audio_ctx": 1500,
        "n_audio_state": width,
        "n_audio_head": 1,
        "n_audio_layer": 0,
        "n_vocab": size,
        "n_text_ctx": context,
        "n_text_state": width,
        "n_text_head": 2,
        "n_text_layer": 1,
    }
    mx.random.seed(seed)  # for what is left as it is made
    model = Model(ModelDimensions(**config))
    keys = iter(mx.random.split(mx.random.key(seed), len(tree_flatten(model.parameters()))))
    weights: Any = tree_map(lambda weight: _random(weight, next(keys)), model.parameters())
    decoder = weights["decoder"]
    decoder["ln"]["weight"] *= spread
    # One number of the state is constant, and through it marks of time are less likely: there are so many of them that
    # a model whose text is noise would say nothing else.
    decoder["ln"]["weight"][0], decoder["ln"]["bias"][0] = 0.0, 1.0
    decoder["token_embedding"]["weight"][:, 0] = 0.0
    decoder["token_embedding"]["weight"][-len(_TIMES) :, 0] = -rarity * spread
    named: Any = tree_flatten(weights)
    flat = {name: weight.astype(mx.float16) for name, weight in named if not _is_made(name)}
    mx.save_safetensors(str(folder / "model.safetensors"), flat, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", **config}))
    return folder


def make_tiny_moonshine(folder: Path, *, seed: int = 0) -> Path:
    """The same of a family that hears a file as a whole, without a tokenizer: a token is a character or a number."""
    config: dict[str, Any] = {
        "model_type": "moonshine",
        "vocab_size": 200,
        "hidden_size": 16,
        "intermediate_size": 32,
        "encoder_num_hidden_layers": 1,
        "decoder_num_hidden_layers": 1,
        "encoder_num_attention_heads": 2,
        "decoder_num_attention_heads": 2,
        "eos_token_id": 2,
    }
    mx.random.seed(seed)  # as above
    model = moonshine.Model(moonshine.ModelConfig.from_dict(config))
    named: Any = tree_flatten(model.parameters())
    keys = iter(mx.random.split(mx.random.key(seed), len(named)))
    # A convolution lies in files as PyTorch has it.
    flat = {
        name: weight.swapaxes(1, 2) if "conv" in name and weight.ndim == 3 else weight
        for name, weight in ((name, _random(weight, next(keys))) for name, weight in named)
    }
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), flat, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def sound(seconds: float, *, rate: int = RATE, seed: int = 0) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    """A tone that rises and falls in pitch and loudness, with some noise."""
    noise = np.random.default_rng(seed)
    times = np.arange(int(seconds * rate)) / rate
    pitch = 300 + 200 * np.sin(times * (0.7 + 0.1 * seed))
    loudness = 0.3 + 0.25 * np.sin(times * 1.3 + seed)
    made = loudness * np.sin(2 * np.pi * np.cumsum(pitch) / rate) + 0.01 * noise.standard_normal(len(times))
    return made.astype(np.float32)


def write_sound(path: Path, seconds: float, *, rate: int = RATE, channels: int = 1, seed: int = 0) -> Path:
    """A file in the format that its name says."""
    one = sound(seconds, rate=rate, seed=seed)
    soundfile.write(path, np.stack([one * (1 - number / 64) for number in range(channels)], axis=1), rate)
    return path


def _random(weight: mx.array, key: mx.array) -> mx.array:
    if weight.ndim == 1:
        return mx.array(weight)  # as it is made: ones of a norm, small numbers of a bias
    return mx.random.normal(weight.shape, scale=float(weight.shape[-1]) ** -0.5, key=key)


def _is_made(name: str) -> bool:
    """Whether a model makes this itself."""
    return any(part.startswith("_") for part in name.split("."))


def _write_tokenizer(folder: Path, *, multilingual: bool) -> int:
    """Its number of tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = [_END, "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES), *_MARKS, *_TIMES]
    size = _MULTILINGUAL if multilingual else len(letters) + len(marks)
    pairs = [(one, other) for one in letters for other in letters][: size - len(letters) - len(marks)]
    words = [*letters, *(one + other for one, other in pairs)]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"eos_token": _END, "bos_token": _END, "unk_token": _END, "pad_token": _END}
    settings = {"tokenizer_class": "WhisperTokenizer", "clean_up_tokenization_spaces": False, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    features = {"feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(features | {"feature_size": 80}))
    return size
