"""Basic supervision with real MLX workers: a death affects only the clients of its own model."""

import os
import signal
import threading
from collections.abc import Callable

import httpx
import psutil

from tests.service import Service, Stream, wait_until


def test_a_killed_worker_ends_its_own_stream_only(service: Service) -> None:
    alone = service.chat("tiny-b", max_tokens=600).json()["choices"][0]["message"]["content"]
    survivor = service.model("tiny-b")["pid"]
    results: list[Stream] = []
    begun = threading.Event()

    def read_b() -> None:
        with service.stream("tiny-b", max_tokens=600) as stream:
            stream.next_text()
            begun.set()
            results.append(stream.finish())

    with service.stream("tiny-a", max_tokens=6000, resume=False) as a:
        a.next_text()
        reader = threading.Thread(target=read_b)
        reader.start()
        victim = service.model("tiny-a")["pid"]
        assert begun.wait(20)
        os.kill(victim, signal.SIGKILL)
        a.finish()
    reader.join(30)

    assert a.done
    assert a.error is not None
    assert a.error["code"] == "worker_died"
    assert "SIGKILL" in a.error["message"]
    assert a.error["retryable"] is True
    assert results[0].done
    assert results[0].error is None
    assert results[0].text == alone
    assert service.model("tiny-b")["pid"] == survivor

    again = service.chat("tiny-a")
    assert again.status_code == 200
    entry = service.model("tiny-a")
    assert entry["pid"] != victim
    assert entry["restarts"] == 1
    assert entry["last_exit"]["signal"] == "SIGKILL"
    assert not psutil.pid_exists(victim)


def test_no_worker_outlives_a_killed_broker(service: Service) -> None:
    service.load("tiny-a")
    service.load("bad")
    pids = [service.model("tiny-a")["pid"], service.model("bad")["pid"]]
    assert service.broker is not None
    service.broker.kill()
    service.broker.wait()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 2.0, "the end of the workers")


def test_a_restarted_broker_serves_the_same_gateway_and_keeps_pins(service: Service) -> None:
    assert service.load("tiny-a").status_code == 200
    assert service.broker is not None
    service.broker.kill()
    service.broker.wait()
    refused = service.chat("tiny-a")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "broker_unavailable"
    service.start_broker()
    wait_until(service.healthy, what="health")
    assert service.wait_state("tiny-a", "ready")["preloaded"] is True


def test_a_gateway_that_reads_late_gets_the_brokers_last_messages(service: Service) -> None:
    assert service.load("bad").status_code == 200
    answers: list[httpx.Response] = []
    client = threading.Thread(target=lambda: answers.append(service.chat("bad", "slow", max_tokens=100_000)))
    client.start()
    wait_until(lambda: service.model("bad")["in_flight"] == 1, what="the long request")
    assert service.gateway is not None
    assert service.broker is not None
    os.kill(service.gateway.pid, signal.SIGSTOP)
    try:
        service.broker.terminate()
        service.broker.wait(15)
    finally:
        os.kill(service.gateway.pid, signal.SIGCONT)
    client.join(20)
    (answer,) = answers
    assert answer.status_code == 503
    assert "the broker is shutting down" in answer.json()["error"]["message"]
    service.start_broker()
    wait_until(service.healthy, what="the next broker")
    assert service.chat("bad").status_code == 200


def test_unload_ends_the_process(service: Service) -> None:
    service.load("tiny-a")
    pid = service.model("tiny-a")["pid"]
    response = service.unload("tiny-a")
    assert response.json() == {"status": "unloaded", "model_id": "tiny-a"}
    assert not psutil.pid_exists(pid)
    assert service.model("tiny-a")["state"] == "unloaded"
    assert service.unload("tiny-a").status_code == 404


def test_sigterm_ends_everything_and_frames_open_streams(make_service: Callable[..., Service]) -> None:
    service = make_service()
    with service.stream("tiny-a", max_tokens=8000) as stream:
        stream.next_text()
        assert service.broker is not None
        assert service.gateway is not None
        service.broker.terminate()
        service.gateway.terminate()
        stream.finish()
    assert stream.done
    assert stream.error is not None
    assert service.broker.wait(10) == 0
    service.gateway.wait(10)
    assert service.left_behind() == []
