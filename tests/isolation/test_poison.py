"""The row of the matrix without a signal: requests that would end a process by what they contain, beside eight streams
of the same model and eight of another. All sixteen are whole, and the poison gets its 400.
"""

from typing import Any

import pytest

from tests.isolation.speakers import SPEAKERS, Heard
from tests.isolation.test_matrix import Client, streaming
from tests.service import Service
from tests.worker.generation.constraints.test_bounds import chain, in_object, rules

pytestmark = pytest.mark.exact

TOKENS = 800  # longer than the three refusals take on a busy machine
SCHEMA = chain(1000, in_object)
POISONS: list[tuple[str, dict[str, Any]]] = [
    ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
    (
        "tools[0]",
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
            "tool_choice": "required",
        },
    ),
    ("grammar", {"grammar": "start: r0\n" + rules(6500)}),
]


@pytest.mark.timeout(180)
def test_sixteen_streams_cannot_tell(isolated: Service) -> None:
    isolated.load("c").raise_for_status()
    alone = {name: isolated.chat(name, max_tokens=TOKENS).json()["choices"][0]["message"]["content"] for name in "bc"}
    pids = {name: isolated.model(name)["pid"] for name in "bc"}
    clients: list[tuple[str, Client]] = [
        (name, streaming(isolated, name, "Hello", TOKENS, speaker)) for name in "bc" for speaker in SPEAKERS * 2
    ]
    for _, client in clients:
        assert client.started.wait(30)
    for param, poison in POISONS:
        answer = isolated.chat("b", **poison)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("invalid_request", param)
        assert error["message"].startswith(param)
    assert not all(client.is_done for _, client in clients), "the streams ended before the poison came"
    for name, client in clients:
        assert client.join().heard == Heard(text=alone[name], is_ended=True)
    assert {name: isolated.model(name)["pid"] for name in "bc"} == pids
