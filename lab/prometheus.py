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
_RESERVED = re.compile(r"le|__.*")
"""Labels that mean something to a reader: bucket bounds, and names of Prometheus' own."""
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
        """Yield every metric; where two names become one, the first says what it is, and others count if they agree."""
        target_info = self._target_info()
        found: dict[str, tuple[Kind, _Family]] = {target_info.name: (Kind.GAUGE, target_info)}
        for metric, series in self._store.metrics():
            name = metric_name(metric.name, metric.unit, metric.kind)
            typed = exposed_names(metric.name, metric.unit, metric.kind)[0] if metric.kind is Kind.COUNTER else name
            if typed == target_info.name:
                continue
            kind, family = found.setdefault(typed, (metric.kind, _family(name, metric)))
            if kind is metric.kind:
                _fill(family, name, series)
        yield from (family for _, family in found.values())

    def _target_info(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily("target_info", "What each node says of itself")
        for node, about in self._store.resources().items():
            family.add_sample("target_info", _labels(about.items(), service_name=node), 1.0)
        return family


def _labels(told: Iterable[tuple[str, str]], **sure: str) -> dict[str, str]:
    """Return labels as Prometheus names them; ``sure`` are those that no node may say of itself."""
    own = {_UNFIT.sub("_", name): value for name, value in told}
    return {**{name: value for name, value in own.items() if _RESERVED.fullmatch(name) is None}, **sure}


def _family(name: str, metric: Metric) -> _Family:
    make: type[_Family] = {
        Kind.COUNTER: CounterMetricFamily,
        Kind.GAUGE: GaugeMetricFamily,
        Kind.HISTOGRAM: HistogramMetricFamily,
    }[metric.kind]
    return make(name, metric.description or metric.name)


def _fill(family: _Family, name: str, series: Iterable[Series]) -> None:
    for one in series:
        labels = _labels(one.labels, service_name=one.node, imslab_nf_type=one.nf_type)
        if isinstance(one.value, Buckets):
            for bound, below in _cumulated(one.value):
                family.add_sample(f"{name}_bucket", {**labels, "le": bound}, below)
            family.add_sample(f"{name}_count", labels, one.value.count)
            family.add_sample(f"{name}_sum", labels, one.value.total)
        else:
            counts = isinstance(family, CounterMetricFamily)
            family.add_sample(f"{name}_total" if counts else name, labels, one.value)


def _cumulated(found: Buckets) -> Iterator[tuple[str, float]]:
    below = 0
    for bound, count in zip((*found.bounds, float("inf")), found.counts, strict=True):
        below += count
        yield ("+Inf" if bound == float("inf") else f"{bound:g}"), float(below)
