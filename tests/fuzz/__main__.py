"""`python -m tests.fuzz 15000 1`: so many mutated requests with this seed against a real service; prints the figures.

Every answer comes within a time limit, is JSON or a whole stream, is never a 500 and never the end of a process; every
error has its object, with `param`. A third argument begins at another number, to repeat one request. SIGINT ends it
early: what has been sent is judged as if it were all.
"""

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tests.conftest import ECHO, MISBEHAVING
from tests.fuzz.bodies import SOUND
from tests.fuzz.requests import ENCODER, HEARS, RERANKER, SPEAKS, TEXT_MODELS, Request, form_of, request_of
from tests.service import Service, chat_body
from tests.tiny_audio import make_tiny_whisper
from tests.tiny_encoders import make_tiny_encoder, make_tiny_reranker
from tests.tiny_models import make_tiny_model
from tests.tiny_speech import make_tiny_pocket

_AT_ONCE = 8
_SECONDS = 30.0  # for one answer; a hang is longer
_REPORTED = 500  # requests
_MOST = 20  # findings, after which it ends
# Framed in a stream, or as the status of a whole answer: what a request can be at fault for after it has begun.
_FRAMED = ("invalid_request", "context_length_exceeded")


def fuzz_service(models: Path) -> Service:
    """Not started. Its models: an echo, one that obeys orders to misbehave (here nobody gives any), five real ones."""
    make_tiny_model(models / "tiny-a", seed=1)
    make_tiny_encoder(models / ENCODER)
    make_tiny_reranker(models / RERANKER)
    make_tiny_whisper(models / HEARS)
    make_tiny_pocket(models / SPEAKS)
    short = {"options": {"context_length": 512}}
    settings: dict[str, Any] = {"echo": ECHO, "bad": MISBEHAVING, "tiny-a": short}
    gateway = {"default_max_tokens": 8, "max_body_mb": 1, "max_upload_mb": 1}
    return Service(models, {"models": settings, "broker": {"max_models": 7}, "gateway": gateway})


async def fuzz(service: Service, count: int, seed: int, first: int = 0) -> Counter[str]:
    """How often each status came. Raises AssertionError with the numbers of the requests that went wrong."""
    for model in TEXT_MODELS:
        assert service.chat(model, max_tokens=2).status_code == 200
    assert service.client.post("/v1/embeddings", json={"model": ENCODER, "input": "a"}).status_code == 200
    rerank = {"model": RERANKER, "query": "a", "documents": ["b"]}
    assert service.client.post("/v1/rerank", json=rerank).status_code == 200
    form, head = form_of({"model": HEARS, "file": SOUND, "temperature": "0"}), "multipart/form-data; boundary=7"
    answer = service.client.post("/v1/audio/transcriptions", content=form, headers={"content-type": head})
    assert answer.status_code == 200, answer.text
    assert service.client.get("/v1/audio/voices", params={"model": SPEAKS}).status_code == 200
    before = _processes(service)
    figures: Counter[str] = Counter()
    findings: list[str] = []
    numbers = _numbers(first, count)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, numbers.close)

    async def client() -> None:
        for number in numbers:
            request = None
            try:
                request = request_of(seed, number)
                figures[await _send(service.port, request)] += 1
            except Exception as error:  # noqa: BLE001 # whatever it is, the rest is tried too
                findings.append(f"request {number} of seed {seed}: {error!r}: {request!r:.3000}")
                sys.stderr.write(f"{findings[-1]:.600}\n")
                if len(findings) == _MOST:
                    numbers.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(client())
    assert not findings, "\n".join(findings)
    assert _processes(service) == before
    for model in TEXT_MODELS:
        answer = service.client.post("/v1/chat/completions", json=chat_body(model, "Still there?", max_tokens=2))
        assert answer.status_code == 200, answer.text
    return figures


def _numbers(first: int, count: int) -> Generator[int]:
    """Says on stderr how far it is."""
    for done in range(count):
        if done and done % _REPORTED == 0:
            sys.stderr.write(f"{done:,} of {count:,} requests\n")
        yield first + done


def _processes(service: Service) -> dict[str, int | None]:
    """The pids of all models, broker and gateway; a dead one is None."""
    assert service.broker is not None
    assert service.gateway is not None
    pids: dict[str, int | None] = {model["model_id"]: model["pid"] for model in service.status()["loaded_models"]}
    for name, process in (("the broker", service.broker), ("the gateway", service.gateway)):
        pids[name] = process.pid if process.poll() is None else None
    assert None not in pids.values(), pids
    assert len(pids) == 9, pids
    return pids


async def _send(port: int, request: Request) -> str:
    sent = request.encode()
    async with asyncio.timeout(_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(sent)
            if not request.is_whole:
                return "left"  # it closes in the middle of its body
            try:
                data = await _until_its_end(reader, is_head=request.method == "HEAD")
            except ConnectionError:
                return "closed"  # the gateway refused it and did not read all of it
            return _judged(request, data)
        finally:
            writer.close()


async def _until_its_end(reader: asyncio.StreamReader, *, is_head: bool) -> bytes:
    """One answer: connections that are kept open have no other end than that of their first one."""
    data = b""
    while piece := await reader.read(65_536):
        data += piece
        head, mark, rest = data.partition(b"\r\n\r\n")
        while mark and head.split(b" ", 2)[1:2] == [b"100"]:
            data = rest
            head, mark, rest = data.partition(b"\r\n\r\n")
        if mark and is_head:
            break
        lower = head.lower()
        if mark and b"content-length: " in lower:
            if len(rest) >= int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]):
                break
        elif mark and b"chunked" in lower and rest.endswith(b"0\r\n\r\n"):
            break
    return data


def _judged(request: Request, data: bytes) -> str:
    """The status, or AssertionError."""
    head, mark, body = data.partition(b"\r\n\r\n")
    assert mark, f"not HTTP: {data[:200]!r}"
    status = int(head.split()[1])
    assert status < 500 or status == 501, body[:2000]
    if request.method == "HEAD":
        return str(status)
    if b"event-stream" in head:
        assert status == 200
        framed = _framed(body.decode())
        assert all(code in _FRAMED for code in framed), framed
        return "200 streamed" + (", error framed" if framed else "")
    if b"x-ndjson" in head:
        assert status == 200
        last = json.loads([piece for piece in body.split(b"\n") if piece.startswith(b"{")][-1])
        assert "error" in last or last["done"], last
        return "200 streamed" + (", error framed" if "error" in last else "")
    if b"content-type: audio/" in head.lower():
        assert status == 200
        assert b"chunked" not in head.lower() or body.endswith(b"0\r\n\r\n"), "cut off"
        return "200 audio"
    if b"content-type: text/plain" in head.lower():
        return str(status)  # of the root, and of transcripts
    answer = json.loads(body)
    if status >= 400 and "detail" not in answer:
        error = answer["error"]
        if isinstance(error, str):  # Ollama's form
            assert error
            assert answer.keys() == {"error"}
            return f"{status} in Ollama's form"
        details = ["details"] if answer.get("type") == "error" else []  # of Anthropic's form
        assert sorted(error) == ["code", *details, "message", "param", "retryable", "type"], error
        assert error["message"], error
        return f"{status} {error['code']}" + (" with param" if error["param"] else "")
    return str(status)


def _framed(stream: str) -> list[str]:
    """The codes of errors with which a stream ends. AssertionError for one without an end."""
    if "event: response." in stream:
        last = json.loads(stream.rpartition("\ndata: ")[2].partition("\n")[0])
        assert last["type"] in ("response.completed", "response.incomplete", "response.failed"), stream[-500:]
        return [last["response"]["error"]["type"]] if last["type"] == "response.failed" else []
    if "event: message_start" in stream or "event: error" in stream:
        last = json.loads(stream.rpartition("\ndata: ")[2].partition("\n")[0])
        assert last["type"] in ("message_stop", "error"), stream[-500:]
        return [last["error"]["code"]] if last["type"] == "error" else []
    assert "[DONE]" in stream, stream[-500:]
    return [json.loads(line[6:])["error"]["code"] for line in stream.split("\n") if line.startswith('data: {"error"')]


def main(count: int, seed: int, first: int = 0) -> None:
    """Prints a table."""
    with tempfile.TemporaryDirectory() as directory:
        service = fuzz_service(Path(directory))
        try:
            service.start()
            began = time.monotonic()
            figures = asyncio.run(fuzz(service, count, seed, first))
            seconds = time.monotonic() - began
        finally:
            service.stop()  # asserts that no process is left
    rows = "\n".join(f"| {answer} | {times:,} |" for answer, times in sorted(figures.items()))
    sys.stdout.write(
        f"{figures.total():,} requests in {seconds:.0f} s, seed {seed}\n\n| answer | count |\n| --- | --- |\n{rows}\n"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
