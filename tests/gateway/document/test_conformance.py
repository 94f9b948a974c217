"""What is made of the document is answered as the document says, by a gateway whose broker is played."""

from dataclasses import replace
from typing import Any

import pytest
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from broker.wire.failure import Code, Failure
from gateway.app import ENDPOINTS
from gateway.document.openapi import operation_id
from gateway.http.endpoints import Handler
from gateway.http.errors import Json
from tests.gateway.document.answering import NAMES, AnsweringLink
from tests.gateway.played_broker import ending
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink


def _cases() -> dict[str, int]:
    """Of each operation: more where there is a body, in which more can be wrong, few for a body that another has."""
    cases: dict[str, int] = {}
    bodies: set[object] = {None}
    for row in ENDPOINTS:
        cases[operation_id(row)] = 4 if row.body is None else 2 if row.body in bodies else 6
        bodies.add(row.body)
    return cases


@pytest.mark.anyio
async def test_every_answer_is_one_of_the_document() -> None:
    from tests.gateway.document.conformance import (
        Conformance,  # half a second, which collecting all tests need not take
    )

    async with served(AnsweringLink()) as client:
        conformance = Conformance(str(client.base_url).rstrip("/"), NAMES)
        for operation, cases in _cases().items():
            await to_thread.run_sync(conformance.check, operation, cases)
        conformance.close()
    assert sum(conformance.statuses.values()) >= 200
    assert {200, 400, 404, 501} <= conformance.statuses.keys()
    assert conformance.statuses[200] > 50


@pytest.mark.anyio
async def test_it_is_so_without_a_broker_too() -> None:
    from tests.gateway.document.conformance import Conformance

    link = ScriptedLink([ending()], Failure(Code.BROKER_UNAVAILABLE, "the broker has gone"))
    async with served(link) as client:
        conformance = Conformance(str(client.base_url).rstrip("/"), NAMES)
        for operation in dict.fromkeys(map(operation_id, ENDPOINTS)):
            await to_thread.run_sync(conformance.check, operation, 1)
        conformance.close()
    assert conformance.statuses[503] > 20


async def _other_fields(_request: Request[Any]) -> Response:
    return Json({"object": "list", "data": [], "more": 1})


async def _other_status(_request: Request[Any]) -> Response:
    return Json({"object": "list", "data": []}, 202)


async def _other_type(_request: Request[Any]) -> Response:
    return PlainTextResponse("none")


async def _bug(_request: Request[Any]) -> Response:
    raise AssertionError("a bug")


async def _other_event(_request: Request[Any]) -> Response:
    return Response(b'data: {"states": []}\n\n', media_type="text/event-stream")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "handler"),
    [
        ("/models", _other_fields),
        ("/models", _other_status),
        ("/models", _other_type),
        ("/models", _bug),
        ("/admin/events", _other_event),
    ],
)
async def test_an_answer_that_is_none_of_the_document_is_found(path: str, handler: Handler) -> None:
    from tests.gateway.document.conformance import Conformance

    endpoints = [replace(row, handler=handler) if row.path == path else row for row in ENDPOINTS]
    operation = next(operation_id(row) for row in ENDPOINTS if row.path == path)
    async with served(AnsweringLink(), endpoints=endpoints) as client:
        conformance = Conformance(str(client.base_url).rstrip("/"), NAMES)
        with pytest.raises((AssertionError, BaseExceptionGroup)):
            await to_thread.run_sync(conformance.check, operation, 1)
        conformance.close()
