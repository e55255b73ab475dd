"""One end of a call is subtracted and another one added to the same context, as when a call is transferred (IQ-3)."""

import asyncio
from pathlib import Path

import pytest
from opentelemetry.metrics import CallbackOptions

from protos import iq_pb2
from sba.testing import async_test
from tests.imsagw.calls import IQ, Call, context_of, gateway, read, rtp, tx_id


@pytest.mark.attack("T9")
@async_test
async def test_the_packet_loop_outlives_a_new_core_side(tmp_path: Path) -> None:
    async with gateway(tmp_path, relay="process") as (node, pcscf, _):
        call = Call(pcscf)
        await call.reserve()
        sender = context_of(call.phone_key)
        await call.talk(0, 20, sender)
        pid = node.gateway.relay.pid  # type: ignore[attr-defined]
        core = call.termination(iq_pb2.CORE).termination_id
        await pcscf.call(
            IQ["Release"],
            iq_pb2.ReleaseRequest(tx_id=tx_id(), context_id=call.context_id, termination_id=core, cause=iq_pb2.NORMAL),
        )
        request = iq_pb2.ReserveRequest(tx_id=tx_id(), context_id=call.context_id, correlation="c")
        request.terminations.add(new=True, side=iq_pb2.CORE).streams.append(call.core())
        await pcscf.call(IQ["ReserveAndConfigure"], request)
        for number in range(20, 25):
            call.phone.sendto(sender.protect_rtp(rtp(number)), call.port(iq_pb2.ACCESS))
            assert await read(call.far) == rtp(number)
        await asyncio.sleep(1.5)
        assert node.gateway.relay.pid == pid, "the packet loop died"  # type: ignore[attr-defined]
        observed = node._meter._observe("packets", "network.io.direction")(CallbackOptions())
        told = {tuple((each.attributes or {}).values()): each.value for each in observed}
        assert told["access", "receive"] == told["core", "transmit"] == 25
        call.close()
