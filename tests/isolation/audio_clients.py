"""Clients of audio models, each a request in a thread of its own: what has come of an answer, and how it ends."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.isolation.test_matrix import Client
from tests.service import Service

HEARS, SPEAKS = "whisper", "pocket"

SENTENCE = "Extraordinary circumstances."


def transcribing(service: Service, file: Path) -> Client:
    """A request for a whole transcript."""

    def run(client: Client) -> None:
        with file.open("rb") as sound:
            asked: dict[str, Any] = {"data": {"model": HEARS}, "files": {"file": sound}}
            client.response = service.client.post("/v1/audio/transcriptions", **asked)

    return Client(run)


class Transcript:
    """A streamed transcript. events: what has come."""

    def __init__(self, service: Service, file: Path) -> None:
        self.events: list[dict[str, Any]] = []

        def run(client: Client) -> None:
            with file.open("rb") as sound:
                asked: dict[str, Any] = {"data": {"model": HEARS, "stream": "true"}, "files": {"file": sound}}
                with service.client.stream("POST", "/v1/audio/transcriptions", **asked) as response:
                    for event in _events(response):
                        self.events.append(event)
                        client.started.set()

        self.client = Client(run)

    def must_say(self, text: str) -> None:
        """To its end, and no more than that."""
        self.client.join()
        pieces = [event["delta"] for event in self.events if event.get("type") == "transcript.text.delta"]
        assert "".join(pieces) == text
        assert self.events[-1] == {**self.events[-1], "type": "transcript.text.done", "text": text}


class Speech:
    """A spoken text, as the bytes of a file or as events. audio: what has come; end: `whole`, `cut`, or the code of the
    error that ended it."""

    def __init__(self, service: Service, text: str, *, events: bool = False) -> None:
        self.audio = b""
        self.end = ""
        body = {"model": SPEAKS, "input": text, "response_format": "pcm", "seed": 7}

        def run(client: Client) -> None:
            if events:
                body["stream_format"] = "sse"
            with service.client.stream("POST", "/v1/audio/speech", json=body) as response:
                for piece in self._told(response) if events else self._heard(response):
                    self.audio += piece
                    client.started.set()

        self.client = Client(run)

    def join(self) -> "Speech":
        """Once it has ended."""
        self.client.join()
        return self

    def must_say(self, audio: bytes) -> None:
        """To its end, and no more than that."""
        self.join()
        assert self.end == "whole"
        assert self.audio == audio

    def must_break(self, end: str, audio: bytes) -> None:
        """In the middle of this."""
        self.join()
        assert self.end == end
        assert audio.startswith(self.audio)
        assert 0 < len(self.audio) < len(audio)

    def _heard(self, response: httpx.Response) -> Iterator[bytes]:
        assert response.status_code == 200, response.read()
        try:
            yield from response.iter_bytes()
            self.end = "whole"
        except httpx.RemoteProtocolError:
            self.end = "cut"

    def _told(self, response: httpx.Response) -> Iterator[bytes]:
        for event in _events(response):
            assert not self.end, event
            if "error" in event:
                self.end = event["error"]["code"]
            elif event["type"] == "speech.audio.done":
                self.end = "whole"
            else:
                yield base64.b64decode(event["audio"])


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Those of a stream, which must have its last line."""
    assert response.status_code == 200, response.read()
    lines = [""]
    for line in filter(lambda line: line.startswith("data: "), response.iter_lines()):
        lines[0] = line
        if line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))
    assert lines == ["data: [DONE]"]
