"""GET /v1/models as Anthropic's client reads it: pages, entries, errors. And OpenAI's client beside it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import anthropic
import httpx
import openai
import pytest
from pydantic import SecretStr, TypeAdapter

from broker.wire.failure import FailureError
from gateway.anthropic.lists import ModelInfo, ModelPage, PageQuery, entry, page_of
from gateway.core.administration import ListedModel
from gateway.core.names import AliasSettings, Listed
from gateway.core.query import query_of
from gateway.settings import Settings
from tests.gateway.running import MODEL
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink

NAMES = [f"org/m{number}" for number in range(5)]
MODELS = [{**MODEL, "model_id": name, "created": 1700000000 + place} for place, name in enumerate(NAMES)]


def listed(name: str, **facts: Any) -> Listed:
    return Listed(name, ListedModel.model_validate({**MODEL, "model_id": name, **facts}))


@pytest.mark.parametrize(
    ("query", "numbers", "has_more"),
    [
        ({}, [0, 1, 2, 3, 4], False),
        ({"limit": "2"}, [0, 1], True),
        ({"limit": "5"}, [0, 1, 2, 3, 4], False),
        ({"limit": "1000"}, [0, 1, 2, 3, 4], False),
        ({"limit": "2", "after_id": "org/m1"}, [2, 3], True),
        ({"limit": "2", "after_id": "org/m2"}, [3, 4], False),
        ({"after_id": "org/m4"}, [], False),
        ({"limit": "2", "before_id": "org/m3"}, [1, 2], True),
        ({"limit": "3", "before_id": "org/m3"}, [0, 1, 2], False),
        ({"before_id": "org/m0"}, [], False),
    ],
)
def test_pages(query: dict[str, str], numbers: list[int], has_more: bool) -> None:
    page, more = page_of([listed(name) for name in NAMES], query_of(PageQuery, query))
    assert [model.name for model in page] == [NAMES[number] for number in numbers]
    assert more == has_more


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *(({"limit": text}, "limit") for text in ("0", "-1", "1001", "ten", "", "1.0", "9" * 5000, "٣")),
        ({"after_id": "org/m9"}, "after_id"),
        ({"before_id": ""}, "before_id"),
        ({"after_id": "org/m1", "before_id": "org/m2"}, "before_id"),
    ],
)
def test_wrong_pages(query: dict[str, str], field: str) -> None:
    with pytest.raises(FailureError) as refused:
        page_of([listed(name) for name in NAMES], query_of(PageQuery, query))
    assert refused.value.failure.param == field


@pytest.mark.parametrize(
    ("created", "told"),
    [
        (0.0, "1970-01-01T00:00:00Z"),
        (1.7e9, "2023-11-14T22:13:20Z"),
        (-1e30, "1970-01-01T00:00:00Z"),
        (1e30, "9999-12-31T23:59:59Z"),
    ],
)
def test_times(created: float, told: str) -> None:
    assert entry(listed("m", created=created))["created_at"] == told


pytestmark = pytest.mark.anyio


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    aliases = {"sonnet": AliasSettings(model="org/m1"), "claude-*": AliasSettings(model="org/m2")}
    settings = Settings(port=0, aliases=aliases, api_key=SecretStr("key"))
    async with served(ScriptedLink([{"models": MODELS}], models=NAMES), settings) as client:
        yield client


async def test_anthropics_own_client(client: httpx.AsyncClient) -> None:
    async with anthropic.AsyncAnthropic(base_url=str(client.base_url), api_key="key", max_retries=0) as sdk:
        models = [model async for model in sdk.models.list(limit=2)]
        assert [model.id for model in models] == [*NAMES, "sonnet"]
        assert {model.type for model in models} == {"model"}
        assert models[0].created_at == datetime.fromtimestamp(1700000000, UTC)
        assert models[0].display_name == "org/m0"
        assert models[0].max_input_tokens == 2048
        page = await sdk.models.list(limit=2, before_id="sonnet")
        assert ([model.id for model in page.data], page.has_more) == (["org/m3", "org/m4"], True)
        assert (page.first_id, page.last_id) == ("org/m3", "org/m4")
        assert (await sdk.models.retrieve("claude-haiku-4-5")).id == "claude-haiku-4-5"
        assert (await sdk.models.retrieve("ORG/m1")).id == "org/m1"
        with pytest.raises(anthropic.NotFoundError) as missing:
            await sdk.models.retrieve("nobody")
        assert missing.value.type == "not_found_error"
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            await sdk.models.list(limit=0)
    async with anthropic.AsyncAnthropic(base_url=str(client.base_url), api_key="other", max_retries=0) as sdk:
        with pytest.raises(anthropic.AuthenticationError):
            await sdk.models.list()


async def test_openais_own_client_has_its_form(client: httpx.AsyncClient) -> None:
    async with openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="key", max_retries=0) as sdk:
        models = [model async for model in sdk.models.list()]
        assert [(model.id, model.object) for model in models] == [(name, "model") for name in [*NAMES, "sonnet"]]
        assert (await sdk.models.retrieve("sonnet")).id == "sonnet"


async def test_the_answers_are_what_their_models_say(client: httpx.AsyncClient) -> None:
    headers = {"anthropic-version": "2023-06-01", "authorization": "Bearer key"}
    TypeAdapter(ModelPage).validate_json((await client.get("/v1/models", headers=headers)).content)
    one = await client.get("/v1/models/sonnet", headers=headers)
    TypeAdapter(ModelInfo).validate_json(one.content)
    assert one.json()["alias_of"] == "org/m1"
