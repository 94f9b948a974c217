"""Equal prompts with equal pictures are encoded and read once: counted in what the model computes."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from broker.wire.outputs import FINAL, Output
from tests.tiny_vision import picture
from tests.worker.engine_runs import add, joined, run
from tests.worker.going_on import begun_after
from tests.worker.stepping import steps
from tests.worker.vision.vision_runs import ONE, TEXT_ONLY, THREE, assert_nothing_left, load, rounded, text
from worker.vision.batch import Turns
from worker.vision.engine import VisionEngine
from worker.vision.model import VisionModel
from worker.vision.pictures import Picture

pytestmark = pytest.mark.exact

CHOICES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"seed": 1},
    {"seed": 2, "stream": True},
    {"seed": 3, "repetition_penalty": 1.2, "logprobs": 2},
    {"seed": 4, "grammar": 'start: "a" | "b"'},
]


class Counted:
    """What is done for prompts. files: decoded; pictures: encoded, all of a prompt together; read: tokens."""

    def __init__(self, engine: VisionEngine, patch: pytest.MonkeyPatch) -> None:
        self.clear()
        vlm: Any = engine.model.vlm
        embed, compute = type(vlm).get_input_embeddings, type(vlm.language_model).__call__
        decode = Picture.read

        def embedded(model: Any, tokens: mx.array, pixels: mx.array | None = None, **rest: Any) -> Any:
            self.pictures += pixels is not None
            return embed(model, tokens, pixels, **rest)

        def computed(model: Any, tokens: mx.array, *arguments: Any, **rest: Any) -> Any:
            # A step of decode has no embeddings of its own.
            self.read += tokens.size if rest.get("inputs_embeds") is not None else 0
            return compute(model, tokens, *arguments, **rest)

        def decoded(one: Picture) -> Any:
            self.files += 1
            return decode(one)

        patch.setattr(Picture, "read", decoded)
        patch.setattr(type(vlm), "get_input_embeddings", embedded)
        patch.setattr(type(vlm.language_model), "__call__", computed)

    def clear(self) -> None:
        self.files = self.pictures = self.read = 0

    @property
    def all(self) -> tuple[int, int, int]:
        return self.files, self.pictures, self.read


@pytest.fixture(scope="module")
def in_pieces(folder: Path) -> VisionEngine:
    return load(folder, prefill_step_size=8)


@pytest.fixture(scope="module")
def in_turns(folder: Path) -> VisionEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.vision.batch.can_share", lambda *_: False)
        engine = load(folder, prefill_step_size=8)
    assert isinstance(engine._batch, Turns)
    return engine


@pytest.fixture
def counted(engine: VisionEngine, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(engine, monkeypatch)


def choices(prompt: dict[str, Any] = ONE) -> list[dict[str, Any]]:
    return [{**prompt, "max_tokens": 12, **choice} for choice in CHOICES]


def answers(engine: VisionEngine, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rounded(joined(outputs)) for outputs in run(engine, requests)]


def each_alone(engine: VisionEngine, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [answers(engine, [fields])[0] for fields in requests]


@pytest.mark.parametrize("prompt", [ONE, THREE, TEXT_ONLY, {"prompt": "once upon"}], ids=["1", "3", "chat", "text"])
def test_choices_read_their_prompt_once(engine: VisionEngine, counted: Counted, prompt: dict[str, Any]) -> None:
    files, count = len(prompt.get("images", [])), len(CHOICES)
    expected = each_alone(engine, choices(prompt))
    size = expected[0]["prompt_tokens"]
    assert counted.all == (count * files, count * (files > 0), count * size)
    counted.clear()
    before = engine.stats().prompt_tokens
    assert answers(engine, choices(prompt)) == expected  # with all counts of their usage
    assert counted.all == (files, files > 0, size)
    assert engine.stats().prompt_tokens - before == size
    assert_nothing_left(engine)


def test_where_sequences_take_turns(in_turns: VisionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = each_alone(in_turns, choices())
    counted = Counted(in_turns, monkeypatch)
    assert answers(in_turns, choices()) == expected
    assert counted.all == (1, 1, expected[0]["prompt_tokens"])
    assert_nothing_left(in_turns)


def test_what_differs_stays_apart(engine: VisionEngine, counted: Counted) -> None:
    """Also if only a picture, its size or the last word differs."""
    others: list[dict[str, Any]] = [
        {"images": [picture(9)]},
        {"min_pixels": 64 * 64},
        {"messages": [{"role": "user", "content": [*ONE["messages"][0]["content"], text("!")]}]},
        {},
    ]
    requests = [{**ONE, "temperature": 0.0, "max_tokens": 9, **other} for other in ({}, *others)]
    expected = each_alone(engine, requests)
    counted.clear()
    assert answers(engine, requests) == expected
    assert counted.pictures == 4  # the last one is like the first, though others came between them
    assert_nothing_left(engine)


@pytest.mark.parametrize("steps_before", [0, 4, 9])
@pytest.mark.parametrize("leaver", [0, 1])
@pytest.mark.parametrize("kind", ["in_pieces", "in_turns"])
def test_one_that_leaves_leaves_the_others(
    request: pytest.FixtureRequest, kind: str, leaver: int, steps_before: int
) -> None:
    """Before its picture is read, while the prompt is, and while all decode."""
    engine: VisionEngine = request.getfixturevalue(kind)
    asked = choices()[:3]
    expected = each_alone(engine, asked)
    ids = [add(engine, number, **fields) for number, fields in enumerate(asked)]
    outputs: list[Output] = [output for _ in range(steps_before) for output in engine.step()]
    engine.cancel(ids[leaver])
    outputs += steps(engine)
    for request_id, whole in zip(ids, expected, strict=True):
        if request_id != ids[leaver]:
            assert rounded(joined([one for one in outputs if one.request_id == request_id])) == whole
    assert_nothing_left(engine)


def test_one_that_comes_while_the_prompt_is_read(in_pieces: VisionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, (one, *others) = in_pieces, choices(THREE)[:3]
    expected = each_alone(engine, [one, *others])
    counted = Counted(engine, monkeypatch)
    ids = [add(engine, 0, **one)]
    while not counted.read:
        engine.step()
    ids += [add(engine, 1 + number, **fields) for number, fields in enumerate(others)]
    outputs = steps(engine)
    found = [rounded(joined([one for one in outputs if one.request_id == request_id])) for request_id in ids]
    assert found == expected
    assert counted.all == (3, 1, expected[0]["prompt_tokens"])


def test_no_more_at_once_than_is_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(folder, completion_batch_size=2)
    counted = Counted(engine, monkeypatch)
    for number in range(5):
        add(engine, number, **ONE, seed=number, max_tokens=20)
    ends: list[Output] = []
    while engine.has_work:
        ends += engine.step()
        assert len(engine._live) <= 2
    assert [end.kind for end in ends] == [FINAL] * 5
    assert 1 < counted.pictures < 5
    assert_nothing_left(engine)


def test_a_choice_that_is_refused_is_refused_alone(engine: VisionEngine, counted: Counted) -> None:
    one, other = choices()[:2]
    requests = [one, {**ONE, "thinking_budget": -1}, {**ONE, "grammar": "start: ("}, other]
    expected = each_alone(engine, requests)
    assert [body.get("code") for body in expected] == [None, "invalid_request", "invalid_request", None]
    counted.clear()
    assert answers(engine, requests) == expected
    assert counted.pictures == 1
    assert_nothing_left(engine)


@pytest.mark.parametrize("whole", [False, True], ids=["behind the prompt", "said again"])
def test_choices_that_go_on(engine: VisionEngine, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """Those that have said nothing yet are read once, and those that have said the same."""
    if whole:
        monkeypatch.setattr(VisionModel, "may_be_read_in_pieces", lambda *_: False)
    asked = [{**fields, "stream": True, "tells_tokens": True} for fields in [choices()[0], *choices()[:3]]]
    told = run(engine, asked)
    counted = Counted(engine, monkeypatch)
    for cuts in ((5, 5, 5, 5), (5, 5, 0, 0), (0, 4, 0, 1)):
        begun = [
            {**fields, "begun": begun_after(one[:cut])} for fields, one, cut in zip(asked, told, cuts, strict=True)
        ]
        for rest, one, cut in zip(run(engine, begun), told, cuts, strict=True):
            assert [rounded(output.body) for output in rest] == [rounded(output.body) for output in one[cut:]]
        # A prompt with tokens behind it is encoded once more.
        said = {str(fields["begun"]["ids"]) for fields in begun}
        assert (
            counted.pictures == sum(1 if whole or ids == "[]" else 2 for ids in said) < len(begun) * (1 if whole else 2)
        )
        counted.clear()
    assert_nothing_left(engine)
