"""Row T7 at the edge: what a UE writes into requests and responses does not pass for the network's own words."""

from __future__ import annotations

import pytest

from nodes.pcscf.trust import NEVER_FROM_UE
from sba.testing import async_test
from signalling.sip.dialog import Dialog
from signalling.sip.message import SipRequest
from signalling.sip.stack import make_response
from tests.pcscf.edge import CRYPTO_1, CRYPTO_2, REQUESTED, EdgeFixture, Ue, audio, edge, ok
from tests.pcscf.test_sessions import answer_next, eventually
from tests.trap import trap

SECURE = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1)
PRIVATE = ("p-imslab-media-security", "P-Imslab-Whatever")
FORGED = [(name, "<sip:boss@ims.test>") for name in (*sorted(NEVER_FROM_UE), *PRIVATE)]
VOUCHED = {"p-asserted-identity", "p-charging-vector", "record-route", "path", "p-visited-network-id"}
"""What the edge itself writes after it deleted the UE's."""


def forged(message) -> list[str]:
    return [name for name, value in FORGED if value in message.headers.get_all(name)]


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 24.229", "4.4", "HOP-5")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "SUBSCRIBE", "REGISTER"])
@async_test
async def test_nothing_the_network_alone_may_say_passes_in_a_request_of_a_ue(tmp_path, method):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        if method == "REGISTER":
            await alice.sign_on(headers=FORGED)
            seen: SipRequest = it.registered[-1]
        else:
            await alice.sign_on()
            request = alice.invite("sip:bob@ims.test", headers=FORGED)
            request.method = method
            request.headers.set("CSeq", f"1 {method}")
            alice.send(request, alice.hop)
            seen = (await it.core.next(method)).request
        assert forged(seen) == []
        assert {name for name, _ in FORGED if name.lower() not in VOUCHED and name in seen.headers} == set()


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 24.229", "4.4", "HOP-5")
@pytest.mark.parametrize("status", [183, 200, 486])
@async_test
async def test_nothing_the_network_alone_may_say_passes_in_a_response_of_a_ue(tmp_path, status):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        attempt = it.core.send(it.call_to(bob, audio(50000)), it.mw_hop())
        invite = await bob.next("INVITE")
        answer = ok(invite, _answer_to(invite.request.body), status=status, contact=bob.contact, headers=FORGED)
        invite.respond(answer)
        assert forged(await attempt.next()) == []


@pytest.mark.attack("T7")
@async_test
async def test_nothing_the_network_alone_may_say_passes_in_a_response_outside_sessions(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        request = it.call_to(bob)
        request.method = "MESSAGE"
        request.headers.set("CSeq", "1 MESSAGE")
        attempt = it.core.send(request, it.mw_hop())
        received = await bob.next("MESSAGE")
        received.respond(make_response(received.request, 200, to_tag="b", headers=FORGED))
        final = await attempt.final()
        assert forged(final) == []
        assert final.headers.get_all("P-Asserted-Identity") == [f"<{bob.impu}>"]


@pytest.mark.attack("T8")
@pytest.mark.clause("RFC 7315", "4.5")
@pytest.mark.parametrize("name", ["P-Profile-Key", "P-User-Database", "Restoration-Info", "P-Imslab-Whatever"])
@async_test
async def test_what_the_core_says_to_itself_does_not_reach_a_ue(tmp_path, name):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        it.core.send(it.call_to(bob, audio(50000), headers=[(name, "<sip:inside@ims.test>")]), it.mw_hop())
        assert name not in (await bob.next("INVITE")).request.headers


def _answer_to(offer: bytes) -> bytes:
    """A protected answer under the tag of the offer's AES_CM_128_HMAC_SHA1_80 line."""
    line = next(line for line in offer.decode().splitlines() if "AES_CM_128_HMAC_SHA1_80" in line)
    tag = line.removeprefix("a=crypto:").split(" ")[0]
    return audio(41000, "RTP/SAVP", CRYPTO_2.replace("crypto:1", f"crypto:{tag}"))


async def called(it: EdgeFixture, bob: Ue, routes: list[str]) -> tuple[Dialog, Dialog]:
    """A call of the core that bob answers with a Record-Route of his own; the dialogs of core and bob."""
    attempt = it.core.send(
        it.call_to(bob, audio(50000), headers=[("Record-Route", f"<{it.core_uri('rr')}>")]), it.mw_hop()
    )
    invite = await bob.next("INVITE")
    true = ok(invite, _answer_to(invite.request.body), contact=bob.contact)
    theirs = Dialog.from_uas(invite.request, true)
    ringing = make_response(invite.request, 180, to_tag="callee", headers=[("Contact", bob.contact)])
    for response in (ringing, true):
        response.headers.remove("Record-Route")
        for route in routes:
            response.headers.add("Record-Route", route)
        invite.respond(response)
    early, final = await attempt.next(), await attempt.final()
    assert early.status == 180
    sent = [*invite.request.headers.values("Record-Route")]
    for response in (early, final):
        assert response.headers.values("Record-Route") == sent
    far = Dialog.from_uac(attempt.txn.request, final)
    del far.route_set[0]  # the core's own
    it.core.stack.send_ack(far.ack_for(final), it.mw_hop(), "mw")
    await bob.next_ack()
    return far, theirs


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 24.229", "5.2.6.4")
@pytest.mark.clause("RFC 3261", "12.1.2")
@pytest.mark.parametrize("made", [[], ["<sip:evil@127.0.0.1:{port};transport=tcp;lr>"]])
@async_test
async def test_the_record_route_of_a_hostile_callee_is_restored_and_byes_of_all_go_their_way(tmp_path, made):
    async with edge(tmp_path) as it, trap() as other:
        bob = await it.ue("bob")
        await bob.sign_on()
        routes = [route.format(port=other.port) for route in made]
        far, _ = await called(it, bob, routes)
        bye = it.core.send(far.request("BYE"), it.mw_hop())
        await answer_next(bob, "BYE", b"", bob.contact)
        assert (await bye.final()).status == 200
        await eventually(lambda: not it.iq.contexts)
        _, theirs = await called(it, bob, routes)
        bye = bob.send(theirs.request("BYE", headers=[("Security-Verify", bob.verify)]), bob.hop)
        seen = await answer_next(it.core, "BYE", b"", "<sip:x@127.0.0.1>")
        assert seen.request.headers.values("Route") == [f"<{it.core_uri('rr')}>"]
        assert (await bye.final()).status == 200
        await eventually(lambda: not it.iq.contexts)
        await called(it, bob, routes)
        (session,) = it.node.edge.sessions
        await it.node._releaser.release(session, "test")
        assert (await it.core.next("BYE")).request.headers.values("Route") == [f"<{it.core_uri('rr')}>"]
        await bob.next("BYE")
        assert other.caught == []


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 24.229", "5.2.6.4")
@async_test
async def test_a_ue_sees_no_via_of_the_core_and_changes_none(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        request = it.call_to(bob, audio(50000))
        request.headers.prepend("Via", "SIP/2.0/TLS 192.0.2.7:5061;branch=z9hG4bKinner")
        attempt = it.core.send(request, it.mw_hop())
        invite = await bob.next("INVITE")
        assert len(invite.request.headers.values("Via")) == 1
        answer = make_response(invite.request, 486, to_tag="b")
        answer.headers.add("Via", "SIP/2.0/TLS 192.0.2.66:5061;branch=z9hG4bKforged")
        invite.respond(answer)
        final = await attempt.final()
        vias = final.headers.values("Via")
        assert [via.partition("branch=")[2] for via in vias[1:]] == ["z9hG4bKinner"]
        assert len(vias) == 2
