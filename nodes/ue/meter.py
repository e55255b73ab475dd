"""What a UE counts: packets and drops of calls that ended, and what it refused for its security."""

from __future__ import annotations

from media.session import RtpStatistics
from sba.telemetry import Telemetry

_SIDE = {"media.side": "end"}


class UeMeter:
    """Counters of one UE; they have the names of those of gateways and P-CSCFs, whose sides they complete."""

    def __init__(self, telemetry: Telemetry) -> None:
        meter = telemetry.meter
        self._packets = meter.create_counter("media.packets", "{packet}", "RTP packets by side")
        self._octets = meter.create_counter("media.octets", "By", "Octets of RTP packets by side")
        self._drops = meter.create_counter("media.drops", "{packet}", "Packets not forwarded, by cause")
        self._refusals = meter.create_counter(
            "imslab.refusals", "{refusal}", "Offers, answers and registrations refused for their security, by reason"
        )

    def ended(self, figures: RtpStatistics) -> None:
        """Count what a stream carried until its end."""
        for way, packets, octets in (
            ("receive", figures.packets_in, figures.octets_in),
            ("transmit", figures.packets_out, figures.octets_out),
        ):
            self._packets.add(packets, {**_SIDE, "network.io.direction": way})
            self._octets.add(octets, {**_SIDE, "network.io.direction": way})
        for cause, count in figures.drops.items():
            self._drops.add(count, {**_SIDE, "media.drop.cause": cause})

    def refused(self, token: str, status: int) -> None:
        """Count a refusal by the token that the far end was told."""
        self._refusals.add(1, {"imslab.refusal.reason": token, "sip.status_code": status})
