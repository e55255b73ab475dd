"""Dialogs before the call is answered, forks, and which description counts (RFC 3261 13.2, RFC 3262, RFC 3311, RFC 6337)."""

from __future__ import annotations

import pytest

from protos import iq_pb2
from sba.testing import async_test
from signalling.sdp import parse_sdp
from signalling.sip.dialog import Dialog
from signalling.sip.stack import ServerTxn, make_response
from tests.pcscf.edge import CRYPTO_1, CRYPTO_2, REQUESTED, EdgeFixture, Exchange, Ue, audio, edge, ok
from tests.pcscf.test_sessions import SECURE, Call, answer_next, call_out, eventually, with_type


@pytest.mark.clause("TS 33.328", "7.2.1-11")
@async_test
async def test_early_media_prack_and_the_same_answer_again_in_the_200(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        contact = f"<{it.core_uri('bob')}>"
        reliable = [("Require", "100rel"), ("RSeq", "1")]
        invite.respond(ok(invite, audio(50000), status=183, contact=contact, headers=reliable))
        progress = await attempt.next()
        early = parse_sdp(progress.body).media[0].crypto
        assert progress.status == 183
        assert len(early) == 1
        gate = it.iq.requests("Configure")[-1].terminations[0].streams[0].mode
        assert gate == iq_pb2.SENDRECV
        near = Dialog.from_uac(attempt.txn.request, progress)
        prack = near.request("PRACK", headers=[("RAck", "1 1 INVITE")])
        sent = alice.send(prack, alice.hop)
        await answer_next(it.core, "PRACK", b"", contact)
        assert (await sent.final()).status == 200
        configured = len(it.iq.requests("Configure"))
        invite.respond(ok(invite, audio(59999), contact=contact))  # another SDP now: not believed
        final = await attempt.final()
        assert parse_sdp(final.body).media[0].crypto == early
        assert len(it.iq.requests("Configure")) == configured


@pytest.mark.clause("TS 24.229", "PS-10")
@async_test
async def test_a_forked_call_follows_the_dialog_that_wins(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        contact = f"<{it.core_uri('bob')}>"
        invite.respond(ok(invite, audio(50000), status=183, tag="one", contact=contact))
        invite.respond(ok(invite, audio(52000), status=183, tag="two", contact=contact))
        answers = [await attempt.next(), await attempt.next()]
        assert [one.to_tag for one in answers] == ["one", "two"]
        assert _core_port(it) == 52000
        invite.respond(ok(invite, audio(50000), tag="one", contact=contact))
        final = await attempt.final()
        assert final.to_tag == "one"
        assert _core_port(it) == 50000
        assert parse_sdp(final.body).media[0].crypto == parse_sdp(answers[0].body).media[0].crypto


def _answering(offer: bytes) -> bytes:
    """A UE's answer that takes the line of an offer with the suite of its own key."""
    lines = (line.split(" ") for line in parse_sdp(offer).media[0].crypto)
    tag = next(tag for tag, suite, *_ in lines if suite == CRYPTO_1.split(" ")[1])
    return audio(40000, "RTP/SAVP", CRYPTO_1.replace("crypto:1", f"crypto:{tag}"))


HELD = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, "sendonly", version=2)


class Early:
    """A call of the UE that the core has answered in a reliable 183, and an UPDATE of the UE has changed."""

    def __init__(self, it: EdgeFixture, alice: Ue) -> None:
        self.it, self.alice, self.contact = it, alice, f"<{it.core_uri('bob')}>"

    async def begin(self, offer: bytes = SECURE) -> None:
        self.attempt = self.alice.send(self.alice.invite("sip:bob@ims.test", offer), self.alice.hop)
        self.invite = await self.it.core.next("INVITE")
        reliable = [("Require", "100rel"), ("RSeq", "1")]
        self.invite.respond(
            ok(self.invite, audio(50000), status=183, tag="one", contact=self.contact, headers=reliable)
        )
        self.progress = await self.attempt.next()
        self.near = Dialog.from_uac(self.attempt.txn.request, self.progress)

    def send(self, method: str, body: bytes, headers=()) -> Exchange:
        return self.alice.send(self.near.request(method, headers=with_type(body, headers), body=body), self.alice.hop)

    async def say(self, method: str, body: bytes, answer: bytes, headers=()) -> None:
        sent = self.send(method, body, headers)
        await answer_next(self.it.core, method, answer, self.contact)
        assert (await sent.final()).status == 200

    async def hold(self) -> None:
        await self.say("UPDATE", HELD, audio(50000, "RTP/AVP", "recvonly", version=2))


@pytest.mark.clause("RFC 3261", "13.2.1")
@pytest.mark.parametrize("offering", [True, False])
@async_test
async def test_a_description_repeated_in_the_200_after_an_update_is_ignored(tmp_path, offering):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = Early(it, alice)
        await call.begin(SECURE if offering else b"")
        if offering:
            await call.say("PRACK", b"", b"", [("RAck", "1 1 INVITE")])
        else:
            await call.say("PRACK", _answering(call.progress.body), b"", [("RAck", "1 1 INVITE")])
        await call.hold()
        asked = len(it.iq.requests("Configure"))
        call.invite.respond(ok(call.invite, audio(50000), tag="one", contact=call.contact))
        final = await call.attempt.final()
        assert (final.status, final.body, final.headers.get("Content-Type")) == (200, b"", None)
        alice.stack.send_ack(call.near.ack_for(final), alice.hop, "ue")
        await it.core.next_ack()
        assert len(it.iq.requests("Configure")) == asked
        (session,) = it.node.edge.sessions
        assert not session.media.offer_open
        bye = alice.send(call.near.request("BYE"), alice.hop)
        await answer_next(it.core, "BYE", b"", call.contact)
        assert (await bye.final()).status == 200


@pytest.mark.clause("RFC 3261", "13.2.1")
@async_test
async def test_an_update_that_was_refused_leaves_the_answer_before_it(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = Early(it, alice)
        await call.begin()
        await call.say("PRACK", b"", b"", [("RAck", "1 1 INVITE")])
        sent, update = call.send("UPDATE", HELD), await it.core.next("UPDATE")
        update.respond(make_response(update.request, 488))
        assert (await sent.final()).status == 488
        call.invite.respond(ok(call.invite, audio(50000), tag="one", contact=call.contact))
        final = await call.attempt.final()
        assert parse_sdp(final.body).media[0].crypto == parse_sdp(call.progress.body).media[0].crypto
        alice.stack.send_ack(call.near.ack_for(final), alice.hop, "ue")
        await it.core.next_ack()
        (session,) = it.node.edge.sessions
        assert not session.media.offer_open


@pytest.mark.clause("TS 24.229", "PS-10")
@pytest.mark.attack("T1")
@pytest.mark.parametrize("early", ["before", "after"])
@pytest.mark.parametrize("repeated", [True, False])
@async_test
async def test_no_call_is_answered_in_one_dialog_with_the_media_of_another(tmp_path, early, repeated):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = Early(it, alice)
        await call.begin()
        other = ok(call.invite, audio(52000), status=183, tag="two", contact=call.contact)
        if early == "after":
            await call.hold()
        call.invite.respond(other)
        assert (await call.attempt.next()).to_tag == "two"
        if early == "before":
            await call.hold()
            assert _core_port(it) == 50000
        call.invite.respond(ok(call.invite, audio(52000) if repeated else b"", tag="two", contact=call.contact))
        assert (await call.attempt.final()).status == 500
        assert (await it.core.next("BYE")).request.to_tag == "two"
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("TS 24.229", "PS-10")
@async_test
async def test_a_fork_that_wins_while_an_update_is_open_has_the_media_it_agreed_to(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = Early(it, alice)
        await call.begin()
        call.invite.respond(ok(call.invite, audio(52000), status=183, tag="two", contact=call.contact))
        assert (await call.attempt.next()).to_tag == "two"
        sent, update = call.send("UPDATE", HELD), await it.core.next("UPDATE")
        call.invite.respond(ok(call.invite, b"", tag="one", contact=call.contact))
        assert (await call.attempt.final()).status == 200
        assert _core_port(it) == 50000
        update.respond(ok(update, audio(50000, "RTP/AVP", "recvonly", version=2), tag="", contact=call.contact))
        assert (await sent.final()).status == 200
        assert _modes(it)[iq_pb2.ACCESS] == iq_pb2.RECVONLY


@pytest.mark.clause("TS 24.229", "PS-10")
@pytest.mark.attack("T1")
@pytest.mark.parametrize("answer", [audio(52000), audio(52000, "RTP/SAVP", CRYPTO_2), b""])
@async_test
async def test_a_fork_that_answers_second_neither_takes_the_media_nor_ends_the_call(tmp_path, answer):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        contact = f"<{it.core_uri('bob')}>"
        invite.respond(ok(invite, audio(50000), tag="one", contact=contact))
        final = await attempt.final()
        near = Dialog.from_uac(attempt.txn.request, final)
        alice.stack.send_ack(near.ack_for(final), alice.hop, "ue")
        await it.core.next_ack()
        invite.send_success_again(ok(invite, answer, tag="two", contact=contact))
        assert (await it.core.next("BYE")).request.to_tag == "two"
        refresh = alice.send(near.request("UPDATE"), alice.hop)  # its answer comes behind whatever went to the UE
        await answer_next(it.core, "UPDATE", b"", contact)
        assert (await refresh.final()).status == 200
        assert attempt.responses.empty()
        assert it.iq.contexts
        assert _core_port(it) == 50000


@pytest.mark.clause("RFC 3261", "13.2.1")
@async_test
async def test_a_fork_that_answers_after_another_has_agreed_anew_rings_but_cannot_take_the_call(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = Early(it, alice)
        await call.begin()
        await call.say("PRACK", b"", b"", [("RAck", "1 1 INVITE")])
        await call.hold()
        call.invite.respond(ok(call.invite, audio(52000), status=183, tag="two", contact=call.contact))
        ringing = await call.attempt.next()
        assert (ringing.to_tag, ringing.status, ringing.body) == ("two", 183, b"")
        call.invite.respond(ok(call.invite, audio(52000), tag="two", contact=call.contact))
        assert (await call.attempt.final()).status == 500
        await it.core.next_ack()
        bye = await it.core.next("BYE")
        assert bye.request.to_tag == "two"
        await eventually(lambda: not it.iq.contexts)


async def assert_repetition_is_ignored(call: Call, attempt: Exchange, invite: ServerTxn, far: str) -> None:
    """An UPDATE changes what the 183 to a re-INVITE said, and its 200 says it again."""
    held = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, "sendonly", version=3)
    update = call.from_ue("UPDATE", held)
    await answer_next(call.it.core, "UPDATE", audio(50000, "RTP/AVP", "recvonly", version=3), far)
    assert (await update.final()).status == 200
    invite.respond(ok(invite, audio(50000, version=2), tag="", contact=far))
    final = await attempt.final()
    assert (final.status, final.body) == (200, b"")
    (session,) = call.it.node.edge.sessions
    assert not session.media.offer_open


@pytest.mark.clause("RFC 3261", "14.1")
@async_test
async def test_a_description_repeated_in_the_200_to_a_re_invite_after_an_update_is_ignored(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        far = f"<{it.core_uri('bob')}>"
        again = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, version=2)
        attempt = call.from_ue("INVITE", again)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, audio(50000, version=2), status=183, tag="", contact=far))
        assert (await attempt.next()).status == 183
        await assert_repetition_is_ignored(call, attempt, invite, far)


@pytest.mark.clause("RFC 3261", "14.1")
@async_test
async def test_an_offer_repeated_in_the_200_to_a_re_invite_after_an_update_is_ignored(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        far = f"<{it.core_uri('bob')}>"
        attempt = call.from_ue("INVITE")
        invite = await it.core.next("INVITE")
        reliable = [("Require", "100rel"), ("RSeq", "1")]
        invite.respond(ok(invite, audio(50000, version=2), status=183, tag="", contact=far, headers=reliable))
        answer = _answering((await attempt.next()).body)
        prack = call.from_ue("PRACK", answer, headers=[("RAck", f"1 {invite.request.cseq[0]} INVITE")])
        await answer_next(it.core, "PRACK", b"", far)
        assert (await prack.final()).status == 200
        await assert_repetition_is_ignored(call, attempt, invite, far)


@pytest.mark.clause("RFC 6337", "2.2")
@async_test
async def test_a_description_that_an_update_did_not_ask_for_is_no_offer(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        refresh = call.from_ue("UPDATE")
        await answer_next(it.core, "UPDATE", audio(50000, version=2), f"<{it.core_uri('bob')}>")
        answer = await refresh.final()
        assert (answer.status, answer.body) == (200, b"")
        (session,) = it.node.edge.sessions
        assert not session.media.offer_open


@pytest.mark.clause("RFC 3261", "13.2.2.4")
@async_test
async def test_an_ack_that_crosses_an_offer_of_the_far_end_is_not_its_answer(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        call.from_core("UPDATE", audio(51000, version=2))
        update = await alice.next("UPDATE")
        again = call.near.request("ACK")
        again.headers.set("CSeq", "1 ACK")
        alice.stack.send_ack(again, alice.hop, "ue")
        assert (await it.core.next_ack()).body == b""
        (session,) = it.node.edge.sessions
        assert session.media.offer_open
        update.respond(ok(update, audio(40000, "RTP/SAVP", CRYPTO_1), tag="", contact=alice.contact))
        await eventually(lambda: not session.media.offer_open)
        assert not session.ended


@pytest.mark.clause("TS 33.328", "7.2.1-11")
@pytest.mark.parametrize("offering", [True, False])
@async_test
async def test_without_early_media_nothing_opens_the_gates_before_the_call_is_answered(tmp_path, offering):
    async with edge(tmp_path, early_media=False) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = Early(it, alice)
        await call.begin(SECURE if offering else b"")
        answer = b"" if offering else _answering(call.progress.body)
        await call.say("PRACK", answer, b"", [("RAck", "1 1 INVITE")])
        assert set(_modes(it).values()) == {iq_pb2.INACTIVE}
        if offering:
            await call.hold()
            assert set(_modes(it).values()) == {iq_pb2.INACTIVE}
        call.invite.respond(ok(call.invite, b"", tag="one", contact=call.contact))
        assert (await call.attempt.final()).status == 200
        assert _modes(it)[iq_pb2.ACCESS] == (iq_pb2.RECVONLY if offering else iq_pb2.SENDRECV)


def _modes(it: EdgeFixture) -> dict[int, int]:
    return {info.side: info.streams[0].mode for info in it.iq.requests("Configure")[-1].terminations}


def _core_port(it: EdgeFixture) -> int:
    streams = [info.streams[0] for info in it.iq.requests("Configure")[-1].terminations if info.side == iq_pb2.CORE]
    return streams[0].remote.port
