"""Records of requests become metrics of this gateway."""

import pytest

from gateway.core.answer import Delta, End
from gateway.core.served import CLIENT_LEFT, OK, Journal, Served
from gateway.metrics.requests import MAX_MODELS, OTHER, UNKNOWN, RequestMetrics
from tests.gateway.metrics.exposed import Exposed

END = (0, End(Delta("b"), "stop", prompt_tokens=7, completion_tokens=3, cached_tokens=2))


class Counted:
    """A journal whose requests are counted."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.metrics = RequestMetrics(self.journal)
        self.journal.observers.append(self.metrics.observe)

    @property
    def exposed(self) -> Exposed:
        return Exposed(self.metrics.families())

    def begin(self, model: str | None = "org/tiny", *, is_known: bool = True, at: float = 100.0) -> Served:
        served = self.journal.begin("POST", at)
        served.path, served.is_inference, served.model, served.is_known = "/v1/x", True, model, is_known
        return served

    def end(self, served: Served, outcome: str = OK, at: float = 101.0) -> None:
        served.outcome = outcome
        self.journal.end(served, at)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_a_stream(counted: Counted) -> None:
    served = counted.begin()
    served.units = 1
    for at, output in ((100.3, (0, Delta("a"))), (100.32, (0, Delta("b"))), (100.9, END)):
        served.hear(at, 1)
        served.count([output])
    counted.end(served)
    seen = counted.exposed
    assert seen.value("requests_total", model="org/tiny", outcome=OK) == 1
    assert seen.value("time_to_first_token_seconds_bucket", model="org/tiny", le="0.25") == 0
    assert seen.value("time_to_first_token_seconds_bucket", model="org/tiny", le="0.5") == 1
    assert seen.value("time_to_first_token_seconds_sum", model="org/tiny") == pytest.approx(0.3)
    assert seen.value("inter_token_latency_seconds_bucket", model="org/tiny", le="0.01") == 0
    assert seen.value("inter_token_latency_seconds_bucket", model="org/tiny", le="0.025") == 1
    assert seen.value("inter_token_latency_seconds_bucket", model="org/tiny", le="0.75") == 2
    assert seen.value("inter_token_latency_seconds_count", model="org/tiny") == 2
    assert seen.value("inter_token_latency_seconds_sum", model="org/tiny") == pytest.approx(0.6)
    assert seen.value("e2e_request_latency_seconds_bucket", model="org/tiny", le="0.5") == 0
    assert seen.value("e2e_request_latency_seconds_bucket", model="org/tiny", le="1.0") == 1
    assert seen.value("e2e_request_latency_seconds_bucket", model="org/tiny", le="+Inf") == 1
    assert seen.value("prompt_tokens_total", model="org/tiny") == 7
    assert seen.value("prompt_tokens_cached_total", model="org/tiny") == 2
    assert seen.value("generation_tokens_total", model="org/tiny") == 3
    assert seen.value("requests_in_progress", model="org/tiny") == 0


def test_of_audio_the_time_to_its_first_output_counts_from_the_end_of_its_upload_and_no_output_is_a_token(
    counted: Counted,
) -> None:
    served = counted.begin()
    served.uploaded, served.units, served.is_by_token = 160.0, 1, False
    served.hear(160.3, 1)
    served.hear(190.3, 2)
    running = counted.exposed
    counted.end(served, CLIENT_LEFT, at=191.0)
    for seen in (running, counted.exposed):
        assert not seen.value("inter_token_latency_seconds_count", model="org/tiny")
    assert seen.value("time_to_first_token_seconds_sum", model="org/tiny") == pytest.approx(0.3)
    assert seen.value("generation_tokens_total", model="org/tiny") == 0


def test_a_running_stream_shows_its_gaps_and_they_count_once(counted: Counted) -> None:
    served = counted.begin()
    assert counted.exposed.value("requests_in_progress", model="org/tiny") == 1
    for at in (100.3, 100.4, 100.6):
        served.hear(at, 1)
    for _ in range(2):
        assert counted.exposed.value("inter_token_latency_seconds_count", model="org/tiny") == 2
        assert counted.exposed.value("inter_token_latency_seconds_sum", model="org/tiny") == pytest.approx(0.3)
    counted.end(served, CLIENT_LEFT)
    assert counted.exposed.value("inter_token_latency_seconds_count", model="org/tiny") == 2
    assert counted.exposed.value("requests_in_progress", model="org/tiny") == 0


def test_outputs_that_come_at_once_have_no_time_between_them_unless_they_are_of_several_choices(
    counted: Counted,
) -> None:
    for units, gaps in ((1, [4, 1]), (3, [0, 1])):
        served = counted.begin(f"org/{units}")
        served.units = units
        served.hear(100.3, 3)
        served.hear(100.38, 3)
        counted.end(served)
        for bound, count in (("0.001", gaps[0]), ("0.1", sum(gaps))):
            found = counted.exposed.value("inter_token_latency_seconds_bucket", model=f"org/{units}", le=bound)
            assert found == count


def test_a_failure_is_no_latency(counted: Counted) -> None:
    served = counted.begin()
    served.count([END])
    counted.end(served, "worker_died")
    counted.end(counted.begin())  # a model that was only loaded, or a count
    seen = counted.exposed
    assert seen.value("requests_total", model="org/tiny", outcome="worker_died") == 1
    assert seen.value("requests_total", model="org/tiny", outcome=OK) == 1
    assert seen.value("e2e_request_latency_seconds_count", model="org/tiny") == 0


def test_names_that_clients_invent_share_one_label(counted: Counted) -> None:
    for name in (None, *map(str, range(500))):
        counted.end(counted.begin(name, is_known=False), "model_not_found")
    assert counted.exposed.labels("requests", "model") == {UNKNOWN}
    assert counted.exposed.value("requests_total", model=UNKNOWN, outcome="model_not_found") == 501


def test_a_model_that_is_fetched_for_a_request_has_its_label_once_it_answers(counted: Counted) -> None:
    served = counted.begin("hub/new", is_known=False)
    assert counted.exposed.value("requests_in_progress", model=UNKNOWN) == 1
    served.hear(100.5, 1)
    assert counted.exposed.value("requests_in_progress", model="hub/new") == 1
    counted.end(served)
    assert counted.exposed.labels("requests", "model") == {"hub/new"}


def test_the_number_of_labels_is_bounded(counted: Counted) -> None:
    running = [counted.begin(f"org/{number}") for number in range(3 * MAX_MODELS)]
    assert len(counted.exposed.labels("requests_in_progress", "model")) == MAX_MODELS + 1
    for served in running:
        served.hear(100.5, 1)
        served.hear(100.6, 1)
    assert len(counted.exposed.labels("inter_token_latency_seconds", "model")) == MAX_MODELS + 1
    for served in running:
        counted.end(served)
    seen = counted.exposed
    assert len(seen.labels("requests", "model")) == MAX_MODELS + 1
    assert seen.value("requests_total", model=OTHER, outcome=OK) == 2 * MAX_MODELS
    assert sum(sample.value for sample in seen.metrics["requests"].samples) == 3 * MAX_MODELS


def test_other_routes_do_not_count(counted: Counted) -> None:
    served = counted.journal.begin("GET", 1.0)
    counted.end(served)
    assert counted.exposed.metrics["requests"].samples == []
