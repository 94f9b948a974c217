"""OpenAI's streams and whole answers, byte for byte as they were recorded before the gateway had dialects.

recorded_streams.json: for each case the bodies of a worker's outputs, step by step, and the bytes that clients got.
Bytes inside a body stand as {"hex": ...}; the fingerprint of the libraries stands as fp_x.
"""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from broker.wire.failure import Code, Failure
from broker.wire.outputs import FINAL
from gateway.core.answer import Delta, End, delta_of, end_of
from gateway.openai.dialect import framed_error
from gateway.openai.fingerprint import SYSTEM_FINGERPRINT
from gateway.openai.replies import Chunks, Head, whole

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "recorded_streams.json").read_text())
CASES = [name for name in RECORDED if name != "error"]


def with_bytes(value: Any) -> Any:
    """`value` with {"hex": ...} as bytes again."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if value.keys() == {"hex"} else {k: with_bytes(v) for k, v in value.items()}
    return [with_bytes(entry) for entry in value] if isinstance(value, list) else value


def outputs(step: list[Any]) -> list[tuple[int, Delta | End]]:
    return [(index, end_of(body) if kind == FINAL else delta_of(body)) for index, kind, body in with_bytes(step)]


def as_recorded(data: bytes) -> str:
    return data.decode().replace(SYSTEM_FINGERPRINT, "fp_x")


@pytest.mark.parametrize("name", CASES)
def test_a_stream_is_what_it_was(name: str) -> None:
    case = RECORDED[name]
    head = Head("id-1", "org/tiny", 12, case["is_chat"])
    chunks = Chunks(head, case["choices"], include_usage=case["include_usage"])
    assert [as_recorded(chunks.render(outputs(step))) for step in case["steps"]] == case["streamed"]
    assert chunks.is_complete


@pytest.mark.parametrize("name", CASES)
def test_a_whole_answer_is_what_it_was(name: str) -> None:
    case = RECORDED[name]
    ends = [output for step in case["steps"] for _, output in outputs(step) if isinstance(output, End)]
    head = Head("id-1", "org/tiny", 12, case["is_chat"])
    assert as_recorded(orjson.dumps(whole(head, ends))) == case["whole"]


def test_an_error_inside_a_stream_is_what_it_was() -> None:
    failure = Failure(Code.WORKER_DIED, "the process died", None, 1.5, retryable=True)
    assert framed_error(failure).decode() == RECORDED["error"]["framed"]
