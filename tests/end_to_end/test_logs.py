"""The logs of a real service: every line an object, each request found again, no word of what clients and models say,
and the log of one model, whatever its process prints.
"""

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import ECHO, MISBEHAVING
from tests.service import Service, chat_body, wait_until

MARK = "zqmark"
KEY, TOKEN = f"{MARK}-api-key", f"{MARK}-admin-token"
MIB = 1 << 20


@pytest.fixture(scope="module")
def house(models_dir: Path) -> Iterator[Service]:
    """Keys, JSON, the level info."""
    models = {"echo": ECHO, "again": ECHO, "bad": MISBEHAVING, "paced": ECHO | {"options": {"delay_seconds": 0.02}}}
    settings: dict[str, Any] = {
        "broker": {"log_format": "json", "max_models": 8},
        "gateway": {"log_format": "json", "api_key": KEY, "admin_token": TOKEN},
        "models": models,
    }
    service = Service(models_dir, settings)
    service.client.headers.update({"authorization": f"Bearer {TOKEN}", "x-api-key": KEY})
    try:
        yield service.start()
    finally:
        service.stop()


def objects(service: Service, name: str) -> list[dict[str, Any]]:
    """The lines of a log. Each is one object, also those of workers."""
    found = [json.loads(line) for line in service.log(name).splitlines()]
    assert all(isinstance(event, dict) and event["process"] == name for event in found)
    return found


def about(service: Service, name: str, trace: str) -> list[dict[str, Any]]:
    return [event for event in objects(service, name) if event.get("request_id") == trace]


def log_of(service: Service, model_id: str, tail: int = 1000) -> list[dict[str, Any]]:
    answer = service.client.get(f"/admin/models/{model_id}/logs", params={"tail": tail, "follow": False})
    *events, done = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def texts(service: Service, model_id: str) -> list[str]:
    return [line["text"] for line in log_of(service, model_id)]


def ask(service: Service, model: str, content: str, trace: str = "", **fields: Any) -> httpx.Response:
    headers = {"x-request-id": trace} if trace else {}
    return service.client.post("/v1/chat/completions", json=chat_body(model, content, **fields), headers=headers)


# ---- requests -----------------------------------------------------------------------------------------------------


def test_one_request_is_found_in_all_three_processes(house: Service) -> None:
    answer = ask(house, "bad", "quote this", "found everywhere")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "found everywhere"
    [access] = wait_until(lambda: about(house, "gateway", "found everywhere"), what="the access line")
    assert access["logger"] == "access"
    assert (access["method"], access["path"], access["status"]) == ("POST", "/v1/chat/completions", 500)
    assert (access["outcome"], access["model"]) == ("internal_error", "bad")
    [line] = wait_until(lambda: about(house, "broker", "found everywhere"), what="the worker's line")
    assert line["level"] == "error"
    assert line["message"].endswith(": a request fails while it is added")
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert (line["model"], line["pid"]) == ("bad", house.model("bad")["pid"])
    assert 'a request fails while it is added request_id="found everywhere"' in texts(house, "bad")


def test_the_broker_names_a_request_that_ends_with_its_process(house: Service) -> None:
    with house.client.stream(
        "POST",
        "/v1/chat/completions",
        json=chat_body("bad", "crash after 2 tokens, please", stream=True, resume=False),
        headers={"x-request-id": "died"},
    ) as answer:
        assert "worker_died" in answer.read().decode()
    [line] = wait_until(lambda: about(house, "broker", "died"), what="the broker's line")
    assert line["message"].startswith("a request ends without an answer: worker_died: ")
    assert any(text.startswith("broker: exited: signal SIGSEGV") for text in texts(house, "bad"))


def _tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {f"{MARK}p": {"type": "string", "description": MARK}}}
    return {"type": "function", "function": {"name": name, "description": MARK, "parameters": parameters}}


def _conversation() -> list[dict[str, Any]]:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": json.dumps({f"{MARK}p": MARK})}}
    return [
        {"role": "system", "content": f"{MARK} system"},
        {"role": "user", "content": f"{MARK} user"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": f"{MARK} result"},
    ]


def _image(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def _bodies(model: str) -> Iterator[dict[str, Any]]:
    schema = {"type": "object", "properties": {f"{MARK}p": {"type": "array", "uniqueItems": True, "not": {}}}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    broken = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"$ref": f"#/{MARK}"}}}
    yield chat_body(model, f"{MARK} whole", stop=[f"{MARK}stop"], user=MARK)
    yield chat_body(model, f"{MARK} stream", stream=True)
    yield {"model": model, "messages": _conversation(), "tools": [_tool("f")], "max_tokens": 8}
    yield {
        "model": model,
        "messages": _conversation(),
        "tools": [_tool("f")],
        "tool_choice": "required",
        "max_tokens": 40,
    }
    yield chat_body(model, f"{MARK} form", response_format=form)
    yield chat_body(model, f"{MARK} form", response_format=broken)
    yield chat_body(model, f"{MARK} grammar", tools=[_tool("f")], max_tokens=MARK)
    yield {"model": model, "messages": _image(f"http://127.0.0.1:9/{MARK}.png?token={MARK}"), "max_tokens": 1}
    yield {"model": model, "messages": _image(f"https://user:{MARK}@127.0.0.1:9/x?token={MARK}"), "max_tokens": 1}
    yield {"model": model, "messages": _image(f"data:image/png;base64,{MARK}"), "max_tokens": 1}
    yield {"model": model, "messages": _image("data:image/png;base64," + base64.b64encode(MARK.encode()).decode())}
    yield {"model": model, "messages": MARK}
    yield {"model": f"{MARK}/model", "messages": [{"role": "user", "content": MARK}]}


@pytest.mark.timeout(180)
def test_no_log_has_what_clients_and_models_say(house: Service) -> None:
    client = house.client
    for body in _bodies("tiny-a"):
        client.post("/v1/chat/completions", json=body)
    for verb in ("quote", "refuse", "garble", "tell", "crash"):
        ask(house, "bad", f"{MARK} {verb} {MARK}")
    turn = [{"role": "user", "content": MARK}]
    for path, fields in (
        ("/v1/messages", {"messages": turn, "max_tokens": 4, "system": MARK}),
        ("/v1/messages/count_tokens", {"messages": turn}),
        ("/v1/responses", {"input": MARK, "instructions": MARK, "max_output_tokens": 16}),
        ("/v1/completions", {"prompt": MARK, "max_tokens": 4}),
        ("/v1/embeddings", {"input": MARK}),
        ("/api/chat", {"messages": turn, "stream": False, "options": {"num_predict": 4}}),
        ("/api/generate", {"prompt": MARK, "options": {"num_predict": 4}}),
    ):
        client.post(f"{path}?api_key={MARK}", json={"model": "tiny-a", **fields})
    client.post("/v1/chat/completions", content=f"{{{MARK}".encode())
    client.get(f"/v1/models?key={MARK}", headers={"x-api-key": f"{MARK}-wrong", "authorization": f"Basic {MARK}"})
    client.get("/v1/models", headers={"cookie": MARK, "origin": f"http://{MARK}.example", "referer": MARK})
    ask(house, "echo", "the last one", "the-last")
    wait_until(lambda: about(house, "gateway", "the-last"), what="the last access line")

    events = [event for name in ("broker", "gateway") for event in objects(house, name)]
    assert sum("traceback" in event for event in events) >= 2, "nothing has failed as it should"
    for event in events:
        assert MARK not in json.dumps(event), event
    lines = [line for model in ("tiny-a", "bad") for line in log_of(house, model)]
    assert any("Traceback" in line["text"] for line in lines)
    for line in lines:
        assert MARK not in line["text"], line
    last = [model.get("last_exit") for model in house.status()["models"]]
    assert MARK not in json.dumps(last)


# ---- the log of one model -----------------------------------------------------------------------------------------


class Followed:
    """The log of one model, read in a thread until it is closed."""

    def __init__(self, service: Service, model_id: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self._stream = service.client.stream("GET", f"/admin/models/{model_id}/logs?follow=true")
        self.response = self._stream.__enter__()
        assert self.response.headers["content-type"].startswith("text/event-stream")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for line in self.response.iter_lines():
                if line.startswith("data: {"):
                    self.lines.append(json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError:
            return

    def has(self, text: str) -> Callable[[], bool]:
        return lambda: any(text in line["text"] for line in self.lines)

    def close(self) -> None:
        self._stream.__exit__(None, None, None)


def test_a_log_goes_on_with_the_next_process(house: Service) -> None:
    with closing(Followed(house, "again")) as followed:
        assert log_of(house, "again") == []  # it has never run
        assert house.load("again").status_code == 200
        wait_until(followed.has("broker: again is ready"), what="the first process")
        first = house.model("again")["pid"]
        assert {line["pid"] for line in followed.lines} == {first}
        assert house.kill("again").status_code == 200  # it is pinned and comes back
        wait_until(followed.has("broker: exited: signal SIGKILL"), what="its end")
        wait_until(lambda: followed.lines[-1]["text"] == "broker: again is ready", what="the next process")
        assert followed.lines[-1]["pid"] == house.model("again")["pid"] != first
        assert log_of(house, "again") == followed.lines
    house.unload("again")
    wait_until(lambda: texts(house, "again")[-1].startswith("broker: exited"), what="its end")


def test_a_line_of_ten_megabytes_with_escapes_harms_nobody(house: Service) -> None:
    assert house.load("bad").status_code == 200
    expected = ask(house, "paced", "word " * 40, max_tokens=40).json()["choices"][0]["message"]["content"]
    assert house.broker is not None
    broker = psutil.Process(house.broker.pid)
    before, written = broker.memory_info().rss, len(house.log("broker"))
    with house.stream("paced", "word " * 40, max_tokens=40) as stream:
        stream.next_text()
        answer = ask(house, "bad", "shout 10")
        assert not stream.done, "the other stream was slower than ten megabytes"
        stream.finish()
    assert answer.status_code == 200
    assert stream.text == expected
    wait_until(lambda: f"({10 * MIB + 15} bytes)" in texts(house, "bad")[-1], what="the line")
    shown = texts(house, "bad")[-1]
    assert shown.startswith(r"\x1b]0;owned\x07\x1b[31mxxx")
    assert len(shown) < 2100
    assert "\x1b" not in house.log("broker") + house.log("gateway")
    assert len(house.log("broker")) - written < 20_000
    assert broker.memory_info().rss - before < 8 * MIB


def test_names_paths_and_ids_with_escapes_are_shown_harmless(house: Service) -> None:
    raw = "%1b%5b31m%0a%e2%80%ae"
    house.client.get(f"/nothing/{raw}")
    house.client.get(f"/admin/models/a{raw}/logs?follow=false")
    house.client.post(f"/admin/models/kill/a{raw}")
    house.client.post("/v1/chat/completions", json=chat_body("a\x1b[31m\n\u202e", "Hello"))
    ask(house, "echo", "Hello", "after the escapes")
    wait_until(lambda: about(house, "gateway", "after the escapes"), what="the access line")
    for name in ("gateway", "broker"):
        assert all(line.isprintable() for line in house.log(name).splitlines())
        objects(house, name)
    assert re.search(r'"path": "/nothing/\\\\x1b\[31m\\\\n\\\\u202e"', house.log("gateway"))
