"""POST /v1/chat/completions."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.http.inference import State, answer, load_images, model_for, read_body
from gateway.openai.requests import chat_work, parse_chat


async def chat_completions(request: Request[State]) -> Response:
    """One answer per choice to a conversation, streamed or whole."""
    wanted = parse_chat(await read_body(request))
    model = model_for(request, wanted.model)
    images = await load_images(request, wanted.images)
    work = chat_work(wanted, images, request.state["settings"].defaults_of(model))
    return await answer(request, model, wanted, work, is_chat=True)
