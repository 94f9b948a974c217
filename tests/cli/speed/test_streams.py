"""What a streamed answer that was kept as pieces says about speed."""

import pytest

from cli.speed.streams import TimedAnswer, level_of, quantile, read_stream
from cli.speed.traffic import Prompts


def event(text: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode()


HEAD = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_texts_have_the_time_at_which_their_event_was_whole() -> None:
    begun, rest = event("b")[:20], event("b")[20:]
    pieces = [HEAD, event("a") + begun, rest + event("c"), b": keepalive\n\n", USAGE + DONE]
    answer = read_stream(10.0, pieces, [10.5, 11.0, 12.0, 13.0, 14.0])
    assert answer == TimedAnswer(10.0, 14.0, (11.0, 12.0, 12.0), 7, 3)
    assert answer.ttft == 1.0
    assert answer.tokens_per_second == 2.0
    assert answer.gaps(10.0, 11.5) == [1.0]
    assert answer.gaps(11.5, 99.0) == [1.0, 0.0]
    assert answer.gaps(12.5, 99.0) == []


def test_reasoning_is_text_as_well() -> None:
    piece = b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n'
    assert read_stream(0.0, [piece], [1.0]).times == (1.0,)


def test_a_stream_that_breaks() -> None:
    error = b'data: {"error":{"message":"the process of m died","code":"worker_died"}}\n\n'
    answer = read_stream(0.0, [event("a"), error + DONE], [1.0, 2.0])
    assert (answer.error, answer.tokens, answer.tokens_per_second) == ("the process of m died", 0, None)
    assert read_stream(3.0, [], []).ttft is None


def test_the_first_token_of_an_answer_without_a_text_comes_with_its_end() -> None:
    """The first token may be the one that ends the answer, or half a character."""
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n'
    answer = read_stream(3.0, [HEAD + end + usage + DONE], [5.0])
    assert (answer.ttft, answer.times, answer.tokens_per_second) == (2.0, (), None)
    hidden = usage.replace(b'"completion_tokens":1', b'"completion_tokens":9')
    assert read_stream(3.0, [HEAD + end + hidden + DONE], [5.0]).ttft is None


def test_a_level() -> None:
    answers = [TimedAnswer(0.0, 2.0, (0.5, 2.0), 10, 4), TimedAnswer(1.0, 5.0, (4.0, 5.0), 20, 11)]
    level = level_of(2, answers, cpu_seconds=0.5)
    assert (level.requests, level.tokens, level.prompt_tokens) == (2, 15, 15.0)
    assert level.ttft_median == pytest.approx(1.75)
    assert level.ttft_p95 == pytest.approx(0.5 + 0.95 * 2.5)
    assert level.per_stream == pytest.approx((2.0 + 10.0) / 2)
    assert (level.in_total, level.client_cpu) == (3.0, 0.1)


def test_quantiles() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3.0], 0.95) == 3.0
    assert quantile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.5


def test_prompts_have_the_tokens_that_are_asked_for_and_never_begin_alike() -> None:
    prompts = Prompts()

    def ask(text: str) -> TimedAnswer:
        return TimedAnswer(0.0, 1.0, (1.0,), 12 + 2 * len(text.partition(".")[0].split()), 1)

    prompts.calibrate(ask)
    assert (prompts.is_calibrated, prompts.tokens_per_word, prompts.overhead) == (True, 2.0, 12.0)
    assert ask(prompts.of_tokens(512)).prompt_tokens == 512
    assert prompts.of_tokens(1).partition(".")[0]
    assert len({prompts.of_tokens(64)[:40] for _ in range(50)}) == 50
