"""A `media.association` span per stream and side, from reservation to release, with the counters at its end."""

from opentelemetry.trace import Tracer

from media.relay import Protection, SideStatistics
from nodes.imsagw.context import Context, StreamRecord, Termination


class Associations:
    """Opens and closes the spans of a gateway. Nothing of a key is put on them."""

    def __init__(self, tracer: Tracer, node: str) -> None:
        self._tracer = tracer
        self._node = node

    def open(self, context: Context, termination: Termination, record: StreamRecord) -> None:
        """Start the span of a stream that was just reserved."""
        record.span = self._tracer.start_span("media.association")
        record.span.set_attribute("sip.call_id", context.correlation)
        record.span.set_attribute("call_id", context.correlation)
        record.span.set_attribute("imslab.node", self._node)
        record.span.set_attribute("node", self._node)
        record.span.set_attribute("side", termination.side.value)
        record.span.set_attribute("stream", record.stream_id)
        record.span.set_attribute("context", context.context_id)
        self.describe(record)

    def describe(self, record: StreamRecord) -> None:
        """Write the present protection, suite and addresses."""
        span, config = record.span, record.config
        if span is None:
            return
        protected = config.protection is Protection.SRTP
        line = record.sending or record.receiving
        span.set_attribute("protection", config.protection.value)
        span.set_attribute("keying", "SDES" if protected else "")
        span.set_attribute("suite", line.suite.name if protected and line is not None else "")
        if record.local is not None:
            span.set_attribute("local", _text(record.local.ip, record.local.port))
        if config.remote is not None:
            span.set_attribute("remote", _text(*config.remote))

    def rekeyed(self, record: StreamRecord) -> None:
        """Note a change of keys."""
        if record.span is not None:
            record.span.add_event("rekeyed")

    def close(self, record: StreamRecord, statistics: SideStatistics | None) -> None:
        """End the span with the final counters, as far as they are known."""
        span = record.span
        if span is None:
            return
        record.span = None
        if statistics is not None:
            for name in ("packets_in", "packets_out", "octets_in", "octets_out", "rtcp_in", "rtcp_out"):
                span.set_attribute(name, getattr(statistics, name))
            for name in ("auth_failures", "replays", "latch_changes", "lost", "jitter_ms"):
                span.set_attribute(name, getattr(statistics, name))
            for cause, count in statistics.drops.items():
                span.set_attribute(f"drops.{cause.value}", count)
            if statistics.latched is not None:
                span.set_attribute("remote", _text(*statistics.latched))
        span.end()


def _text(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
