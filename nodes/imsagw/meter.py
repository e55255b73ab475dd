"""What a gateway counts: packets, octets and drops of all its media, streams and contexts, commands that wait."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from threading import Lock

from opentelemetry.metrics import CallbackOptions, Observation

from media.relay import Side, SideCounts, SideStatistics
from sba.metrics import observed
from sba.telemetry import Telemetry

_Key = tuple[str, ...]
CountsReader = Callable[[], Mapping[str, Mapping[Side, SideCounts]]]
_ONE_EXPORT_S = 0.2
"""The instruments of one export are read from the same counters, if they are no older than this."""


def _nothing() -> SideCounts:
    """Return a new object each time: who read meanwhile sees that it is another."""
    return SideCounts(0, 0, 0, 0, 0, 0, {})


class MediaMeter:
    """Sums the counters of streams that ended and those of the streams that go on, as they stand in shared memory.

    A stream's counters never fall, so neither does a sum.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._ended: Counter[_Key] = Counter()
        self._live: dict[tuple[str, Side], SideCounts] = {}
        self._read: CountsReader = dict
        self._read_at = -math.inf
        self._lock = Lock()
        """Instruments are read in a thread of the exporter."""
        self._meter = meter = telemetry.meter
        meter.create_observable_counter(
            "media.packets", [self._observe("packets", "network.io.direction")], "{packet}", "RTP packets by side"
        )
        meter.create_observable_counter(
            "media.octets", [self._observe("octets", "network.io.direction")], "By", "Octets of RTP packets by side"
        )
        meter.create_observable_counter(
            "media.drops", [self._observe("drops", "media.drop.cause")], "{packet}", "Packets not forwarded, by cause"
        )

    def watch(
        self,
        *,
        counts: CountsReader,
        streams: Callable[[], int],
        room: int,
        contexts: Callable[[], int],
        commands: Callable[[], int],
        restarts: Callable[[], int],
    ) -> None:
        """Make the gauges of the gateway: `room` is how many streams it takes, `counts` reads the counters of all."""
        self._read = counts
        meter = self._meter
        meter.create_observable_gauge("media.streams", observed(streams), "{stream}", "Streams in use")
        meter.create_observable_gauge("media.streams.limit", observed(lambda: room), "{stream}", "Streams there may be")
        meter.create_observable_gauge("imslab.iq.contexts", observed(contexts), "{context}", "Contexts kept")
        meter.create_observable_gauge(
            "imslab.relay.commands", observed(commands), "{command}", "Commands the packet loop has not answered"
        )
        meter.create_observable_counter(
            "imslab.relay.restarts", observed(restarts), "{restart}", "Packet loops that died and were replaced"
        )

    def refresh(self) -> None:
        """Read the present counters of the sides that have begun and not ended."""
        with self._lock:
            before = dict(self._live)
        read = self._read()
        with self._lock:
            for key, last in before.items():
                found = read.get(key[0], {}).get(key[1])
                if found is not None and self._live.get(key) is last:  # else it ended meanwhile, or was read again
                    self._live[key] = found
            self._read_at = time.monotonic()

    def began(self, stream_id: str, side: Side) -> None:
        """Count a side from now on."""
        with self._lock:
            self._live[stream_id, side] = _nothing()

    def interrupted(self, stream_id: str, side: Side) -> SideCounts:
        """Keep what was last read of a side whose packet loop died, as it starts again at nothing; returns that."""
        with self._lock:
            found = self._live.get((stream_id, side), _nothing())
            self._ended.update(_counts(side, found))
            self._live[stream_id, side] = _nothing()
        return found

    def ended(self, stream_id: str, side: Side, final: SideStatistics | None) -> None:
        """Take the last counters of a side; None where nobody knows them: as last read."""
        with self._lock:
            last = self._live.pop((stream_id, side), _nothing())
            self._ended.update(_counts(side, final or last))

    def _observe(self, what: str, label: str) -> Callable[[CallbackOptions], list[Observation]]:
        def read(_options: CallbackOptions) -> list[Observation]:
            if time.monotonic() - self._read_at > _ONE_EXPORT_S:
                self.refresh()
            with self._lock:
                total, live = Counter(self._ended), list(self._live.items())
            for (_, side), told in live:
                total.update(_counts(side, told))
            return [
                Observation(count, {"media.side": key[1], label: key[2]})
                for key, count in sorted(total.items())
                if key[0] == what
            ]

        return read


def _counts(side: Side, told: SideCounts | SideStatistics) -> Mapping[_Key, int]:
    return {
        ("packets", side.value, "receive"): told.packets_in,
        ("packets", side.value, "transmit"): told.packets_out,
        ("octets", side.value, "receive"): told.octets_in,
        ("octets", side.value, "transmit"): told.octets_out,
        **{("drops", side.value, cause.value): count for cause, count in told.drops.items()},
    }
