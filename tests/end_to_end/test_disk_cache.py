"""A chat goes on from what its model has computed, after whatever ended the model's process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service import Service, end_process, wait_until
from tests.tiny_models import READABLE, make_tiny_model
from worker.cache.disk.writer import BURST_SECONDS

BLOCK = 256
CACHE = {"cache_disk_gb": 1, "cache_disk_reserve_gb": 0, "cache_disk_write_mb_per_second": 1000, "warm_spares": 1}
LONG = "why? " * 1600  # 8,000 tokens: a byte is one


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One process at a time, of two models that are its own."""
    models = tmp_path_factory.mktemp("own")
    for seed, name in enumerate(("a", "b")):
        make_tiny_model(models / name, seed=seed, context_length=16_384)
    started = Service(models, {"broker": {"max_models": 1, **CACHE}})
    try:
        yield started.start()
    finally:
        started.stop()


class Chat:
    """One chat; every turn is checked for what it has read again."""

    def __init__(self, service: Service, model: str, begins: str, text: str = LONG) -> None:
        self.service = service
        self.model = model
        self.messages = [{"role": "user", "content": f"{begins} {text}"}]

    def turn(self, question: str = "and then?") -> dict[str, int]:
        """The usage of the next answer, once what it leaves has been written."""
        usage = self.ask()
        wait_until(lambda: self.entry()["disk_cache_queue_bytes"] == 0 and self.entry()["disk_cache_files"] > 10)
        self.messages.append({"role": "user", "content": question})
        return usage

    def ask(self) -> dict[str, int]:
        fields: dict[str, Any] = {"temperature": 0, "max_tokens": 40}
        body = {"model": self.model, "messages": self.messages, "logit_bias": READABLE, **fields}
        response = self.service.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        answer = response.json()
        self.messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        usage = answer["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return {"prompt": usage["prompt_tokens"], "cached": cached, "total": usage["total_tokens"]}

    def entry(self) -> dict[str, Any]:
        return self.service.model(self.model)


def goes_on(chat: Chat, after: Callable[[], object]) -> None:
    """After that, the next turn reads nothing of the chat again: all but the last token of the answer has been kept."""
    known = chat.turn()["total"]
    after()
    usage = chat.turn()
    assert known - 1 <= usage["cached"] < usage["prompt"]
    wait_until(lambda: chat.entry()["disk_cache_hits"] == 1)


def test_a_death_in_the_middle_of_an_answer(service: Service) -> None:
    chat = Chat(service, "a", "one")
    known = chat.turn()["total"]
    pid = chat.entry()["pid"]
    with service.stream("a", "two " + LONG, max_tokens=8_000) as other:  # longer than the disk can take
        while chat.entry()["disk_cache_files"] < 63:  # 31 of each prompt: in the middle of the answer
            for _ in range(20):
                other.next_text()
        end_process(pid)
        wait_until(lambda: chat.entry()["pid"] not in (None, pid))
        seen = len(other.text)
        while len(other.text) < seen + 1_000:  # more than was on its way: the next process says it
            other.next_text()
    usage = chat.turn()
    assert known - 1 <= usage["cached"] < usage["prompt"]
    assert chat.entry()["pid"] != pid
    two = Chat(service, "a", "two")
    assert two.ask()["cached"] > len(LONG) - BLOCK


def test_a_death_while_blocks_wait(make_service: Callable[..., Service]) -> None:
    """What a process may write at once is there, and the next one reads all of it; the rest is lost."""
    block = 33_200  # bytes of a file
    rate = 12 * block / BURST_SECONDS / 1e6
    service = make_service(broker={**CACHE, "cache_disk_write_mb_per_second": rate})
    chat = Chat(service, "tiny-a", "six", LONG[:6000])
    assert chat.ask()["cached"] == 0
    entry = wait_until(lambda: (one := chat.entry())["disk_cache_files"] >= 12 and one)
    assert entry["disk_cache_queue_bytes"] > 5 * block
    end_process(entry["pid"])
    wait_until(lambda: chat.entry()["pid"] != entry["pid"])
    (folder,) = folders(service)
    written = len([*folder.rglob("*.safetensors")])
    assert 12 <= written < 16  # one in five seconds after the burst
    chat.messages.append({"role": "user", "content": "and then?"})
    assert chat.ask()["cached"] == written * BLOCK


@pytest.mark.slow
def test_one_model_after_the_other_keeps_both_warm(service: Service) -> None:
    a, b = Chat(service, "a", "three"), Chat(service, "b", "three")
    assert b.turn()["cached"] == 0
    goes_on(a, lambda: goes_on(b, a.turn))
    assert [service.model(name)["state"] for name in "ab"] == ["ready", "unloaded"]


@pytest.mark.slow
def test_an_unload(service: Service) -> None:
    chat = Chat(service, "a", "four")
    goes_on(chat, lambda: service.unload("a").raise_for_status())


@pytest.mark.slow
@pytest.mark.parametrize("what", [["broker"], ["broker", "gateway"]], ids=["broker", "service"])
def test_a_restart(make_service: Callable[..., Service], what: list[str]) -> None:
    service = make_service(broker=CACHE)

    def restart() -> None:
        processes = [service.broker if one == "broker" else service.gateway for one in what]
        for process in processes:
            assert process is not None
            process.terminate()
        for process in processes:
            assert process is not None
            process.wait(20)
        service.start_broker()
        if "gateway" in what:
            service.start_gateway()
        wait_until(service.healthy, 20)

    goes_on(Chat(service, "tiny-a", "four", LONG[:6000]), restart)


def folders(service: Service) -> list[Path]:
    return sorted((service.directory / "state" / "prompt-cache").glob("[!.]*"))


@pytest.mark.slow
def test_what_is_forgotten_and_what_is_removed(service: Service) -> None:
    for model in "ab":
        Chat(service, model, "five").turn()
    assert len(folders(service)) == 2
    service.client.post("/admin/cache/forget/a").raise_for_status()
    assert len(folders(service)) == 1
    assert Chat(service, "a", "five").turn()["cached"] == 0
    assert Chat(service, "b", "five").turn()["cached"] > 0
    service.client.post("/admin/cache/forget").raise_for_status()
    wait_until(lambda: not any(file.is_file() for folder in folders(service) for file in folder.rglob("*")))
    assert Chat(service, "b", "five").turn()["cached"] == 0
    service.unload("b").raise_for_status()
    assert len(folders(service)) == 1
    service.client.delete("/admin/models/b").raise_for_status()
    assert folders(service) == []
