"""What is made of a gateway's audit."""

from __future__ import annotations

from lab.calls import audited_legs
from protos import iq_pb2


def context(correlation: str, port: int) -> iq_pb2.ContextAudit:
    stream = iq_pb2.LocalInfo(stream_id=1, ip="127.0.0.9" if port else "", port=port)
    row = iq_pb2.StreamStatistics(
        stream_id=1, termination_id="t1", side=iq_pb2.ACCESS, protection="opaque", packets_in=7
    )
    termination = iq_pb2.TerminationInfo(termination_id="t1", side=iq_pb2.ACCESS, streams=[stream])
    return iq_pb2.ContextAudit(correlation=correlation, terminations=[termination], statistics=[row])


def test_the_legs_of_a_call_are_those_of_its_contexts_alone() -> None:
    audit = iq_pb2.AuditResponse(contexts=[context("call-1", 4000), context("call-2", 4002)])
    (leg,) = audited_legs("imsagw-a", audit, "call-1")
    assert (leg.node, leg.side, leg.protection, leg.keying) == ("imsagw-a", "access", "opaque", "")
    assert (leg.local, leg.packets_in) == ("127.0.0.9:4000", 7)


def test_a_stream_whose_port_is_still_being_reserved_is_no_leg_of_its_own() -> None:
    audit = iq_pb2.AuditResponse(contexts=[context("call-1", 0)])
    assert audited_legs("imsagw-a", audit, "call-1") == []
