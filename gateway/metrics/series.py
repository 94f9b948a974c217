"""What metrics are made of: a histogram that costs little to fill, and values of labels that scrapers can read."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily

PREFIX = "mlx_broker_"


class Durations:
    """Seconds, counted by classes. bounds: the upper bound of each class but the last, which has none."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def merge(self, counts: Sequence[int], total: float) -> None:
        """Those that were counted elsewhere by the same bounds; none if `counts` is empty."""
        if counts:
            self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
            self.total += total

    def write(self, family: HistogramMetricFamily, model: str) -> None:
        """As samples of this model."""
        bounds = [*map(repr, self.bounds), "+Inf"]
        family.add_metric([model], list(zip(bounds, accumulate(self.counts), strict=True)), self.total)


def label(value: str) -> str:
    """A value of a label: any text that UTF-8 can write."""
    return value.encode("utf-8", "replace").decode()
