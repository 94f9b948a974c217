"""Nothing that a client sends vanishes: every shape of conversation through every real template."""

from pathlib import Path
from typing import Any

import pytest

from tests.templates.corpus import ARCHIVE, templates, tokenizer_for
from tests.templates.rendering import outcome
from tests.templates.shapes import SHAPES, Shape

pytestmark = pytest.mark.slow
needs_archive = pytest.mark.needs_index(ARCHIVE)

# Written for requests with tools only: without them they go through a list that is not there.
FOR_TOOLS_ALONE = (
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
)
# Reads a variable that its own server alone gives it.
UNFIT = "fireworks-ai-llama-3-firefunction-v2"

Tokenizers = dict[str, Any]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    folder: Path = tmp_path_factory.mktemp("templates")
    made = {name: tokenizer_for(text, folder / name) for name, text in templates().items()}
    assert len(made) == 70
    return made


def marked(shapes: list[Shape]) -> list[Any]:
    return [
        pytest.param(shape, id=shape.name, marks=pytest.mark.xfail(strict=True, reason=shape.defect))
        if shape.defect
        else pytest.param(shape, id=shape.name)
        for shape in shapes
    ]


def faults(shape: Shape, tokenizers: Tokenizers) -> dict[str, str]:
    found = {name: outcome(shape, tokenizer).fault(shape) for name, tokenizer in tokenizers.items()}
    return {name: fault for name, fault in found.items() if fault is not None}


@needs_archive
@pytest.mark.parametrize("shape", marked(SHAPES))
def test_every_word_is_in_the_prompt(shape: Shape, tokenizers: Tokenizers) -> None:
    fit = {name: tokenizer for name, tokenizer in tokenizers.items() if name not in (*FOR_TOOLS_ALONE, UNFIT)}
    assert not faults(shape, fit)


@needs_archive
@pytest.mark.xfail(strict=True, reason="requests without tools fail where a template goes through their list")
@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if not (shape.fields or shape.order or shape.refused or shape.defect)]
)
def test_templates_that_are_for_tools_alone(shape: Shape, tokenizers: Tokenizers) -> None:
    assert not faults(shape, {name: tokenizers[name] for name in FOR_TOOLS_ALONE})


@needs_archive
@pytest.mark.xfail(strict=True, reason="a template's own defect is told as one of the messages")
def test_a_templates_own_defect_does_not_blame_the_messages(tokenizers: Tokenizers) -> None:
    failure = outcome(SHAPES[0], tokenizers[UNFIT]).refused
    assert failure is not None
    assert failure.param is None


def test_no_two_shapes_have_one_name() -> None:
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) > 53
