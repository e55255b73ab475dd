"""What happens inside and at the end of sessions: hold, change, offers that cross, CANCEL, BYE, failures (7.4, PS-6..PS-12)."""

from __future__ import annotations

import asyncio

import pytest

from protos import iq_pb2
from sba.errors import ProblemError
from sba.testing import async_test
from signalling.sdp import parse_sdp
from signalling.sip.dialog import Dialog
from signalling.sip.stack import make_response
from tests.pcscf.edge import CRYPTO_1, CRYPTO_2, REQUESTED, EdgeFixture, FakeGateway, Party, Ue, audio, edge, ok

SECURE = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1)


class Call:
    """An answered call: dialogs of both ends."""

    def __init__(self, it: EdgeFixture, ue: Ue, near: Dialog, far: Dialog) -> None:
        self.it, self.ue, self.near, self.far = it, ue, near, far

    def from_ue(self, method: str, body: bytes = b"", **more):
        request = self.near.request(method, headers=with_type(body, more.get("headers", ())), body=body)
        return self.ue.send(request, self.ue.hop)

    def from_core(self, method: str, body: bytes = b"", **more):
        request = self.far.request(method, headers=with_type(body, more.get("headers", ())), body=body)
        return self.it.core.send(request, self.it.mw_hop())


def with_type(body: bytes, headers=()):
    return [*headers, ("Content-Type", "application/sdp")] if body else list(headers)


async def call_out(
    it: EdgeFixture, ue: Ue, offer: bytes = SECURE, answer: bytes = audio(50000), *, asked=(), agreed=()
) -> Call:
    """The UE calls, the core answers, ACK goes through; `asked` and `agreed` are headers of INVITE and 200."""
    attempt = ue.send(ue.invite("sip:bob@ims.test", offer, headers=list(asked)), ue.hop)
    invite = await it.core.next("INVITE")
    response = ok(invite, answer, contact=f"<{it.core_uri('bob')}>", headers=list(agreed))
    far = Dialog.from_uas(invite.request, response)
    invite.respond(response)
    final = await attempt.final()
    assert final.status == 200, final.to_bytes()
    near = Dialog.from_uac(attempt.txn.request, final)
    ue.stack.send_ack(near.ack_for(final), ue.hop, "ue")
    await it.core.next_ack()
    return Call(it, ue, near, far)


async def eventually(condition, wait_s: float = 20.0) -> None:
    async with asyncio.timeout(wait_s):
        while not condition():  # noqa: ASYNC110 - the other end is a socket
            await asyncio.sleep(0.01)


async def answer_next(party: Party, method: str, body: bytes, contact: str):
    txn = await party.next(method)
    txn.respond(
        make_response(
            txn.request,
            200,
            headers=[("Contact", contact)],
            body=body,
            content_type="application/sdp" if body else None,
        )
    )
    return txn


@pytest.mark.clause("RFC 3261", "15")
@async_test
async def test_bye_from_either_side_gives_the_media_back(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        assert len(it.iq.contexts) == 1
        bye = call.from_ue("BYE")
        await answer_next(it.core, "BYE", b"", "<sip:x@127.0.0.1>")
        assert (await bye.final()).status == 200
        await eventually(lambda: not it.iq.contexts and not len(it.node.edge.sessions))
        call = await call_out(it, alice)
        bye = call.from_core("BYE")
        received = await answer_next(alice, "BYE", b"", alice.contact)
        assert received.request.headers.get("P-Charging-Vector") is None
        assert (await bye.final()).status == 200
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("TS 33.328", "7.4-2", "7.4-3", "7.4-10")
@pytest.mark.clause("TS 24.229", "PS-7")
@async_test
async def test_hold_rekey_and_move_in_one_call(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        seen = len(it.iq.requests("Configure"))

        async def again(offer: bytes, answer: bytes):
            attempt = call.from_ue("INVITE", offer)
            invite = await it.core.next("INVITE")
            response = ok(invite, answer, contact=f"<{it.core_uri('bob')}>")
            invite.respond(response)
            final = await attempt.final()
            alice.stack.send_ack(call.near.ack_for(final), alice.hop, "ue")
            await it.core.next_ack()
            return final, parse_sdp(invite.request.body)

        held, onward = await again(
            audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, "sendonly", version=2), audio(50000, "RTP/AVP", "recvonly")
        )
        assert held.status == 200
        assert onward.media[0].direction == "sendonly"
        (hold,) = it.iq.requests("Configure")[seen:]
        streams = {info.side: info.streams[0] for info in hold.terminations}
        assert not streams[iq_pb2.ACCESS].sdes_remote
        assert streams[iq_pb2.ACCESS].mode == iq_pb2.RECVONLY
        moved, _ = await again(audio(42000, "RTP/SAVP", REQUESTED, CRYPTO_2, version=3), audio(50000))
        assert moved.status == 200
        access = {info.side: info.streams[0] for info in it.iq.requests("Configure")[-1].terminations}[iq_pb2.ACCESS]
        assert access.remote.port == 42000
        assert access.latching == iq_pb2.RELATCH
        assert len(access.sdes_remote) == 1
        refused = call.from_ue("INVITE", audio(43000, "RTP/SAVP", REQUESTED, CRYPTO_2, version=4))
        assert (await refused.final()).status == 488
        assert it.iq.contexts


@pytest.mark.clause("TS 24.229", "PS-9")
@async_test
async def test_an_offer_of_the_core_reaches_the_ue_protected_with_the_same_key(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        response = ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>")
        far = Dialog.from_uas(invite.request, response)
        invite.respond(response)
        final = await attempt.final()
        near = Dialog.from_uac(attempt.txn.request, final)
        alice.stack.send_ack(near.ack_for(final), alice.hop, "ue")
        await it.core.next_ack()
        key = parse_sdp(final.body).media[0].crypto
        update = Call(it, alice, near, far).from_core("UPDATE", audio(51000, version=2))
        received = await alice.next("UPDATE")
        offered = parse_sdp(received.request.body).media[0]
        assert (offered.proto, offered.crypto, offered.e2ae) == ("RTP/SAVP", key, "applied")
        received.respond(ok(received, audio(40000, "RTP/SAVP", CRYPTO_1), contact=alice.contact))
        answer = await update.final()
        assert parse_sdp(answer.body).media[0].proto == "RTP/AVP"
        far_side = {info.side: info.streams[0] for info in it.iq.requests("Configure")[-1].terminations}[iq_pb2.CORE]
        assert far_side.remote.port == 51000


@pytest.mark.clause("TS 33.328", "7.2.1-10")
@pytest.mark.clause("TS 24.229", "PS-11")
@async_test
async def test_an_invite_without_offer_makes_the_edge_offer_protection_itself(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test"), alice.hop)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        final = await attempt.final()
        offered = parse_sdp(final.body).media[0]
        assert (offered.proto, offered.e2ae) == ("RTP/SAVP", "applied")
        tag = offered.crypto[2].split(" ")[0]
        near = Dialog.from_uac(attempt.txn.request, final)
        ack = near.ack_for(final)
        ack.body = audio(40000, "RTP/SAVP", CRYPTO_1.replace("crypto:1", f"crypto:{tag}"))
        ack.headers.set("Content-Type", "application/sdp")
        alice.stack.send_ack(ack, alice.hop, "ue")
        received = await it.core.next_ack()
        line = parse_sdp(received.body).media[0]
        assert (line.proto, line.crypto) == ("RTP/AVP", [])


@pytest.mark.clause("TS 33.328", "7.3.1-4")
@pytest.mark.attack("T1")
@async_test
async def test_a_bad_answer_in_the_ack_ends_the_call_on_both_sides(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test"), alice.hop)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        final = await attempt.final()
        ack = Dialog.from_uac(attempt.txn.request, final).ack_for(final)
        ack.body = audio(40000)  # plain
        ack.headers.set("Content-Type", "application/sdp")
        alice.stack.send_ack(ack, alice.hop, "ue")
        bye = await it.core.next("BYE")
        assert "488" in bye.request.headers.get("Reason")
        await alice.next("BYE")
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("TS 33.328", "7.3.1-4")
@pytest.mark.attack("T1")
@async_test
async def test_a_ue_that_answers_plain_is_hung_up_and_the_caller_gets_488(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        attempt = it.core.send(it.call_to(bob, audio(50000)), it.mw_hop())
        invite = await bob.next("INVITE")
        invite.respond(ok(invite, audio(41000), contact=bob.contact))
        answer = await attempt.final()
        assert answer.status == 488
        assert "media-sec:downgrade-refused" in answer.headers.get("Warning")
        await bob.next_ack()
        await bob.next("BYE")
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("RFC 3261", "16.10")
@async_test
async def test_cancel_reaches_the_callee_and_the_media_is_given_back(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        attempt = it.core.send(it.call_to(bob, audio(50000)), it.mw_hop())
        invite = await bob.next("INVITE")
        invite.respond(make_response(invite.request, 180, to_tag="callee", headers=[("Contact", bob.contact)]))
        assert (await attempt.next()).status == 180
        attempt.txn.cancel()
        async with asyncio.timeout(5):
            await bob.cancels.get()
        assert (await attempt.final()).status == 487
        await eventually(lambda: not it.iq.contexts and not len(it.node.edge.sessions))


@pytest.mark.clause("RFC 3261", "14.2")
@async_test
async def test_offers_that_cross_are_answered_491_and_500(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        call.from_core("UPDATE", audio(50000, version=2))
        await alice.next("UPDATE")
        crossing = call.from_ue("UPDATE", audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, version=2))
        assert (await crossing.final()).status == 491
        second = await call.from_core("UPDATE", audio(50000, version=3)).final()
        assert (second.status, second.headers.get("Retry-After")) == (500, "2")


@pytest.mark.clause("TS 24.229", "PS-12")
@pytest.mark.clause("TS 33.328", "7.2.1-8")
@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (ProblemError(503, "NF_CONGESTION", "no streams left"), 503),
        (ProblemError(501, "IQ_445", "SRTP is switched off"), 488),
        (ProblemError(500, "SYSTEM_FAILURE", "broken"), 500),
    ],
)
@async_test
async def test_the_gateways_refusal_becomes_the_right_sip_code(tmp_path, problem, status):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        it.iq.fail["Reserve"] = problem
        answer = await alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop).final()
        assert answer.status == status
        assert it.core.requests.empty()
        assert not len(it.node.edge.sessions)


@pytest.mark.clause("ims-signalling", "SEC-1")
@pytest.mark.parametrize(
    ("param", "warning"),
    [
        ("crypto_suite", '399 pcscf-a "media-sec:no-common-suite"'),
        ("crypto_key", '399 pcscf-a "media-sec:bad-key"'),
        ("stream_id", None),
    ],
)
@async_test
async def test_warning_says_what_the_gateway_could_not_protect(tmp_path, param, warning):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        it.iq.fail["Reserve"] = ProblemError(
            400, "IQ_449", "none of the suites is carried", invalid_params=[("stream_id", "1"), (param, "why")]
        )
        answer = await alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop).final()
        assert (answer.status, answer.headers.get("Warning")) == (488, warning)


async def two_gateways(it: EdgeFixture):
    """The access network has a second IMS-AGW; returns both, the one asked first in front."""
    later = {"access_network": "a", "priority": 100}
    second = await it.lab.start("imsagw", "imsagw-a2", later, cls=FakeGateway)
    await it.restart()  # which looks anew for its gateways
    found = await it.node.edge.iq.gateways()
    assert found == [node.identity.instance_id for node in (it.agw, second)]
    return it.agw, second


@pytest.mark.attack("T9")
@pytest.mark.clause("ims-signalling", "IQ-5")
@async_test
async def test_call_goes_over_the_second_gateway_while_the_first_is_dead_but_still_registered(tmp_path):
    async with edge(tmp_path, iq_setup_deadline_s=0.5, iq_deadline_s=0.3) as it:
        first, second = await two_gateways(it)
        await first.server.stop()
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice)
        assert len(second.iq.contexts) == 1
        [session] = it.node.edge.sessions
        assert session.media.context.agw == second.identity.instance_id


@pytest.mark.attack("T9")
@pytest.mark.clause("ims-signalling", "IQ-1", "IQ-2")
@pytest.mark.parametrize("lost", [1, 2])
@async_test
async def test_reservation_whose_answer_is_lost_leaves_no_context_behind(tmp_path, lost):
    async with edge(tmp_path, iq_setup_deadline_s=0.3, iq_deadline_s=0.3) as it:
        first, second = await two_gateways(it)
        first.iq.mute = lost
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice)
        asked = [method for method, _ in first.iq.log if method in ("Reserve", "Audit")]
        start = asked.index("Reserve")  # an association begins with an Audit, and heartbeats may audit later
        again = asked.index("Reserve", start + 1)
        assert set(asked[start + 1 : again]) == {"Audit"}, "whether the context is there is asked before it is made"
        assert len({request.tx_id for request in first.iq.requests("Reserve")}) == 1, "asked again, not anew"
        serving = first if lost == 1 else second
        [session] = it.node.edge.sessions
        assert session.media.context.agw == serving.identity.instance_id
        if lost == 2:
            await eventually(lambda: not first.iq.contexts)
        assert session.media.context.context_id in serving.iq.contexts


@pytest.mark.clause("TS 24.229", "PS-12")
@async_test
async def test_a_gateway_that_fails_at_the_answer_ends_the_call_on_the_far_side(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        it.iq.fail["Configure"] = ProblemError(500, "SYSTEM_FAILURE", "broken")
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        assert (await attempt.final()).status == 500
        await it.core.next_ack()
        await it.core.next("BYE")
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("TS 24.229", "HOP-7", "IQ-4")
@pytest.mark.attack("T9")
@async_test
async def test_a_restarted_gateway_ends_its_calls_with_bye_to_both_sides(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice)
        it.iq.contexts.clear()
        it.iq.epoch = "epoch-2"
        assert "cause=503" in (await it.core.next("BYE")).request.headers.get("Reason")
        bye = await alice.next("BYE")
        assert bye.request.to_tag == "f-alice"
        await eventually(lambda: not len(it.node.edge.sessions))


@pytest.mark.clause("TS 24.229", "IQ-19")
@async_test
async def test_silence_reported_by_the_gateway_ends_the_call(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice)
        (context,) = it.iq.contexts
        await it.iq.notes.put(
            iq_pb2.Notification(context_id=context, media_inactivity=iq_pb2.MediaInactivity(seconds=30))
        )
        await it.core.next("BYE")
        await alice.next("BYE")
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.attack("T9")
@async_test
async def test_a_call_outlives_a_restart_of_the_edge_and_orphans_go(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        it.iq.contexts["orphan"] = {}
        it.iq.owner["orphan"] = it.node.identity.instance_id
        await it.restart()
        await eventually(lambda: "orphan" not in it.iq.contexts)
        assert len(it.iq.contexts) == 1
        stranger = await call.from_ue("UPDATE").final()
        assert stranger.status == 403
        await alice.sign_on()
        update = call.from_ue("UPDATE", audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, "sendonly", version=2))
        await answer_next(it.core, "UPDATE", audio(50000, "RTP/AVP", "recvonly"), f"<{it.core_uri('bob')}>")
        assert parse_sdp((await update.final()).body).media[0].proto == "RTP/SAVP"
        bye = call.from_core("BYE")
        await answer_next(alice, "BYE", b"", alice.contact)
        assert (await bye.final()).status == 200
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("TS 24.229", "DR-6")
@async_test
async def test_deregistration_releases_calls(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice)
        await alice.sign_on(expires=0)
        await it.core.next("BYE")
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("TS 33.328", "7.5-4")
@pytest.mark.clause("TS 33.328", "7.5-3")
@pytest.mark.clause("TS 24.229", "EM-4", "EM-8")
@async_test
async def test_an_emergency_call_goes_on_when_the_gateway_refuses_srtp(tmp_path):
    async with edge(tmp_path, e2ae="required") as it:
        alice = await it.ue("alice")
        await alice.sign_on(client=None)
        attempt = alice.send(alice.invite("urn:service:sos", audio(40000)), alice.hop)
        invite = await it.core.next("INVITE")
        assert it.iq.requests("Reserve")[0].emergency
        assert parse_sdp(invite.request.body).media[0].proto == "RTP/AVP"
        invite.respond(make_response(invite.request, 404))
        assert (await attempt.final()).status == 404


@pytest.mark.clause("TS 24.229", "EM-4")
@async_test
async def test_an_unregistered_ue_may_call_emergency_and_nothing_else(tmp_path):
    async with edge(tmp_path) as it:
        eve = await it.ue("eve", "UDP")
        assert (await eve.send(eve.invite("sip:bob@ims.test", audio(40000)), eve.hop).final()).status == 403
        attempt = eve.send(eve.invite("urn:service:sos.fire", audio(40000), call_id="sos"), eve.hop)
        invite = await it.core.next("INVITE")
        assert invite.request.headers.get("P-Asserted-Identity") == "<sip:anonymous@anonymous.invalid>"
        invite.respond(make_response(invite.request, 404))
        assert (await attempt.final()).status == 404


@pytest.mark.clause("TS 24.229", "HOP-6")
@async_test
async def test_a_wrapped_or_encrypted_description_is_refused(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        for kind, status in (("application/pkcs7-mime", 493), ("multipart/mixed;boundary=x", 415)):
            request = alice.invite("sip:bob@ims.test", SECURE, call_id=kind)
            request.headers.set("Content-Type", kind)
            assert (await alice.send(request, alice.hop).final()).status == status


@pytest.mark.clause("TS 33.328", "7.2.2", "E2E-1")
@async_test
async def test_end_to_end_sdes_passes_through_opaque_streams(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", audio(40000, "RTP/SAVP", CRYPTO_1)), alice.hop)
        invite = await it.core.next("INVITE")
        assert parse_sdp(invite.request.body).media[0].crypto == [CRYPTO_1.partition(":")[2]]
        streams = [stream for info in it.iq.requests("Reserve")[0].terminations for stream in info.streams]
        assert {stream.transport for stream in streams} == {iq_pb2.OPAQUE_UDP}
        assert not any(stream.sdes_remote for stream in streams)
        invite.respond(ok(invite, audio(50000, "RTP/SAVP", CRYPTO_2), contact=f"<{it.core_uri('bob')}>"))
        assert parse_sdp((await attempt.final()).body).media[0].crypto == [CRYPTO_2.partition(":")[2]]


@pytest.mark.clause("RFC 4568", "8.3")
@async_test
async def test_end_to_end_keys_are_refused_when_mw_is_in_clear(tmp_path):
    async with edge(tmp_path, core_transport="TCP") as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        answer = await alice.send(
            alice.invite("sip:bob@ims.test", audio(40000, "RTP/SAVP", CRYPTO_1)), alice.hop
        ).final()
        assert answer.status == 488


@pytest.mark.clause("TS 33.328", "ID-6")
@async_test
async def test_a_call_to_an_access_that_requires_protection_of_a_ue_without_it_is_refused(tmp_path):
    async with edge(tmp_path, e2ae="required") as it:
        carol = await it.ue("carol")
        await carol.sign_on(client=None)
        answer = await it.core.send(it.call_to(carol, audio(50000)), it.mw_hop()).final()
        assert answer.status == 488
        assert "e2ae-not-announced" in answer.headers.get("Warning")
        assert carol.requests.empty()


@pytest.mark.clause("RFC 5626", "5.3.1")
@async_test
async def test_a_ue_whose_connection_is_gone_is_answered_430(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        await bob.stack.stop()
        it.parties.remove(bob)
        await asyncio.sleep(0.1)
        answer = await it.core.send(it.call_to(bob, audio(50000)), it.mw_hop()).final()
        assert answer.status == 430
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("RFC 3262", "4")
@async_test
async def test_a_prack_that_crosses_the_2xx_does_not_end_the_call(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        contact = f"<{it.core_uri('bob')}>"
        invite.respond(ok(invite, status=180, contact=contact, headers=[("Require", "100rel"), ("RSeq", "1")]))
        ringing = await attempt.next()
        near = Dialog.from_uac(attempt.txn.request, ringing)
        sent = alice.send(near.request("PRACK", headers=[("RAck", "1 1 INVITE")]), alice.hop)
        prack = await it.core.next("PRACK")
        invite.respond(ok(invite, audio(50000), contact=contact))
        prack.respond(make_response(prack.request, 481))
        assert (await sent.final()).status == 481
        assert (await attempt.final()).status == 200
        assert it.iq.contexts
        assert it.core.requests.empty()


@pytest.mark.clause("RFC 3261", "12.2.1.2")
@async_test
async def test_a_ue_that_lost_the_dialog_is_found_out_by_the_next_update(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        update = call.from_core("UPDATE", audio(50000, version=2))
        received = await alice.next("UPDATE")
        received.respond(make_response(received.request, 481))
        assert (await update.final()).status == 481
        await it.core.next("BYE")
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("TS 33.328", "7.4-2")
@async_test
async def test_a_refused_added_stream_is_withdrawn_and_the_call_goes_on(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        video = f"m=video 40002 RTP/SAVP 99\r\na=3ge2ae:requested\r\na={CRYPTO_2}\r\n"
        attempt = call.from_ue("INVITE", audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, version=2, extra=video))
        invite = await it.core.next("INVITE")
        assert len(parse_sdp(invite.request.body).media) == 2
        invite.respond(make_response(invite.request, 488))
        assert (await attempt.final()).status == 488
        await eventually(lambda: it.iq.requests("Configure")[-1].terminations[0].streams[0].removed)
        (session,) = list(it.node.edge.sessions)
        assert session.media.modes == ("e2ae-sdes",)
