"""create_app(): the tables of endpoints, guards and exceptions put together, and what lives as long as the app."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.types import ASGIApp

from gateway.admin.dialect import ADMIN
from gateway.admin.endpoints import ENDPOINTS as ADMIN_ENDPOINTS
from gateway.admin.events import event_of
from gateway.anthropic.endpoints import ENDPOINTS as ANTHROPIC_ENDPOINTS
from gateway.anthropic.endpoints import SUBTREE as ANTHROPIC_SUBTREE
from gateway.core.served import Journal, Observer
from gateway.directory import Directory
from gateway.document.endpoints import ENDPOINTS as DOCUMENT_ENDPOINTS
from gateway.http.access import log_access
from gateway.http.auth import AllowedOrigins, guards
from gateway.http.endpoints import Endpoint, Guard, Subtree, router_of
from gateway.http.errors import Answering
from gateway.http.journal import Journaling
from gateway.http.refusals import Refusals
from gateway.http.shared import SharedAnswer
from gateway.http.uploads import Uploads
from gateway.images.loader import ImageLoader
from gateway.link.feed import Feed
from gateway.link.link import Link
from gateway.metrics.endpoints import ENDPOINTS as METRICS_ENDPOINTS
from gateway.metrics.endpoints import MetricsState
from gateway.metrics.requests import RequestMetrics
from gateway.metrics.scrapes import Scrapes
from gateway.ollama.endpoints import ENDPOINTS as OLLAMA_ENDPOINTS
from gateway.ollama.endpoints import SUBTREE as OLLAMA_SUBTREE
from gateway.openai.audio.endpoints import ENDPOINTS as AUDIO_ENDPOINTS
from gateway.openai.dialect import OPENAI
from gateway.openai.endpoints import ENDPOINTS as OPENAI_ENDPOINTS
from gateway.responses.endpoints import ENDPOINTS as RESPONSES_ENDPOINTS
from gateway.settings import Settings
from gateway.web.endpoints import ENDPOINTS as WEB_ENDPOINTS
from gateway.web.endpoints import SUBTREE as WEB_SUBTREE

ENDPOINTS: tuple[Endpoint, ...] = (
    *OPENAI_ENDPOINTS,
    *AUDIO_ENDPOINTS,
    *RESPONSES_ENDPOINTS,
    *ANTHROPIC_ENDPOINTS,
    *OLLAMA_ENDPOINTS,
    *ADMIN_ENDPOINTS,
    *DOCUMENT_ENDPOINTS,
    *WEB_ENDPOINTS,
    *METRICS_ENDPOINTS,
)
SUBTREES = (
    ANTHROPIC_SUBTREE,  # which is within the next
    Subtree(prefix="/v1", guard=Guard.KEY, dialect=OPENAI),  # early, as nearly all requests are for it
    OLLAMA_SUBTREE,
    Subtree(prefix="/admin", guard=Guard.ADMIN, dialect=ADMIN),
    WEB_SUBTREE,
    Subtree(prefix="", guard=Guard.OPEN, dialect=OPENAI),
)


def create_app(
    settings: Settings,
    link: Link,
    endpoints: Sequence[Endpoint] = ENDPOINTS,
    subtrees: Sequence[Subtree] = SUBTREES,
    observers: Sequence[Observer] = (),
) -> ASGIApp:
    """The gateway. Its lifespan opens and closes `link`. observers: hear of every request that has ended, too."""
    journal = Journal(*observers, *([log_access] if settings.access_log else []))
    requests = RequestMetrics(journal)
    refusals = Refusals()
    journal.observers.append(requests.observe)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[MetricsState]:
        link.open()
        uploads = Uploads(settings.state_dir, settings.max_upload_bytes)
        uploads.open()
        feed = Feed(link, event_of)
        try:
            yield {
                "settings": settings,
                "link": link,
                "directory": Directory(settings, link),
                "images": ImageLoader(settings),
                "uploads": uploads,
                "refusals": refusals,
                "feed": feed,
                "endpoints": tuple(endpoints),  # as they are without any settings
                "shared_status": SharedAnswer(),
                "scrapes": Scrapes(requests, link, time.time()),
            }
        finally:
            feed.close()
            link.close()
            uploads.close()

    guarding = guards(settings.api_key, settings.admin_token, refusals)
    app = router_of([row.under(settings) for row in endpoints], subtrees, guarding, lifespan)
    app = Answering(app, subtrees[-1].dialect)
    if settings.allowed_origins:
        closed = [subtree.prefix for subtree in subtrees if subtree.dialect is ADMIN]
        app = AllowedOrigins(app, settings.allowed_origins, closed)
    return Journaling(app, journal)
