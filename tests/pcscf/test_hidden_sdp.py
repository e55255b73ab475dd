"""Row T1 at the edge: a session description that the ALG does not see is none that passes (HOP-6)."""

from __future__ import annotations

import asyncio

import pytest

from sba.testing import async_test
from signalling.sdp import parse_sdp
from signalling.sip.dialog import Dialog
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.stack import make_response
from tests.pcscf.edge import CRYPTO_1, REQUESTED, audio, edge, ok
from tests.pcscf.test_sessions import call_out, eventually

SECURE = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1)
PLAIN = audio(40000)
PART = b"--x\r\nContent-Type: application/sdp\r\n\r\n" + PLAIN + b"\r\n--x--\r\n"
SPELLINGS = ["application / sdp", "application/ sdp", "Application\t/sdp;charset=utf-8", "APPLICATION/SDP ;x=y"]
HIDDEN = [
    ((), 400),
    (("text/plain", "application/sdp"), 400),
    (("application/sdp", "application/sdp"), 400),
    (("application/sdp, text/plain",), 400),
    (("sdp",), 400),
    (("application/x-sdp",), 415),
    (("text/plain",), 415),
    (("multipart/mixed;boundary=x",), 415),
    (("message/cpim",), 415),
    (("application/pkcs7-mime",), 493),
]


def typed(request: SipRequest, kinds: tuple[str, ...], body: bytes) -> SipRequest:
    request.headers.set_values("Content-Type", kinds)
    request.body = body
    return request


@pytest.mark.attack("T1")
@pytest.mark.clause("RFC 3261", "25.1")
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["Content-Type", "c"])
@async_test
async def test_a_blank_in_the_media_type_does_not_hide_a_plain_offer_where_protection_is_required(
    tmp_path, spelling, name
):
    async with edge(tmp_path, e2ae="required") as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        request = alice.invite("sip:bob@ims.test", headers=[(name, spelling)])
        request.body = PLAIN
        assert (await alice.send(request, alice.hop).final()).status == 488
        assert it.core.requests.empty()
        assert not it.iq.contexts


@pytest.mark.clause("TS 33.328", "4.1.1-3")
@pytest.mark.attack("T1")
@pytest.mark.clause("RFC 3261", "20.15")
@pytest.mark.clause("TS 24.229", "HOP-6")
@pytest.mark.parametrize(("kinds", "status"), HIDDEN)
@async_test
async def test_an_invite_whose_body_the_alg_cannot_read_is_refused_from_either_side(tmp_path, kinds, status):
    async with edge(tmp_path, e2ae="required") as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        from_ue = typed(alice.invite("sip:bob@ims.test"), kinds, PART)
        assert (await alice.send(from_ue, alice.hop).final()).status == status
        from_core = typed(it.call_to(alice), kinds, PART)
        assert (await it.core.send(from_core, it.mw_hop()).final()).status == status
        assert it.core.requests.empty()
        assert alice.requests.empty()


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 24.229", "HOP-6")
@pytest.mark.parametrize("kinds", [(), ("application/x-sdp",), ("multipart/mixed;boundary=x",)])
@pytest.mark.parametrize("method", ["INVITE", "UPDATE", "PRACK"])
@async_test
async def test_no_unreadable_body_inside_a_session(tmp_path, method, kinds):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        wanted = 415 if kinds else 400
        more = [("RAck", "1 1 INVITE")] if method == "PRACK" else []
        request = typed(call.near.request(method, headers=more), kinds, PART)
        assert (await alice.send(request, alice.hop).final()).status == wanted
        request = typed(call.far.request(method, headers=more), kinds, PART)
        assert (await it.core.send(request, it.mw_hop()).final()).status == wanted
        assert it.core.requests.empty()
        assert alice.requests.empty()
        assert it.iq.contexts


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.3.1-4")
@pytest.mark.parametrize("kinds", [(), ("application/x-sdp",), ("text/plain", "application/sdp")])
@pytest.mark.parametrize("status", [183, 200])
@async_test
async def test_an_unreadable_answer_ends_the_session_and_frees_the_gateway(tmp_path, kinds, status):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        attempt = it.core.send(it.call_to(bob, audio(50000)), it.mw_hop())
        invite = await bob.next("INVITE")
        answer = ok(invite, audio(41000), status=status, contact=bob.contact)
        answer.headers.set_values("Content-Type", kinds)
        invite.respond(answer)
        final = await attempt.final()
        assert final.status == 488
        assert not final.body
        if status == 200:
            await bob.next_ack()
            await bob.next("BYE")
        else:
            async with asyncio.timeout(5):
                await bob.cancels.get()
        await eventually(lambda: not it.iq.contexts and not len(it.node.edge.sessions))


@pytest.mark.attack("T1")
@async_test
async def test_an_answer_with_blanks_in_its_media_type_is_judged_and_rewritten(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        answer = ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>")
        answer.headers.set("Content-Type", "application / sdp")
        invite.respond(answer)
        line = parse_sdp((await attempt.final()).body).media[0]
        assert (line.proto, len(line.crypto)) == ("RTP/SAVP", 1)
        assert line.port != 50000


@pytest.mark.attack("T1")
@pytest.mark.clause("RFC 3264", "4")
@pytest.mark.parametrize("kind", ["application/sdp", "application/x-sdp"])
@async_test
async def test_a_body_in_an_ack_nobody_waits_for_stays_at_the_edge(tmp_path, kind):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        final = await attempt.final()
        ack = typed(Dialog.from_uac(attempt.txn.request, final).ack_for(final), (kind,), SECURE)
        alice.stack.send_ack(ack, alice.hop, "ue")
        received = await it.core.next_ack()
        assert received.body == b""
        assert "Content-Type" not in received.headers
        assert it.iq.contexts


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.3.1-4")
@async_test
async def test_an_answer_in_the_ack_that_is_no_session_description_ends_the_call(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test"), alice.hop)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        final = await attempt.final()
        ack = Dialog.from_uac(attempt.txn.request, final).ack_for(final)
        alice.stack.send_ack(typed(ack, ("application/x-sdp",), PLAIN), alice.hop, "ue")
        bye = await it.core.next("BYE")
        assert "488" in bye.request.headers.get("Reason")
        await alice.next("BYE")
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 24.229", "HOP-6")
@pytest.mark.parametrize("kind", ["application/sdp", "application / sdp", "multipart/mixed;boundary=x"])
@async_test
async def test_no_session_description_travels_in_a_request_that_makes_no_media(tmp_path, kind):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        request = typed(call.near.request("INFO"), (kind,), PART)
        assert (await alice.send(request, alice.hop).final()).status == 415
        message = typed(alice.invite("sip:bob@ims.test"), (kind,), PART)
        message.method = "MESSAGE"
        message.headers.set("CSeq", "1 MESSAGE")
        assert (await alice.send(message, alice.hop).final()).status == 415
        assert it.core.requests.empty()


@async_test
async def test_a_text_in_a_message_still_passes(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        message = typed(alice.invite("sip:bob@ims.test"), ("text/plain",), b"hello")
        message.method = "MESSAGE"
        message.headers.set("CSeq", "1 MESSAGE")
        alice.send(message, alice.hop)
        assert (await it.core.next("MESSAGE")).request.body == b"hello"


@pytest.mark.attack("T1")
@pytest.mark.parametrize("method", ["UPDATE", "PRACK"])
@async_test
async def test_an_offer_outside_any_session_is_answered_481(tmp_path, method):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        for request, party, hop in (
            (alice.invite("sip:bob@ims.test", SECURE), alice, alice.hop),
            (it.call_to(alice, PLAIN), it.core, it.mw_hop()),
        ):
            request.method = method
            request.headers.set("CSeq", f"1 {method}")
            assert (await party.send(request, hop).final()).status == 481
        assert it.core.requests.empty()
        assert alice.requests.empty()


@pytest.mark.attack("T1")
@async_test
async def test_a_session_description_in_a_failure_does_not_reach_the_caller(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        attempt = it.core.send(it.call_to(bob, audio(50000)), it.mw_hop())
        invite = await bob.next("INVITE")
        refusal: SipResponse = make_response(
            invite.request, 488, to_tag="callee", body=PLAIN, content_type="application/sdp"
        )
        invite.respond(refusal)
        final = await attempt.final()
        assert (final.status, final.body) == (488, b"")
