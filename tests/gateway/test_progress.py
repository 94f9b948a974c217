"""How far an answer has come, read out of its outputs."""

import pytest
from msgpack import packb, unpackb

from broker.wire.body import ProtocolError
from broker.wire.from_gateways import InferenceRequest
from broker.wire.packing import pack, unpack
from broker.wire.work import Generate, Transcribe
from gateway.core import progress as module
from gateway.core.answer import Delta, PromptUsage, end_of
from gateway.core.ask import generate_stream, generate_whole, transcribe_stream
from gateway.core.audio import HeardPiece
from gateway.core.progress import AnswerProgress
from tests.timing import cpu_seconds

UNIT = Generate(prompt="Hi", stream=True, seed=7)


def begun(progress: AnswerProgress) -> dict[str, object]:
    unit = unpack(Generate, progress.begun(pack(UNIT)))
    assert (unit.prompt, unit.seed, unit.stream) == ("Hi", 7, True)
    assert unit.begun is not None
    return unit.begun


def test_tokens_are_kept_in_order_and_do_not_reach_the_reader() -> None:
    progress = AnswerProgress(streams=True)
    prompt = {"tokens": 9, "cached": 4}
    assert progress.partial({"text": "Hé", "ids": [5, 6], "prompt": prompt}) == Delta("Hé", prompt=PromptUsage(9, 4))
    assert progress.partial({"text": " you", "ids": 7}) == Delta(" you")
    assert progress.partial({"text": "", "reasoning": "so", "ids": 8}) == Delta("", "so")
    assert progress.partial({"text": "!"}) == Delta("!")
    assert begun(progress) == {"ids": [5, 6, 7, 8], "characters": 9, "cached": 4}


def test_an_output_that_says_nothing_yet_is_not_for_the_reader() -> None:
    """The prompt has been read, and the answer begins with a call."""
    progress = AnswerProgress(streams=True)
    assert progress.partial({"text": ""}) is None
    assert begun(progress) == {"ids": [], "characters": 0, "cached": 0}
    call = {"id": "c", "name": "weather", "arguments": '{"city": "', "piece": "first"}
    first = progress.partial({"text": "", "ids": [3, 4], "tool_calls": [call], "prompt": {"tokens": 9, "cached": 4}})
    assert first is not None
    assert (len(first.tool_calls), first.prompt) == (1, PromptUsage(9, 4))
    more = call | {"arguments": "Paris", "piece": "middle"}
    assert progress.partial({"text": "", "ids": 5, "tool_calls": [more]}) is not None
    assert begun(progress) == {"ids": [3, 4, 5], "characters": len('{"city": "Paris'), "cached": 4}


def test_of_a_whole_answer_come_tokens_and_nothing_to_read() -> None:
    progress = AnswerProgress(streams=False)
    assert progress.partial({"text": "", "ids": [3]}) is None
    assert progress.partial({"text": "", "ids": 4}) is None
    assert begun(progress) == {"ids": [3, 4], "characters": 0, "cached": 0}
    for body in ({"text": "more", "ids": 5}, {"text": "", "reasoning": "so"}):
        with pytest.raises(ProtocolError, match="not streamed"):
            progress.partial(body)


def entry(logprob: float, *top: float) -> dict[str, object]:
    token = {"token": "a", "bytes": b"a"}
    return {**token, "logprob": logprob, "top": [{**token, "logprob": other} for other in top]}


END = {"text": "aaa", "finish_reason": "length", "prompt_tokens": 1, "completion_tokens": 3, "cached_tokens": 0}


def test_of_a_whole_answer_log_probabilities_are_kept_for_its_end() -> None:
    progress = AnswerProgress(streams=False)
    assert progress.partial({"text": "", "ids": [3], "logprobs": [entry(-1.5, -0.5)]}) is None
    assert progress.partial({"text": "", "ids": [4, 5], "logprobs": [entry(-2.5), entry(-3.5)]}) is None
    assert begun(progress)["ids"] == [3, 4, 5]
    whole = progress.final({**END, "logprobs": [entry(-4.5, -0.25)]})
    assert whole.rest.text == "aaa"
    assert [one.logprob for one in whole.rest.logprobs] == [-1.5, -2.5, -3.5, -4.5]
    assert [[other.logprob for other in one.top] for one in whole.rest.logprobs] == [[-0.5], [], [], [-0.25]]
    assert [one.logprob for one in progress.final(dict(END)).rest.logprobs] == [-1.5, -2.5, -3.5]
    with pytest.raises(ProtocolError, match="logprobs"):
        progress.final({**END, "logprobs": 7})


@pytest.mark.parametrize("told", [7, None, [7], [{"token": "a"}]])
def test_log_probabilities_that_are_none_are_refused(told: object) -> None:
    with pytest.raises(ProtocolError, match="logprobs"):
        AnswerProgress(streams=False).partial({"text": "", "ids": 3, "logprobs": told})


def test_log_probabilities_are_read_once() -> None:
    """Told before the end they cost about as much as at the end: the processor time of both, in turns, the least of
    several."""
    entries, end = [entry(-1.5, *[-0.5] * 5)] * 320, {**END}
    parts = [packb({"text": "", "ids": [0] * 16, "logprobs": entries[:16]})] * 20
    at_end, ended = packb({**end, "logprobs": entries}), packb(end)

    def in_parts() -> None:
        progress = AnswerProgress(streams=False)
        for part in parts:
            progress.partial(unpackb(part))
        assert len(progress.final(unpackb(ended)).rest.logprobs) == 320

    def whole() -> None:
        end_of(unpackb(at_end))

    pairs = [(cpu_seconds(in_parts), cpu_seconds(whole)) for _ in range(20)]
    parts_cost, whole_cost = (min(taken) for taken in zip(*pairs, strict=True))
    assert parts_cost < 1.4 * whole_cost


def test_with_more_log_probabilities_than_a_worker_tells_an_answer_is_whole_and_cannot_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_TOLD_LOGPROBS", 4)
    progress = AnswerProgress(streams=False)
    could = []
    for told in ([entry(-1.5, -0.5), entry(-2.5, -0.5)], [entry(-3.5)]):
        assert progress.partial({"text": "", "ids": 3, "logprobs": told}) is None
        could.append(progress.can_go_on)
    assert could == [True, False]
    whole = progress.final({**END, "logprobs": [entry(-4.5)]})
    assert [one.logprob for one in whole.rest.logprobs] == [-1.5, -2.5, -3.5, -4.5]


def test_an_answer_that_is_too_long_cannot_go_on_and_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOKENS", 2)
    progress = AnswerProgress(streams=True)
    could = []
    for token in (1, 2, 3):
        progress.partial({"text": "a", "ids": token})
        could.append(progress.can_go_on)
    assert could == [True, True, False]
    assert begun(progress)["ids"] == [1, 2]


@pytest.mark.parametrize(
    "body", [{"ids": -1}, {"ids": 1 << 40}, {"ids": "1"}, {"ids": [1, None]}, {"ids": 1.5}, {"more": 1}]
)
def test_what_is_no_progress_is_refused(body: dict[str, object]) -> None:
    if "more" in body:
        assert AnswerProgress(streams=True).partial({"text": "x", **body}) == Delta("x")
        return
    with pytest.raises(ProtocolError, match="an output whose"):
        AnswerProgress(streams=True).partial({"text": "x", **body})


def test_what_is_asked_says_whether_it_may_go_on() -> None:
    """Only then outputs tell their tokens, and calls get ids that the next process gives too."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    for make in (generate_stream, generate_whole):
        asked = make("m", Generate(prompt="Hi", tools=tools), resume_limit=2, key="k")
        unit = unpack(Generate, asked.body.payload)  # type: ignore[attr-defined] # a request
        assert (unit.tells_tokens, unit.key, unit.begun) == (True, "k", None)
        assert asked.body.resume_limit == 2  # type: ignore[attr-defined]
        other = make("m", Generate(prompt="Hi", tools=tools), resume_limit=2, key="l")
        off = make("m", Generate(prompt="Hi", tools=tools))
        assert (off.body.resume_limit, off.progress) == (0, None)  # type: ignore[attr-defined]
        assert not unpack(Generate, off.body.payload).tells_tokens  # type: ignore[attr-defined]
        assert off.body.origin == asked.body.origin == other.body.origin  # type: ignore[attr-defined]
        assert make("m", Generate(prompt="Hi", logprobs=0), resume_limit=2).progress is not None


def test_a_transcript_goes_on_from_the_last_place_that_a_worker_has_told() -> None:
    ask = transcribe_stream("m", Transcribe("/uploads/1", stream=True), b"digest", resume_limit=2)
    assert isinstance(ask.body, InferenceRequest)
    assert ask.body.resume_limit == 2
    assert ask.progress is not None
    can_go_on = [ask.progress.can_go_on]
    for seek in (1, 2):
        piece = ask.partial({"text": "a", "segments": [], "seconds": 1.0, "place": {"seek": seek}})
        assert isinstance(piece, HeardPiece)
        assert piece.text == "a"
    can_go_on.append(ask.progress.can_go_on)
    assert can_go_on == [False, True]
    going_on = unpack(Transcribe, ask.progress.begun(ask.body.payload))
    assert going_on == Transcribe("/uploads/1", stream=True, begun={"seek": 2})
