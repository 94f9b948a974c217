"""Messages and the count of their tokens: handlers and their rows of the endpoint table."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.anthropic.answers import AnthropicMessageAnswer, CountAnswer
from gateway.anthropic.dialect import ANTHROPIC
from gateway.anthropic.events import EVENTS
from gateway.anthropic.lists import LISTS
from gateway.anthropic.requests import MessagesRequest, parse
from gateway.anthropic.text import MessageText
from gateway.http.body import read_body
from gateway.http.endpoints import USES_A_MODEL, Endpoint, Guard, Stream, Subtree
from gateway.http.errors import Json
from gateway.http.inference import AppState, answer, count


async def messages(request: Request[AppState]) -> Response:
    """The next message of a conversation, streamed or whole."""
    return await answer(request, MessageText(parse(await read_body(request))))


async def count_tokens(request: Request[AppState]) -> Response:
    """The number of tokens of a conversation, without an answer."""
    counted = await count(request, MessageText(parse(await read_body(request), is_counted=True)))
    return Json({"input_tokens": counted.prompt_tokens})


ENDPOINTS = (
    *LISTS,
    Endpoint(
        method="POST",
        path="/v1/messages",
        handler=messages,
        guard=Guard.KEY,
        dialect=ANTHROPIC,
        body=MessagesRequest,
        answer=AnthropicMessageAnswer,
        is_inference=True,
        stream=Stream(
            media="text/event-stream",
            events=EVENTS,
            about=(
                "With `stream`: named events. The last one is `message_stop` or, if the answer fails after its start, "
                "`error`. A `ping` keeps a silent stream open."
            ),
        ),
        failures=USES_A_MODEL,
    ),
    Endpoint(
        method="POST",
        path="/v1/messages/count_tokens",
        handler=count_tokens,
        guard=Guard.KEY,
        dialect=ANTHROPIC,
        body=MessagesRequest,
        answer=CountAnswer,
        is_inference=True,
        failures=USES_A_MODEL,
    ),
)
# For the paths of Anthropic's that are not here, such as batches.
SUBTREE = Subtree(prefix="/v1/messages", guard=Guard.KEY, dialect=ANTHROPIC)
