"""create_app(): the route table, who may call what, what an exception becomes, what lives as long as the app."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Mount, Route

from gateway.admin import routes as admin
from gateway.admin.events import events
from gateway.http.auth import AllowedOrigins, BearerAuth, SameOrigin
from gateway.http.errors import ApiError, on_api_error, on_broker_unavailable, on_bug, on_gone, on_http_exception
from gateway.http.inference import State
from gateway.images.loader import ImageLoader
from gateway.link.call import CallClosedError
from gateway.link.client import BrokerClient, BrokerUnavailableError
from gateway.openai.chat import chat_completions
from gateway.openai.completions import completions
from gateway.openai.embeddings import embeddings, rerank
from gateway.openai.models import get_model, list_models
from gateway.settings import Settings


def create_app(settings: Settings, broker: BrokerClient) -> Starlette:
    """The gateway. Its lifespan opens and closes `broker`."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[State]:
        broker.open()
        try:
            yield {"settings": settings, "broker": broker, "images": ImageLoader(settings)}
        finally:
            broker.close()

    keyed = [Middleware(BearerAuth, settings.api_key)]
    v1 = [
        Route("/chat/completions", chat_completions, methods=["POST"]),
        Route("/completions", completions, methods=["POST"]),
        Route("/embeddings", embeddings, methods=["POST"]),
        Route("/rerank", rerank, methods=["POST"]),
        Route("/models", list_models),
        Route("/models/{model_id:path}", get_model),
    ]
    admin_models = [
        Route("/models/status", admin.status),
        Route("/models/load/{model_id:path}", admin.load, methods=["POST"]),
        Route("/models/unload/{model_id:path}", admin.unload, methods=["POST"]),
        Route("/models/kill/{model_id:path}", admin.kill, methods=["POST"]),
        Route("/models/unpin/{model_id:path}", admin.unpin, methods=["POST"]),
        Route("/models/{model_id:path}/progress", events),
        Route("/events", events),
    ]
    routes = [
        Mount("/v1", routes=v1, middleware=keyed),  # first, as nearly all requests are for it
        Route("/health", admin.Health),
        Route("/admin/health", admin.Health),
        # As mlx_lm.server and mlx_vlm.server have them beside /v1.
        Route("/chat/completions", chat_completions, methods=["POST"], middleware=keyed),
        Route("/models", list_models, middleware=keyed),
        Mount(
            "/admin",
            routes=admin_models,
            middleware=[
                Middleware(SameOrigin, needs_key=settings.admin_token is not None),
                Middleware(BearerAuth, settings.admin_token),
            ],
        ),
    ]
    handlers = {
        ApiError: on_api_error,
        BrokerUnavailableError: on_broker_unavailable,
        CallClosedError: on_gone,
        ClientDisconnect: on_gone,
        HTTPException: on_http_exception,
        Exception: on_bug,
    }
    origins = settings.allowed_origins
    pages = [Middleware(AllowedOrigins, origins)] if origins else []
    return Starlette(routes=routes, middleware=pages, exception_handlers=handlers, lifespan=lifespan)
