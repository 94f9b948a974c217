"""Ollama's own Python client and LangChain's package for Ollama, unchanged, against one service: text, tools, images,
schemas, exceptions, models."""

import asyncio
import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from ollama import AsyncClient, Client, ResponseError
from pydantic import BaseModel

from tests.end_to_end.ollama_service import ARGUMENTS, ollama_service
from tests.hub import Hub
from tests.service import Service, wait_until
from tests.tiny_vision import picture

HELLO = [{"role": "user", "content": "Hello"}]
GREEDY = {"temperature": 0, "num_predict": 16}
# For models that give a prompt back, four letters to a token.
ECHOED: dict[str, Any] = {"messages": [{"role": "user", "content": "unharmed"}], "options": {"num_predict": 2}}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Hub]]:
    with ollama_service(tmp_path_factory.mktemp("ollama")) as started:
        yield started


@pytest.fixture(scope="module")
def service(started: tuple[Service, Hub]) -> Service:
    return started[0]


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, timeout=60) as client:
        yield client


def weather(city: str) -> str:
    """The weather in a city.

    Args:
      city: Its name.
    """
    return f"sunny in {city}"


def test_chats_and_prompts_streamed_and_whole(client: Client) -> None:
    whole = client.chat("tiny", HELLO, options=GREEDY)
    assert (whole.model, whole.done, whole.done_reason, whole.eval_count) == ("tiny", True, "length", 16)
    assert whole.message.content
    assert whole.message.thinking is None
    assert datetime.fromisoformat(str(whole.created_at)).tzinfo is not None
    parts = list(client.chat("Tiny:latest", HELLO, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert {part.model for part in parts} == {"Tiny:latest"}
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert (last.prompt_eval_count, last.eval_count) == (whole.prompt_eval_count, 16)
    assert last.total_duration == (last.prompt_eval_duration or 0) + (last.eval_duration or 0)
    assert (last.eval_duration or 0) > 0

    said = client.generate("tiny", "Hello", options=GREEDY)
    assert said.response == whole.message.content  # the same prompt
    raw = list(client.generate("tiny", "Hello", raw=True, options=GREEDY, stream=True))
    assert "".join(part.response or "" for part in raw) != said.response
    assert raw[-1].prompt_eval_count == len("Hello")  # this model has one token per byte

    likely = client.chat("tiny", HELLO, options=GREEDY, logprobs=True, top_logprobs=2)
    assert likely.logprobs is not None
    assert [len(entry.top_logprobs or ()) for entry in likely.logprobs] == [2] * 16


def test_a_client_of_asyncio(service: Service) -> None:
    async def read() -> str:
        async with AsyncClient(service.url) as client:
            parts = await client.chat("echo", stream=True, **ECHOED)
            return "".join([part.message.content or "" async for part in parts])

    assert asyncio.run(read()) == "unharmed"


def test_tools_and_thinking_in_a_loop_of_two_turns(client: Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    asked: dict[str, Any] = {"model": "calls", "tools": [weather], "think": True, "options": {"temperature": 0}}
    whole = client.chat(messages=messages, **asked)
    parts = list(client.chat(messages=messages, stream=True, **asked))
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert calls == whole.message.tool_calls
    [call] = calls
    assert (call.function.name, call.function.arguments) == ("weather", ARGUMENTS)
    assert (whole.message.thinking, whole.message.content) == ("hm", "Well")
    assert "".join(part.message.thinking or "" for part in parts) == "hm"
    messages += [
        whole.message,
        {"role": "tool", "tool_name": call.function.name, "content": weather(**call.function.arguments)},
    ]
    answer = client.chat(messages=messages, **asked)
    assert (answer.message.content, answer.message.tool_calls) == ("Take a hat.", None)


class Verdict(BaseModel):
    """What the model must answer with."""

    is_good: bool
    grade: Literal["a", "b"]


def test_an_answer_follows_its_schema(client: Client) -> None:
    schema = Verdict.model_json_schema()
    Verdict.model_validate_json(client.chat("tiny", HELLO, format=schema).message.content or "")
    parts = client.generate("tiny", "Judge.", format=schema, stream=True)
    Verdict.model_validate_json("".join(part.response or "" for part in parts))


def test_images(client: Client) -> None:
    seen = [{"role": "user", "content": "What is this?", "images": [picture(1)]}]
    blind = [{"role": "user", "content": "What is this?"}]
    counts = [client.chat("sees", turns, options=GREEDY).prompt_eval_count or 0 for turns in (seen, blind)]
    assert counts[0] > counts[1]
    told = client.generate("sees", "What is this?", images=[picture(1)], options=GREEDY)
    assert told.prompt_eval_count == counts[0]
    with pytest.raises(ResponseError, match=r"^messages\[0\]\.images\[0\]: this model reads text only"):
        client.chat("tiny", seen)


def test_vectors(client: Client) -> None:
    one = client.embed("vectors", "a cat")
    assert one.model == "vectors"
    both = client.embed("vectors", ["a cat", "a kitten"], dimensions=8)
    assert [len(vector) for vector in both.embeddings] == [8, 8]
    assert client.embeddings("vectors", "a cat").embedding == pytest.approx(list(one.embeddings[0]), abs=1e-5)
    long = client.embed("vectors", "cat " * 1000)
    assert long.prompt_eval_count == client.show("vectors").modelinfo["bert.context_length"]  # type: ignore[index]
    with pytest.raises(ResponseError, match=r"^input\[0\] has 4000 tokens|^input\[0\] has 4002 tokens") as refused:
        client.embed("vectors", "cat " * 1000, truncate=False)
    assert refused.value.status_code == 400


def test_errors_are_the_clients_exceptions(client: Client) -> None:
    for stream in (False, True):
        with pytest.raises(ResponseError, match="model not found") as unknown:
            list(client.chat("nobody", HELLO, stream=stream))
        assert unknown.value.status_code == 404
    with pytest.raises(ResponseError, match=r"options\.temperature: ") as invalid:
        client.generate("tiny", "Hi", options={"temperature": -1})
    assert invalid.value.status_code == 400
    with pytest.raises(ResponseError, match="is not served") as not_served:
        client.copy("tiny", "mine")
    assert not_served.value.status_code == 501
    with pytest.raises(ResponseError, match="is not served"):
        client.create("mine", from_="tiny")


def test_a_death_in_the_middle_of_a_stream_is_an_exception(client: Client, service: Service) -> None:
    parts = iter(
        client.chat("mortal", [{"role": "user", "content": "slow"}], stream=True, options={"num_predict": 999})
    )
    assert next(part.message.content for part in parts if part.message.content)
    assert service.kill("mortal", resume=False).status_code == 200
    with pytest.raises(ResponseError, match="killed by an administrator"):
        list(parts)


def test_lines_that_say_nothing_while_the_model_loads(client: Client) -> None:
    parts = list(client.chat("late", stream=True, **ECHOED))
    assert (parts[0].message.content, parts[0].done) == ("", False)
    assert "".join(part.message.content or "" for part in parts) == "unharmed"


def test_models_are_listed_and_shown(client: Client) -> None:
    listed = {model.model: model for model in client.list().models}
    assert {"tiny:latest", "calls:latest", "sees:latest", "vectors:latest"} <= listed.keys()
    tiny = listed["tiny:latest"]
    assert tiny.modified_at is not None
    assert tiny.size
    assert len(tiny.digest or "") == 64
    shown = {name: client.show(name) for name in ("tiny", "Calls:latest", "sees", "vectors", "echo")}
    assert {name: show.capabilities for name, show in shown.items()} == {
        "tiny": ["completion"],
        "Calls:latest": ["completion", "tools", "thinking"],
        "sees": ["completion", "vision"],
        "vectors": ["embedding"],
        "echo": ["completion"],
    }
    for show in shown.values():
        assert show.modelinfo is not None
        family = show.modelinfo["general.architecture"]
        assert show.details is not None
        assert show.details.family == family
    assert shown["tiny"].modelinfo["llama.context_length"] == 8192  # type: ignore[index]
    with pytest.raises(ResponseError, match="model not found"):
        client.show("nobody")


def test_a_model_stays_as_long_as_a_request_says(client: Client, service: Service) -> None:
    def until(name: str) -> datetime | None:
        return next((model.expires_at for model in client.ps().models if model.model == f"{name}:latest"), None)

    assert client.chat("stays", keep_alive="1h").done_reason == "load"
    expires = until("stays")
    assert expires is not None
    assert 3500 < (expires - datetime.now(UTC)).total_seconds() <= 3600
    assert client.generate("stays", keep_alive=-1).done_reason == "load"
    assert service.model("stays")["preloaded"]
    assert client.generate("stays", keep_alive=0).done_reason == "unload"  # which removes no pin
    assert (until("stays") or datetime.now(UTC)).year > 2200
    service.client.post("/admin/models/unpin/stays")
    assert client.chat("stays", keep_alive=0, **ECHOED).message.content == "unharmed"
    wait_until(lambda: until("stays") is None, what="the end of its process")


def test_a_model_is_pulled_and_deleted(client: Client, started: tuple[Service, Hub]) -> None:
    service, hub = started
    steps = list(client.pull("hf.co/org/new:latest", stream=True))
    assert steps[0].status == "pulling manifest"
    assert steps[-1].status == "success"
    bars = [step for step in steps if step.total]
    assert bars[-1].completed == bars[-1].total
    assert len({step.digest for step in bars}) == 1
    assert client.pull("org/new").status == "success"
    assert client.chat("org/new:latest", **ECHOED).message.content == "unharmed"
    service.load("org/new")
    with pytest.raises(ResponseError) as in_use:
        client.delete("org/new")
    assert in_use.value.status_code == 409
    service.client.post("/admin/models/unpin/org/new")
    assert client.delete("org/new:latest").status == "success"
    with pytest.raises(ResponseError) as gone:
        client.delete("org/new")
    assert gone.value.status_code == 404
    hub.refusals["org/gated"] = (403, "GatedRepo")
    for stream in (False, True):
        with pytest.raises(ResponseError, match="is gated"):
            list(client.pull("org/gated", stream=stream))


def test_the_second_port(service: Service) -> None:
    [port] = [line.rpartition(" ")[2] for line in service.config.read_text().splitlines() if "ollama_port" in line]
    with Client(f"127.0.0.1:{port}") as client:
        assert client.chat("echo", **ECHOED).message.content == "unharmed"


# ---- LangChain's package for Ollama ----------------------------------------------------------------------------------

Model = Callable[..., ChatOllama]


@pytest.fixture
def open_clients() -> Iterator[list[Any]]:
    """LangChain never closes the clients that it makes."""
    clients: list[Any] = []
    yield clients
    for client in clients:
        client._client.close()


@pytest.fixture
def model(service: Service, open_clients: list[Any]) -> Model:
    def make(name: str, **options: Any) -> ChatOllama:
        chat = ChatOllama(model=name, base_url=service.url, **{"temperature": 0, "num_predict": 16, **options})
        open_clients.append(chat)
        return chat

    return make


def joined(chunks: Iterator[Any]) -> AIMessageChunk:
    first, *others = chunks
    for chunk in others:
        first += chunk
    assert isinstance(first, AIMessageChunk)
    return first


def test_langchain_whole_and_streamed(service: Service, model: Model, open_clients: list[Any]) -> None:
    tiny = model("tiny", validate_model_on_init=True, num_ctx=2048, keep_alive="5m")
    whole = tiny.invoke("Hello")
    streamed = joined(tiny.stream("Hello"))
    assert whole.content
    assert streamed.content == whole.content
    for answer in (whole, streamed):
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] == 16
        assert answer.response_metadata["done_reason"] == "length"
    completion = OllamaLLM(model="tiny", base_url=service.url, temperature=0, num_predict=16)
    open_clients.append(completion)
    assert completion.invoke("Hello") == whole.content


def test_langchain_lines_that_say_nothing_are_nothing(model: Model) -> None:
    assert joined(model("later", num_predict=2).stream("unharmed")).content == "unharmed"


def test_langchain_tools_in_a_loop_of_two_turns(model: Model) -> None:
    calls = model("calls", num_predict=99, reasoning=True).bind_tools([tool(weather)])
    turns: list[Any] = [HumanMessage("Weather in Paris?")]
    answer = calls.invoke(turns)
    assert answer.additional_kwargs["reasoning_content"] == "hm"
    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("weather", ARGUMENTS)
    assert joined(calls.stream(turns)).tool_calls[0]["args"] == ARGUMENTS
    turns += [answer, ToolMessage(weather(**call["args"]), tool_call_id=call["id"])]
    assert calls.invoke(turns).content == "Take a hat."


def test_langchain_a_structured_answer(model: Model) -> None:
    judge = model("tiny", temperature=None, num_predict=None).with_structured_output(Verdict, method="json_schema")
    assert isinstance(judge.invoke("Judge."), Verdict)


def test_langchain_images(model: Model) -> None:
    url = f"data:image/png;base64,{base64.b64encode(picture(1)).decode()}"
    parts: list[Any] = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    sees = model("sees")
    counts = [
        usage["input_tokens"]
        for content in (parts, parts[:1])
        if (usage := sees.invoke([HumanMessage(content)]).usage_metadata) is not None
    ]
    assert counts[0] > counts[1]


def test_langchain_vectors(service: Service, open_clients: list[Any]) -> None:
    embeddings = OllamaEmbeddings(model="vectors", base_url=service.url)
    open_clients.append(embeddings)
    vectors = embeddings.embed_documents(["a cat", "a kitten " * 500])
    assert len(vectors) == 2
    assert embeddings.embed_query("a cat") == pytest.approx(vectors[0], abs=1e-5)


def test_langchain_errors_and_a_death(service: Service, model: Model) -> None:
    with pytest.raises(ResponseError) as unknown:
        model("nobody").invoke("Hi")
    assert unknown.value.status_code == 404
    chunks = model("mortal", num_predict=999).stream("slow")
    assert next(chunk.content for chunk in chunks if chunk.content)
    assert service.kill("mortal", resume=False).status_code == 200
    with pytest.raises(ResponseError, match="killed by an administrator"):
        list(chunks)
