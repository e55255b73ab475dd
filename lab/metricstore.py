"""The last value of every metric of every node, in the supervisor's memory, with what a reader has to know of it.

Bounded: a node has so many series and no more, each with so many labels and buckets, texts are cut, and what was not
told for a while is forgotten. Only cumulative values are taken; the nodes send no others. What a metric of the lab is
stands in ``telemetry.yaml``: no node can make it something else for all.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Final

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2

from lab.senders import Sender
from lab.telemetry_names import names

SERIES_PER_NODE: Final = 4000
"""Series kept of one node; further ones are dropped and counted."""
LABEL_CHARACTERS: Final = 128
"""Longest value of a label; the rest is cut."""
LABELS: Final = 32
"""Labels of a series, attributes of a resource; a point with more is dropped, of a resource the rest is left out."""
BUCKETS: Final = 256
"""Buckets of a histogram; one with more is dropped."""
TEXT_CHARACTERS: Final = 256
"""Longest unit and description; the rest is cut."""
STALE_S: Final = 300.0
"""A series that was not told for so long is forgotten, s."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-/]{0,254}")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,127}")
_CUMULATIVE = metrics_pb2.AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


class Kind(Enum):
    """What a metric is to a reader."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Buckets:
    """A histogram: observations at or below each bound (not cumulated), and one more above the last."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """All observations."""
        return sum(self.counts)


Labels = tuple[tuple[str, str], ...]
"""Sorted pairs of label and value."""


@dataclass(frozen=True)
class Series:
    """One series of a metric: whose it is, its labels and its last value."""

    node: str
    nf_type: str
    labels: Labels
    value: float | Buckets


@dataclass
class Metric:
    """A metric with all its series; of one that no document names, the node that told of it first says what it is."""

    name: str
    unit: str
    description: str
    kind: Kind
    series: dict[tuple[str, Labels], tuple[float, Series]] = field(default_factory=dict)


class MetricStore:
    """Takes metrics of nodes; may be used from several threads. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._metrics: dict[str, Metric] = {}
        self._counts: dict[str, int] = {}
        self._resources: dict[str, dict[str, str]] = {}
        self.dropped = 0
        """Points that were not taken: too many series, labels or buckets, another kind or unit, a name that is none."""

    def take(self, request: metrics_service_pb2.ExportMetricsServiceRequest, sender: Sender) -> None:
        """Keep the points of an export request of ``sender``."""
        now = self._clock()
        with self._lock:
            for resource_metrics in request.resource_metrics:
                about = dict(_labels(resource_metrics.resource.attributes)[:LABELS])
                self._resources[sender.node] = about
                for scope in resource_metrics.scope_metrics:
                    for metric in scope.metrics:
                        self._take(metric, sender, about.get("imslab.nf_type", sender.nf_type), now)

    def _take(self, told: metrics_pb2.Metric, sender: Sender, nf_type: str, now: float) -> None:
        points = list(_points(told))
        found = _kind(told)
        if found is None or _NAME.fullmatch(told.name) is None:
            self.dropped += max(1, len(points))
            return
        unit, description = told.unit[:TEXT_CHARACTERS], told.description[:TEXT_CHARACTERS]
        metric = self._metrics.get(told.name, Metric(told.name, unit, description, found))
        if (found, unit) != _documented().get(told.name, (metric.kind, unit)) or metric.kind is not found:
            self.dropped += len(points)
            return
        for labels, value in points:
            if len(labels) > LABELS or (isinstance(value, Buckets) and len(value.counts) > BUCKETS):
                self.dropped += 1
                continue
            key = (sender.node, labels)
            if key not in metric.series:
                if self._counts.get(sender.node, 0) >= SERIES_PER_NODE:
                    self.dropped += 1
                    continue
                self._counts[sender.node] = self._counts.get(sender.node, 0) + 1
            metric.series[key] = now, Series(sender.node, nf_type, labels, value)
            self._metrics[told.name] = metric

    def metrics(self) -> list[tuple[Metric, list[Series]]]:
        """Return every metric with its series, by name; what is stale is forgotten."""
        with self._lock:
            self._forget(self._clock() - STALE_S)
            return [
                (
                    metric,
                    sorted((series for _, series in metric.series.values()), key=lambda one: (one.node, one.labels)),
                )
                for _, metric in sorted(self._metrics.items())
            ]

    def resources(self) -> Mapping[str, Mapping[str, str]]:
        """Return what each node says of itself: its resource attributes."""
        with self._lock:
            return {node: dict(about) for node, about in sorted(self._resources.items())}

    def _forget(self, before: float) -> None:
        for name, metric in list(self._metrics.items()):
            for key in [key for key, (told, _) in metric.series.items() if told < before]:
                del metric.series[key]
                self._counts[key[0]] -= 1
            if not metric.series:
                del self._metrics[name]
        for node in [node for node, count in self._counts.items() if count <= 0]:
            del self._counts[node]
            self._resources.pop(node, None)


@cache
def _documented() -> Mapping[str, tuple[Kind, str]]:
    """Kind and unit of every metric that ``telemetry.yaml`` names."""
    return {one.name: (Kind(one.kind), one.unit) for one in names()["metrics"]}


def _kind(told: metrics_pb2.Metric) -> Kind | None:
    match told.WhichOneof("data"):
        case "gauge":
            return Kind.GAUGE
        case "sum" if told.sum.aggregation_temporality == _CUMULATIVE:
            return Kind.COUNTER if told.sum.is_monotonic else Kind.GAUGE
        case "histogram" if told.histogram.aggregation_temporality == _CUMULATIVE:
            return Kind.HISTOGRAM
    return None


def _points(told: metrics_pb2.Metric) -> Iterator[tuple[Labels, float | Buckets]]:
    kind = told.WhichOneof("data")
    if kind in ("gauge", "sum"):
        for point in (told.gauge if kind == "gauge" else told.sum).data_points:
            value = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
            yield _labels(point.attributes), float(value)
    elif kind == "histogram":
        for bucket in told.histogram.data_points:
            if len(bucket.bucket_counts) == len(bucket.explicit_bounds) + 1:
                found = Buckets(tuple(bucket.explicit_bounds), tuple(bucket.bucket_counts), bucket.sum)
                yield _labels(bucket.attributes), found


def _labels(pairs: Iterable[common_pb2.KeyValue]) -> Labels:
    return tuple(
        sorted(
            (pair.key, _text(pair.value)[:LABEL_CHARACTERS]) for pair in pairs if _LABEL.fullmatch(pair.key) is not None
        )
    )


def _text(value: common_pb2.AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return repr(value.double_value)
    return ""
