"""What a running service tells Prometheus: about requests, a death, two gateways and a broker that comes back."""

import os
import signal
import time
from collections.abc import Callable

import httpx
import pytest

from tests.conftest import ECHO
from tests.end_to_end.reloading import Reloading, counted
from tests.gateway.metrics.exposed import Exposed, complaints, read
from tests.service import Service, free_port, wait_until


def scrape(client: httpx.Client) -> Exposed:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return read(answer.text, answer.headers["content-type"])


def test_the_facts_of_a_model_that_answers_and_dies(shared: Service) -> None:
    if shared.model("tiny-a")["state"] == "ready":
        counted(Reloading(shared, "tiny-a"))  # what an earlier test has made is told
    before = scrape(shared.client)
    assert complaints(shared.client.get("/metrics").text) == ""

    def grown(seen: Exposed, name: str, **labels: str) -> float:
        return (seen.value(name, model="tiny-a", **labels) or 0) - (before.value(name, model="tiny-a", **labels) or 0)

    with shared.stream("tiny-a", max_tokens=20) as stream:
        stream.finish()

    def told() -> Exposed | None:
        seen = scrape(shared.client)
        return seen if grown(seen, "worker_generation_tokens_total") >= 20 else None

    seen: Exposed = wait_until(told, what="the heartbeat with the tokens")
    assert grown(seen, "requests_total", outcome="ok") == 1
    assert grown(seen, "generation_tokens_total") == grown(seen, "worker_generation_tokens_total") == 20
    assert grown(seen, "prompt_tokens_total") == grown(seen, "worker_prompt_tokens_total") > 0
    assert grown(seen, "inter_token_latency_seconds_count") > 0
    assert grown(seen, "time_to_first_token_seconds_count") == 1
    assert grown(seen, "request_queue_time_seconds_count") == 1
    assert seen.value("model_state", model="tiny-a", state="ready") == 1
    assert seen.value("num_requests_running", model="tiny-a") == 0
    footprint = seen.value("worker_footprint_bytes", model="tiny-a")
    limit = seen.value("worker_memory_limit_bytes", model="tiny-a")
    assert footprint is not None
    assert limit is not None
    assert 0 < footprint < limit
    heartbeat = seen.value("worker_heartbeat_age_seconds", model="tiny-a")
    assert heartbeat is not None
    assert heartbeat < 5

    os.kill(shared.model("tiny-a")["pid"], signal.SIGKILL)

    def dead() -> Exposed | None:
        seen = scrape(shared.client)
        return seen if grown(seen, "model_exits_total", exit="SIGKILL") else None

    seen = wait_until(dead, what="the exit")
    assert grown(seen, "model_exits_total", exit="SIGKILL") == 1
    assert grown(seen, "worker_generation_tokens_total") == 20


@pytest.mark.slow
def test_two_gateways_and_a_broker_that_is_killed_and_comes_back(make_service: Callable[..., Service]) -> None:
    service = make_service(models={"echo": ECHO})
    service.port = free_port()
    service.environment["MLX_BROKER_PORT"] = str(service.port)
    first_gateway, first = service.gateway, service.client
    service.client = service.second_client()
    service.start_gateway()
    second = service.client
    try:
        assert service.chat("echo").status_code == 200
        service.client = first
        assert [service.chat("echo").status_code for _ in range(2)] == [200, 200]
        seen = [scrape(client) for client in (first, second)]
        assert [one.value("requests_total", model="echo", outcome="ok") for one in seen] == [2, 1]
        for name in ("model_loads_total", "request_queue_time_seconds_count", "num_requests_waiting"):
            assert len({one.value(name, model="echo") for one in seen}) == 1
        started = seen[0].value("start_time_seconds")
        assert started is not None
        assert seen[1].value("start_time_seconds") == started
        assert seen[0].value("request_queue_time_seconds_count", model="echo") == 3, "of both gateways"

        assert service.broker is not None
        service.broker.kill()
        service.broker.wait()
        asked_at = time.monotonic()
        wait_until(lambda: scrape(first).value("up") == 0, what="up 0")
        assert time.monotonic() - asked_at < 5
        assert scrape(first).value("start_time_seconds") is None
        assert scrape(first).value("requests_total", model="echo", outcome="ok") == 2
        service.start_broker()
        wait_until(lambda: scrape(first).value("up") == 1, what="up 1")
        again = scrape(first).value("start_time_seconds")
        assert again is not None
        assert again > started
    finally:
        second.close()
        assert first_gateway is not None
        first_gateway.terminate()
        first_gateway.wait(15)
