"""CPU time of gateway and broker while no client asks for anything."""

import threading

import psutil

from tests.service import Service
from tests.timing import assert_below

MAX_RSS_BYTES = 120 * 10**6
MAX_CPU_FRACTION = 0.02  # 0.004 on an idle machine; a neighbour that fills the caches makes the same work dearer
MEASURED_SECONDS = 5.0


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def test_gateway_and_broker_cost_next_to_nothing_when_idle(service: Service) -> None:
    # With loaded models, whose heartbeats and memory the broker watches, and with keep-alive connections.
    for model_id in ("tiny-a", "echo"):
        assert service.load(model_id).status_code == 200
        assert service.chat(model_id).status_code == 200
    assert service.broker is not None
    assert service.gateway is not None
    processes = [psutil.Process(service.broker.pid), psutil.Process(service.gateway.pid)]

    def used() -> float:
        before = cpu_seconds(processes)
        threading.Event().wait(MEASURED_SECONDS)  # the figure is per second: there is no condition to wait for
        return (cpu_seconds(processes) - before) / MEASURED_SECONDS

    assert_below(MAX_CPU_FRACTION, used)
    rss = [process.memory_info().rss for process in processes]
    assert sum(rss) < MAX_RSS_BYTES, f"broker {rss[0] / 1e6:.0f} MB, gateway {rss[1] / 1e6:.0f} MB"
