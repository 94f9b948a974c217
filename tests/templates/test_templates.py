"""Nothing that a client sends vanishes: every shape of conversation through every real template."""

from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from broker.wire.failure import Code
from tests.templates.corpus import ARCHIVE, templates, tokenizer_for
from tests.templates.rendering import outcome
from tests.templates.shapes import (
    AGAIN,
    ANSWER,
    PARIS,
    SHAPES,
    SUNNY,
    SYSTEM,
    USER,
    WEATHER,
    WORD,
    Shape,
    calling,
    say,
)

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


LATE = say("system", "kzlate")


@needs_archive
@pytest.mark.parametrize(
    ("before", "after", "fields"),
    [
        ([SYSTEM, USER, ANSWER], [AGAIN], {}),
        ([USER, ANSWER], [AGAIN], {}),
        ([SYSTEM, USER, calling(PARIS), SUNNY], [], {"tools": [WEATHER]}),
        ([SYSTEM, USER, calling(PARIS, reasoning="I kzwonder."), SUNNY], [], {"tools": [WEATHER]}),
        ([SYSTEM, USER], [ANSWER, AGAIN], {}),
    ],
    ids=("before a question", "without another", "after results", "after reasoning", "before an answer"),
)
def test_a_late_instruction_keeps_the_prompt_before_it(
    before: list[Any], after: list[Any], fields: dict[str, Any], tokenizers: Tokenizers
) -> None:
    wrong = {}
    for name, tokenizer in tokenizers.items():
        if name == UNFIT:
            continue
        plain, late = (
            outcome(Shape("late", [*before, *some, *after], fields), tokenizer).text for some in ([], [LATE])
        )
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(plain, late, strict=False)))
        # Some templates write the first system turn in the last user turn.
        end = min((plain.index(word) for word in WORD.findall(str(after))), default=len(plain))
        if lost := set(WORD.findall(plain[:end])) - set(WORD.findall(plain[:kept])):
            wrong[name] = lost
    assert not wrong


def test_no_two_shapes_have_one_name() -> None:
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) > 53
