"""What a P-CSCF counts: calls by how they ended and how their media was protected, refusals, what it keeps."""

from __future__ import annotations

from collections.abc import Sized

from nodes.pcscf.media_plan import Side, StreamPlan, StreamState, Treatment
from nodes.pcscf.session import Session
from sba.metrics import observed
from sba.telemetry import Telemetry

_MODES = {Treatment.E2AE_SDES: "e2ae-sdes", Treatment.PLAIN: "none", Treatment.RELAYED: "relayed"}
_SIDES = {Side.ACCESS: "originating", Side.CORE: "terminating"}
_TERMINATED = 487


class EdgeMeter:
    """Counters of one edge; `sessions` and `registrations` are told by how many there are."""

    def __init__(self, telemetry: Telemetry, sessions: Sized, registrations: Sized) -> None:
        meter = telemetry.meter
        self._calls = meter.create_counter(
            "imslab.calls", "{call}", "Calls set up or not, by side of the edge, outcome and media security"
        )
        self._refusals = meter.create_counter(
            "imslab.refusals", "{refusal}", "Offers, answers and registrations refused for their security, by reason"
        )
        meter.create_observable_gauge("imslab.sessions", observed(lambda: len(sessions)), "{session}", "Sessions kept")
        meter.create_observable_gauge(
            "imslab.registrations", observed(lambda: len(registrations)), "{registration}", "Registrations kept"
        )

    def call(self, session: Session, status: int) -> None:
        """Count an INVITE outside of a dialog with its final answer."""
        result = "answered" if 200 <= status < 300 else "cancelled" if status == _TERMINATED else "refused"
        if status >= 500:
            result = "failed"
        self._calls.add(
            1,
            {
                "imslab.call.side": _SIDES[session.caller],
                "imslab.result": result,
                "imslab.media_security": media_security(session),
            },
        )

    def refused(self, reason: str, status: int) -> None:
        """Count a refusal; `reason` is a word of this node's own, never of a peer."""
        self._refusals.add(1, {"imslab.refusal.reason": reason or "other", "sip.status_code": status})


def media_security(session: Session) -> str:
    """How the media of a session is protected as this edge sees it: that of its first stream, agreed or planned."""
    streams: list[StreamState | StreamPlan] = [*session.media.streams.values()]
    if not streams and session.media.exchange is not None:
        streams = [plan for plan in session.media.exchange.decision.plans if plan.active]
    first = next((stream for stream in streams if stream.treatment is not Treatment.DISABLED), None)
    if first is None:
        return "unknown"
    if first.treatment is Treatment.E2E:
        return "e2e-kms" if first.managed else "e2e-sdes"
    return _MODES.get(first.treatment, "refused")
