"""Responses: the handler and its row of the endpoint table."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.http.body import read_body
from gateway.http.endpoints import USES_A_MODEL, Endpoint, Guard, Stream
from gateway.http.inference import AppState, answer
from gateway.responses.answers import ResponseAnswer
from gateway.responses.dialect import RESPONSES
from gateway.responses.events import EVENTS
from gateway.responses.requests import ResponsesRequest, parse_responses
from gateway.responses.text import ResponsesText


async def responses(request: Request[AppState]) -> Response:
    """One answer to a conversation, streamed or whole."""
    return await answer(request, ResponsesText(parse_responses(await read_body(request))))


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/responses",
        handler=responses,
        guard=Guard.KEY,
        dialect=RESPONSES,
        body=ResponsesRequest,
        answer=ResponseAnswer,
        is_inference=True,
        stream=Stream(
            media="text/event-stream",
            events=EVENTS,
            about=(
                "With `stream`: named events. The last one is `response.completed`, `response.incomplete` or, if the "
                "answer fails after its start, `response.failed`."
            ),
        ),
        failures=USES_A_MODEL,
    ),
)
