"""What a node counts: the latency of every RPC, cheaply, and instruments with one unit and one meaning each.

A service call is counted on both ends, so its histogram costs a microsecond and not eleven, as one of the SDK does; it
joins the metrics of the SDK when these are exported.
"""

from __future__ import annotations

import dataclasses
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sba.spans import SCHEMA_URL

DURATION_BOUNDS: tuple[float, ...] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
"""Upper bounds of the buckets of every duration, s: those of the semantic conventions, and two below for one host."""
MOST_ROWS = 1000
"""Series one histogram has at most; what comes after falls into one of its own."""
_OTHER = "_OTHER"
Labels = tuple[str, ...]


@dataclasses.dataclass(slots=True)
class _Row:
    count: int
    total: float
    least: float
    most: float
    buckets: list[int]


class Latencies:
    """A histogram of durations by labels. Not for several threads at once; reading while it counts is harmless."""

    def __init__(self, name: str, description: str, labels: Sequence[str], constant: Mapping[str, str]) -> None:
        self.name = name
        self.description = description
        self.labels = tuple(labels)
        self._constant = dict(constant)
        self._rows: dict[Labels, _Row] = {}
        self._since = time.time_ns()

    def record(self, values: Labels, seconds: float) -> None:
        """Count one call that took so many seconds; ``values`` are those of the labels, in their order."""
        row = self._rows.get(values)
        if row is None and len(self._rows) >= MOST_ROWS:
            values = (_OTHER,) * len(self.labels)
            row = self._rows.get(values)
        if row is None:
            row = self._rows[values] = _Row(0, 0.0, seconds, seconds, [0] * (len(DURATION_BOUNDS) + 1))
        row.count += 1
        row.total += seconds
        row.least = min(row.least, seconds)
        row.most = max(row.most, seconds)
        row.buckets[bisect_left(DURATION_BOUNDS, seconds)] += 1

    def metric(self) -> Metric | None:
        """Return the histogram as the SDK knows it; None before the first call."""
        now = time.time_ns()
        points = [
            HistogramDataPoint(
                attributes={**self._constant, **{k: v for k, v in zip(self.labels, values, strict=True) if v}},
                start_time_unix_nano=self._since,
                time_unix_nano=now,
                count=row.count,
                sum=row.total,
                bucket_counts=list(row.buckets),
                explicit_bounds=DURATION_BOUNDS,
                min=row.least,
                max=row.most,
            )
            for values, row in tuple(self._rows.items())
        ]
        if not points:
            return None
        return Metric(self.name, self.description, "s", Histogram(points, AggregationTemporality.CUMULATIVE))


class LatencyExporter(MetricExporter):
    """Puts latencies beside the metrics of the SDK and passes both on."""

    def __init__(self, onward: MetricExporter, latencies: Sequence[Latencies], resource: Resource) -> None:
        super().__init__()
        self._onward = onward
        self._latencies = latencies
        self._resource = resource

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,
        **kwargs: Any,
    ) -> MetricExportResult:
        """Export once."""
        found = [metric for table in self._latencies if (metric := table.metric()) is not None]
        if found:
            own = ScopeMetrics(InstrumentationScope("imslab.rpc"), found, SCHEMA_URL)
            scopes = [scope for resource in metrics_data.resource_metrics for scope in resource.scope_metrics]
            # One entry: the encoder of the SDK keeps the last of those that share a resource.
            metrics_data = MetricsData([ResourceMetrics(self._resource, [*scopes, own], SCHEMA_URL)])
        return self._onward.export(metrics_data, timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is kept back here."""
        return self._onward.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Close the channel."""
        self._onward.shutdown(timeout_millis, **kwargs)


def observed(read: Callable[[], int | float]) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
    """Return the callbacks of an instrument that has one series, whose value ``read`` tells."""
    return [lambda _options: (Observation(read()),)]


def observed_by(
    label: str, read: Callable[[], Mapping[str, int | float]]
) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
    """Return the callbacks of an instrument with one series for each value of a label."""
    return [lambda _options: [Observation(value, {label: name}) for name, value in tuple(read().items())]]
