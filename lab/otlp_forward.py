"""Passing telemetry on to a collector of the operator's own: traces, metrics and logs as the nodes sent them.

The supervisor is the first hop, where each node speaks for its own certificate only; what it forwards was checked. A
collector that is slow, full or gone costs the lab nothing: queues are bounded in octets, the oldest data goes first,
and what was lost is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import grpc
import grpc.aio
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

QUEUE_OCTETS: Final = 8 << 20
"""Most octets that wait for the collector, for each of traces, metrics and logs."""
EXPORT_TIMEOUT_S: Final = 10.0
"""Patience with one export, s."""
FIRST_PAUSE_S: Final = 0.25
MOST_PAUSE_S: Final = 30.0
"""Bounds of the pause after an export that failed, s; it doubles and is drawn at random."""
_RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Answers after which the same data may be sent again (OTLP 1.x, "OTLP/gRPC response")."""
_PATHS: Final = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
SIGNALS: Final = tuple(_PATHS)


@dataclass
class _Signal:
    """What waits of one signal, and what became of the rest."""

    waiting: deque[bytes] = field(default_factory=deque)
    octets: int = 0
    more: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0
    lost: int = 0
    rejected: int = 0


class OtlpForward:
    """Sends what is offered to ``endpoint``: ``host:port`` in clear text, ``https://host:port`` over TLS.

    ``journal`` gets a line when the collector stops answering and when it answers again.
    """

    def __init__(self, endpoint: str, journal: Callable[[str], None], *, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self.endpoint = endpoint
        self._journal = journal
        self._first_pause_s = first_pause_s
        self._signals = {name: _Signal() for name in SIGNALS}
        self._channel: grpc.aio.Channel | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._reachable = True

    def start(self) -> None:
        """Begin to send; in the event loop."""
        secure = self.endpoint.startswith("https://")
        target = self.endpoint.partition("//")[2] if "//" in self.endpoint else self.endpoint
        options = (("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 5000))
        self._channel = (
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options)
            if secure
            else grpc.aio.insecure_channel(target, options)
        )
        self._workers = [asyncio.create_task(self._work(name, self._channel)) for name in SIGNALS]

    async def stop(self) -> None:
        """Send no more; what waits is lost."""
        for worker in self._workers:
            worker.cancel()
        for worker in self._workers:
            with contextlib.suppress(asyncio.CancelledError):
                await worker
        if self._channel is not None:
            await self._channel.close()

    def offer(self, signal: str, octets: bytes) -> None:
        """Queue an export request; never waits. The oldest data makes room where there is none."""
        queue = self._signals[signal]
        if len(octets) > QUEUE_OCTETS:
            queue.lost += 1
            return
        while queue.octets + len(octets) > QUEUE_OCTETS:
            queue.octets -= len(queue.waiting.popleft())
            queue.lost += 1
        queue.waiting.append(octets)
        queue.octets += len(octets)
        queue.more.set()

    def figures(self, signal: str) -> dict[str, int]:
        """Return requests ``sent``, ``lost`` and items ``rejected`` by the collector, and octets ``waiting``."""
        queue = self._signals[signal]
        return {"sent": queue.sent, "lost": queue.lost, "rejected": queue.rejected, "waiting": queue.octets}

    async def _work(self, signal: str, channel: grpc.aio.Channel) -> None:
        queue = self._signals[signal]
        export = channel.unary_unary(_PATHS[signal])
        pause = self._first_pause_s
        while True:
            while not queue.waiting:
                queue.more.clear()
                await queue.more.wait()
            octets = queue.waiting.popleft()
            queue.octets -= len(octets)
            try:
                answer = await export(octets, timeout=EXPORT_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _RETRYABLE:
                    queue.lost += 1
                    self._told(f"refuses {signal}: {error.code().name}")
                    continue
                self._told(f"does not answer: {error.code().name}")
                self._back(queue, octets)
                await asyncio.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))
                pause = min(2 * pause, MOST_PAUSE_S)
                continue
            pause = self._first_pause_s
            queue.sent += 1
            queue.rejected += _rejected(signal, answer)
            self._told("")

    @staticmethod
    def _back(queue: _Signal, octets: bytes) -> None:
        """Put data back in front, unless newer data has taken the room."""
        if queue.octets + len(octets) > QUEUE_OCTETS:
            queue.lost += 1
            return
        queue.waiting.appendleft(octets)
        queue.octets += len(octets)

    def _told(self, trouble: str) -> None:
        if trouble and self._reachable:
            self._journal(f"the collector at {self.endpoint} {trouble}; telemetry waits, the oldest is dropped")
        elif not trouble and not self._reachable:
            self._journal(f"the collector at {self.endpoint} takes telemetry again")
        self._reachable = not trouble


def _rejected(signal: str, answer: bytes) -> int:
    """Return how many items a collector says it did not take; 0 where its answer cannot be read."""
    try:
        if signal == "traces":
            return trace_service_pb2.ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans
        if signal == "metrics":
            told = metrics_service_pb2.ExportMetricsServiceResponse.FromString(answer)
            return told.partial_success.rejected_data_points
        return logs_service_pb2.ExportLogsServiceResponse.FromString(answer).partial_success.rejected_log_records
    except Exception:  # noqa: BLE001 - protobuf raises one of several types; the data arrived all the same
        return 0
