"""When a client has its first token: in the step that draws it, and the same token that the generator hands out."""

from pathlib import Path

import pytest

from broker.wire.outputs import FINAL, PARTIAL
from tests.tiny_models import EOS
from tests.worker.engine_runs import add, assert_empty, joined, load, load_recorded, run
from tests.worker.stepping import steps
from worker.text.engine import TextEngine


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TextEngine:
    return load(tiny_model)


def steps_to_the_first_text(engine: TextEngine, prompt: str) -> int:
    request_id = add(engine, 0, prompt=prompt, temperature=0.0, max_tokens=3, stream=True, logprobs=0)
    count = 1
    while not (outputs := engine.step()):
        count += 1
    assert [output.kind for output in outputs] == [PARTIAL]
    engine.cancel(request_id)
    assert_empty(engine)
    return count


def test_a_prompt_and_its_first_token_take_one_step(tiny_model: Path) -> None:
    assert steps_to_the_first_text(load(tiny_model, prompt_cache_tokens=0), "abcdef") == 1


def test_a_prompt_that_is_remembered_is_not_read_again(tiny_model: Path) -> None:
    engine, calls = load_recorded(tiny_model)
    whole = {"prompt": "abcdef", "temperature": 0.0, "max_tokens": 3}
    (first,) = run(engine, [whole])
    assert first[-1].body["cached_tokens"] == 0
    calls.clear()
    assert steps_to_the_first_text(engine, "abcdef") == 1
    assert calls in ([(1, 1)], [(1, 1)] * 2)  # where steps take long, the second is launched before the first is known
    (again,) = run(engine, [whole])
    assert again[-1].body["cached_tokens"] == len("abcdef") - 1
    assert again[-1].body["text"] == first[-1].body["text"]


def test_the_whole_of_what_is_remembered_can_be_a_prompt(engine: TextEngine, tiny_model: Path) -> None:
    """Then its last token is read again, because nothing else says what follows."""
    always_five = {"logit_bias": {"5": 100.0}, "temperature": 0.0, "max_tokens": 4}
    run(engine, [{"prompt": [70, 71, 72], **always_five}])
    read = [70, 71, 72, 5, 5, 5]  # the last token of an answer has not been read by the model
    asked = {"prompt": read, "temperature": 0.0, "max_tokens": 6}
    (second,) = run(engine, [asked])
    assert second[-1].body["cached_tokens"] == len(read) - 1
    (fresh,) = run(load(tiny_model, prompt_cache_tokens=0), [asked])
    assert second[-1].body["text"] == fresh[-1].body["text"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_together_with_others_that_begin_each_has_its_own(engine: TextEngine, count: int) -> None:
    """Shared samplers and own ones: which draw belongs to whom does not depend on how many there were."""
    requests = [
        {
            "prompt": "begin" * (n + 1),
            "max_tokens": 6,
            "stream": True,
            **({"seed": n} if n % 2 else {"temperature": 0.0}),
        }
        for n in range(count)
    ]
    alone = [joined(run(engine, [fields])[0]) for fields in requests]
    add(engine, 99, prompt="others decode", seed=1, max_tokens=40)
    engine.step()
    for number, fields in enumerate(requests):
        add(engine, number, **fields)
    texts: dict[bytes, str] = {}
    for output in steps(engine):
        texts[output.request_id] = texts.get(output.request_id, "") + output.body.get("text", "")
    assert [texts[b"gateway1" + n.to_bytes(8, "big")] for n in range(count)] == [one["text"] for one in alone]


@pytest.mark.parametrize("stop", [None, "&"])
def test_a_first_token_that_is_also_the_last(engine: TextEngine, stop: str | None) -> None:
    always_five = {"logit_bias": {"5": 100.0}, "temperature": 0.0, "stream": True}
    ends = {"max_tokens": 1} if stop is None else {"max_tokens": 9, "stop": [stop]}
    (outputs,) = run(engine, [{"prompt": "abc", **always_five, **ends}])
    body = joined(outputs)
    assert outputs[-1].kind == FINAL
    assert body["completion_tokens"] == 1
    assert (body["text"], body["finish_reason"]) == (("&", "length") if stop is None else ("", "stop"))


@pytest.mark.parametrize("count", [1, 3])
def test_a_first_token_that_ends_the_text(engine: TextEngine, count: int) -> None:
    ends = {"prompt": "abc", "logit_bias": {str(EOS): 100.0}, "temperature": 0.0, "stream": True, "max_tokens": 9}
    goes_on = {"prompt": "abc", "temperature": 0.0, "max_tokens": 9}
    *ended, other = run(engine, [*[ends] * count, goes_on])
    for outputs in ended:
        (output,) = outputs
        assert output.kind == FINAL
        body = output.body
        assert (body["text"], body["finish_reason"], body["completion_tokens"]) == ("", "stop", 1)
    assert other[-1].body["completion_tokens"] == 9
