"""Messages and the count of their tokens: handlers and their rows of the endpoint table."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.anthropic.answers import AnthropicMessageAnswer, CountAnswer
from gateway.anthropic.dialect import ANTHROPIC
from gateway.anthropic.lists import LISTS
from gateway.anthropic.requests import MessagesRequest, parse
from gateway.anthropic.text import MessageText
from gateway.http.body import read_body
from gateway.http.endpoints import Endpoint, Guard, Subtree
from gateway.http.errors import Json
from gateway.http.inference import AppState, answer, count


async def messages(request: Request[AppState]) -> Response:
    """The next message of a conversation, streamed or whole."""
    return await answer(request, MessageText(parse(await read_body(request))))


async def count_tokens(request: Request[AppState]) -> Response:
    """The tokens of its prompt, without an answer."""
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
    ),
)
# For the paths of Anthropic's that are not here, such as batches.
SUBTREE = Subtree(prefix="/v1/messages", guard=Guard.KEY, dialect=ANTHROPIC)
