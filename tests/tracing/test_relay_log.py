"""What the packet loop of a gateway reports is logged with the trace of the call whose media it is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from opentelemetry.trace import use_span

from nodes.siptrace import call_trace, trace_id_of_call
from protos import iq_pb2
from sba.testing import async_test
from tests.imsagw.calls import CALL_ID, Call, context_of, gateway, rtp
from tests.sba.gateway import until


@pytest.mark.attack("T3")
@async_test
async def test_packets_no_key_authenticates_are_logged_in_the_trace_of_their_call(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (node, pcscf, _lab):
        written = node.telemetry._stream = io.StringIO()
        call = Call(pcscf)
        try:
            with use_span(pcscf._telemetry.tracer.start_root("SIP INVITE", call_trace(CALL_ID)), end_on_exit=True):
                await call.reserve()
            await call.talk(0, 1, context_of(call.phone_key))
            for number in range(60):
                call.phone.sendto(rtp(number + 1, payload=bytes(60)), call.port(iq_pb2.ACCESS))
            await until(lambda: "srtp_failure" in written.getvalue(), 30)
        finally:
            call.close()
    line = next(json.loads(one) for one in written.getvalue().splitlines() if "srtp_failure" in one)
    assert (line["call_id"], line["trace_id"]) == (CALL_ID, trace_id_of_call(CALL_ID))
