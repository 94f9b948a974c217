"""Models whose caches are of other kinds than Llama's: the tokens of mlx-lm called directly, and what chats share."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step

from tests.tiny_families import FAMILIES, make_tiny_family
from tests.worker.engine_runs import add, answer, load, load_with_batch, run, without_count
from tests.worker.stepping import steps
from worker.text.batch import Batch
from worker.text.engine import TextEngine

pytestmark = pytest.mark.exact

SYSTEM = {"role": "system", "content": "rules " * 30}
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20}
PROMPTS = ["hello", "a longer prompt " * 8, "x", "q" * 70, "w" * 200]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_family(tmp_path_factory.mktemp("families") / request.param, request.param)


@pytest.fixture(scope="module")
def without(folder: Path) -> TextEngine:
    return load(folder, prompt_cache_tokens=0)


@pytest.fixture
def engine(folder: Path) -> TextEngine:
    return load(folder, prefill_step_size=32)


def directly(engine: TextEngine, prompt: str) -> str:
    tokenizer = engine.loaded.tokenizer
    drawn = generate_step(mx.array(tokenizer.encode(prompt)), engine.loaded.model, max_tokens=20)
    text: str = tokenizer.decode([token for token, _ in drawn])
    return text


def rendered(messages: list[dict[str, str]]) -> str:
    return "".join(f"[{turn['role']}] {turn['content']}\n" for turn in messages) + "[assistant] "


def asks(question: str) -> dict[str, Any]:
    return {"messages": [SYSTEM, {"role": "user", "content": question}], **GREEDY}


def cached(engine: TextEngine, fields: dict[str, Any]) -> int:
    count: int = run(engine, [fields])[0][-1].body["cached_tokens"]
    return count


def test_alone_and_in_a_batch(engine: TextEngine) -> None:
    requests = [{"prompt": prompt, **GREEDY} for prompt in PROMPTS]
    expected = [directly(engine, prompt) for prompt in PROMPTS]
    assert len(set(expected)) == len(PROMPTS)
    assert [outputs[-1].body["text"] for outputs in run(engine, requests)] == expected
    assert [answer(engine, **fields)["text"] for fields in requests] == expected


def test_three_turns(engine: TextEngine) -> None:
    messages = [SYSTEM]
    counts, totals = [], []
    for question in ("why? " * 20, "and then? " * 10, "so? " * 15):
        messages = [*messages, {"role": "user", "content": question}]
        body = run(engine, [{"messages": messages, **GREEDY}])[0][-1].body
        # A chat drops the space that its answer begins with, as mlx-lm's own detokenizer does.
        assert body["text"] == directly(engine, rendered(messages)).removeprefix(" ")
        counts.append(body["cached_tokens"])
        totals.append(body["prompt_tokens"])
        messages = [*messages, {"role": "assistant", "content": "because"}]
    assert counts == [0, *[total - len("[assistant] ") for total in totals[:2]]]


def test_chats_share_their_system_turns(engine: TextEngine, without: TextEngine) -> None:
    """While the first decodes, after it, and in a batch."""
    first = add(engine, 1, **asks("one " * 20))
    for _ in range(12):
        engine.step()
    second = add(engine, 2, **asks("two " * 20))
    counts = {output.request_id: output.body["cached_tokens"] for output in steps(engine)}
    shared = len("[system] \n[user] ") + len(SYSTEM["content"])
    assert counts == {first: 0, second: shared}
    requests = [asks("three " * 20), asks("four"), {"prompt": "others " * 9, **GREEDY}]
    bodies = [outputs[-1].body for outputs in run(engine, requests)]
    assert [body["cached_tokens"] for body in bodies] == [shared, shared, 0]
    assert [without_count(body) for body in bodies] == [answer(without, **fields) for fields in requests]


def test_the_same_prompt_again(engine: TextEngine) -> None:
    """Of a chat all but what asks for an answer, of a text all but the last token."""
    chat = asks("again " * 20)
    history = len(rendered(chat["messages"])) - len("[assistant] ")
    assert [cached(engine, chat) for _ in range(2)] == [0, history]
    assert [cached(engine, {"prompt": "p" * 100, **GREEDY}) for _ in range(2)] == [0, 99]


def segments(batch: Batch, patch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the segments of each prompt that this batch gets from now on."""
    lengths, insert = [], batch.insert

    def watched(segments: list[list[int]], *args: Any, **options: Any) -> int:
        lengths.append(list(map(len, segments)))
        return insert(segments, *args, **options)

    patch.setattr(batch, "insert", watched)
    return lengths


def test_short_prompts_prefill_without_a_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fields in ({"prompt": "s" * 31}, {"messages": [{"role": "user", "content": "s" * 10}]}):
        engine, batch = load_with_batch(folder, prefill_step_size=32)
        lengths = segments(batch, monkeypatch)
        add(engine, 1, **fields, **GREEDY)
        assert len(lengths[0]) == 1
        engine.step()
        engine.step()
        assert engine.stats().cached_tokens == 0


def test_nothing_is_kept_where_it_is_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without, batch = load_with_batch(folder, prompt_cache_tokens=0)
    lengths = segments(batch, monkeypatch)
    assert [cached(without, asks("again " * 20)) for _ in range(2)] == [0, 0]
    assert [len(of_one) for of_one in lengths] == [1, 1]
