"""4,000 cases made of the document, against a real service with real models."""

import pytest

from gateway.app import ENDPOINTS
from gateway.document.openapi import operation_id
from gateway.http.endpoints import Endpoint
from tests.fuzz.__main__ import fuzz_service
from tests.fuzz.requests import ENCODER, RERANKER, TEXT_MODELS
from tests.service import Service

CASES = 4000
ABSENT = "org/absent"


def _cases(endpoint: Endpoint) -> int:
    """Much can be wrong in a body, and nothing in a request without any parameter."""
    return 240 if endpoint.body is not None else 40 if "{" in endpoint.path or endpoint.query is not None else 1


def _check_first_event(service: Service, row: Endpoint) -> None:
    """A model that has run has a state to tell, and printed something."""
    from tests.gateway.document.conformance import check_events

    with service.client.stream(row.method, row.path.replace("{model_id:path}", "tiny-a")) as answer:
        assert answer.status_code == 200
        first = next(line for line in answer.iter_lines() if line.startswith("data: "))
        check_events(row.method, row.path.replace(":path", ""), answer.headers["content-type"], first)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_service_answers_as_the_document_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.gateway.document.conformance import Conformance  # takes half a second

    models = (*TEXT_MODELS, ENCODER, RERANKER, ABSENT)
    service = fuzz_service(tmp_path_factory.mktemp("models"))
    try:
        service.start()
        conformance = Conformance(service.url, models)
        for row in ENDPOINTS:
            if row.stream is not None and row.stream.is_endless:
                _check_first_event(service, row)
            else:
                # What deletes models gets none that is there: the others are needed.
                conformance.check(operation_id(row), _cases(row), (ABSENT,) if row.method == "DELETE" else ())
        conformance.close()
        assert sum(conformance.statuses.values()) >= CASES
        assert conformance.statuses[200] > CASES / 10
    finally:
        service.stop()
