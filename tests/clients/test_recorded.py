"""What client programs have sent once (`make test-clients`), sent again: they would get the same answers."""

import json
import re
from typing import Any

import pytest

from tests.clients.recorded import FOLDER, recorded, without_folders
from tests.service import Service

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
# Differ from run to run, or repeat the request, whose long texts are cut in the file.
VOLATILE = re.compile(
    r"id|.*_id|created(_at)?|completed_at|modified_at|expires_at|tools|instructions|.*_duration|.*fingerprint|size.*|digest"
    r"|sequence_number"
)


def test_there_are_recordings() -> None:
    assert {"ai", "anthropic", "claude", "codex", "ollama", "openai", "opencode"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_answers_are_the_same(playing: Service, name: str) -> None:
    for exchange in recorded(name):
        answer = playing.client.request(
            exchange["method"], exchange["path"], headers=exchange["headers"], content=_body_of(exchange)
        )
        assert answer.status_code == exchange["status"], answer.text
        assert answer.headers["content-type"] == exchange["answer_type"]
        assert gist_of(without_folders(answer.text)) == gist_of(exchange["answer"])


def _body_of(exchange: dict[str, Any]) -> bytes:
    return b"" if exchange["body"] is None else json.dumps(exchange["body"]).encode()


def gist_of(answer: str) -> Any:
    """What a client makes of an answer: of a stream the kinds of its events and all their words, as pieces may come
    together or apart."""
    events = [json.loads(line) for line in re.findall(r"^(?:data: )?(\{.*\})$", answer, re.MULTILINE)]
    if not events:
        return answer
    if len(events) == 1:
        return _lasting(events[0])
    words: list[str] = []
    for event in events:
        _gather(event, words)
    if "SIGSEGV" in answer:
        words = []  # the last of them may die with the process
        events[-1].get("response", {}).pop("output", None)
    return list(dict.fromkeys(_kind(event) for event in events)), "".join(words), _lasting(events[-1])


def _kind(event: dict[str, Any]) -> str:
    return str(event.get("type") or event.get("object") or sorted(event))


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(one) for name, one in value.items() if not VOLATILE.fullmatch(name)}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def _gather(value: Any, words: list[str]) -> None:
    if isinstance(value, dict):
        for name, one in value.items():
            if name in ("content", "delta", "text", "response", "arguments", "partial_json") and isinstance(one, str):
                words.append(one)
            else:
                _gather(one, words)
    elif isinstance(value, list):
        for one in value:
            _gather(one, words)
