"""The exact contract of the admin endpoints, and its effect on the machine: processes and their memory."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil

from tests.conftest import ECHO, MISBEHAVING
from tests.service import Service, processes_with, wait_until

NUMBER = (int, float)

CONTRACT = {
    "model_id": str,
    "model_type": str,
    "size_gb": float,
    "preloaded": bool,
    "last_used": NUMBER,
    "loaded_at": NUMBER,
}
OURS = {
    "state": str,
    "pid": int,
    "rss_bytes": int,
    "footprint_bytes": int,
    "mlx_active_bytes": int,
    "mlx_cache_bytes": int,
    "mlx_peak_bytes": int,
    "cpu_percent": float,
    "in_flight": int,
    "queued": int,
    "restarts": int,
    "last_exit": (dict, type(None)),
}
MEMORY = {"active_gb": float, "cache_gb": float, "peak_gb": float}


def assert_fields(values: dict[str, Any], types: dict[str, Any]) -> None:
    wrong = {name: values.get(name, "missing") for name, kind in types.items() if not _is(values.get(name), kind)}
    assert not wrong


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def pids(service: Service) -> set[int]:
    return {process.pid for process in processes_with(service.token)}


def measured(service: Service, model_id: str) -> dict[str, Any] | None:
    """The status entry once both kinds of figures have arrived: the broker's sample and the worker's heartbeat."""
    entry = service.model(model_id)
    return entry if entry["rss_bytes"] and entry["mlx_active_bytes"] else None


def test_preload_pins_and_starts_one_process_and_unload_ends_it(service: Service) -> None:
    asked_at = time.time()
    idle = pids(service)
    empty = service.status()
    assert (empty["loaded_models"], empty["total_models"]) == ([], 0)
    assert empty["memory"]["active_gb"] == 0
    assert_fields(empty, {"max_memory_gb": float, "max_models": int})
    assert empty["max_memory_gb"] > 0
    assert empty["max_models"] == 4

    loaded = service.load("tiny-a")
    assert loaded.status_code == 200
    answer = loaded.json()
    assert_fields(answer, {"size_gb": float})
    assert answer["size_gb"] > 0
    assert answer | {"size_gb": 0} == {
        "status": "loaded",
        "model_id": "tiny-a",
        "model_type": "text-gen",
        "size_gb": 0,
        "preloaded": True,
    }

    [entry] = service.status()["loaded_models"]
    assert_fields(entry, CONTRACT | OURS)
    assert entry["model_id"] == "tiny-a"
    assert entry["preloaded"] is True
    assert entry["state"] == "ready"
    assert asked_at <= entry["loaded_at"] <= entry["last_used"] <= time.time()
    assert pids(service) - idle == {entry["pid"]}

    worker = psutil.Process(entry["pid"])
    assert service.broker is not None
    assert worker.ppid() == service.broker.pid
    entry = wait_until(lambda: measured(service, "tiny-a"), what="the figures of the worker")
    assert entry["footprint_bytes"] >= entry["rss_bytes"] > 10 * 2**20
    assert entry["rss_bytes"] < 2 * worker.memory_info().rss
    assert entry["mlx_peak_bytes"] >= entry["mlx_active_bytes"] > 50_000  # the weights alone have 90 kB
    memory = service.status()["memory"]
    assert_fields(memory, MEMORY)
    assert memory["active_gb"] > 0
    assert memory["peak_gb"] >= memory["active_gb"]

    again = service.load("tiny-a").json()  # a second preload starts no second process
    assert (again["status"], again["size_gb"] > 0) == ("loaded", True)
    assert pids(service) - idle == {entry["pid"]}
    assert service.chat("tiny-a").status_code == 200
    assert service.model("tiny-a")["last_used"] > entry["last_used"]

    gone = service.unload("tiny-a")
    assert (gone.status_code, gone.json()) == (200, {"status": "unloaded", "model_id": "tiny-a"})
    assert pids(service) == idle
    assert not worker.is_running()
    after = service.status()
    assert (after["loaded_models"], after["total_models"]) == ([], 0)
    assert after["memory"]["active_gb"] == after["memory"]["rss_gb"] == 0

    again = service.unload("tiny-a")
    assert (again.status_code, again.json()) == (404, {"detail": "Model not loaded: tiny-a"})


def test_health_reports_the_broker(service: Service) -> None:
    healthy = service.client.get("/admin/health")
    assert (healthy.status_code, healthy.json()) == (200, {"status": "healthy"})
    assert service.broker is not None
    service.broker.kill()
    service.broker.wait()
    wait_until(lambda: service.client.get("/admin/health").status_code == 503, what="503")
    status = service.client.get("/admin/models/status")
    assert status.status_code == 503
    assert "broker" in status.json()["detail"]


def test_a_name_with_a_slash(make_service: Callable[..., Service]) -> None:
    service = make_service(models={"org/name": MISBEHAVING})
    assert service.load("org/name").json()["model_id"] == "org/name"
    assert service.load("org%2Fname").json()["model_id"] == "org/name"
    assert service.status()["total_models"] == 1
    assert service.unload("org/name").json() == {"status": "unloaded", "model_id": "org/name"}
    assert service.unload("org/name").json() == {"detail": "Model not loaded: org/name"}


def test_failures_carry_a_detail(make_service: Callable[..., Service]) -> None:
    service = make_service(
        broker={"max_models": 1},
        models={
            "echo": ECHO,
            "broken": MISBEHAVING | {"options": {"on_load": "raise"}},
            "crashing": MISBEHAVING | {"options": {"on_load": "crash"}},
        },
    )

    def detail(response: httpx.Response, status: int) -> str:
        assert response.status_code == status
        assert list(response.json()) == ["detail"]
        return str(response.json()["detail"])

    assert "nobody" in detail(service.load("nobody"), 500)
    assert "model.safetensors: broken on request" in detail(service.load("broken"), 500)
    assert "SIGSEGV" in detail(service.load("crashing"), 500)
    assert service.load("echo").status_code == 200
    assert "1 models" in detail(service.load("tiny-a"), 500)  # the only place is taken by a pinned model
    for action in ("unload", "kill", "unpin"):
        path = f"/admin/models/{action}/nobody"
        assert "nobody" in detail(service.client.post(path), 404)
        assert "methods" in detail(service.client.get(path), 405)
    assert "timeout" in detail(service.unload("echo", timeout="soon"), 400)
    assert "force" in detail(service.unload("echo", force="perhaps"), 400)
    assert "/admin/drop" in detail(service.client.post("/admin/drop"), 404)
    assert "nobody" in detail(service.client.delete("/admin/models/nobody"), 404)
    assert "methods" in detail(service.client.post("/admin/models/drop"), 405)
    assert service.model("echo")["state"] == "ready"


def test_unload_drains_or_forces(shared: Service) -> None:
    shared.load("bad")
    pid = shared.model("bad")["pid"]
    with shared.stream("bad", "slow", max_tokens=2000) as stream:
        stream.next_text()
        refused = shared.unload("bad", timeout=0.1)
        assert refused.status_code == 409
        assert "1 requests" in refused.json()["detail"]
        assert shared.model("bad")["preloaded"] is True
        stream.next_text()
        assert shared.unload("bad", timeout=0.1, force="true").status_code == 200
        assert not psutil.pid_exists(pid)
        stream.finish()
    assert stream.done
    assert stream.error is not None
    assert stream.error["code"] == "worker_died"

    shared.load("bad")
    with shared.stream("bad", "slow", max_tokens=10) as stream:
        stream.next_text()
        assert shared.unload("bad").status_code == 200  # waits for the stream
        stream.finish()
    assert stream.finish_reason == "length"
    assert shared.model("bad")["preloaded"] is False


def test_kill_and_unpin(shared: Service) -> None:
    shared.load("echo")
    unpinned = shared.client.post("/admin/models/unpin/echo")
    assert unpinned.json() == {"status": "unpinned", "model_id": "echo"}
    entry = shared.model("echo")
    assert (entry["state"], entry["preloaded"]) == ("ready", False)
    assert shared.client.post("/admin/models/unpin/echo").status_code == 404

    killed = shared.kill("echo")
    assert killed.json() == {"status": "killed", "model_id": "echo", "pid": entry["pid"]}
    assert not psutil.pid_exists(entry["pid"])
    dead = shared.model("echo")
    assert dead["state"] == "unloaded"
    assert dead["last_exit"]["signal"] == "SIGKILL"
    assert shared.kill("echo").status_code == 404

    shared.load("bad")
    before = shared.model("bad")
    assert shared.kill("bad").json()["pid"] == before["pid"]
    after = shared.wait_state("bad", "ready")
    assert after["pid"] != before["pid"]  # a pinned model comes back by itself
    assert after["exits"]["SIGKILL"] == before["exits"].get("SIGKILL", 0) + 1
    assert after["loads"] == before["loads"] + 1


def test_the_status_counts_what_happens_and_counts_outlive_the_process(shared: Service) -> None:
    shared.unload("echo")
    pinned = shared.client.post("/admin/models/pin/echo")
    assert pinned.json() == {"status": "pinned", "model_id": "echo"}
    loaded = shared.wait_state("echo", "ready")
    assert {"weights", "warm_up"} <= loaded["load_seconds"].keys()
    assert sum(loaded["load_seconds"].values()) < 60
    before = loaded["generation_tokens"], loaded["prompt_tokens"]
    with shared.stream("echo", "abcdefgh", max_tokens=40) as stream:
        stream.finish()

    def counted(model: dict[str, Any]) -> bool:
        return (model["generation_tokens"], model["prompt_tokens"]) == (before[0] + 40, before[1] + 2)

    wait_until(lambda: counted(shared.model("echo")), what="a heartbeat with the counts")
    busy = shared.model("echo")
    assert 0 < busy["ttft_seconds"] < 30
    assert 0 <= busy["heartbeat_age_seconds"] < 10
    assert (busy["live"], busy["waiting"], busy["prefilling"]) == (0, 0, 0)
    # The last words of the process: no beat after them is needed.
    assert shared.chat("echo", "abcd", max_tokens=3).status_code == 200
    shared.unload("echo")
    gone = shared.model("echo")
    assert (gone["generation_tokens"], gone["heartbeat_age_seconds"]) == (before[0] + 43, None)
    assert gone["tokens_per_second"] == 0
    status = shared.status()
    assert 0 < status["machine"]["available_gb"] <= status["machine"]["total_gb"]
    assert status["version"] == shared.client.get("/admin/version").json()["version"]


def test_keys_guard_their_own_paths(make_service: Callable[..., Service]) -> None:
    service = make_service(gateway={"admin_token": "root", "api_key": "user"}, models={"echo": ECHO})

    def statuses(method: str, path: str) -> list[int]:
        keys = (None, "Bearer wrong", "Basic root", "Bearer root", "Bearer user")
        headers = [{} if key is None else {"Authorization": key} for key in keys]
        return [service.client.request(method, path, headers=given).status_code for given in headers]

    assert statuses("GET", "/admin/models/status") == [401, 401, 401, 200, 401]
    assert statuses("POST", "/admin/models/load/echo") == [401, 401, 401, 200, 401]
    assert statuses("POST", "/admin/models/unload/echo") == [401, 401, 401, 200, 401]
    for action in ("kill", "unpin"):
        assert statuses("POST", f"/admin/models/{action}/echo") == [401, 401, 401, 404, 401]
    assert statuses("GET", "/v1/models") == [401, 401, 401, 401, 200]
    assert statuses("POST", "/v1/chat/completions") == [401, 401, 401, 401, 400]
    assert statuses("GET", "/admin/health") == [200] * 5
    refused = service.client.get("/admin/models/status")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert list(refused.json()) == ["detail"]
    assert service.client.get("/v1/models").json()["error"]["code"] == "invalid_api_key"


def test_a_page_of_another_site_cannot_administrate(shared: Service) -> None:
    shared.load("tiny-a")
    foreign = {"Origin": "https://elsewhere.example"}
    refused = shared.client.post("/admin/models/kill/tiny-a", headers=foreign)
    assert refused.status_code == 403
    assert shared.model("tiny-a")["state"] == "ready"
    own = shared.client.post("/admin/models/unload/tiny-a", headers={"Origin": shared.url})
    assert own.status_code == 200
