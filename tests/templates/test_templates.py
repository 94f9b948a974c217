"""Nothing that a client sends vanishes: every shape of conversation through every real template."""

from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import Code
from tests.templates.corpus import ARCHIVE, templates, tokenizer_for
from tests.templates.rendering import outcome
from tests.templates.shapes import SHAPES, Shape

pytestmark = pytest.mark.slow
needs_archive = pytest.mark.needs_index(ARCHIVE)

# Reads a variable that its own server alone gives it.
UNFIT = "fireworks-ai-llama-3-firefunction-v2"

Tokenizers = dict[str, Any]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    folder: Path = tmp_path_factory.mktemp("templates")
    made = {name: tokenizer_for(text, folder / name) for name, text in templates().items()}
    assert len(made) == 70
    return made


def faults(shape: Shape, tokenizers: Tokenizers) -> dict[str, str]:
    found = {name: outcome(shape, tokenizer).fault(shape.refused_field(name)) for name, tokenizer in tokenizers.items()}
    return {name: fault for name, fault in found.items() if fault is not None}


@needs_archive
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_word_is_in_the_prompt(shape: Shape, tokenizers: Tokenizers) -> None:
    fit = {name: tokenizer for name, tokenizer in tokenizers.items() if name != UNFIT}
    assert not faults(shape, fit)


@needs_archive
def test_a_templates_own_defect_does_not_blame_the_messages(tokenizers: Tokenizers) -> None:
    failure = outcome(SHAPES[0], tokenizers[UNFIT]).refused
    assert failure is not None
    assert (failure.code, failure.param) == (Code.INTERNAL_ERROR, None)


def test_no_two_shapes_have_one_name() -> None:
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) > 53
