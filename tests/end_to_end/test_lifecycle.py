"""The pool's rules on real processes: hangs, leaks, keep_alive, spares, pins, gateways that come and go."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from broker.wire.failure import DEVICE_EXIT_CODE
from tests.conftest import ECHO, MISBEHAVING, PACED
from tests.device_errors import DEVICE_ERRORS
from tests.service import Service, free_port, wait_until
from tests.tiny_models import make_tiny_model

MakeService = Callable[..., Service]

STALL_SECONDS = 1.5


def test_a_hung_step_is_ended_and_the_model_serves_again(make_service: MakeService) -> None:
    service = make_service(models={"bad": MISBEHAVING, "echo": ECHO}, broker={"stall_timeout_seconds": 1.0})
    assert service.chat("echo").status_code == 200
    with service.stream("bad", "hang after 3 tokens", max_tokens=100, resume=False) as stream:
        stream.finish()
    assert stream.done
    assert stream.error is not None
    assert "no progress for 1 s" in stream.error["message"]
    assert service.chat("bad").status_code == 200
    assert "hung" in service.model("bad")["last_exit"]["reason"]


def test_an_error_of_the_gpu_is_a_death_with_its_reason(make_service: MakeService) -> None:
    """The requests of a neighbour's fault: what has output gets worker_died, retryable; the text is in last_exit."""
    failing = MISBEHAVING | {"options": {"on_load": "gpu", "gpu": "memory"}}
    bad = MISBEHAVING | {"options": PACED}
    service = make_service(models={"bad": bad, "worse": MISBEHAVING, "failing": failing})
    with service.stream("bad", "gpu after 15 tokens", max_tokens=1000, resume=False) as stream:
        stream.next_text()
        stream.finish()
    assert stream.done
    assert stream.error is not None
    assert (stream.error["code"], stream.error["retryable"]) == ("worker_died", True)
    told = service.model("bad")["last_exit"]
    assert (told["code"], DEVICE_ERRORS["victim"] in told["reason"]) == (DEVICE_EXIT_CODE, True)

    met = service.chat("worse", "reset")  # while it is taken in, twice, and yet it is not to blame
    assert met.status_code == 503
    assert (met.json()["error"]["code"], met.json()["error"]["retryable"]) == ("worker_died", True)

    refused = service.chat("failing")  # it was tried twice
    assert refused.status_code == 503
    assert (refused.json()["error"]["code"], refused.json()["error"]["retryable"]) == ("worker_died", True)
    assert DEVICE_ERRORS["memory"] in refused.json()["error"]["message"]
    assert service.chat("bad").status_code == 200


def test_a_frozen_process_is_found_by_its_silence(make_service: MakeService) -> None:
    # Longer than a process may miss heartbeats while it imports from a cold disk cache.
    service = make_service(models={"bad": MISBEHAVING}, broker={"heartbeat_timeout_seconds": 3.0})
    with service.stream("bad", "slow", max_tokens=1000, resume=False) as stream:
        stream.next_text()  # a process that freezes itself may hold its last output back, and cause a replay
        os.kill(service.model("bad")["pid"], signal.SIGSTOP)
        stream.finish()
    assert stream.done
    assert stream.error is not None
    assert "no heartbeat" in stream.error["message"]
    assert service.chat("bad").status_code == 200


def test_a_long_prefill_is_not_taken_for_a_hang(make_service: MakeService, models_dir: Path) -> None:
    """Its pieces take a part of a stall timeout each, and all of it several, however quick the machine is."""
    tokens = 7000
    options = {"folder": str(models_dir / "tiny-a"), "tokens_per_second": tokens / (2 * STALL_SECONDS)}
    slow = {"engine": "tests.slow_engine:SlowEngine", "options": options | {"step_seconds": 0.0}}
    service = make_service(
        models={"long": slow}, broker={"stall_timeout_seconds": STALL_SECONDS, "heartbeat_interval_seconds": 0.1}
    )
    service.load("long")
    pid = service.model("long")["pid"]
    began = time.monotonic()
    answer = service.chat("long", "x" * tokens, max_tokens=4)
    assert answer.status_code == 200, answer.text
    took = time.monotonic() - began
    assert took > 2 * STALL_SECONDS, "the stall timeout could not have come"
    assert service.model("long")["pid"] == pid


def test_a_stalled_load_is_ended(make_service: MakeService) -> None:
    stuck = MISBEHAVING | {"options": {"on_load": "hang"}}
    # Starting the process is part of the load, and takes a second on a busy machine.
    service = make_service(models={"stuck": stuck, "echo": ECHO}, broker={"load_stall_timeout_seconds": 3.0})
    response = service.load("stuck")
    assert response.status_code == 500
    assert "load stalled for 3 s" in response.json()["detail"]
    assert service.chat("echo").status_code == 200


def test_only_the_process_over_its_memory_limit_is_ended(make_service: MakeService) -> None:
    limited = MISBEHAVING | {"memory_limit_gb": 0.25, "options": PACED}
    service = make_service(models={"bad": limited, "echo": ECHO}, broker={"memory_sample_seconds": 0.1})
    service.load("echo")
    bystander = service.model("echo")["pid"]
    with service.stream("bad", "leak 400 after 3 tokens", max_tokens=2000, resume=False) as stream:
        stream.finish()
    assert stream.done
    assert stream.error is not None
    assert "memory_limit" in stream.error["message"]
    assert service.wait_state("bad", "unloaded")["last_exit"]["reason"].startswith("memory_limit: took 0.")
    assert service.model("echo")["pid"] == bystander


def test_an_idle_model_is_unloaded_after_keep_alive_and_status_is_no_use(make_service: MakeService) -> None:
    short = ECHO | {"keep_alive_seconds": 1.0}
    service = make_service(models={"short": short, "echo": ECHO})
    service.chat("short")
    service.chat("echo")
    service.wait_state("short", "unloaded")  # this asks for the status all the time
    assert service.model("short")["reason"] == "keep_alive"
    assert service.model("echo")["state"] == "ready"


def test_a_warm_spare_takes_the_next_load_and_is_replaced(make_service: MakeService) -> None:
    service = make_service(broker={"warm_spares": 1})

    def spare() -> dict[str, object] | None:
        spares = service.status()["spares"]
        return spares[0] if spares and spares[0]["state"] == "imported" else None

    first = wait_until(spare, 20, "a spare")
    assert service.status()["total_models"] == 0
    service.load("tiny-a")
    assert service.model("tiny-a")["pid"] == first["pid"]
    second = wait_until(spare, 20, "the next spare")
    assert second["pid"] != first["pid"]
    os.kill(second["pid"], signal.SIGKILL)
    third = wait_until(lambda: (s := spare()) and s["pid"] != second["pid"] and s, 20, "a spare after its death")
    assert third["pid"] not in (first["pid"], second["pid"])


def test_models_of_the_settings_are_preloaded_and_kept(make_service: MakeService) -> None:
    service = make_service(
        models={"echo": ECHO | {"keep_alive_seconds": 0.1}}, broker={"preload_models": ["echo", "no/such"]}
    )
    assert service.wait_state("echo", "ready")["preloaded"] is True
    missing = service.model("no/such")
    assert missing["state"] == "failed"
    assert "no/such" in missing["reason"]
    assert service.chat("echo").status_code == 200


def test_a_corrupt_state_file_is_set_aside(make_service: MakeService) -> None:
    service = make_service(start=False)
    state = service.directory / "state"
    state.mkdir()
    (state / "pins.json").write_text("{not json")
    service.start()
    assert service.chat("tiny-a").status_code == 200
    assert (state / "pins.corrupt").exists()
    assert "set aside" in service.log("broker")
    service.load("tiny-b")
    assert json.loads((state / "pins.json").read_text()) == {"pinned": ["tiny-b"]}


def test_an_unwritable_state_file_stops_nothing(make_service: MakeService) -> None:
    service = make_service(start=False)
    (service.directory / "state").write_text("a file where the directory should be")
    service.start()
    assert service.load("tiny-a").status_code == 200
    assert service.chat("tiny-a").status_code == 200
    assert "pins will not survive a restart" in service.log("broker")


@pytest.mark.slow
def test_a_model_whose_folder_disappears_serves_until_its_reload(make_service: MakeService, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "fleeting", seed=6)
    service = make_service(models_path=tmp_path)
    service.load("fleeting")
    shutil.rmtree(folder)
    assert service.chat("fleeting").status_code == 200
    os.kill(service.model("fleeting")["pid"], signal.SIGKILL)
    entry = wait_until(lambda: (m := service.model("fleeting")) and m["state"] in ("failed", "cooldown") and m, 30)
    assert str(folder) in entry["reason"], entry


def test_eviction_takes_idle_models_and_waits_for_busy_ones(make_service: MakeService) -> None:
    service = make_service(models={"e1": ECHO, "e2": ECHO, "bad": MISBEHAVING}, broker={"max_models": 2})
    service.chat("e1")
    service.chat("e2")
    with service.stream("bad", "slow", max_tokens=100_000) as stream:
        stream.next_text()
        assert service.model("e1")["state"] == "unloaded"  # the least recently used was evicted
        service.chat("e1")  # evicts the idle e2, never the busy model
        assert service.model("e2")["state"] == "unloaded"
        stream.next_text()
    assert stream.error is None


def test_all_places_pinned_is_refused_at_once_with_the_numbers(make_service: MakeService) -> None:
    service = make_service(models={"e1": ECHO, "e2": ECHO}, broker={"max_models": 1})
    service.load("e1")
    response = service.chat("e2")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "insufficient_memory"
    assert "1 models, and these are pinned: e1" in response.json()["error"]["message"]


def test_a_full_queue_is_429_before_any_stream_begins(make_service: MakeService) -> None:
    service = make_service(models={"bad": MISBEHAVING, "echo": ECHO}, broker={"max_models": 1, "max_queue": 1})
    answers: list[int] = []
    with service.stream("bad", "slow", max_tokens=100_000) as busy:
        busy.next_text()
        waiting = threading.Thread(target=lambda: answers.append(service.chat("echo").status_code))
        waiting.start()
        service.wait_state("echo", "queued")
        with service.stream("echo") as refused:
            assert refused.response.status_code == 429
            assert int(refused.response.headers["retry-after"]) >= 1
            assert json.loads(refused.response.read())["error"]["code"] == "rate_limit_exceeded"
        busy.next_text()
    # Its client has left, and its place goes to the one that waits.
    waiting.join(20)
    assert busy.error is None
    assert answers == [200]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_killed_gateway_disturbs_no_other_and_leaves_no_work_behind(service: Service, number: signal.Signals) -> None:
    first, first_url = service.gateway, service.port
    service.port = free_port()
    service.environment["MLX_BROKER_PORT"] = str(service.port)
    client, service.client = service.client, service.second_client()
    service.start_gateway()
    assert first is not None
    assert first_url != service.port
    body = {"model": "bad", "stream": True, "max_tokens": 100_000}
    body["messages"] = [{"role": "user", "content": "slow"}]
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        with service.stream("bad", "Hello", max_tokens=100_000) as survivor:
            survivor.next_text()
            assert service.model("bad")["in_flight"] == 2
            first.send_signal(number)
            wait_until(lambda: service.model("bad")["in_flight"] == 1, 15, "the end of the lost gateway's work")
            heard = len(survivor.text)
            while len(survivor.text) < heard + 100:  # a second of it: more than was on its way
                survivor.next_text()
            assert survivor.error is None
    first.wait(15)
    client.close()
    assert psutil.pid_exists(service.model("bad")["pid"])


@pytest.mark.parametrize("phase", ["loading", "serving", "stopped", "ignoring SIGTERM", "draining"])
def test_kill_ends_the_process_now_in_any_phase(make_service: MakeService, phase: str) -> None:
    options: dict[str, object] = {"on_load": "hang"} if phase == "loading" else dict(PACED)
    service = make_service(models={"bad": MISBEHAVING | {"options": options}})
    body = "ignore sigterm" if phase == "ignoring SIGTERM" else "Hello"
    ends: list[dict[str, object]] = []
    begun = threading.Event()  # before its first output a request would be replayed

    def client() -> None:
        if phase == "loading":
            ends.append(service.load("bad").json())
            return
        with service.stream("bad", body, max_tokens=100_000) as stream:
            stream.next_text()
            begun.set()
            ends.append(stream.finish().error or {})

    thread = threading.Thread(target=client)
    thread.start()
    wanted = "loading" if phase == "loading" else "ready"
    pid = service.wait_state("bad", wanted)["pid"]
    if phase != "loading":
        assert begun.wait(10)
    if phase == "stopped":
        os.kill(pid, signal.SIGSTOP)
    unload: list[int] = []
    drainer = threading.Thread(target=lambda: unload.append(service.unload("bad", timeout=60).status_code))
    if phase == "draining":
        drainer.start()
        service.wait_state("bad", "draining")

    response = service.kill("bad", resume=False)
    assert response.status_code == 200
    assert response.json() == {"status": "killed", "model_id": "bad", "pid": pid}
    assert not psutil.pid_exists(pid)
    if phase == "loading":
        # The preload continues with a new process, which hangs as well: unload ends that one.
        wait_until(lambda: service.model("bad")["pid"] not in (None, pid), what="the next try")
        assert service.unload("bad").status_code == 200
    thread.join(10)
    if phase == "draining":
        drainer.join(10)
        assert unload == [200]
    if phase == "loading":
        assert "unloaded before it was ready" in str(ends[0]["detail"])
    else:
        assert ends[0]["code"] == "worker_died"
        assert "killed by an administrator" in str(ends[0]["message"])


def test_kill_and_unpin_of_unknown_models_are_404(service: Service) -> None:
    assert service.kill("no/such").status_code == 404
    assert service.client.post("/admin/models/unpin/no/such").status_code == 404
    assert service.kill("tiny-a").json() == {"detail": "Model not loaded: tiny-a"}
