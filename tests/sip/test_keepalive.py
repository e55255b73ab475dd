from __future__ import annotations

import pytest

from tests.sip.support import on_the_loop
from tests.sip.test_stack import Pair, options, until


@pytest.mark.clause("RFC 5626", "4.4.1", "4.4.2")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@on_the_loop
async def test_flow_is_pinged_until_the_peer_is_gone(transport):
    pair = await Pair().open(transport)
    sent = []
    answers = []
    sent.append(pair.caller.send(options(), pair.hop, role="gm", on_response=answers.append, on_failure=answers.append))
    await until(lambda: answers)
    failed = []
    keepalive = pair.caller.keep_alive(sent[0].flow, lambda: failed.append(1), advised=0.02)
    first = None
    if transport == "UDP":
        await until(lambda: keepalive._mapped is not None)
        first = keepalive._mapped
        assert first == sent[0].flow.local
    await until(lambda: keepalive._next is not None)
    assert not failed
    if transport == "TCP":
        pair.callee.close_flow(pair.bob.requests[0].flow)
        await until(lambda: failed)
    keepalive.stop()
    await pair.close()
