"""GET /metrics: the handler and its row of the endpoint table."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.dialect import ADMIN
from gateway.http.endpoints import Endpoint, Guard
from gateway.http.inference import AppState
from gateway.metrics.scrapes import OPEN_METRICS, PLAIN, Scrapes


class MetricsState(AppState):
    """What only this route needs."""

    scrapes: Scrapes


async def metrics(request: Request[MetricsState]) -> Response:
    """The requests of this gateway and the broker's facts, for Prometheus."""
    body, kind = await request.state["scrapes"].text(", ".join(request.headers.getlist("accept")))
    return Response(body, headers={"content-type": kind})


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/metrics",
        handler=metrics,
        guard=Guard.ADMIN,
        opened_by="metrics_open",
        dialect=ADMIN,
        text=(PLAIN, OPEN_METRICS),
        failures=(),  # without a broker it says so
    ),
)
