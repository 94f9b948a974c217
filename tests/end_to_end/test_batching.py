"""Requests decode together, and no answer depends on the other requests in its batch."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.service import Service, Stream
from tests.timing import assert_below

STREAMS = 8
TOKENS = 400


def text_of(service: Service, **fields: Any) -> str:
    response = service.chat("tiny-a", **fields)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def together(service: Service, requests: list[dict[str, Any]]) -> list[Stream]:
    """Send all these requests at the same moment, streamed, and read each stream to its end."""
    start = threading.Barrier(len(requests))

    def read(fields: dict[str, Any]) -> Stream:
        start.wait(10)
        with service.stream("tiny-a", **fields) as stream:
            return stream.finish()

    with ThreadPoolExecutor(len(requests)) as pool:
        streams = list(pool.map(read, requests))
    assert all(stream.done and stream.error is None for stream in streams)
    return streams


def test_eight_decode_together_with_the_same_answers_as_alone(shared: Service) -> None:
    greedy = [{"content": f"{number} " * (1 + number), "max_tokens": TOKENS} for number in range(STREAMS)]
    text_of(shared, content="warm up")
    alone = [text_of(shared, **fields) for fields in greedy]
    assert len(set(alone)) == STREAMS

    def share() -> float:
        """Share of the time that the requests take one by one, a moment before; infinite if one ended before another
        began."""
        started_at = time.monotonic()
        assert [text_of(shared, **fields) for fields in greedy] == alone
        one_by_one = time.monotonic() - started_at
        started_at = time.monotonic()
        streams = together(shared, greedy)
        at_once = time.monotonic() - started_at
        assert [stream.text for stream in streams] == alone
        assert [stream.finish_reason for stream in streams] == ["length"] * STREAMS
        overlap = max(s.times[0] for s in streams) < min(s.times[-1] for s in streams)
        return at_once / one_by_one if overlap else math.inf

    assert_below(0.6, share)

    # Requests that join and leave a running batch do not change the other answers.
    lengths = [TOKENS, 1, 7, 50, 50, 120, 3, 200]
    ragged = together(shared, [fields | {"max_tokens": n} for fields, n in zip(greedy, lengths, strict=True)])
    assert ragged[0].text == alone[0]
    for stream, whole in zip(ragged, alone, strict=True):
        # The limit can cut a character in half.
        assert whole.startswith(stream.text.rstrip("\ufffd"))


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(shared: Service) -> None:
    def drawn(seed: int) -> dict[str, Any]:
        return {"content": "Hello", "max_tokens": 100, "temperature": 0.9, "top_p": 0.95, "seed": seed}

    alone = [text_of(shared, **drawn(seed)) for seed in range(4)]
    assert len(set(alone)) == 4
    assert [text_of(shared, **drawn(seed)) for seed in range(4)] == alone
    company = [{"content": "Hi", "max_tokens": 150, "temperature": 1.0}, {"content": "Ho", "max_tokens": 80}]
    streams = together(shared, [*company, *(drawn(seed) for seed in range(4)), *company])
    assert [stream.text for stream in streams[2:6]] == alone
