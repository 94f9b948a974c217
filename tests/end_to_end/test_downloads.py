"""Models that this machine does not have: a separate process downloads each from a hub on loopback."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.wire.failure import Failure
from broker.wire.paths import GATEWAY_SOCKET
from gateway.core import ask
from gateway.core.administration import PullProgress, PullReport
from gateway.link.client import BrokerClient
from tests.conftest import ECHO
from tests.end_to_end.test_events import Watcher
from tests.hub import Hub, serving
from tests.service import Service, processes_with, wait_until
from tests.tiny_models import make_tiny_model

MODEL, SECOND = "org/tiny", "org/second"
MIB = 1 << 20


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 10 MiB, so that it arrives in pieces, and files that are not needed."""
    folder = make_tiny_model(tmp_path_factory.mktemp("repository") / "tiny", hidden_size=512)
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(bytes(60_000))
    # The same weights in the format of training frameworks.
    (folder / "original").mkdir()
    for name in ("consolidated.safetensors", "original/consolidated.00.safetensors", "original/params.json"):
        (folder / name).write_bytes(b"{}")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[Hub]:
    with serving({MODEL: repository, SECOND: repository}) as hub:
        yield hub


@pytest.fixture
def serve(make_service: Callable[..., Service], hub: Hub, tmp_path: Path) -> Callable[..., Service]:
    """`serve(environment, **settings)`: a service without models whose hub is `hub`. Unless `real` is true, a
    downloaded model runs as an echo, which imports nothing heavy."""

    def start(environment: dict[str, str] | None = None, *, real: bool = False, **broker: Any) -> Service:
        models = {"echo": ECHO} | ({} if real else {name: {"type": "echo"} for name in (MODEL, SECOND)})
        service = make_service(start=False, models_path=tmp_path / "models", models=models, broker=broker)
        service.environment.pop("HF_HUB_OFFLINE")
        service.environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")} | (environment or {})
        return service.start()

    return start


@pytest.fixture
def pool(hub: Hub) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor
        hub.go_on.set()  # even after a failure, no download outlives the test


def stopped_load(
    service: Service, hub: Hub, pool: ThreadPoolExecutor, after: int = 4 * MIB
) -> "Future[httpx.Response]":
    """An admin's load whose download pauses `after` more bytes of the weights until `hub.go_on` is set."""
    hub.stops_after = after
    load = pool.submit(service.load, MODEL)
    assert hub.stopped.wait(30), service.log("broker")
    wait_until(lambda: (service.model(MODEL).get("fraction") or 0) > 0.2, 15, "progress in the status")
    return load


def why(response: httpx.Response) -> str:
    assert response.status_code == 500, response.text
    detail: str = response.json()["detail"]
    return detail


def test_an_admins_load_fetches_what_is_not_there(
    serve: Callable[..., Service], hub: Hub, pool: ThreadPoolExecutor
) -> None:
    service = serve({"HF_TOKEN": "hf_test"}, real=True)
    refused = service.chat(MODEL)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert hub.requests == []

    watcher = Watcher(service, "/admin/events")
    load = stopped_load(service, hub, pool)

    # While it pauses: the status that people see, and the requests of others.
    entry = service.model(MODEL)
    assert (entry["state"], entry["queued"], entry["preloaded"]) == ("downloading", 1, False)
    assert entry["pid"] in {p.pid for p in processes_with(service.token)}
    early = service.chat(MODEL)
    assert (early.status_code, early.json()["error"]["code"]) == (503, "model_unavailable")
    assert "is being downloaded (" in early.json()["error"]["message"]
    assert early.headers["retry-after"] == "10"
    assert service.chat("echo", "unharmed", max_tokens=2).json()["choices"][0]["message"]["content"] == "unharmed"
    assert MODEL not in [m["id"] for m in service.client.get("/v1/models").json()["data"]]

    def fractions() -> list[float]:
        return [e["fraction"] for e in watcher.events if e["state"] == "downloading" and e["fraction"] is not None]

    wait_until(lambda: any(0.2 < f < 0.9 for f in fractions()), what="an event in the middle")

    hub.go_on.set()
    loaded = load.result(30)
    assert loaded.status_code == 200, loaded.text
    assert loaded.json()["model_type"] == "text-gen"
    assert service.model(MODEL)["preloaded"]
    assert service.chat(MODEL).status_code == 200
    assert MODEL in [m["id"] for m in service.client.get("/v1/models").json()["data"]]

    told = fractions()
    assert told == sorted(told)
    assert told[0] == 0.0  # its last steps may come too soon one after another to be told
    assert watcher.states(MODEL)[:4] == ["downloading", "unloaded", "loading", "ready"]
    fetched = {path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET" and "resolve" in path}
    assert fetched == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert hub.keys == {"Bearer hf_test"}
    assert not list(service.directory.glob("hub/**/*.incomplete"))
    assert service.gateway is not None
    service.gateway.terminate()
    watcher.join()


def pulled(service: Service, model_id: str) -> list[PullProgress | PullReport]:
    """What a pull is told, up to its end."""

    async def act() -> list[PullProgress | PullReport]:
        link = BrokerClient(service.directory / "run" / GATEWAY_SOCKET)
        link.open()
        try:
            call = await link.call(ask.pull(model_id))
            told: list[PullProgress | PullReport] = []
            while not told or not isinstance(told[-1], PullReport):
                for _, item in await call.take():
                    assert not isinstance(item, Failure), item
                    told.append(item)
        finally:
            link.close()
        return told

    return asyncio.run(act())


def test_a_pull_loads_nothing_and_a_removal_leaves_nothing(
    serve: Callable[..., Service], repository: Path, tmp_path: Path
) -> None:
    service = serve()
    *progress, report = pulled(service, MODEL)
    size = sum(path.stat().st_size for path in repository.glob("model*.safetensors"))
    assert (report.model_id, report.model_dump()["size_bytes"]) == (MODEL, size)
    done = [step.done_bytes for step in progress if isinstance(step, PullProgress)]
    assert len(done) == len(progress) > 5
    assert done == sorted(done)
    # Its last files may come with the report.
    assert 0.9 * size < done[-1] <= progress[-1].model_dump()["total_bytes"]
    assert progress[-1].model_dump()["total_bytes"] > size
    assert MODEL in [m["id"] for m in service.client.get("/v1/models").json()["data"]]
    assert service.status()["loaded_models"] == []
    again = service.client.post(f"/admin/models/pull/{MODEL}")  # nothing to do
    assert again.json() == {"status": "pulled", "model_id": MODEL, "size_gb": pytest.approx(size / 2**30, abs=1e-6)}
    assert "has no repository" in service.client.post("/admin/models/pull/org/nobody").json()["detail"]

    assert service.load(MODEL).status_code == 200
    busy = service.client.delete(f"/admin/models/{MODEL}")
    assert (busy.status_code, "is loaded" in busy.json()["detail"]) == (409, True)
    assert service.chat(MODEL).status_code == 200
    service.unload(MODEL)
    gone = service.client.delete(f"/admin/models/{MODEL}")
    assert (gone.status_code, gone.json()) == (200, {"status": "removed", "model_id": MODEL})
    assert service.chat(MODEL).status_code == 404
    wait_until(lambda: not list((service.directory / "hub").glob("**/*tiny*")), 10, "the files are deleted")
    assert service.client.delete(f"/admin/models/{MODEL}").status_code == 404
    assert pulled(service, MODEL)[-1] == report


def test_a_killed_download_resumes_where_it_stopped(
    serve: Callable[..., Service], hub: Hub, pool: ThreadPoolExecutor
) -> None:
    service = serve()
    load = stopped_load(service, hub, pool)
    os.kill(service.model(MODEL)["pid"], signal.SIGKILL)
    detail = why(load.result(15))
    assert "org/tiny was not downloaded: signal SIGKILL" in detail
    assert f"hf download org/tiny --cache-dir {service.directory / 'hub'}" in detail
    assert service.model(MODEL)["state"] == "unloaded"
    assert service.chat(MODEL).status_code == 404  # half a model does not count as one
    # Nor does it for other programs: the final name appears last.
    assert not (service.directory / "hub" / "models--org--tiny" / "refs").exists()
    assert hub.ranges() == []

    hub.go_on.set()
    assert service.load(MODEL).status_code == 200
    [asked] = hub.ranges()
    assert asked in {f"bytes={n * MIB}-" for n in range(2, 5)}
    assert service.chat(MODEL).status_code == 200


def test_a_damaged_partial_file_is_downloaded_again(serve: Callable[..., Service], hub: Hub, repository: Path) -> None:
    service = serve()
    name = hashlib.sha256((repository / "model.safetensors").read_bytes()).hexdigest()
    damaged = service.directory / "hub" / "models--org--tiny" / "blobs" / f"{name}.incomplete"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(bytes(MIB))
    assert "model.safetensors has a wrong hash" in why(service.load(MODEL))
    assert hub.ranges() == [f"bytes={MIB}-"]
    assert service.load(MODEL).status_code == 200


def test_a_failed_download_says_why(serve: Callable[..., Service], hub: Hub, repository: Path, tmp_path: Path) -> None:
    service = serve()
    assert why(service.load("org/nobody")) == (
        f"org/nobody was not downloaded: {hub.url} has no repository org/nobody, "
        "or it is private and HF_TOKEN does not give access"
    )
    hub.refusals["org/gated"] = (403, "GatedRepo")
    assert "org/gated is gated: accept its conditions on its page" in why(service.load("org/gated"))
    hub.refusals["org/broken"] = (503, "")
    assert "answered: Server error '503" in why(service.load("org/broken"))

    for name, left_out in (("org/no-config", "config.json"), ("org/pickled", "*.safetensors")):
        hub.repositories[name] = shutil.copytree(repository, tmp_path / name, ignore=shutil.ignore_patterns(left_out))
    assert "org/no-config has no config.json" in why(service.load("org/no-config"))
    assert "org/pickled has no .safetensors file" in why(service.load("org/pickled"))
    hub.sizes["model.safetensors"] = 1 << 60
    assert "it needs 1073741824.00 GiB more, but" in why(service.load(MODEL))
    assert not [path for _, path, _ in hub.requests if "resolve" in path]  # no file was downloaded

    hub.close()
    detail = why(service.load(MODEL))
    assert detail.startswith(f"org/tiny was not downloaded: asking {hub.url}: ConnectError: ")
    assert detail.endswith(f"; by hand: hf download org/tiny --cache-dir {service.directory / 'hub'}")

    for name in ("tiny", "org/../tiny", "org/ti--ny", "-org/tiny", "org/tiny/more", "%2Fetc%2Fpasswd"):
        assert "no model named" in (detail := why(service.load(name))) or "is not a model name" in detail


def test_the_offline_mode_of_the_hub_is_respected(serve: Callable[..., Service], hub: Hub) -> None:
    service = serve({"HF_HUB_OFFLINE": "1"})
    assert "HF_HUB_OFFLINE is set: the hub must not be asked; by hand: hf download org/tiny" in why(service.load(MODEL))
    assert hub.requests == []


def test_a_stalled_download_is_ended(serve: Callable[..., Service], hub: Hub, pool: ThreadPoolExecutor) -> None:
    service = serve(load_stall_timeout_seconds=8.0)  # its imports take seconds on a busy machine
    detail = why(stopped_load(service, hub, pool).result(25))
    assert "org/tiny was not downloaded: nothing arrived for 8 s" in detail


def test_an_administrator_ends_a_download(serve: Callable[..., Service], hub: Hub, pool: ThreadPoolExecutor) -> None:
    service = serve()
    for act in (service.unload, service.kill, lambda model: service.client.post(f"/admin/models/cancel/{model}")):
        hub.stopped.clear()
        load = stopped_load(service, hub, pool, after=3 * MIB)  # each goes on where the last one stopped
        pid = service.model(MODEL)["pid"]
        answer = act(MODEL)
        assert (answer.status_code, answer.json()["model_id"]) == (200, MODEL)
        assert answer.json().get("pid", pid) == pid
        assert "an administrator ended it" in why(load.result(15))
        assert pid not in {p.pid for p in processes_with(service.token)}
        assert service.model(MODEL)["state"] == "unloaded"
        assert act(MODEL).status_code == 404
    before = len(hub.ranges())
    hub.go_on.set()
    with service.client.stream("POST", f"/admin/models/pull/{MODEL}?stream=true") as response:
        *told, end, done = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert told
    assert json.loads(end.removeprefix("data: "))["status"] == "pulled"
    assert done == "data: [DONE]"
    assert len(hub.ranges()) > before  # it went on where the cancelled one had stopped


def test_with_allow_downloads_requests_and_preloads_download_models(serve: Callable[..., Service]) -> None:
    service = serve(allow_downloads=True, preload_models=[SECOND])
    answer = service.chat(MODEL)
    assert answer.status_code == 200, answer.text
    assert not service.model(MODEL)["preloaded"]
    assert service.wait_state(SECOND, "ready")["preloaded"]
    unknown = service.chat("org/nobody")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_a_load_continues_after_its_client_disconnects(serve: Callable[..., Service], hub: Hub) -> None:
    service = serve()
    hub.stops_after = 4 * MIB
    with service.second_client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"/admin/models/load/{MODEL}", timeout=0.5)
    assert hub.stopped.wait(30)
    hub.go_on.set()
    assert service.wait_state(MODEL, "ready")["preloaded"]
    assert service.chat(MODEL).status_code == 200


def test_a_shutdown_ends_downloads_too(serve: Callable[..., Service], hub: Hub, pool: ThreadPoolExecutor) -> None:
    service = serve()
    load = stopped_load(service, hub, pool)
    assert service.broker is not None
    service.broker.terminate()
    assert "the broker is shutting down" in why(load.result(15))
    assert service.broker.wait(15) == 0
