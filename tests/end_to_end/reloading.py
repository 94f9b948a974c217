"""A service whose model is reloaded, or recycled, and clients that ask meanwhile."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from tests.service import Service, wait_until

SLOWLY = {"delay_seconds": 0.01}

HEARTBEAT_INTERVAL = 0.5  # seconds, the default


class Reloading:
    """A service whose settings file tests change. model: the one that they reload."""

    def __init__(self, service: Service, model: str) -> None:
        self.service, self.model = service, model
        self._file = service.config.read_text()

    def reload(self, **query: Any) -> httpx.Response:
        return self.service.client.post(f"/admin/models/reload/{self.model}", params=query)

    def reloaded(self) -> None:
        answer = self.reload()
        assert (answer.status_code, answer.json()["status"]) == (200, "reloaded"), answer.text

    @contextmanager
    def reloading(self) -> Iterator[Callable[[], httpx.Response]]:
        """While a reload runs; called, it waits for the answer."""
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self.reload)
            yield answer.result

    @property
    def state(self) -> dict[str, Any]:
        return self.service.model(self.model)

    def write(self, broker: dict[str, Any] | None = None, gateway: dict[str, Any] | None = None, **own: Any) -> None:
        """The file of the start with these settings; own: of the model."""
        text = self._file
        if "options" in own:
            text = text.replace(f'"options" = {toml(SLOWLY)}\n', "")
        for table, fields in (("broker", broker), ("gateway", gateway), (f'models."{self.model}"', own)):
            head = f"[{table}]\n"
            assert head in text
            text = text.replace(
                head, head + "".join(f"{json.dumps(n)} = {toml(v)}\n" for n, v in (fields or {}).items())
            )
        self.service.config.write_text(text)

    def reread(self) -> httpx.Response:
        return self.service.client.post("/admin/settings/reload")

    def settle(self, **tables: Any) -> None:
        """Written, read, and in force in a fresh process."""
        self.write(**tables)
        assert self.reread().status_code == 200
        assert self.reload().status_code == 200
        self.drained()

    def drained(self) -> None:
        wait_until(lambda: self.state["outgoing"] is None, 30.0, "the end of the old process")


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)


@dataclass
class Answer:
    """is_first: of its client. All clients ask at once then, of a process with nothing to do."""

    prompt: str
    asked_at: float
    first_after: float
    text: str
    tokens: int
    is_whole: bool
    is_first: bool = False


def ask(service: Service, model: str, prompt: str, tokens: int) -> Answer:
    asked_at = time.monotonic()
    with service.stream(model, prompt, max_tokens=tokens, stream_options={"include_usage": True}) as stream:
        stream.finish()
    assert stream.usage is not None, stream.error
    is_whole = stream.done and stream.error is None and stream.finish_reason == "length"
    first = stream.times[0] - asked_at
    return Answer(prompt, asked_at, first, stream.text, stream.usage["completion_tokens"], is_whole)


@dataclass
class Crowd:
    """What many clients saw who asked one request after the other, and when the model was reloaded among them: from the
    call until the old process had gone. Times are compared without the first answer of each client."""

    answers: list[Answer]
    reloads: list[tuple[float, float]]

    @property
    def usual(self) -> list[Answer]:
        """Asked before the first reload."""
        return [a for a in self.answers if a.asked_at < self.reloads[0][0] and not a.is_first]

    @property
    def during(self) -> list[Answer]:
        return [a for a in self.answers if self.is_during(a) and not a.is_first]

    def is_during(self, answer: Answer) -> bool:
        return any(began <= answer.asked_at <= ended for began, ended in self.reloads)


def crowd(
    reloading: Reloading,
    clients: int,
    prompts: list[str],
    tokens: int,
    *,
    rounds: int,
    reloads: int = 1,
    replaced: Callable[[], None] | None = None,
) -> Crowd:
    """replaced: comes back when another process serves, as after a reload, which is the default."""
    replaced = replaced or reloading.reloaded
    seen = Crowd([], [])
    answers = seen.answers
    over, numbers = threading.Event(), itertools.count()

    def client() -> None:
        is_first = True
        while not over.is_set():
            prompt = prompts[next(numbers) % len(prompts)]
            answers.append(replace(ask(reloading.service, reloading.model, prompt, tokens), is_first=is_first))
            is_first = False

    def more(rounds: int) -> None:
        enough = len(answers) + rounds * clients
        wait_until(lambda: len(answers) >= enough, 120.0, f"{enough} answers")

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(client) for _ in range(clients)]
        try:
            for _ in range(reloads):
                more(rounds)
                began = time.monotonic()
                replaced()
                reloading.drained()
                seen.reloads.append((began, time.monotonic()))
            more(1)
        finally:
            over.set()
        for future in asking:
            future.result()
    return seen


def check(reloading: Reloading, seen: Crowd, before: dict[str, Any], expected: dict[str, str]) -> None:
    """Nobody has noticed the reload, and all is counted."""
    answers = seen.answers
    assert all(a.is_whole for a in answers)
    assert [a.text for a in answers] == [expected[a.prompt] for a in answers]
    assert any(map(seen.is_during, answers))
    after = reloading.state
    assert after["pid"] != before["pid"]
    # One that is sent when it comes has waited for nothing at all.
    waited = {name: [entry["queue_times"][name] for entry in (before, after)] for name in ("counts", "seconds")}
    assert sum(waited["counts"][1]) - sum(waited["counts"][0]) == len(answers)
    assert waited["seconds"][1] == waited["seconds"][0], f"a request was queued: {waited}"
    assert (after["replays"], after["resumes"]) == (before["replays"], before["resumes"])
    total = before["generation_tokens"] + sum(a.tokens for a in answers)
    wait_until(lambda: reloading.state["generation_tokens"] >= total, 10.0, f"{total} tokens of both processes")
    assert reloading.state["generation_tokens"] == total, (before, reloading.state)


def counted(reloading: Reloading) -> dict[str, Any]:
    """The status once a heartbeat has told of all tokens so far. The next one may have been made before the last."""
    now = time.monotonic() + HEARTBEAT_INTERVAL
    wait_until(lambda: (reloading.state["heartbeat_age_seconds"] or now) < time.monotonic() - now, 10.0, "a heartbeat")
    return reloading.state
