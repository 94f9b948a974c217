"""Invalid requests and broken models: a clear refusal names the field or the file, and no other client notices."""

import http.client
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ECHO
from tests.service import Service, chat_body, wait_until
from tests.tiny_models import make_tiny_model

USER = {"role": "user", "content": "Hello"}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


_DEEP: dict[str, Any] = {}
for _ in range(150):
    _DEEP = {"type": "object", "properties": {"a": _DEEP}}
_TOOL = {"type": "function", "function": {"name": "a"}}

# Fields of an otherwise valid chat -> the parameter that the refusal names.
WRONG_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"model": 7}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": ["Hello"]}, "messages[0]"),
    ({"messages": [USER, {"content": "Hello"}]}, "messages[1].role"),
    ({"messages": [{"role": "robot", "content": "Hello"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [picture("http://127.0.0.1/")]}]}, "messages[0].content[0].image_url"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": "16"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"seed": "one"}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"stop": 7}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"n": 0}, "n"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    # Only the worker can know these.
    (
        {"messages": [{"role": "user", "content": [picture("data:image/png;base64,aaaa")]}]},
        "messages[0].content[0].image_url",
    ),
    ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, "chat_template_kwargs"),
    ({"messages": [{"role": "user", "content": "x" * 9000}]}, "messages"),
    ({"chat_template_kwargs": {"deep": _DEEP}}, "chat_template_kwargs"),
    ({"tools": [_TOOL, {"type": "function", "function": {"name": "b", "parameters": _DEEP}}]}, "tools[1]"),
]
WRONG_COMPLETIONS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": {"text": "x"}}, "prompt"),
    ({"prompt": [1, -2]}, "prompt"),
    ({"prompt": [1, 100_000]}, "prompt"),  # no such token
    ({"max_tokens": 0}, "max_tokens"),
    ({"suffix": "end"}, "suffix"),
]
NOT_OBJECTS = [b"", b"{", b"\xff\xfe", b"[]", b'"text"', b"null", b"NaN", b"{'model': 'tiny-a'}", b"[" * 100_000]

NO_NAMES = ["..", "../tiny-a", "tiny-a/..", "tiny-a/../tiny-a", "/etc/passwd", "a/b/c", "tiny-a/", "./tiny-a", "x\0y"]
NO_NAMES += ["tiny-a\\..", ".hidden", "x" * 300, "x" * 100_000, "escape", "\u202etiny-a", "tiny-a\n"]
# The same as paths, exactly as in the request line.
NO_PATHS = [
    "..",
    "../tiny-a",
    "%2e%2e",
    "%2E%2E%2Ftiny-a",
    "..%2ftiny-a",
    "/etc/passwd",
    "%2Fetc%2Fpasswd",
    "tiny-a/..",
]
NO_PATHS += ["tiny-a%2F..", "%252e%252e", "..%5ctiny-a", "x%00y", "%ff%fe", "", "%20", "a/b/c", "x" * 300, "escape"]


@contextmanager
def healthy_stream(service: Service, model_id: str) -> Iterator[None]:
    """Streams from `model_id` one after the other in the background; each must give the undisturbed text."""
    expected = service.chat(model_id, max_tokens=200).json()["choices"][0]["message"]["content"]
    stop = threading.Event()
    texts: list[str] = []
    errors: list[Any] = []

    def read() -> None:
        while not stop.is_set():
            with service.stream(model_id, max_tokens=200) as stream:
                texts.append(stream.finish().text)
                errors.append(stream.error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join(30)
    assert texts == [expected] * len(texts)
    assert errors == [None] * len(texts)
    assert texts


def as_it_is(service: Service, method: str, target: str) -> tuple[int, dict[str, Any]]:
    """Status and body of a request whose target is sent as it is, not normalised by a client library."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_wrong_requests_are_refused_by_field(shared: Service) -> None:
    def refusal(path: str, **request: Any) -> tuple[int, str, str | None]:
        response = shared.client.post(path, **request)
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"]
        assert error["retryable"] is False
        return response.status_code, error["code"], error["param"]

    chat, completion = chat_body("tiny-a", "Hello"), {"model": "tiny-a", "prompt": "Hello"}
    with healthy_stream(shared, "tiny-a"):
        for fields, param in WRONG_CHATS:
            for stream in ({}, {"stream": True}):
                status, code, named = refusal("/v1/chat/completions", json={**chat, **stream, **fields})
                assert (status, named) == (400, param), fields
                assert code in ("invalid_request", "context_length_exceeded"), fields
        for fields, param in WRONG_COMPLETIONS:
            assert refusal("/v1/completions", json={**completion, **fields}) == (400, "invalid_request", param), fields
        for content in NOT_OBJECTS:
            for path in ("/v1/chat/completions", "/v1/completions"):
                assert refusal(path, content=content) == (400, "invalid_request", None), content[:20]
        nested = json.dumps({**chat, "chat_template_kwargs": 0}).replace(": 0}", ": " + '{"a":' * 600 + "0" + "}" * 601)
        assert refusal("/v1/chat/completions", content=nested.encode())[0] == 400
        for path, status in (("/v1/chat/completions", 405), ("/v1/nothing", 404), ("/nothing", 404)):
            assert shared.client.get(path).status_code == status
            assert "error" in shared.client.get(path).json()


def test_a_model_id_is_a_name(make_service: Callable[..., Service], models_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(models_dir / "tiny-a", root / "tiny-a")
    shutil.copytree(models_dir / "tiny-b", tmp_path / "outside")
    (root / "escape").symlink_to(tmp_path / "outside")
    service = make_service(models_path=root, models={"echo": ECHO})
    with healthy_stream(service, "echo"):
        for name in NO_NAMES:
            response = service.chat(name)
            assert response.status_code == 404, name[:40]
            assert response.json()["error"]["code"] == "model_not_found", name[:40]
        for target in NO_PATHS:
            for action, expected in (("load", 500), ("unload", 404), ("kill", 404), ("unpin", 404)):
                status, body = as_it_is(service, "POST", f"/admin/models/{action}/{target}")
                assert (status, list(body)) == (expected, ["detail"]), (action, target[:40])
            if target not in ("%ff%fe", "%20", "%252e%252e", "x" * 300, "escape"):  # which can be names
                status, body = as_it_is(service, "GET", f"/admin/models/{target}/progress")
                assert (status, list(body)) == (404, ["detail"]), target[:40]
            status, body = as_it_is(service, "GET", f"/v1/models/{target or '%20'}")
            assert (status, body["error"]["code"]) == (404, "model_not_found"), target[:40]
        assert [model["model_id"] for model in service.status()["loaded_models"]] == ["echo"]
        assert [model["id"] for model in service.client.get("/v1/models").json()["data"]] == ["echo", "tiny-a"]


def test_a_body_over_the_limit(make_service: Callable[..., Service]) -> None:
    service = make_service(gateway={"max_body_mb": 0.01}, models={"echo": ECHO})
    limit = int(0.01 * 2**20)
    body = json.dumps(chat_body("echo", "Hello"))
    fitting, too_large = (f"{body:<{size}}".encode() for size in (limit, limit + 1))
    path = "/v1/chat/completions"
    with healthy_stream(service, "echo"):
        assert service.client.post(path, content=fitting).status_code == 200
        assert service.client.post(path, content=iter([fitting[:5], fitting[5:]])).status_code == 200
        for content in (too_large, iter([too_large[:limit], too_large[limit:]])):
            refused = service.client.post(path, content=content)
            assert refused.status_code == 413
            assert refused.json()["error"]["code"] == "request_too_large"
            assert str(limit) in refused.json()["error"]["message"]

        # Too large a Content-Length is refused before the body arrives. A client that disconnects in the middle of its
        # body leaves nothing behind.
        for claimed, answer in ((10**12, b"HTTP/1.1 413"), (100, b"")):
            with socket.create_connection(("127.0.0.1", service.port), 10) as client:
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {claimed}\r\n\r\n"
                client.sendall(head.encode() + b'{"model"')
                if not answer:
                    client.shutdown(socket.SHUT_WR)
                assert client.recv(len(answer) or 1, socket.MSG_WAITALL) == answer
        for length in (b"-1", b"many"):
            with socket.create_connection(("127.0.0.1", service.port), 10) as client:
                client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: ".encode() + length + b"\r\n\r\n{}")
                assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 400"


def no_pid(service: Service, model_id: str) -> Callable[[], bool]:
    return lambda: service.model(model_id)["pid"] is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# Name of a broken model -> how it is broken, and what the refusal names. The broker finds these in the folder:
BROKEN_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no-weights": (lambda folder: (folder / "model.safetensors").unlink(), ".safetensors"),
    "no-json": (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    "no-object": (lambda folder: (folder / "config.json").write_text("[]"), "config.json"),
    "deep": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json"),
    "long-name": (lambda folder: change_config(folder, model_type="a" * 300), "a" * 300),
    "clip": (lambda folder: change_config(folder, model_type="clip", architectures=["CLIPModel"]), "clip"),
}
# A worker finds these while it loads (tests/worker has more of them):
BROKEN_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda folder: truncate(folder / "model.safetensors"), "model.safetensors"),
    "other-shape": (lambda folder: change_config(folder, hidden_size=64), "config.json"),
    "no-tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
}


def test_a_broken_model_is_refused_by_file_and_disturbs_no_other(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    make_tiny_model(tmp_path / "good", seed=1)
    for name, (break_it, _) in (BROKEN_FOLDERS | BROKEN_MODELS).items():
        shutil.copytree(tmp_path / "good", tmp_path / name)
        break_it(tmp_path / name)
    (tmp_path / "empty").mkdir()
    echo = {"echo": ECHO | {"options": {"delay_seconds": 0.005}}}
    # A stream that gets a comment before its load has failed has begun with 200.
    service = make_service(models_path=tmp_path, models=echo, gateway={"keepalive_seconds": 300})

    before = service.chat("good").json()["choices"]
    pid = service.model("good")["pid"]
    with healthy_stream(service, "echo"):
        for name, (_, file) in BROKEN_FOLDERS.items():
            refused = service.chat(name)
            assert refused.status_code == 422, name
            assert refused.json()["error"]["code"] == "load_failed"
            assert file in refused.json()["error"]["message"]
            assert service.load(name).status_code == 500
            assert file in service.load(name).json()["detail"]
        listed = {model["id"] for model in service.client.get("/v1/models").json()["data"]}
        assert listed == {"echo", "good", *BROKEN_MODELS} - {"no-object"}
        assert service.chat("empty").status_code == 404

        for position, (name, (_, file)) in enumerate(BROKEN_MODELS.items()):
            if position % 2:
                failed = service.load(name)
                assert failed.status_code == 500, name
                message = failed.json()["detail"]
            else:
                failed = service.chat(name, stream=position % 4 == 0)
                assert failed.status_code == 422, name
                assert failed.json()["error"]["code"] == "load_failed"
                message = failed.json()["error"]["message"]
            assert file in message, (name, message)
            assert name in message
            wait_until(no_pid(service, name), what=f"the end of {name}'s worker")
            assert service.model(name)["preloaded"] is False

        # Once repaired it loads: the failure is not remembered.
        shutil.copy(tmp_path / "good" / "model.safetensors", tmp_path / "cut")
        assert service.chat("cut").status_code == 200
    assert service.chat("good").json()["choices"] == before
    assert service.model("good")["pid"] == pid
    assert service.status()["total_models"] == 3


def test_a_folder_with_an_undecodable_name_is_not_listed(make_service: Callable[..., Service], tmp_path: Path) -> None:
    good = make_tiny_model(tmp_path / "good", seed=1)
    try:
        shutil.copytree(good, tmp_path / os.fsdecode(b"caf\xe9"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    change_config(
        shutil.copytree(good, tmp_path / "odd"), max_position_embeddings=10**30, quantization={"quant_method": "\ud800"}
    )
    service = make_service(models_path=tmp_path)
    listed = service.client.get("/v1/models").json()["data"]
    assert [(model["id"], model["context_length"]) for model in listed] == [("good", 8192), ("odd", None)]


def test_a_prompt_far_too_long_is_refused_before_tokenization(shared: Service) -> None:
    shared.load("tiny-a")
    pid = shared.model("tiny-a")["pid"]
    with shared.stream("tiny-a", max_tokens=3000) as other:
        other.next_text()
        began = time.monotonic()
        with shared.second_client() as client:
            body = {"model": "tiny-a", "prompt": "x" * 20_000_000, "max_tokens": 1}
            refused = client.post("/v1/completions", json=body)
        assert time.monotonic() - began < 25  # tokenizing it takes minutes
        other.finish()
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["param"] == "prompt"
    assert "20000000 characters" in refused.json()["error"]["message"]
    assert other.error is None
    assert shared.model("tiny-a")["pid"] == pid
    many = shared.client.post("/v1/chat/completions", json={"model": "tiny-a", "messages": [MESSAGE] * 5000})
    assert many.status_code == 400
    assert many.json()["error"]["param"] == "messages"


MESSAGE = {"role": "user", "content": "x"}
