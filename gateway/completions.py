"""POST /v1/completions."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.inference import State, answer, read_body
from gateway.openai import completion_work, parse_completion


async def completions(request: Request[State]) -> Response:
    """One continuation per choice of each prompt, streamed or whole."""
    wanted = parse_completion(await read_body(request))
    work = completion_work(wanted, request.state["settings"].default_max_tokens)
    return await answer(request, wanted, work, is_chat=False)
