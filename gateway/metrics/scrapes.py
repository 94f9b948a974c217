"""The text of /metrics: written in pieces, so that no token waits for it, and once for all scrapes of one moment."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import chain

from prometheus_client import exposition
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from broker.wire.failure import Failure, FailureError
from gateway.awake import awake_timeout
from gateway.core import ask
from gateway.core.administration import StatusReport
from gateway.http.shared import SharedAnswer
from gateway.link.link import Link
from gateway.metrics import broker
from gateway.metrics.requests import RequestMetrics
from gateway.metrics.series import PREFIX

PLAIN = exposition.CONTENT_TYPE_PLAIN_0_0_4
OPEN_METRICS = openmetrics.CONTENT_TYPE_LATEST

FRESH_SECONDS = 0.5  # for which a text is given again: nobody scrapes more often on purpose
BROKER_SECONDS = 2.0  # for which a scrape waits for the broker; scrapers themselves wait for 10
_PIECE_SAMPLES = 50  # which take a quarter of a millisecond

_END = b"# EOF\n"


class _Samples(Collector):
    """A part of one metric."""

    def __init__(self, metric: Metric, samples: slice) -> None:
        self._metric = Metric(metric.name, metric.documentation, metric.type)
        self._metric.samples = metric.samples[samples]

    def collect(self) -> Iterator[Metric]:
        """It alone."""
        yield self._metric


class Scrapes:
    """One for each gateway. started_at: Unix seconds."""

    def __init__(self, requests: RequestMetrics, link: Link, started_at: float) -> None:
        self._requests = requests
        self._link = link
        self._started_at = started_at
        self._texts = {PLAIN: SharedAnswer(), OPEN_METRICS: SharedAnswer()}

    async def text(self, accept: str) -> tuple[bytes, str]:
        """All metrics and the type of the text: OpenMetrics for a client that accepts it, else Prometheus' own."""
        is_open = "application/openmetrics-text" in accept.lower()
        kind = OPEN_METRICS if is_open else PLAIN
        encode = openmetrics.generate_latest if is_open else exposition.generate_latest
        return await self._texts[kind].get(FRESH_SECONDS, lambda: self._write(encode)), kind

    async def _write(self, encode: Callable[[Collector], bytes]) -> bytes:
        pieces, end = [], b""
        for metric in self._metrics(await self._status()):
            head = encode(_Samples(metric, slice(0)))
            end = _END if head.endswith(_END) else b""
            head = head.removesuffix(_END)
            pieces.append(head)
            for start in range(0, len(metric.samples), _PIECE_SAMPLES):
                piece = encode(_Samples(metric, slice(start, start + _PIECE_SAMPLES)))
                pieces.append(piece[len(head) :].removesuffix(_END))
                await asyncio.sleep(0)
        return b"".join([*pieces, end])

    def _metrics(self, report: StatusReport | None) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            f"{PREFIX}gateway_start_time_seconds", "When this gateway started, in Unix seconds.", value=self._started_at
        )
        yield from chain(self._requests.families(), broker.families(report))

    async def _status(self) -> StatusReport | None:
        try:
            async with awake_timeout(BROKER_SECONDS):
                call = await self._link.call(ask.status())
                try:
                    while not (items := await call.take()):
                        pass
                finally:
                    call.close()
        except (TimeoutError, FailureError):
            return None
        _unit, report = items[0]
        return None if isinstance(report, Failure) else report
