"""A vocabulary is read once while a model is loaded, again when it has grown, and as always afterwards."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.tiny_vision import make_tiny_vision
from tests.worker.engine_runs import load
from tests.worker.vision.vision_runs import load as load_vision
from worker.loading.vocabulary import vocabulary_read_once


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the vocabularies that have been made."""
    sizes: list[int] = []
    kind: Any = PreTrainedTokenizerFast
    plain = kind.get_vocab

    def counting(tokenizer: Any) -> dict[str, int]:
        made: dict[str, int] = plain(tokenizer)
        sizes.append(len(made))
        return made

    monkeypatch.setattr(kind, "get_vocab", counting)
    return sizes


def test_a_load_reads_it_once(tiny_model: Path, reads: list[int]) -> None:
    engine = load(tiny_model)
    assert len(reads) == 1
    engine.loaded.tokenizer.get_vocab()
    assert len(reads) == 2


def test_one_that_grows_is_read_again_and_two_are_two(tiny_model: Path, reads: list[int]) -> None:
    first, second = (AutoTokenizer.from_pretrained(tiny_model) for _ in range(2))
    reads.clear()
    with vocabulary_read_once():
        size = len(first.get_vocab())
        first.add_tokens(["<new>"])
        assert [len(first.get_vocab()) for _ in range(3)] == [size + 1] * 3
        assert [len(second.get_vocab()) for _ in range(3)] == [size] * 3
    assert reads == [size, size + 1, size]


def test_so_does_that_of_a_vision_model(tmp_path: Path, reads: list[int]) -> None:
    folder = make_tiny_vision(tmp_path / "tiny")
    reads.clear()
    load_vision(folder)
    # The processor of mlx-vlm has a tokenizer of its own.
    assert len(reads) <= 2
