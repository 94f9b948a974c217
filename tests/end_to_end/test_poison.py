"""A request that ends its process while it is taken in: it is refused alone, and its model goes on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.conftest import MISBEHAVING
from tests.service import Service, wait_until


def test_a_poison_request_is_refused_and_never_replayed(service: Service) -> None:
    """SIGSEGV in native code, five times and more: the model is never `failed`."""
    assert service.chat("bad", "Hello").status_code == 200
    for number in range(7):
        response = service.chat("bad", f"poison {number}")
        assert response.status_code == 503
        error = response.json()["error"]
        assert (error["code"], error["retryable"]) == ("worker_died", False)
        assert "this request ended the process" in error["message"]
        assert "SIGSEGV" in error["message"]
        assert service.chat("bad", "Hello").status_code == 200
    assert service.model("bad")["restarts"] == 0
    assert service.model("bad")["last_exit"]["signal"] == "SIGSEGV"


def test_the_same_request_reaches_no_process_again(service: Service) -> None:
    assert service.chat("bad", "poison").status_code == 503
    assert service.chat("bad", "Hello").status_code == 200
    pid = service.model("bad")["pid"]
    assert service.chat("bad", "poison").json()["error"]["code"] == "worker_died"
    assert service.model("bad")["pid"] == pid


def test_two_choices_with_a_seed_end_one_process_and_an_innocent_is_answered_by_the_next(service: Service) -> None:
    service.load("bad").raise_for_status()
    with ThreadPoolExecutor(1) as pool:
        innocent = pool.submit(service.chat, "bad", "slow " * 50)
        wait_until(lambda: service.model("bad")["in_flight"] == 1, 20.0, "the innocent")
        error = service.chat("bad", "poison", n=2, seed=7).json()["error"]
        assert (error["code"], error["retryable"]) == ("worker_died", False)
        assert innocent.result().status_code == 200
    assert service.model("bad")["restarts"] == 0
    pid = service.model("bad")["pid"]
    assert service.chat("bad", "poison", seed=8).json()["error"]["code"] == "worker_died"
    assert service.model("bad")["pid"] == pid


def test_others_are_answered_by_the_next_process(service: Service) -> None:
    service.load("bad").raise_for_status()
    with service.stream("bad", "slow " * 50) as slow:
        slow.next_text()
        assert service.chat("bad", "poison").status_code == 503
        slow.finish()
        assert slow.error is None
        assert slow.finish_reason == "length"
    assert service.chat("bad", "Hello").status_code == 200


def test_a_request_that_clogs_its_process_is_refused_once_it_has_stalled(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(broker={"stall_timeout_seconds": 2.0}, models={"bad": MISBEHAVING})
    service.load("bad").raise_for_status()
    error = service.chat("bad", "clog").json()["error"]
    assert (error["code"], error["retryable"]) == ("worker_died", False)
    assert "hung" in error["message"]
    wait_until(lambda: service.chat("bad", "Hello").status_code == 200, 20.0)
    assert service.model("bad")["restarts"] == 0


def test_a_count_that_ends_its_process_is_refused_alone(service: Service) -> None:
    def count(content: str) -> Any:
        body = {"model": "bad", "messages": [{"role": "user", "content": content}]}
        return service.client.post("/v1/messages/count_tokens", json=body).json()

    assert count("abcdefgh") == {"input_tokens": 2}
    assert "this request ended the process" in count("poison")["error"]["message"]
    assert service.chat("bad", "Hello").status_code == 200
    pid = service.model("bad")["pid"]
    assert "error" in count("poison")
    assert count("abcdefgh") == {"input_tokens": 2}
    assert (service.model("bad")["pid"], service.model("bad")["restarts"]) == (pid, 0)
