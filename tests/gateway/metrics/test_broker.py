"""STATUS becomes metrics, with a value for every fact."""

from typing import Any

import pytest

from broker.wire.states import State
from gateway.core.administration import StatusReport
from gateway.metrics.broker import MAX_MODELS, families
from tests.gateway.metrics.exposed import MODEL, STATUS, Exposed

OF_BROKER = {
    "up": 1,
    "start_time_seconds": 1700000000,
    "memory_budget_bytes": 10_000,
    "memory_reserved_bytes": 3000,
    "memory_missing_bytes": 10,
    "memory_working_set_bytes": 8000,
    "machine_memory_bytes": 16_000,
    "machine_memory_available_bytes": 9000,
    "memory_pressure": 1,
    "max_models": 4,
    "worker_processes": 2,
    "spare_resident_bytes": 50,
}
OF_MODEL = {
    "model_pinned": 1,
    "model_reserved_bytes": 3000,
    "num_requests_running": 3,
    "num_requests_waiting": 3,
    "num_requests_prefilling": 1,
    "num_requests_in_flight": 5,
    "num_requests_queued": 2,
    "worker_footprint_bytes": 2000,
    "worker_resident_bytes": 1000,
    "worker_share_bytes": 3000,
    "worker_memory_limit_bytes": 4000,
    "worker_mlx_active_bytes": 500,
    "worker_mlx_cache_bytes": 100,
    "worker_mlx_peak_bytes": 700,
    "worker_cpu_ratio": 0.5,
    "worker_heartbeat_age_seconds": 0.25,
    "worker_prompt_tokens_total": 100,
    "worker_prompt_tokens_cached_total": 40,
    "worker_generation_tokens_total": 60,
    "model_loads_total": 3,
    "model_restarts_total": 1,
    "model_replays_total": 4,
    "model_resumes_total": 5,
    "model_evictions_total": 2,
}


def exposed(status: dict[str, Any] | None) -> Exposed:
    return Exposed(families(None if status is None else StatusReport.model_validate(status)))


def test_every_fact() -> None:
    seen = exposed(STATUS)
    assert {name: seen.value(name) for name in OF_BROKER} == OF_BROKER
    assert {name: seen.value(name, model="org/tiny") for name in OF_MODEL} == OF_MODEL
    assert seen.value("build_info", version="1.2.3") == 1
    assert (seen.value("spares", state="imported"), seen.value("spares", state="starting")) == (1, 0)
    states = {state: seen.value("model_state", model="org/tiny", state=state) for state in State}
    assert states == {state: float(state is State.READY) for state in State}
    assert seen.value("model_exits_total", model="org/tiny", exit="SIGKILL") == 2
    assert seen.value("model_exits_total", model="org/tiny", exit="0") == 1
    assert seen.value("model_load_seconds", model="org/tiny", stage="weights") == 1.5
    queue = [("0.1", 3), ("1.0", 5), ("+Inf", 6)]
    for bound, count in queue:
        assert seen.value("request_queue_time_seconds_bucket", model="org/tiny", le=bound) == count
    assert seen.value("request_queue_time_seconds_sum", model="org/tiny") == 9.5
    told = {*OF_BROKER, *(name.removesuffix("_total") for name in OF_MODEL)}
    assert (
        told
        | {"build_info", "spares", "model_state", "model_exits", "model_load_seconds", "request_queue_time_seconds"}
        == seen.metrics.keys()
    )


def test_a_broker_that_is_away_has_one_value() -> None:
    seen = exposed(None)
    assert seen.value("up") == 0
    assert [sample.name for metric in seen.metrics.values() for sample in metric.samples] == ["mlx_broker_up"]
    assert seen.metrics.keys() == exposed(STATUS).metrics.keys()


@pytest.mark.parametrize(
    ("status", "model", "absent"),
    [
        ({"working_set_bytes": None}, {}, {"memory_working_set_bytes"}),
        ({"pressure": "of a later version"}, {}, {"memory_pressure"}),
        (
            {},
            {"heartbeat_age_seconds": None, "rss_bytes": None},
            {"worker_heartbeat_age_seconds", "worker_resident_bytes"},
        ),
        ({}, {"memory_limit_bytes": 0}, {"worker_memory_limit_bytes"}),
    ],
)
def test_what_is_not_known_has_no_sample(status: dict[str, Any], model: dict[str, Any], absent: set[str]) -> None:
    seen = exposed({**STATUS, **status, "models": [{**MODEL, **model}]})
    assert {name for name, metric in seen.metrics.items() if not metric.samples} == absent


def test_of_very_many_models_the_idle_ones_are_left_out() -> None:
    idle = [{**MODEL, "model_id": f"org/{number}", "state": "failed"} for number in range(2 * MAX_MODELS)]
    shown = exposed({**STATUS, "models": [*idle, MODEL]}).labels("model_state", "model")
    assert len(shown) == MAX_MODELS
    assert "org/tiny" in shown
