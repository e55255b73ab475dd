from __future__ import annotations

import asyncio

import pytest

from signalling.sip.message import SipRequest
from signalling.sip.stack import Hop
from tests.sip.support import Recorder, headers, new_stack, on_the_loop


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@on_the_loop
async def test_invite_200_ack_bye_between_two_stacks(transport):
    bob = Recorder()
    caller, callee = new_stack(), new_stack(bob)
    listener = await callee.listen(transport, "127.0.0.1", 0, role="gm")
    await caller.listen(transport, "127.0.0.1", 0, role="gm")
    hop = Hop(transport, *listener.address)
    answer = await caller.request(SipRequest("INVITE", "sip:bob@127.0.0.1", headers()), hop, role="gm")
    assert answer.status == 200
    ack = SipRequest("ACK", "sip:bob@127.0.0.1", headers("ACK", to_tag=answer.to_tag))
    caller.send_ack(ack, hop, "gm")
    await asyncio.wait_for(bob.ack_came.wait(), 5)
    assert bob.acks[0][2] is bob.requests[0]
    bye = SipRequest("BYE", "sip:bob@127.0.0.1", headers("BYE", cseq=2, to_tag=answer.to_tag))
    assert (await caller.request(bye, hop, role="gm")).status == 200
    await caller.stop()
    await callee.stop()
