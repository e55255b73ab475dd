"""A P-CSCF that is to be taken away: UEs without a call go elsewhere, those with one stay until it is over (T9)."""

from __future__ import annotations

import pytest

from sba.testing import async_test
from signalling.sip.dialog import Dialog
from tests.pcscf.edge import audio, edge, ok
from tests.pcscf.test_sessions import SECURE, call_out, eventually

pytestmark = pytest.mark.attack("T9")


async def register(ue, **more):
    return await ue.send(ue.register(**more), ue.hop).final()


@async_test
async def test_the_connection_of_a_ue_without_a_call_ends(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        closed = []
        alice.flow_closed = closed.append
        assert it.node.work_left() == (1, "calls and registrations")
        await it.node.retire()
        await eventually(lambda: closed)
        await eventually(lambda: it.node.work_left()[0] == 0)
        assert len(it.node.edge.bindings) == 1, "the binding is the registrar's to end"


@pytest.mark.clause("TS 24.229", "5.1.1")
@pytest.mark.parametrize("transport", ["TLS", "UDP"])
@async_test
async def test_a_new_ue_is_told_to_go_elsewhere(tmp_path, transport):
    async with edge(tmp_path) as it:
        await it.node.retire()
        bob = await it.ue("bob", transport)
        answer = await register(bob)
        assert answer.status == 503
        assert answer.headers.get("Retry-After") is None, "which would bind the UE to this P-CSCF"
        assert it.registered == [], "the core is not asked"


@async_test
async def test_a_call_goes_on_and_ends_in_order_before_its_ue_goes(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        closed = []
        alice.flow_closed = closed.append
        call = await call_out(it, alice)
        await it.node.retire()
        assert it.node.work_left()[0] == 1
        refresh = await register(alice, response="00" * 16, nonce="bm9uY2U=", verify=alice.verify)
        assert refresh.status == 200, "who has a call here stays registered here"
        assert not closed
        ended = alice.send(call.near.request("BYE"), alice.hop)
        txn = await it.core.next("BYE")
        txn.respond(ok(txn, contact=f"<{it.core_uri('bob')}>"))
        assert (await ended.final()).status == 200
        await eventually(lambda: closed)
        await eventually(lambda: it.node.work_left()[0] == 0)


@async_test
async def test_a_call_from_the_core_still_comes_through_while_the_ue_is_here(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice", "UDP")
        await alice.sign_on()
        await it.node.retire()
        attempt = it.core.send(it.call_to(alice, audio(50000)), it.mw_hop())
        invite = await alice.next("INVITE")
        response = ok(invite, audio(40000), contact=alice.contact)
        Dialog.from_uas(invite.request, response)
        invite.respond(response)
        assert (await attempt.final()).status == 200
        assert it.node.work_left()[0] == 1


@async_test
async def test_a_ue_may_deregister_and_one_that_comes_after_the_change_of_mind_is_welcome(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice", "UDP")
        await alice.sign_on()
        await it.node.retire()
        leaving = alice.register(response="00" * 16, nonce="bm9uY2U=", verify=alice.verify, expires=0)
        leaving.headers.set("Expires", "0")
        assert (await alice.send(leaving, alice.hop).final()).status == 200
        await it.node.retire(withdraw=True)
        bob = await it.ue("bob")
        assert (await bob.sign_on()).status == 200
        call = await call_out(it, bob, SECURE)
        assert call is not None
