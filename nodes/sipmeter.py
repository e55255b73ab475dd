"""What a SIP stack counts: transactions by outcome and how long they took, retransmissions, what was dropped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from opentelemetry.metrics import CallbackOptions, Observation

from sba.telemetry import Telemetry
from signalling.sip.reasons import REASONS

_DROPS = {
    "response without transaction": "no-transaction",
    "response from elsewhere": "wrong-source",
    "CANCEL of another request": "foreign-cancel",
    "malformed": "malformed",
    "ACK undeliverable": "undeliverable",
    "response undeliverable": "undeliverable",
}
"""Label of a reason; its text may quote what a peer wrote."""


class SipMeter:
    """Instruments of one SIP stack; `transactions` tells those that are open, by key with the role first."""

    def __init__(
        self,
        telemetry: Telemetry,
        transactions: Callable[[], Mapping[tuple[str, str, str], object]],
        interfaces: Collection[str],
    ) -> None:
        self._durations = telemetry.latencies(
            "sip.transaction.duration",
            "Time from a SIP request to its final response or failure",
            ("sip.role", "sip.method", "sip.outcome"),
        )
        meter = telemetry.meter
        self._repeated = meter.create_counter(
            "sip.retransmissions", "{message}", "SIP messages that came or went again"
        )
        self._dropped = meter.create_counter("sip.dropped", "{message}", "Octets on SIP ports that were discarded")

        for interface in set(interfaces):  # a series that begins with its first event hides that event from a rate
            for direction in ("received", "sent"):
                self._repeated.add(0, {"sip.direction": direction, "imslab.interface": interface})
        for reason in {*_DROPS.values(), "other"}:
            self._dropped.add(0, {"sip.drop.reason": reason})

        def active(_options: CallbackOptions) -> Iterable[Observation]:
            roles = [key[0] for key in tuple(transactions())]
            return [Observation(roles.count(role), {"sip.role": role}) for role in ("client", "server")]

        meter.create_observable_up_down_counter(
            "sip.transactions.active", [active], "{transaction}", "SIP transactions that wait for their end"
        )

    def answered(self, role: str, method: str, status: int, seconds: float) -> None:
        """Count a transaction with its final response."""
        outcome = str(status) if status in REASONS else f"{status // 100}xx"
        self._durations.record((role, method, outcome), seconds)

    def failed(self, method: str, cause: str, seconds: float) -> None:
        """Count a request that nobody answered; `cause`: timeout, transport or flow-gone."""
        self._durations.record(("client", method, cause), seconds)

    def repeated(self, direction: str, interface: str) -> None:
        """Count a retransmission."""
        self._repeated.add(1, {"sip.direction": direction, "imslab.interface": interface})

    def dropped(self, reason: str) -> None:
        """Count octets that were discarded."""
        self._dropped.add(1, {"sip.drop.reason": _DROPS.get(reason.partition(":")[0], "other")})
