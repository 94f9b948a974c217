"""Reasoning that a request bounds: after so many tokens its end is forced."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import TextStateMachine

from broker.wire.failure import FailureError
from tests.scripted_model import make_scripted_model
from tests.tiny_models import CHAT_TEMPLATE
from tests.worker.engine_runs import add, answer, joined, load, run, without_count
from tests.worker.generation.scripted import CALL, TAGS, TIME, TOOL_TEMPLATE, USER, WEATHER, parts, scripted
from tests.worker.generation.test_harmony import harmony
from worker.generation.budget import ThinkingBudget
from worker.generation.split import MarkSplit
from worker.text.engine import TextEngine

THINK_WITH_TOOLS = TOOL_TEMPLATE.replace("[assistant] ", "[assistant]<think>")
# The prompt opens the reasoning.
THINKS: dict[str, Any] = {
    "tags": TAGS,
    "tool_parser": "json_tools",
    "chat_template": THINK_WITH_TOOLS,
    "after": "<think>",
}
THOUGHT = ("I", " wonder", " why")


@pytest.fixture
def opened(tmp_path: Path) -> TextEngine:
    return scripted(tmp_path, *THOUGHT, "</think>", "Sunny", **THINKS)


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 4, 1000])
def test_reasoning_ends_after_so_many_tokens(opened: TextEngine, budget: int) -> None:
    got = parts(opened, thinking_budget=budget)
    taken = min(budget, 3)
    assert (got.get("reasoning", ""), got["text"]) == ("".join(THOUGHT[:taken]), "Sunny")
    assert (got.get("reasoning_tokens", 0), got["completion_tokens"]) == (taken, taken + 3)
    assert "ignored" not in got


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 1000])
def test_reasoning_that_the_model_opens_ends_too(tmp_path: Path, budget: int) -> None:
    engine = scripted(tmp_path, "<think>", *THOUGHT, "</think>", "Sunny")
    got = parts(engine, thinking_budget=budget)
    taken = min(budget, 3)
    assert (got.get("reasoning", ""), got["text"]) == ("".join(THOUGHT[:taken]), "Sunny")
    assert got["completion_tokens"] == taken + 4


def test_reasoning_between_texts_shares_the_budget(tmp_path: Path) -> None:
    engine = scripted(
        tmp_path, *("Well", "<think>", "I", "</think>", ", so", " <think>", " wonder", " on", "</think>!")
    )
    free = parts(engine)
    assert (free["reasoning"], free["text"]) == ("I wonder on", "Well, so !")
    got = parts(engine, thinking_budget=2)
    assert (got["reasoning"], got["reasoning_tokens"]) == ("I wonder", 2)


def test_an_answer_without_reasoning_is_left_alone(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "It", " is", " sunny")
    assert parts(engine, thinking_budget=0) == parts(engine)


def test_the_end_that_is_forced_is_part_of_the_answer(opened: TextEngine) -> None:
    got = parts(opened, thinking_budget=1, logprobs=0)
    assert [entry["token"] for entry in got["logprobs"]] == ["I", "</think>", "Sunny"]
    assert got["logprobs"][1]["logprob"] == 0.0
    assert parts(opened, thinking_budget=1, max_tokens=2)["finish_reason"] == "length"


@pytest.mark.parametrize("budget", [0, 2])
def test_a_schema_and_a_forced_call_follow_the_reasoning(opened: TextEngine, budget: int) -> None:
    reasoning = "".join(THOUGHT[:budget])
    got = parts(opened, thinking_budget=budget, json_schema={"enum": ["a"]})
    assert (got.get("reasoning", ""), got["text"]) == (reasoning, '"a"')
    got = parts(opened, thinking_budget=budget, tools=[WEATHER], required_tools=["weather"], one_call=True)
    assert (got.get("reasoning", ""), got["tool_calls"]) == (reasoning, [("weather", {"city": "Paris"})])
    got = parts(opened, thinking_budget=budget, tools=[WEATHER], grammar='start: "b"')
    assert (got.get("reasoning", ""), got["text"]) == (reasoning, "b")


def test_a_grammar_may_write_the_tags(tmp_path: Path) -> None:
    engine = scripted(tmp_path, "x")
    fields: dict[str, Any] = {"messages": [USER], "temperature": 0.0, "grammar": 'start: "a" "<think>" "b" "c"'}
    assert answer(engine, **fields, thinking_budget=0) == answer(engine, **fields)


def test_a_call_ends_reasoning(tmp_path: Path) -> None:
    """Within it nothing is forced."""
    engine = scripted(tmp_path, "I", *CALL, **THINKS)
    got = parts(engine, tools=[WEATHER, TIME], thinking_budget=2)
    assert (got["reasoning"], got["tool_calls"]) == ("I", [("weather", {"city": "Paris"})])


@pytest.mark.parametrize("takes_turns", [False, True])
def test_rows_of_a_batch_have_budgets_of_their_own(tmp_path: Path, takes_turns: bool) -> None:
    folder = make_scripted_model(tmp_path, (*THOUGHT, "</think>", "Sunny"), **THINKS)
    options: dict[str, Any] = {"draft_model": str(folder)} if takes_turns else {}
    engine = load(folder, **options)
    fields = [
        {"messages": [USER], "temperature": 0.0, "max_tokens": 30, "stream": stream, "thinking_budget": budget, **more}
        for stream in (False, True)
        for budget in (None, 0, 1, 2, 5)
        for more in ({}, {"json_schema": {"enum": ["a"]}}, {"logprobs": 1}, {"seed": 3, "temperature": 1.0})
    ]
    alone = [without_count(joined(run(engine, [one])[0])) for one in fields]
    assert [without_count(joined(outputs)) for outputs in run(engine, fields)] == alone


def test_a_draft_model_is_not_asked_for_a_bounded_answer(tmp_path: Path) -> None:
    folder = make_scripted_model(tmp_path, (*THOUGHT, "</think>", "Sunny"), **THINKS)
    got = parts(load(folder, draft_model=str(folder)), thinking_budget=1)
    assert (got["reasoning"], got["text"]) == ("I", "Sunny")


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_draws_the_same_up_to_the_end_of_the_budget(tmp_path: Path, seed: int) -> None:
    engine = load(make_scripted_model(tmp_path, THOUGHT, **THINKS))
    asked: dict[str, Any] = {"messages": [USER], "seed": seed, "temperature": 9.0, "max_tokens": 30, "logprobs": 0}
    free, bound = (
        [entry["bytes"] for entry in answer(engine, **asked, thinking_budget=budget)["logprobs"]]
        for budget in (None, 6)
    )
    assert len(free) > 6
    assert b"</think>" not in free[:7], "another seed would show more"
    assert bound[:7] == [*free[:6], b"</think>"]


@pytest.mark.parametrize("stream", [False, True])
def test_models_without_such_tags_name_the_field(tmp_path: Path, stream: bool) -> None:
    plain = load(make_scripted_model(tmp_path / "a", ["yes", " no"], chat_template=CHAT_TEMPLATE))
    gpt = harmony(tmp_path / "b", "<|channel|>", "analysis", "<|message|>", "I", " wonder")
    thinks = scripted(tmp_path / "c", "I", " wonder", after="x")
    asked: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20, "thinking_budget": 1, "stream": stream}
    for engine, prompt in ((plain, {"messages": [USER]}), (gpt, {"messages": [USER]}), (thinks, {"prompt": "x"})):
        bound, free = (answer(engine, **{**asked, **prompt, "thinking_budget": budget}) for budget in (1, None))
        assert bound.pop("ignored") == ["thinking_budget"]
        assert bound == free


def test_a_budget_below_zero_is_refused(opened: TextEngine) -> None:
    with pytest.raises(FailureError) as raised:
        add(opened, 1, messages=[USER], thinking_budget=-1)
    assert raised.value.failure.param == "thinking_budget"


# ---- the processor alone ------------------------------------------------------------------------------------------


class Letters:
    """A detokenizer: token n is the n-th letter of these."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self.last_segment = ""

    def add_token(self, token: int) -> None:
        self.last_segment = self._texts[token]

    def finalize(self) -> None:
        self.last_segment = ""


def run_alone(budget: int, wanted: list[int], texts: list[str], end: tuple[int, ...]) -> list[int]:
    """The tokens of an answer whose model wants these."""
    machine = TextStateMachine({"reasoning": [("END", "normal")], "normal": []})
    processor = ThinkingBudget(budget, end, MarkSplit(machine.make_state("reasoning")), Letters(texts))
    tokens = [0, 0]
    for likeliest in wanted:
        logits = mx.where(mx.arange(len(texts)) == likeliest, 5.0, 0.0)[None]
        drawn: Any = mx.argmax(processor(mx.array(tokens), logits)[0]).item()
        tokens.append(drawn)
    return tokens[2:]


def test_an_end_of_several_tokens_is_forced_as_a_whole() -> None:
    texts = ["a", "E", "N", "D", "so"]
    assert run_alone(2, [0] * 4 + [4] * 4, texts, (1, 2, 3)) == [0, 0, 1, 2, 3, 4, 4, 4]
    # Even where the model had begun to write it.
    assert run_alone(2, [0, 1, 0, 0, 0, 4, 4], texts, (1, 2, 3)) == [0, 1, 1, 2, 3, 4, 4]
    assert run_alone(4, [0, 1, 2, 3, 4, 4], texts, (1, 2, 3)) == [0, 1, 2, 3, 4, 4]


def test_an_end_that_does_not_end_is_not_repeated() -> None:
    assert run_alone(1, [0] * 5, ["a", "x", "y"], (1, 2)) == [0, 1, 2, 0, 0]


def test_no_token_is_waited_for_before_the_budget_may_be_used_up() -> None:
    class Unreadable:
        def __getitem__(self, _key: object) -> "Unreadable":
            return self

        def tolist(self) -> list[int]:
            raise AssertionError("a token was read")

    processor = ThinkingBudget(10, (1,), MarkSplit(None), Letters([]))
    unread: Any = Unreadable()
    logits = mx.zeros((1, 4))
    for _ in range(10):  # the prompt, and nine tokens
        assert processor(unread, logits) is logits
    with pytest.raises(AssertionError, match="was read"):
        processor(unread, logits)
