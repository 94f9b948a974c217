"""A broken folder is refused with a message that begins with the file at fault."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from broker.models import facts
from tests.tiny_models import make_tiny_model
from worker.loading.model_folder import CONTEXT_KEYS, load_folder

# What is in the folder instead: a file's new content, None for no such file, or a number of bytes that are left of it.
BROKEN: dict[str, tuple[str, bytes | int | None, str]] = {
    "weights cut": ("model.safetensors", 80_000, r"^model\.safetensors: .*exceeding the size of the file"),
    "weights cut in the header": ("model.safetensors", 100, r"^model\.safetensors: "),
    "weights empty": ("model.safetensors", 0, r"^model\.safetensors: "),
    "weights garbage": ("model.safetensors", b"x" * 1000, r"^model\.safetensors: "),
    "weights missing": ("model.safetensors", None, r"^model\*\.safetensors .*: missing"),
    "config missing": ("config.json", None, r"^config\.json: missing"),
    "config no json": ("config.json", b"{", r"^config\.json: "),
    "config a list": ("config.json", b"[]", r"^config\.json: "),
    "config empty": ("config.json", b"{}", r"^config\.json: model_type is missing"),
    "text_config a list": (
        "config.json",
        b'{"model_type": "x", "text_config": [1]}',
        r"^config\.json: text_config must be",
    ),
    "architecture unknown": ("config.json", b'{"model_type": "zork"}', r"config\.json: Model type zork not supported"),
    "config incomplete": ("config.json", b'{"model_type": "llama"}', r"config\.json: .*hidden_size"),
    "code wanted": ("config.json", b'{"model_type": "llama", "model_file": "x.py"}', r"config\.json: .*custom module"),
    "tokenizer missing": ("tokenizer.json", None, r"^tokenizer\.json"),
    "tokenizer no json": ("tokenizer.json", b"{", r"^tokenizer\.json"),
    "tokenizer incomplete": ("tokenizer.json", b'{"model": {}}', r"^tokenizer\.json"),
    "tokenizer settings no json": ("tokenizer_config.json", b"{", r"^tokenizer\.json or tokenizer_config\.json"),
}


@pytest.mark.parametrize(("file", "content", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_folders(tmp_path: Path, file: str, content: bytes | int | None, message: str) -> None:
    folder = make_tiny_model(tmp_path / "broken")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:content] if isinstance(content, int) else content)
    with pytest.raises(ValueError, match=message) as raised:
        load_folder(folder, lambda _stage, _fraction: None)
    # One line, and where the folder lies is the business of the machine's owner only.
    assert "\n" not in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "headless")
    tensors: Any = mx.load(str(folder / "model.safetensors"))
    # Read before the file is written anew.
    mx.eval(tensors)
    del tensors["lm_head.weight"]
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    with pytest.raises(ValueError, match=r"^model\*\.safetensors .*lm_head"):
        load_folder(folder, lambda _stage, _fraction: None)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "coded")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Tokenizer: pass\n")
    settings = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: .*custom code"):
        load_folder(folder, lambda _stage, _fraction: None)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such model folder"):
        load_folder(tmp_path / "nowhere", lambda _stage, _fraction: None)


def test_progress_and_facts(tmp_path: Path) -> None:
    reports: list[tuple[str, float | None]] = []
    loaded = load_folder(
        make_tiny_model(tmp_path / "m", context_length=77), lambda stage, fraction: reports.append((stage, fraction))
    )
    assert reports == [("tokenizer", 1.0), ("weights", 1.0)]
    assert loaded.context_length == 77
    assert loaded.vocabulary == 259
    tensors: Any = mx.load(str(tmp_path / "m/model.safetensors"))
    assert loaded.weights_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_broker_and_worker_read_the_length_of_a_context_from_the_same_keys() -> None:
    """Each has a list of its own, because a worker imports nothing of the broker but the wire."""
    assert CONTEXT_KEYS == facts.CONTEXT_KEYS


def without_template(folder: Path) -> Path:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_template_in_a_file_of_its_own(tmp_path: Path) -> None:
    folder = without_template(make_tiny_model(tmp_path / "apart"))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "<{{ messages[0].content }}>"}))
    tokenizer = load_folder(folder, lambda _stage, _fraction: None).tokenizer
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<hi>"
    (folder / "chat_template.json").write_text("[]")
    with pytest.raises(ValueError, match=r"chat_template\.json has no chat_template"):
        load_folder(folder, lambda _stage, _fraction: None)


def test_a_model_without_any_template_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_folder(without_template(make_tiny_model(tmp_path / "bare")), lambda _stage, _fraction: None)
    assert "bare has no chat template" in caplog.text
