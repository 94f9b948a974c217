"""POST /v1/completions."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.http.inference import State, answer, model_for, read_body
from gateway.openai.requests import completion_work, parse_completion


async def completions(request: Request[State]) -> Response:
    """One continuation per choice of each prompt, streamed or whole."""
    wanted = parse_completion(await read_body(request))
    model = model_for(request, wanted.model)
    work = completion_work(wanted, request.state["settings"].defaults_of(model))
    return await answer(request, model, wanted, work, is_chat=False)
