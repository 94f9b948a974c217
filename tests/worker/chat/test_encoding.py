"""The quick way from a rendered chat to token ids gives what transformers gives."""

from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import NewlineTokenizer, load
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import make_tiny_model
from worker.chat.chat import Chat
from worker.chat.encoding import encoder_of
from worker.chat.renderers import renderer_of

TEXTS = [
    "",
    " ",
    "[user] Why?\n[assistant] ",
    "<s>[user] special</s><pad>",
    "é 🙂 \x00 \n\n\t  spaces   everywhere ",
    "long " * 900,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("encoding") / "a")


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(folder: Path, text: str) -> None:
    tokenizer = load(folder)
    encode = encoder_of(tokenizer)
    assert encode is not None
    assert encode(text) == tokenizer._tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_file_that_cuts_and_pads_does_neither_here(folder: Path, tmp_path: Path) -> None:
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=12)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    encode = encoder_of(tokenizer)
    assert encode is not None
    found = {text: encode(text) for text in TEXTS}
    assert found == {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS}
    assert {len(found["[user] Why?\n[assistant] "]), len(found[" "])} == {24, 1}


@pytest.mark.parametrize("times", [10, 2000])
def test_a_tokenizer_that_encodes_other_texts_in_another_way(folder: Path, times: int) -> None:
    tokenizer = NewlineTokenizer(tokenizer_file=str(folder / "tokenizer.json"))
    encode = encoder_of(tokenizer)
    assert encode is not None
    text = "a\nb " * times
    assert encode(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encode(text) != tokenizer.encode(text, add_special_tokens=False)


def test_a_tokenizer_with_a_way_of_its_own_keeps_it(folder: Path) -> None:
    class Own(PreTrainedTokenizerFast):  # type: ignore[misc] # transformers is not read by mypy
        def apply_chat_template(self, *_arguments: Any, **_options: Any) -> Any:
            return [1, 2, 3]

    tokenizer = Own(tokenizer_file=str(folder / "tokenizer.json"))
    assert encoder_of(tokenizer) is None
    tokenizer.has_chat_template = True
    chat = Chat([{"role": "user", "content": "Why?"}], None, {})
    assert renderer_of(tokenizer)(chat, tokenize=True, asks=True) == [1, 2, 3]


def test_a_chat_is_written_as_transformers_writes_it(folder: Path) -> None:
    tokenizer = load(folder)
    turns = [{"role": "system", "content": "Be brief. 🙂"}, {"role": "user", "content": "Why </s> not?"}]
    written = renderer_of(tokenizer)(Chat(turns, None, {}), tokenize=True, asks=True)
    assert written == tokenizer.apply_chat_template(turns, add_generation_prompt=True)
