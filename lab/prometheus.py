"""Metrics as Prometheus text: names, units and types as an OpenTelemetry Collector would write them.

So one dashboard fits a Prometheus that reads the lab itself and one that reads a collector the lab forwards to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from lab.metricstore import Buckets, Kind, Metric, MetricStore, Series

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of what ``render`` returns."""
_UNITS: Final = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "%": "percent"}
_UNFIT = re.compile(r"[^A-Za-z0-9_]")
_COMMON: Final = ("service_name", "imslab_nf_type")
"""Labels of every series: the node and what kind of network function it is."""
_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def metric_name(name: str, unit: str, kind: Kind) -> str:
    """Return the Prometheus name of an OpenTelemetry metric, without ``_total``, ``_bucket`` and their like.

    The unit becomes a suffix; one in braces is a remark and no unit.
    """
    found = _UNFIT.sub("_", name)
    suffix = _UNITS.get(unit, "")
    if unit == "1" and kind is Kind.GAUGE:
        suffix = "ratio"
    return f"{found}_{suffix}" if suffix and not found.endswith(f"_{suffix}") else found


def exposed_names(name: str, unit: str, kind: Kind) -> tuple[str, ...]:
    """Return the names that a query can ask for."""
    base = metric_name(name, unit, kind)
    if kind is Kind.COUNTER:
        return (f"{base}_total",)
    if kind is Kind.HISTOGRAM:
        return tuple(f"{base}_{part}" for part in ("bucket", "count", "sum"))
    return (base,)


def render(store: MetricStore) -> str:
    """Return the metrics of all nodes in the text format of Prometheus, version 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Lab(store))
    return generate_latest(registry).decode("utf-8")


class _Lab(Collector):
    """The metrics of a lab as a collector of the client library."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store

    def describe(self) -> Iterable[_Family]:
        """Nothing is known before it is asked for."""
        return ()

    def collect(self) -> Iterator[_Family]:
        """Yield every metric."""
        yield self._target_info()
        for metric, series in self._store.metrics():
            yield _family(metric, series)

    def _target_info(self) -> GaugeMetricFamily:
        resources = self._store.resources()
        names = sorted({name for about in resources.values() for name in about})
        family = GaugeMetricFamily("target_info", "What each node says of itself", labels=[*map(_label, names)])
        for about in resources.values():
            family.add_metric([about.get(name, "") for name in names], 1.0)
        return family


def _label(name: str) -> str:
    return _UNFIT.sub("_", name)


def _family(metric: Metric, series: list[Series]) -> _Family:
    own = sorted({name for one in series for name, _ in one.labels})
    labels = [*_COMMON, *map(_label, own)]
    make: type[_Family] = {
        Kind.COUNTER: CounterMetricFamily,
        Kind.GAUGE: GaugeMetricFamily,
        Kind.HISTOGRAM: HistogramMetricFamily,
    }[metric.kind]
    family = make(metric_name(metric.name, metric.unit, metric.kind), metric.description or metric.name, labels=labels)
    for one in series:
        told = dict(one.labels)
        values = [one.node, one.nf_type, *(told.get(name, "") for name in own)]
        if isinstance(one.value, Buckets):
            assert isinstance(family, HistogramMetricFamily)
            family.add_metric(values, list(_cumulated(one.value)), one.value.total)
        else:
            assert not isinstance(family, HistogramMetricFamily)
            family.add_metric(values, one.value)
    return family


def _cumulated(found: Buckets) -> Iterator[tuple[str, float]]:
    below = 0
    for bound, count in zip((*found.bounds, float("inf")), found.counts, strict=True):
        below += count
        yield ("+Inf" if bound == float("inf") else f"{bound:g}"), float(below)
