"""Aliases, patterns and profiles of the settings: which model is asked, with which defaults, how answers name it."""

import asyncio
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import InferenceRequest, Kill, Load, Pin, Pull, Remove, Unload, Unpin, Watch
from broker.wire.kinds import Task
from broker.wire.outputs import PARTIAL, Output
from broker.wire.packing import unpack
from broker.wire.paths import GATEWAY_SOCKET
from broker.wire.settings_file import SettingsError
from broker.wire.work import Generate
from gateway.core.names import Aliases, AliasSettings, is_pattern, mistakes, spellings
from gateway.core.sampling import Defaults
from gateway.directory import Directory
from gateway.link.client import BrokerClient
from gateway.openai.answers import ModelEntry
from gateway.settings import Settings, load_settings
from tests.gateway.played_broker import PlayedBroker, ending
from tests.gateway.running import MODEL, gateway_process, running_process
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink

QWEN, LLAMA = "mlx-community/Qwen3-8B-4bit", "mlx-community/Llama-3.2-3B"
TABLE: dict[str, Any] = {
    "sonnet": QWEN,
    "gpt-4o": LLAMA,
    "again": "fast",
    "fast": {"model": QWEN, "defaults": {"temperature": 0, "max_tokens": 7, "chat_template_kwargs": {"deep": False}}},
    "slow": {"model": "fast", "defaults": {"temperature": 0.5, "chat_template_kwargs": {"long": True}}},
    "claude-*": QWEN,
    "claude-opus-*": LLAMA,
}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


def settings(**fields: Any) -> Settings:
    return Settings(port=0, **{"aliases": TABLE, **fields})


def aliases(**table: Any) -> Aliases:
    return Aliases({name: AliasSettings.model_validate(entry) for name, entry in table.items()})


def meaning(name: str, *patterns: str) -> str | None:
    """The pattern that takes this name."""
    alias = aliases(**dict.fromkeys(patterns, "m")).loosely(name)
    return None if alias is None else alias.name


# ---- pure -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "patterns", "wins"),
    [
        ("claude-x", ("claude-*",), "claude-*"),
        ("claude-", ("claude-*",), "claude-*"),
        ("my-claude-x", ("claude-*",), None),
        ("org/claude-x", ("claude-*", "*"), None),
        ("org/claude-x", ("claude-*", "*/*"), "*/*"),
        ("gpt-4", ("gpt-?",), "gpt-?"),
        ("gpt-45", ("gpt-?",), None),
        ("gpt-4", ("gpt-[45]",), "gpt-[45]"),
        ("gpt-3", ("gpt-[45]",), None),
        ("gpt-3", ("gpt-[!45]",), "gpt-[!45]"),
        ("a/b", ("a[!x]b", "a?b"), None),
        ("xaabcab", ("*a*b*ab", "x*"), "*a*b*ab"),
        ("org/xay", ("*/*a*", "o*"), "*/*a*"),
        ("a/b/c", ("*/*",), None),
        ("a.b", ("a.[b]",), "a.[b]"),
        ("axb", ("a.[b]",), None),
        ("a^b", ("a[^]b",), "a[^]b"),
        # the most letters of its own, then the fewest stars, then the first
        ("claude-opus-4", ("*", "claude-*", "claude-opus-*"), "claude-opus-*"),
        ("claude-opus-4", ("claude-opus-*", "claude-*", "*"), "claude-opus-*"),
        ("abcd", ("a*d", "a??d"), "a??d"),
        ("abcd", ("*d", "a*"), "*d"),
        # other spellings
        ("Claude-X", ("claude-*",), "claude-*"),
        ("claude-x:latest", ("claude-x*x", "claude-?"), "claude-?"),
        ("x" * 513, ("*",), None),
    ],
)
def test_patterns(name: str, patterns: tuple[str, ...], wins: str | None) -> None:
    assert meaning(name, *patterns) == wins


def test_a_pattern_takes_no_time_over_a_long_name() -> None:
    assert meaning("a" * 512, "*a*a*a*a*a*a*b") is None  # by trying everything it would take days


def test_what_is_a_pattern() -> None:
    assert [name for name in ("a", "a*", "a?", "[a]", "a/b:c", "a.b-c") if is_pattern(name)] == ["a*", "a?", "[a]"]


def test_spellings_of_a_name() -> None:
    assert list(spellings("a:latest")) == ["a:latest", "a"]
    assert list(spellings("a:8b")) == ["a:8b"]


def test_an_alias_comes_in_other_cases_and_with_a_tag_that_means_nothing() -> None:
    table = aliases(Sonnet="m", **{"big:latest": "n"})
    exact, loose = table.exactly("Sonnet:latest"), table.loosely("SONNET:latest")
    assert exact is not None
    assert loose is not None
    assert exact.model == loose.model == "m"
    assert table.exactly("sonnet") is None
    assert table.exactly("big") is table.exactly("big:latest") is table.named["big:latest"]


def test_defaults_of_all_aliases_on_the_way_are_joined() -> None:
    table = aliases(**TABLE)
    slow = table.named["slow"]
    assert slow.model == QWEN
    assert slow.defaults == Defaults(temperature=0.5, max_tokens=7, chat_template_kwargs={"deep": False, "long": True})
    assert table.named["again"].defaults == table.named["fast"].defaults


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"a": "b", "b": "a"}, "aliases.a: leads in a circle"),
        ({"a": "a"}, "aliases.a: leads in a circle"),
        ({"a": "b*"}, "aliases.a: b* is a pattern: must be a model or an alias"),
        ({"a": "../b"}, "aliases.a: '../b' is not a model name: one is `name` or `org/name`"),
        ({"a": ""}, "aliases.a: '' is not a model name: one is `name` or `org/name`"),
        ({"a/b/c": "m"}, "aliases.'a/b/c' is not a name for a model: must be `name` or `org/name`"),
        ({"": "m"}, "aliases.'' is not a name for a model: must be `name` or `org/name`"),
        ({"a\n": "m"}, "aliases.'a\\n' is not a name for a model: must be `name` or `org/name`"),
        ({"x[b-a]": "m"}, "aliases.x[b-a]: is not a pattern: what stands in brackets is no set of letters"),
    ],
)
def test_mistakes_that_no_model_can_mend(table: dict[str, str], line: str) -> None:
    found = mistakes({name: AliasSettings(model=model) for name, model in table.items()})
    assert found[0] == line
    assert len(found) == len(table)


def test_mistakes_stop_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("mlx-broker.toml")
    file.write_text('[aliases]\na = "b"\nb = "a"\n"c:d" = { model = "m", defaults = { top_p = 1 } }\n')
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.args == ("aliases.a: leads in a circle", "aliases.b: leads in a circle")
    file.write_text('[aliases]\na = 1\nb = { defaults = { top_p = 2 } }\nc = { model = "m", options = {} }\n')
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert [line.partition(": ")[0] for line in caught.value.args] == [
        *("aliases.a", "aliases.b.model", "aliases.b.defaults.top_p", "aliases.c.options")
    ]
    file.write_text('[aliases]\n"c:d" = { model = "m", defaults = { top_p = 1 } }\n')
    assert load_settings().aliases["c:d"].defaults.top_p == 1


# ---- over HTTP ------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.anyio


@pytest.fixture
async def broker(runtime_dir: Path) -> AsyncIterator[PlayedBroker]:
    async with PlayedBroker(runtime_dir, models=[QWEN, LLAMA]) as broker:
        yield broker


@pytest.fixture
async def client(runtime_dir: Path, broker: PlayedBroker) -> AsyncIterator[httpx.AsyncClient]:
    models = {QWEN: {"defaults": {"temperature": 0.9, "top_p": 0.8, "chat_template_kwargs": {"deep": True, "x": 1}}}}
    link = BrokerClient(runtime_dir / GATEWAY_SOCKET)
    async with served(link, settings(models=models, default_model="sonnet")) as client:
        await broker.meet()
        yield client


async def asked(
    broker: PlayedBroker, client: httpx.AsyncClient, path: str = "/v1/chat/completions", **body: Any
) -> tuple[str, Generate, httpx.Response]:
    """The model and the work of a request, and its answer."""
    asking = asyncio.create_task(client.post(path, json=CHAT | body))
    request_id, request = await broker.expect(InferenceRequest)
    await broker.finish(request_id, "Paris.")
    return request.model, unpack(Generate, request.payload), await asking


@pytest.mark.parametrize(
    ("name", "model", "answers"),
    [
        ("sonnet", QWEN, "sonnet"),
        ("SONNET:latest", QWEN, "SONNET:latest"),
        ("fast", QWEN, "fast"),
        ("claude-haiku-4-5", QWEN, "claude-haiku-4-5"),
        ("claude-opus-4-5", LLAMA, "claude-opus-4-5"),
        (None, QWEN, "sonnet"),
        ("default_model", QWEN, "sonnet"),
        # no aliases: the id on the disk, or what nobody knows as it is
        (QWEN, QWEN, QWEN),
        (QWEN.lower() + ":latest", QWEN, QWEN),
        ("org/new", "org/new", "org/new"),
    ],
)
async def test_answers_have_the_name_that_was_asked_for(
    broker: PlayedBroker, client: httpx.AsyncClient, name: str | None, model: str, answers: str
) -> None:
    for path, stream in product(("/v1/chat/completions", "/v1/completions"), (False, True)):
        body = {"prompt": "Hi", "stream": stream} | ({} if name is None else {"model": name})
        got, _work, answer = await asked(broker, client, path, **body)
        assert got == model
        assert f'"model":"{answers}"' in answer.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"max_tokens": 5}),
        ("/v1/responses", {"input": "Hi"}),
        ("/api/chat", {}),
        ("/api/generate", {"prompt": "Hi"}),
    ],
)
async def test_every_dialect_takes_them(
    broker: PlayedBroker, client: httpx.AsyncClient, path: str, body: dict[str, Any], stream: bool
) -> None:
    for name in ("fast", "claude-haiku-4-5"):
        model, work, answer = await asked(broker, client, path, **body, model=name, stream=stream)
        assert (model, work.temperature) == (QWEN, 0 if name == "fast" else 0.9)
        assert f'"model":"{name}"' in answer.text
        assert QWEN not in answer.text


async def test_tokens_are_counted_by_an_alias(broker: PlayedBroker, client: httpx.AsyncClient) -> None:
    asking = asyncio.create_task(client.post("/v1/messages/count_tokens", json=CHAT | {"model": "gpt-4o"}))
    request_id, request = await broker.expect(InferenceRequest)
    assert (request.model, request.task) == (LLAMA, Task.COUNT)
    await broker.final(request_id, {"prompt_tokens": 3})
    assert (await asking).json() == {"input_tokens": 3}


async def test_so_have_embeddings_and_rerankings(broker: PlayedBroker, client: httpx.AsyncClient) -> None:
    vector = {"vectors": bytes(4), "size": 1, "prompt_tokens": 1}
    scores = {"scores": bytes(4), "prompt_tokens": 1}
    for path, body, final in (
        ("/v1/embeddings", {"input": "a"}, vector),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}, scores),
        ("/api/embed", {"input": "a"}, vector),
    ):
        asking = asyncio.create_task(client.post(path, json=body | {"model": "gpt-4o"}))
        request_id, request = await broker.expect(InferenceRequest)
        assert request.model == LLAMA
        await broker.final(request_id, final)
        assert (await asking).json()["model"] == "gpt-4o"


async def test_the_request_comes_before_the_profile_and_that_before_the_model(
    broker: PlayedBroker, client: httpx.AsyncClient
) -> None:
    _, work, _ = await asked(broker, client, model="fast", min_p=0.1)
    assert (work.temperature, work.top_p, work.min_p, work.max_tokens) == (0, 0.8, 0.1, 7)
    assert work.chat_template_kwargs == {"deep": False, "x": 1}
    _, work, _ = await asked(
        broker, client, model="fast", temperature=0.3, max_tokens=9, chat_template_kwargs={"deep": 2}
    )
    assert (work.temperature, work.top_p, work.max_tokens) == (0.3, 0.8, 9)
    assert work.chat_template_kwargs == {"deep": 2, "x": 1}
    _, work, _ = await asked(broker, client, model="sonnet")
    assert (work.temperature, work.max_tokens) == (0.9, 4096)


async def test_administration_acts_on_the_model_behind_an_alias(
    broker: PlayedBroker, client: httpx.AsyncClient
) -> None:
    final = {"model_id": QWEN, "model_type": "text-gen", "size_bytes": 1, "pid": 7}
    for verb, kind in (("load", Load), ("unload", Unload), ("kill", Kill), ("pin", Pin), ("unpin", Unpin)):
        for name in ("fast", "claude-haiku-4-5", QWEN.upper()):
            asking = asyncio.create_task(client.post(f"/admin/models/{verb}/{name}"))
            request_id, body = await broker.expect(kind)
            assert getattr(body, "model", None) == QWEN
            await broker.final(request_id, final)
            assert (await asking).json()["model_id"] == QWEN


async def test_an_alias_downloads_its_model_and_deletes_nothing(
    broker: PlayedBroker, client: httpx.AsyncClient
) -> None:
    for name, model in (("gpt-4o", LLAMA), ("claude-new", "claude-new")):
        asking = asyncio.create_task(client.post(f"/admin/models/pull/{name}"))
        request_id, body = await broker.expect(Pull)
        assert body.model == model
        await broker.final(request_id, {"model_id": model, "size_bytes": 1})
        assert (await asking).json()["model_id"] == model
    refused = await client.delete("/admin/models/gpt-4o")
    assert (refused.status_code, LLAMA in refused.json()["detail"]) == (400, True)
    asking = asyncio.create_task(client.delete(f"/admin/models/{LLAMA}"))
    request_id, remove = await broker.expect(Remove)
    assert remove.model == LLAMA
    await broker.final(request_id, {"model_id": LLAMA})
    assert (await asking).status_code == 200


async def test_progress_of_an_alias_is_that_of_its_model(broker: PlayedBroker, client: httpx.AsyncClient) -> None:
    watching = asyncio.create_task(client.get("/admin/models/fast/progress"))
    request_id = (await broker.expect(Watch))[0]
    await broker.outputs(*(Output(request_id, PARTIAL, {"model_id": m, "state": "ready"}) for m in (LLAMA, QWEN)))
    await broker.error(request_id, Failure(Code.MODEL_UNAVAILABLE, "the broker ends"))
    assert [model in (await watching).text for model in (QWEN, LLAMA)] == [True, False]


async def test_aliases_are_listed_with_their_models() -> None:
    models = [{**MODEL, "model_id": QWEN}]
    async with served(ScriptedLink([{"models": models}], models=[QWEN, LLAMA]), settings()) as client:
        entries = {entry["id"]: entry for entry in (await client.get("/v1/models")).json()["data"]}
        # gpt-4o leads to a model that is not here by now, patterns stand for no single name
        assert list(entries) == [QWEN, "sonnet", "again", "fast", "slow"]
        assert "alias_of" not in entries[QWEN]
        assert ModelEntry.model_validate(entries["sonnet"]).alias_of == QWEN
        same = entries[QWEN] | {"alias_of": QWEN}
        assert all(entries[name] == same | {"id": name} for name in ("sonnet", "again", "fast", "slow"))
        for name in ("sonnet", "claude-haiku-4-5", "Fast:latest"):
            assert (await client.get(f"/v1/models/{name}")).json() == same | {"id": name}
        assert (await client.get(f"/v1/models/{QWEN.lower()}:latest")).json() == entries[QWEN]
        for name in ("gpt-4o", "claude-opus-4-5", "nobody"):
            answer = await client.get(f"/v1/models/{name}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_alias_hides_a_model_that_came_later_with_its_name() -> None:
    models = [{**MODEL, "model_id": name} for name in (QWEN, "sonnet", "claude-local")]
    link = ScriptedLink([{"models": models}], models=[QWEN, LLAMA])
    async with served(link, settings()) as client:
        await client.get("/health")
        link.models = [QWEN, "sonnet", "claude-local"]
        entries = (await client.get("/v1/models")).json()["data"]
        assert [entry.get("alias_of") for entry in entries if entry["id"] == "sonnet"] == [QWEN]
        assert (await client.get("/v1/models/sonnet")).json()["alias_of"] == QWEN
        # a model comes before a pattern
        assert "alias_of" not in (await client.get("/v1/models/claude-local")).json()


async def test_what_a_name_means_is_asked_once() -> None:
    now = 0.0
    link = ScriptedLink([ending()], models=[QWEN])
    link.open()
    directory = Directory(settings(), link, lambda: now)
    assert (await directory.find(QWEN)).model == QWEN
    assert (await directory.find("claude-x")).model == QWEN
    link.models = ["claude-x"]
    assert (await directory.find("claude-x")).model == QWEN
    now = 6.0
    assert (await directory.find("claude-x")).model == "claude-x"
    assert (await directory.find(QWEN.lower())).model == QWEN.lower()
    assert (await directory.find(QWEN)).model == QWEN
    link.models = [QWEN.lower()]
    now = 61.0
    assert (await directory.find(QWEN)).model == QWEN.lower()


async def test_names_of_clients_are_not_remembered_without_end() -> None:
    link = ScriptedLink([ending()], models=[])
    link.open()
    directory = Directory(settings(), link)
    for number in range(2500):
        await directory.find(f"name-{number}")
    assert len(directory._learnt) <= 1000
    for odd in ("../x", "x" * 600, "a/b/c", ""):
        assert (await directory.find(odd)).model == odd
        assert odd not in directory._learnt


# ---- the start ------------------------------------------------------------------------------------------------------


async def test_aliases_that_fit_no_model_stop_the_start(runtime_dir: Path) -> None:
    (runtime_dir / "mlx-broker.toml").write_text(
        f'[aliases]\nok = "{QWEN}"\nlater = "hub/new"\ngone = "org/gone"\n"{LLAMA}" = "{QWEN}"\n'
        f'"x-*" = "org/gone"\nother = "ok"\ncase = "{QWEN.lower()}"\n'
    )
    async with PlayedBroker(runtime_dir, models=[QWEN, LLAMA]) as broker, gateway_process(runtime_dir) as gateway:
        await broker.meet()
        assert await gateway.ended() == 2
        assert [line for line in (await gateway.log()).splitlines() if " INFO " not in line] == [
            "gateway: aliases.gone: this machine has no model org/gone",
            f"gateway: aliases.{LLAMA}: this machine has a model of that name, {LLAMA}",
            "gateway: aliases.x-*: this machine has no model org/gone",
            f"gateway: aliases.case: the name of {QWEN.lower()} is {QWEN} on this machine",
        ]


async def test_aliases_that_fit_do_not(runtime_dir: Path) -> None:
    (runtime_dir / "mlx-broker.toml").write_text(f'[aliases]\nok = "{QWEN}"\nlater = "hub/new"\n"*" = "ok"\n')
    async with PlayedBroker(runtime_dir, models=[QWEN]) as broker, running_process(broker, runtime_dir) as gateway:
        assert "listens on" in gateway.announcement
