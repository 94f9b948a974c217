"""Programs in Python that speak OpenAI's chat: LangChain, Pydantic AI and llm, unchanged, in a loop of two turns."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.conftest import AGENT
from tests.service import Service

CALL = 'CALL {"name": "weather", "arguments": {"city": "Paris"}}'
SUN = "The tool says: sun in Paris"
DYING = "crash after 3 tokens, and not before them"


class City(BaseModel):
    name: str
    people: int


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """LangChain never closes one of its own."""
    with httpx.Client(timeout=30) as client:
        yield client


def chat_of(service: Service, http: httpx.Client, **options: Any) -> ChatOpenAI:
    place: dict[str, Any] = {"base_url": f"{service.url}/v1", "api_key": lambda: "none", "http_client": http}
    return ChatOpenAI(model=AGENT, max_retries=0, **place, **options)


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sun in {city}"


@pytest.mark.parametrize("responses", [False, True])
def test_langchain(playing: Service, http: httpx.Client, *, responses: bool) -> None:
    chat = chat_of(playing, http, use_responses_api=responses)
    assert "".join(str(piece.text) for piece in chat.stream("Hello from Python")) == "Hello from Python"

    bound = chat.bind_tools([weather])
    messages: list[Any] = [HumanMessage(CALL)]
    called = bound.invoke(messages)
    [call] = called.tool_calls
    messages += [called, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]
    assert str(bound.invoke(messages).text) == SUN

    with pytest.raises(openai.BadRequestError):
        chat_of(playing, http, use_responses_api=responses, top_p=7).invoke("Hello")
    with pytest.raises(openai.APIError if not responses else Exception, match="SIGSEGV"):
        list(chat.stream(DYING))


def test_langchain_with_a_schema(playing: Service, http: httpx.Client) -> None:
    structured = chat_of(playing, http).with_structured_output(City)
    assert structured.invoke('{"name": "Paris", "people": 2100000}') == City(name="Paris", people=2_100_000)


@pytest.mark.anyio
async def test_pydantic_ai(playing: Service) -> None:
    async with httpx2.AsyncClient(timeout=30) as http:
        provider = OpenAIProvider(base_url=f"{playing.url}/v1", api_key="none", http_client=http)
        await _work_with(OpenAIChatModel(AGENT, provider=provider))


async def _work_with(model: OpenAIChatModel) -> None:
    agent = Agent(model, retries=0)

    @agent.tool_plain(name="weather")
    def in_city(city: str) -> str:
        """The weather of a city."""
        return f"sun in {city}"

    assert (await agent.run(CALL)).output == SUN

    cities = Agent(model, output_type=NativeOutput(City), retries=0)
    asked = await cities.run('{"name": "Paris", "people": 2100000}')
    assert asked.output == City(name="Paris", people=2_100_000)

    with pytest.raises(ModelHTTPError) as refused:
        await Agent(model, retries=0, model_settings={"top_p": 7}).run("Hello")
    assert refused.value.status_code == 400
    # Nothing of a whole answer has been sent, so that it is asked of the next process, which dies in the same way.
    with pytest.raises(ModelHTTPError) as died:
        await Agent(model, retries=0).run(DYING)
    assert died.value.status_code == 503


def test_llm(playing: Service, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: local\n  model_name: {AGENT}\n  api_base: {playing.url}/v1\n  supports_tools: true\n"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LLM_USER_PATH": str(tmp_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llm", "-m", "local", "--key", "none", "--no-log", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert run("Hello from a terminal").stdout == "Hello from a terminal\n"
    function = 'def weather(city: str) -> str:\n    "The weather of a city."\n    return f"sun in {city}"\n'
    assert run("--functions", function, CALL).stdout.strip() == SUN
    assert "SIGSEGV" in run(DYING).stderr
