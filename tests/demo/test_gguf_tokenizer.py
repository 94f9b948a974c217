from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from demo.gguf_tokenizer import write_tokenizer
from tests.demo import reference_bpe

MERGES = ["t h", "Ġ th", "Ġth e", "i n", "1 2", "Ġ Ġ", "Ċ Ċ", "Ã ©"]
TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *reference_bpe.byte_alphabet(),
    *(merge.replace(" ", "") for merge in MERGES),
]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def metadata() -> dict[str, Any]:
    return {
        "llama.context_length": mx.array(8192, mx.uint32),
        "tokenizer.chat_template": TEMPLATE,
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": mx.array([3] * 3 + [1] * (len(TOKENS) - 3), mx.int32),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.unknown_token_id": mx.array(0, mx.uint32),
        "tokenizer.ggml.bos_token_id": mx.array(1, mx.uint32),
        "tokenizer.ggml.eos_token_id": mx.array(2, mx.uint32),
        "tokenizer.ggml.padding_token_id": mx.array(2, mx.uint32),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(metadata(), folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@given(st.text(st.one_of(st.sampled_from("the in12 \n'sé"), st.characters(codec="utf-8"))))
def test_any_text_has_the_tokens_of_the_rules_and_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert ids == reference_bpe.encode(text, TOKENS, MERGES)
    assert tokenizer.decode(ids) == text


def test_digits_never_merge(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(" the 12²").tokens == ["Ġthe", "Ġ", "1", "2", "Â", "²"]


def test_control_tokens_are_one_id_and_hidden_when_decoding(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>in<|im_end|>").ids
    assert ids == [1, TOKENS.index("in"), 2]
    assert tokenizer.decode(ids) == "in"


def test_transformers_reads_both_files_as_they_are(folder: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(folder)
    rendered = loaded.apply_chat_template([{"role": "user", "content": "the 12"}], tokenize=False)
    assert rendered == "<|im_start|>user\nthe 12<|im_end|>\n"
    assert loaded.encode("the 12") == reference_bpe.encode("the 12", TOKENS, MERGES)
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (1, 2, 2)
