"""Every decision about media security as a span `key.decision`: mode, suite, tag, outcome; never a key (PS-13, T8)."""

from __future__ import annotations

from collections.abc import Callable

from nodes.pcscf.media_plan import AlgDecision, Refusal, StreamAnswer, StreamPlan
from nodes.pcscf.mediasec import Agreement
from sba.spans import SpanSource


class DecisionRecorder:
    """Writes decisions of one node as spans under whatever span is current."""

    def __init__(self, tracer: SpanSource, node: str) -> None:
        self._tracer = tracer
        self._node = node
        self.on_refused: Callable[[str, int], None] = lambda _reason, _status: None
        """Told the reason, one word, and the SIP status of every refusal."""

    def record(self, outcome: str, *, call_id: str, **facts: str | int | bool) -> None:
        """One decision; `facts` become `imslab.decision.<name>`. A refusal is recorded whether the call is or not."""
        refused = outcome == "refused"
        span = self._tracer.evidence("key.decision") if refused else self._tracer.start_span("key.decision")
        if span.is_recording():
            span.set_attributes(
                {
                    "imslab.decision.outcome": outcome,
                    "imslab.node": self._node,
                    "sip.call_id": call_id,
                    **{f"imslab.decision.{name}": value for name, value in facts.items() if value != ""},
                }
            )
        span.end()

    def agreement(self, call_id: str, impu: str, agreement: Agreement, *, claimed: str) -> None:
        """What came of the announcement at registration. `claimed`: how the UE's Security-Verify compared."""
        self.record(
            "agreed" if agreement.mechanisms else "no-agreement",
            call_id=call_id,
            mode="mediasec",
            subject=impu,
            reason=str(agreement.state),
            verify=claimed,
            announced_by_ue=",".join(agreement.client),
            announced_by_network=",".join(agreement.server),
        )

    def registration_refused(self, call_id: str, reason: str, status: int) -> None:
        """A REGISTER without the agreement that its announcement wants."""
        self.on_refused("mediasec", status)
        self.record("refused", call_id=call_id, mode="mediasec", reason=reason, sip_status=status)

    def offer(self, call_id: str, decision: AlgDecision) -> None:
        """What becomes of an offer."""
        for plan in decision.plans:
            self._stream(call_id, plan, decision, "offer")
        if decision.refusal is not None:
            self.refused(call_id, decision.refusal, str(decision.offered_by))

    def _stream(self, call_id: str, plan: StreamPlan, decision: AlgDecision, step: str) -> None:
        self.record(
            "refused" if decision.refusal or not plan.active else "planned",
            call_id=call_id,
            mode=str(plan.treatment),
            stream=plan.index + 1,
            step=step,
            offered_by=str(decision.offered_by),
            suite=plan.chosen.suite.name if plan.chosen else ",".join(plan.suites),
            tag=plan.tag,
            access_proto=plan.access_proto,
            core_proto=plan.core_proto,
            reason=plan.reason,
            token=plan.token,
        )

    def answer(self, call_id: str, stream: StreamAnswer, suite: str, tag: int) -> None:
        """What an answer settled."""
        self.record(
            "applied" if stream.active else "declined",
            call_id=call_id,
            mode=str(stream.plan.treatment),
            stream=stream.plan.index + 1,
            step="answer",
            suite=suite,
            tag=tag,
            reason=stream.plan.reason,
        )

    def refused(self, call_id: str, refusal: Refusal, side: str) -> None:
        """A request or answer that was refused for its media."""
        self.on_refused(refusal.token, refusal.status)
        self.record(
            "refused",
            call_id=call_id,
            mode="session",
            step=side,
            reason=refusal.text,
            token=refusal.token,
            sip_status=refusal.status,
        )
