"""The header that names what an answer does without."""

from typing import Any

import pytest

from gateway.app import SUBTREES
from gateway.core.failure import ignored_header
from gateway.settings import Settings
from tests.gateway.played_broker import ending
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink
from tests.gateway.toy import ENDPOINTS as TOY

pytestmark = pytest.mark.anyio

HEADER = "x-mlx-broker-ignored"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
IGNORED = ["json_schema.uniqueItems", "tools[1].propertyNames", "messages[0].name"]


def link_of(ignored: list[str], *, stream: bool) -> ScriptedLink:
    bodies = [{"text": "One", "ignored": ignored}, ending(" two")]
    return ScriptedLink(bodies if stream else [{**ending("One two"), "ignored": ignored}])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_it_has_the_names_of_the_dialect(path: str, stream: bool) -> None:
    async with served(link_of(IGNORED, stream=stream)) as client:
        answer = await client.post(path, json={**CHAT, "prompt": "Hi", "stream": stream, "n": 2})
    assert answer.status_code == 200
    assert answer.headers[HEADER] == "response_format.uniqueItems, tools[1].propertyNames, messages[0].name"


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_ignored_is_no_header(stream: bool) -> None:
    async with served(ScriptedLink([{"text": "One"}, ending()] if stream else [ending()])) as client:
        assert HEADER not in (await client.post("/v1/chat/completions", json={**CHAT, "stream": stream})).headers


@pytest.mark.parametrize("stream", [False, True])
async def test_a_header_is_short_and_safe(stream: bool) -> None:
    link = link_of(["é\r\nset-cookie: a=b", *(f"tools[{n}].uniqueItems" for n in range(128))], stream=stream)
    async with served(link) as client:
        answer = await client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
    value = answer.headers[HEADER]
    assert "set-cookie" not in answer.headers
    assert value.startswith("???set-cookie: a=b, tools[0].uniqueItems, ")
    assert value.endswith("].uniqueItems, ...")
    assert len(value) <= 2010


def test_what_does_not_fit_into_the_header_is_not_named() -> None:
    asked: list[str] = []

    def named(field: str) -> str:
        asked.append(field)
        return field

    ignored_header(named, [f"options.o{n}" for n in range(100_000)])
    assert len(asked) < 1000


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_named_under_the_names_of_the_client(stream: bool) -> None:
    plain, strict = ({"type": "function", "function": {"name": name}} for name in "ab")
    custom = {"type": "custom", "custom": {"name": "c"}}
    chat = {**CHAT, "tools": [plain, strict, custom], "stream": stream}
    async with served(link_of(["tools[1].function.strict", "tools[2].format"], stream=stream)) as client:
        free = await client.post("/v1/chat/completions", json=chat)
    async with served(link_of([], stream=stream)) as client:
        bound = await client.post("/v1/chat/completions", json=chat)
        without = await client.post("/v1/chat/completions", json={**chat, "tool_choice": "none"})
    assert free.headers[HEADER] == "tools[1].function.strict, tools[2].custom.format"
    assert HEADER not in bound.headers
    assert without.headers[HEADER] == "tools"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_dialect_names_what_it_leaves_out_itself(stream: bool) -> None:
    link = link_of(["json_schema.not"], stream=stream)
    async with served(link, Settings(port=0), TOY, SUBTREES) as client:
        tell = {"llm": "m", "turns": [{"who": "user", "says": "Hi"}], "live": stream}
        answer = await client.post("/toy/tell", json=tell)
    assert answer.status_code == 200, answer.text
    assert answer.headers[HEADER] == "turns.mood, shape.not"
