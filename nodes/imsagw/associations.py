"""A `media.association` span per stream and side, from reservation to release, with the counters at its end."""

from opentelemetry.trace import get_current_span

from media.relay import Protection, Side, SideStatistics
from nodes.imsagw.context import Context, StreamRecord, Termination
from nodes.imsagw.meter import MediaMeter
from nodes.sipcontext import call_trace
from sba.spans import SpanSource

_COUNTERS = ("packets_in", "packets_out", "octets_in", "octets_out", "rtcp_in", "rtcp_out")


class Associations:
    """Opens and closes the spans of a gateway. Nothing of a key is put on them."""

    def __init__(self, tracer: SpanSource, node: str, meter: MediaMeter | None = None) -> None:
        self._tracer = tracer
        self._node = node
        self._meter = meter
        self._open: dict[int, tuple[str, Side]] = {}

    def open(self, context: Context, termination: Termination, record: StreamRecord) -> None:
        """Start the span of a stream that was just reserved, or that another life of this gateway left running.

        That one has no request above it; it belongs to the trace of its call all the same.
        """
        self._open[id(record)] = context.relay_id(record.stream_id), termination.side
        if self._meter is not None:
            self._meter.began(*self._open[id(record)])
        if get_current_span().get_span_context().is_valid:
            record.span = self._tracer.start_span("media.association")
        else:
            record.span = self._tracer.start_root("media.association", call_trace(context.correlation))
        record.span.set_attributes(
            {
                "sip.call_id": context.correlation,
                "imslab.node": self._node,
                "media.side": termination.side.value,
                "media.stream": record.stream_id,
                "media.context": context.context_id,
            }
        )
        self.describe(record)

    def describe(self, record: StreamRecord) -> None:
        """Write the present protection, suite and addresses."""
        span, config = record.span, record.config
        if span is None:
            return
        protected = config.protection is Protection.SRTP
        line = record.sending or record.receiving
        span.set_attribute("media.protection", config.protection.value)
        if protected:
            span.set_attribute("media.keying", "SDES")
        if protected and line is not None:
            span.set_attribute("media.suite", line.suite.name)
        if record.local is not None:
            span.set_attribute("media.local", _text(record.local.ip, record.local.port))
        if config.remote is not None:
            span.set_attribute("media.remote", _text(*config.remote))

    def rekeyed(self, record: StreamRecord) -> None:
        """Note a change of keys."""
        if record.span is not None:
            record.span.add_event("rekeyed")

    def interrupted(self, record: StreamRecord) -> None:
        """Note that the packet loop died, with the counters it had: the next one starts at nothing."""
        found: dict[str, int] = {}
        if self._meter is not None and id(record) in self._open:
            last = self._meter.interrupted(*self._open[id(record)])
            found = {f"media.{name}": getattr(last, name) for name in _COUNTERS}
        if record.span is not None:
            record.span.add_event("packet-loop-died", found)

    def close(self, record: StreamRecord, statistics: SideStatistics | None) -> None:
        """End the span with the final counters, as far as they are known."""
        span = record.span
        if span is None:
            return
        record.span = None
        ended = self._open.pop(id(record))
        if self._meter is not None:
            self._meter.ended(*ended, statistics)
        if statistics is not None:
            for name in _COUNTERS:
                span.set_attribute(f"media.{name}", getattr(statistics, name))
            for name in ("auth_failures", "replays", "latch_changes", "lost", "jitter_ms"):
                span.set_attribute(f"media.{name}", getattr(statistics, name))
            for cause, count in statistics.drops.items():
                span.set_attribute(f"media.drops.{cause.value}", count)
            if statistics.latched is not None:
                span.set_attribute("media.remote", _text(*statistics.latched))
        span.end()


def _text(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
