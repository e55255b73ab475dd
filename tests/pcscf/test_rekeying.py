"""The gateway lost the keys of a call: the UE gets new ones from the P-CSCF, and the core hears nothing of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nodes.pcscf.dialogs import EdgeDialog
from nodes.pcscf.media_plan import Side
from protos import iq_pb2
from sba.errors import ProblemError
from sba.testing import async_test
from signalling.sdp import parse_sdp
from signalling.sip.message import SipRequest
from signalling.sip.stack import ServerTxn, make_response
from tests.pcscf.edge import CRYPTO_1, CRYPTO_2, KEY_2, REQUESTED, EdgeFixture, Ue, audio, edge, ok
from tests.pcscf.test_sessions import Call, answer_next, call_out, eventually

pytestmark = pytest.mark.attack("T9")
FRESH = f"crypto:2 AES_CM_128_HMAC_SHA1_80 {KEY_2}"
ANSWER = audio(40000, "RTP/SAVP", FRESH, version=2)


def lose_keys(it: EdgeFixture) -> None:
    """The data plane of the gateway died with the keys of its one call."""
    (context_id,) = it.iq.contexts
    (access,) = [name for name in it.iq.contexts[context_id] if it.iq.sides[name] == iq_pb2.ACCESS]
    needed = iq_pb2.RekeyNeeded(cause="test", stream_ids=[1])
    it.iq.notes.put_nowait(
        iq_pb2.Notification(event_id=1, context_id=context_id, termination_id=access, rekey_needed=needed)
    )


async def called(it: EdgeFixture, name: str = "alice") -> tuple[Ue, Call]:
    ue = await it.ue(name)
    await ue.sign_on()
    return ue, await call_out(it, ue)


async def rekeyed(it: EdgeFixture, alice: Ue, answer: bytes = ANSWER) -> ServerTxn:
    """Alice is asked for new keys and agrees."""
    lose_keys(it)
    invite = await alice.next("INVITE")
    invite.respond(ok(invite, answer, tag="", contact=alice.contact))
    ack = await alice.next_ack()
    assert ack.cseq == (invite.request.cseq[0], "ACK")
    return invite


def access_of(request: Any) -> Any:
    return next(one for one in request.terminations if it_is_access(one)).streams[0]


def it_is_access(termination: Any) -> bool:
    return bool(termination.side == iq_pb2.ACCESS)


@pytest.mark.clause("RFC 4568", "7.1.4")
@async_test
async def test_the_ue_gets_a_new_key_in_a_reinvite_and_the_core_nothing(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        before = it.iq.keys[-1]
        invite = await rekeyed(it, alice)
        offered = parse_sdp(invite.request.body).media[0]
        assert (offered.proto, offered.e2ae, offered.port) == ("RTP/SAVP", "applied", 20002)
        (line,) = offered.crypto
        assert line.startswith("2 AES_CM_128_HMAC_SHA1_80 inline:"), "another tag, so that the answer is new as well"
        assert invite.request.from_tag == call.near.remote_tag
        assert invite.request.to_tag == call.near.local_tag
        asked, given = it.iq.requests("Configure")[-2:]
        assert access_of(asked).sdes_local_request.rekey
        assert [one.side for one in asked.terminations] == [iq_pb2.ACCESS]
        assert access_of(given).sdes_local_selected == 2
        assert len(access_of(given).sdes_remote) == 1
        core = next(one for one in given.terminations if one.side == iq_pb2.CORE).streams[0]
        assert not core.HasField("remote"), "the far end is where it was"
        assert before not in it.iq.keys[-2:]
        await eventually(lambda: any(one["reason"] == "e2ae, new keys needed" for one in it.decisions()))
        assert it.core.requests.empty()
        assert it.core.acks.empty()


@pytest.mark.clause("RFC 3261", "12.2.1.1", "12.2.2", "13.2.2.4")
@async_test
async def test_cseq_rises_for_the_ue_and_is_the_cores_own_for_the_core(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        first = await rekeyed(it, alice)
        update = call.from_core("UPDATE", audio(51000, version=2))
        received = await alice.next("UPDATE")
        assert received.request.cseq[0] > first.request.cseq[0]
        received.respond(ok(received, audio(40000, "RTP/SAVP", FRESH), tag="", contact=alice.contact))
        answer = await update.final()
        assert answer.cseq == update.txn.request.cseq
        again = call.from_core("INVITE", audio(52000, version=3))
        invite = await alice.next("INVITE")
        assert invite.request.cseq[0] > received.request.cseq[0]
        invite.respond(ok(invite, audio(40000, "RTP/SAVP", FRESH), tag="", contact=alice.contact))
        final = await again.final()
        assert final.cseq == again.txn.request.cseq
        it.core.stack.send_ack(call.far.ack_for(final), it.mw_hop(), "mw")
        assert (await alice.next_ack()).cseq[0] == invite.request.cseq[0]
        bye = call.from_core("BYE")
        ended = await answer_next(alice, "BYE", b"", alice.contact)
        assert ended.request.cseq[0] > invite.request.cseq[0]
        assert (await bye.final()).status == 200
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("RFC 3261", "13.2.2.4")
@async_test
async def test_an_answer_that_comes_again_is_acknowledged_again_but_not_before_the_gateway_has_its_key(tmp_path):
    async with edge(tmp_path) as it:
        alice, _ = await called(it)
        lose_keys(it)
        invite = await alice.next("INVITE")
        it.iq.quick.clear()
        answer = ok(invite, ANSWER, tag="", contact=alice.contact)
        invite.respond(answer)
        await eventually(lambda: len(it.iq.requests("Configure")) == 3)
        invite.send_success_again(answer)
        with pytest.raises(TimeoutError):
            await alice.next_ack(wait_s=0.3)
        it.iq.quick.set()
        first = await alice.next_ack()
        for _ in range(2):
            invite.send_success_again(answer)
            again = await alice.next_ack()
            assert (again.cseq, again.uri) == (first.cseq, first.uri)
            assert again.top_via.branch != first.top_via.branch
        assert len(it.iq.requests("Configure")) == 3, "its key is taken once"
        assert it.core.requests.empty()


@pytest.mark.clause("RFC 3515", "2.4.6")
@async_test
async def test_the_event_of_a_refer_is_named_as_its_sender_and_as_its_receiver_number_it(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        await rekeyed(it, alice)
        refer = call.from_core("REFER", headers=[("Refer-To", "<sip:carol@ims.test>")])
        received = await answer_next(alice, "REFER", b"", alice.contact)
        assert (await refer.final()).status == 200
        sent, seen = refer.txn.request.cseq[0], received.request.cseq[0]
        assert seen > sent
        active = ("Subscription-State", "active;expires=60")
        notify = call.from_ue("NOTIFY", headers=[("Event", f"refer;id={seen}"), active])
        told = await answer_next(it.core, "NOTIFY", b"", "<sip:x@127.0.0.1>")
        assert told.request.headers.get("Event") == f"refer;id={sent}"
        assert (await notify.final()).status == 200
        again = call.from_core("SUBSCRIBE", headers=[("Event", f"refer;id={sent}"), ("Expires", "60")])
        asked = await answer_next(alice, "SUBSCRIBE", b"", alice.contact)
        assert asked.request.headers.get("Event") == f"refer;id={seen}"
        assert (await again.final()).status == 200
        refer = call.from_ue("REFER", headers=[("Refer-To", "<sip:carol@ims.test>")])
        await answer_next(it.core, "REFER", b"", "<sip:x@127.0.0.1>")
        number = refer.txn.request.cseq[0]
        call.from_core("NOTIFY", headers=[("Event", f"refer;id={number}"), active])
        told = await answer_next(alice, "NOTIFY", b"", alice.contact)
        assert told.request.headers.get("Event") == f"refer;id={number}", "the UE's own numbers are everybody's"


SHARED = "crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + "S" * 40
FAR = "crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + "F" * 40
TICKET, REPLY = "key-mgmt:mikey AQ4FgFVmd4gCAg==", "key-mgmt:mikey AQ8FAFVmd4gCAg=="


def video(port: int, *attributes: str) -> str:
    lines = [f"m=video {port} RTP/SAVP 99", "a=rtpmap:99 H264/90000", *(f"a={one}" for one in attributes)]
    return "".join(f"{line}\r\n" for line in lines)


async def called_with_video(it: EdgeFixture, ues: str, far: str) -> Ue:
    """A call whose audio is protected up to the edge and whose video is protected end to end."""
    alice = await it.ue("alice")
    await alice.sign_on()
    offer = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, extra=video(40002, ues))
    await call_out(it, alice, offer, audio(50000, extra=video(50002, far)))
    return alice


@pytest.mark.clause("TS 33.328", "7.4-10")
@pytest.mark.parametrize(
    ("ues", "far", "offered", "answered"), [(SHARED, FAR, FAR, SHARED), (TICKET, REPLY, "", "")], ids=["sdes", "ticket"]
)
@async_test
async def test_keys_that_the_ue_shares_with_the_far_end_go_on(tmp_path, ues, far, offered, answered):
    async with edge(tmp_path) as it:
        alice = await called_with_video(it, ues, far)
        answer = audio(40000, "RTP/SAVP", FRESH, version=2, extra=video(40002, *[answered] * bool(answered)))
        body = (await rekeyed(it, alice, answer)).request.body
        assert parse_sdp(body).media[0].crypto[0].startswith("2 ")
        shown = parse_sdp(body).media[1]
        assert [f"crypto:{line}" for line in shown.crypto] == [offered] * bool(offered)
        assert b"mikey" not in body
        await eventually(lambda: not it.node._link._rekeying._wanted and len(it.iq.requests("Configure")) == 3)
        assert len(it.node.edge.sessions) == 1
        assert it.core.requests.empty()


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.4-10")
@pytest.mark.parametrize(
    ("ues", "far", "answered"),
    [
        (SHARED, FAR, SHARED.replace("S" * 40, "X" * 40)),
        (SHARED, FAR, TICKET),
        (TICKET, REPLY, TICKET.replace("Vmd4", "Vmd5")),
    ],
)
@async_test
async def test_a_ue_that_changes_keys_of_which_the_far_end_does_not_hear_ends_the_call(tmp_path, ues, far, answered):
    async with edge(tmp_path) as it:
        alice = await called_with_video(it, ues, far)
        await rekeyed(it, alice, audio(40000, "RTP/SAVP", FRESH, version=2, extra=video(40002, answered)))
        await _released(it, alice)
        assert any("shares with the far end" in str(one.get("reason")) for one in it.decisions())


@pytest.mark.attack("T1")
@async_test
async def test_a_fork_that_answers_with_another_protection_is_refused_with_the_reason(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        offer = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1)
        attempt = alice.send(alice.invite("sip:bob@ims.test", offer), alice.hop)
        invite = await it.core.next("INVITE")
        contact = f"<{it.core_uri('bob')}>"
        invite.respond(ok(invite, audio(50000), status=183, tag="one", contact=contact))
        assert (await attempt.next()).to_tag == "one"
        invite.respond(ok(invite, audio(52000, "RTP/SAVP", CRYPTO_2), tag="two", contact=contact))
        assert (await attempt.final()).status == 500
        bye = await it.core.next("BYE")
        assert bye.request.to_tag == "two"
        assert any("the core answered RTP/SAVP to RTP/AVP" in str(one.get("reason")) for one in it.decisions())
        await eventually(lambda: not it.iq.contexts and not len(it.node.edge.sessions))


@async_test
async def test_requests_of_the_ue_keep_their_numbers_and_its_later_offers_work(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        await rekeyed(it, alice)
        attempt = call.from_ue("INVITE", audio(40000, "RTP/SAVP", "3ge2ae:requested", FRESH, "sendonly", version=3))
        onward = await it.core.next("INVITE")
        assert onward.request.cseq == attempt.txn.request.cseq
        assert parse_sdp(onward.request.body).media[0].direction == "sendonly"
        onward.respond(ok(onward, audio(50000, "RTP/AVP", "recvonly"), contact=f"<{it.core_uri('bob')}>"))
        final = await attempt.final()
        assert final.status == 200, "the key of before is the one in use now"
        alice.stack.send_ack(call.near.ack_for(final), alice.hop, "ue")
        await it.core.next_ack()
        second = await rekeyed(it, alice, audio(40000, "RTP/SAVP", f"crypto:3 {CRYPTO_1.split(' ', 1)[1]}", "sendonly"))
        assert parse_sdp(second.request.body).media[0].direction == "recvonly", "hold is as it was"


@pytest.mark.clause("RFC 3711", "9.1")
@pytest.mark.attack("T3")
@async_test
async def test_a_ue_that_keeps_its_key_cannot_go_on(tmp_path):
    async with edge(tmp_path) as it:
        alice, _ = await called(it)
        kept = audio(40000, "RTP/SAVP", f"crypto:2 {CRYPTO_1.split(' ', 1)[1]}")
        await rekeyed(it, alice, kept)
        await _released(it, alice)


@pytest.mark.parametrize("status", [488, 481, 603])
@async_test
async def test_a_ue_that_refuses_ends_the_call_with_the_reason(tmp_path, status):
    async with edge(tmp_path) as it:
        alice, _ = await called(it)
        lose_keys(it)
        invite = await alice.next("INVITE")
        invite.respond(make_response(invite.request, status))
        await _released(it, alice, "user not reachable" if status == 481 else "media keys lost")


async def _released(it: EdgeFixture, alice: Ue, reason: str = "media keys lost") -> None:
    near, far = await alice.next("BYE"), await it.core.next("BYE")
    assert reason in (near.request.headers.get("Reason") or "")
    assert reason in (far.request.headers.get("Reason") or "")
    await eventually(lambda: not it.iq.contexts and not len(it.node.edge.sessions))


@pytest.mark.clause("RFC 3261", "14.1", "14.2")
@pytest.mark.parametrize("busy", [(491, ()), (500, (("Retry-After", "0"),))])
@async_test
async def test_glare_is_tried_again_with_yet_another_key(tmp_path, busy):
    status, headers = busy
    async with edge(tmp_path) as it:
        alice, _ = await called(it)
        lose_keys(it)
        first = await alice.next("INVITE")
        first.respond(make_response(first.request, status, headers=headers))
        second = await alice.next("INVITE")
        assert second.request.cseq[0] > first.request.cseq[0]
        one, other = (parse_sdp(each.request.body).media[0].crypto for each in (first, second))
        assert one != other
        second.respond(ok(second, ANSWER, tag="", contact=alice.contact))
        await alice.next_ack()
        assert len(it.node.edge.sessions) == 1


@pytest.mark.clause("RFC 3261", "14.1")
@async_test
async def test_an_offer_that_is_under_way_comes_to_its_end_first(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        attempt = call.from_ue("INVITE", audio(40000, "RTP/SAVP", "3ge2ae:requested", CRYPTO_1, version=2))
        onward = await it.core.next("INVITE")
        lose_keys(it)
        await eventually(lambda: len(it.node._link._rekeying._running) == 1)
        await asyncio.sleep(0.3)
        assert alice.requests.empty()
        onward.respond(ok(onward, audio(50000, version=2), contact=f"<{it.core_uri('bob')}>"))
        alice.stack.send_ack(call.near.ack_for(await attempt.final()), alice.hop, "ue")
        await it.core.next_ack()
        invite = await alice.next("INVITE")
        crossing = call.from_ue("INVITE", audio(40000, "RTP/SAVP", "3ge2ae:requested", CRYPTO_2, version=3))
        assert (await crossing.final()).status == 491
        invite.respond(ok(invite, ANSWER, tag="", contact=alice.contact))
        await alice.next_ack()


@async_test
async def test_a_call_that_was_not_answered_yet_is_refused(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        offer = audio(40000, "RTP/SAVP", "3ge2ae:requested", CRYPTO_1)
        attempt = alice.send(alice.invite("sip:bob@ims.test", offer), alice.hop)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, status=180, contact=f"<{it.core_uri('bob')}>"))
        assert (await attempt.next()).status == 180
        lose_keys(it)
        final = await attempt.final()
        assert (final.status, final.headers.get("Retry-After")) == (503, "5")
        await asyncio.wait_for(it.core.cancels.get(), 5)
        await eventually(lambda: not it.iq.contexts)


@async_test
async def test_a_ue_without_connection_loses_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr("nodes.pcscf.rekeying.BUSY_TRIES", 5)
    async with edge(tmp_path) as it:
        alice, _ = await called(it)
        await alice.stack.stop()
        await eventually(lambda: not any(it.node.edge.flows.open(one.flow) for one in it.node.edge.bindings))
        lose_keys(it)
        bye = await it.core.next("BYE")
        assert "user not reachable" in (bye.request.headers.get("Reason") or "")
        await eventually(lambda: not it.iq.contexts)


@async_test
async def test_a_gateway_that_makes_no_keys_ends_the_call(tmp_path):
    async with edge(tmp_path) as it:
        alice, _ = await called(it)
        it.iq.fail["Configure"] = ProblemError(400, "IQ_449")
        lose_keys(it)
        await _released(it, alice)


@async_test
async def test_a_plain_call_is_left_alone(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice, audio(40000), audio(50000))
        lose_keys(it)
        await asyncio.sleep(0.3)
        assert alice.requests.empty()
        assert len(it.node.edge.sessions) == 1


@async_test
async def test_after_a_restart_the_ue_is_offered_what_it_was_told_before(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        told = [session.media.to_dict()["told"] for session in it.node.edge.sessions]
        assert "m=audio 20002" in told[0]
        assert "inline" not in told[0], "no key is stored (T8)"
        await it.restart()
        await alice.sign_on()
        invite = await rekeyed(it, alice)
        assert parse_sdp(invite.request.body).media[0].port == 20002
        bye = call.from_core("BYE")
        ended = await answer_next(alice, "BYE", b"", alice.contact)
        assert ended.request.cseq[0] > invite.request.cseq[0]
        assert (await bye.final()).status == 200


@async_test
async def test_a_restart_while_a_call_waits_for_keys_gives_its_ue_time_to_come_back(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        lose_keys(it)
        first = await alice.next("INVITE")
        await it.restart()
        lose_keys(it)  # the gateway says so until it has them
        await eventually(lambda: it.node._link._rekeying._running)
        await asyncio.sleep(0.3)
        assert it.core.requests.empty(), "no BYE"
        await alice.sign_on()
        again = await alice.next("INVITE")
        assert again.request.cseq[0] > first.request.cseq[0]
        again.respond(ok(again, ANSWER, tag="", contact=alice.contact))
        await alice.next_ack()
        bye = call.from_core("BYE")
        await answer_next(alice, "BYE", b"", alice.contact)
        assert (await bye.final()).status == 200


@pytest.mark.clause("RFC 3264", "6.1")
@pytest.mark.attack("T7")
@async_test
async def test_a_ue_that_is_on_hold_does_not_open_the_gate_with_its_answer(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        hold = call.from_core("INVITE", audio(50000, "RTP/AVP", "inactive", version=2))
        invite = await alice.next("INVITE")
        own = f"crypto:{parse_sdp(invite.request.body).media[0].crypto[0].split()[0]} {CRYPTO_1.split(' ', 1)[1]}"
        invite.respond(ok(invite, audio(40000, "RTP/SAVP", own, "inactive"), tag="", contact=alice.contact))
        it.core.stack.send_ack(call.far.ack_for(await hold.final()), it.mw_hop(), "mw")
        await alice.next_ack()
        lose_keys(it)
        again = await alice.next("INVITE")
        media = parse_sdp(again.request.body).media[0]
        assert media.direction == "inactive"
        fresh = f"crypto:{media.crypto[0].split()[0]} {CRYPTO_2.split(' ', 1)[1]}"
        again.respond(ok(again, audio(40000, "RTP/SAVP", fresh, "sendrecv"), tag="", contact=alice.contact))
        await alice.next_ack()
        given = it.iq.requests("Configure")[-1]
        assert [one.streams[0].mode for one in given.terminations] == [iq_pb2.INACTIVE] * 2


@pytest.mark.attack("T7")
@async_test
async def test_a_gateway_that_asks_without_end_does_not_flood_the_ue(tmp_path):
    async with edge(tmp_path) as it:
        alice, _ = await called(it)
        await rekeyed(it, alice)
        for _ in range(50):
            lose_keys(it)
        with pytest.raises(TimeoutError):
            await alice.next("INVITE", wait_s=0.5)
        invite = await alice.next("INVITE")
        key = f"crypto:3 {CRYPTO_1.split(' ', 1)[1]}"
        invite.respond(ok(invite, audio(40000, "RTP/SAVP", key, version=3), tag="", contact=alice.contact))
        await alice.next_ack()
        with pytest.raises(TimeoutError):
            await alice.next("INVITE", wait_s=1.5)


@async_test
async def test_a_fault_ends_the_call_instead_of_leaving_it_dark(tmp_path, monkeypatch):
    async with edge(tmp_path) as it:
        alice, _ = await called(it)

        def broken(*_: object) -> SipRequest:
            raise ValueError("a fault")

        monkeypatch.setattr(EdgeDialog, "reinvite", broken)
        lose_keys(it)
        await _released(it, alice)
        assert not it.node._link._rekeying._running


@pytest.mark.clause("RFC 3261", "13.2.2.4")
@async_test
async def test_of_two_answers_the_one_that_was_not_hung_up_gets_the_keys(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        (session,) = it.node.edge.sessions
        gone = EdgeDialog.from_dict(next(iter(session.dialogs.values())).to_dict())
        gone.tags[Side.CORE], gone.ended = "other", True
        session.dialogs = {"other": gone, **session.dialogs}
        invite = await rekeyed(it, alice)
        assert invite.request.from_tag == call.near.remote_tag


def dialog(seen: int) -> EdgeDialog:
    both = {Side.ACCESS: "x", Side.CORE: "y"}
    return EdgeDialog(
        "c", Side.ACCESS, dict(both), dict(both), {side: f"sip:{name}" for side, name in both.items()},
        {Side.ACCESS: 1, Side.CORE: seen}, dict.fromkeys(Side, ()),
    )  # fmt: skip


def numbered(number: int, method: str, **headers: str) -> SipRequest:
    return SipRequest(method, "sip:x", [("CSeq", f"{number} {method}"), *headers.items()])


@pytest.mark.clause("RFC 3261", "12.2.1.1")
@pytest.mark.parametrize("seen", [0, 7])
def test_numbers_rise_over_any_number_of_inserted_requests(seen):
    one = dialog(seen)
    used = [one.reinvite(Side.ACCESS, b"", 0.0).cseq[0] for _ in range(3)]
    one = EdgeDialog.from_dict(one.to_dict())
    assert len(one.inserted[Side.ACCESS]) == 1
    following = numbered(seen + 1 if seen else 0, "INFO")
    one.request_seen(following, Side.CORE)
    used.append(one.renumbered(following, Side.ACCESS).cseq[0])
    used += [one.reinvite(Side.ACCESS, b"", 0.0).cseq[0], one.bye(Side.ACCESS).cseq[0]]
    assert used == sorted(set(used)), used
    assert one.bye(Side.CORE).cseq[0] == 2, "towards the core nothing was inserted"


@pytest.mark.clause("RFC 3262", "7.2")
def test_what_belongs_to_earlier_requests_keeps_their_number():
    one = dialog(7)
    one.reinvite(Side.ACCESS, b"", 0.0)
    assert one.renumbered(numbered(7, "ACK"), Side.ACCESS).cseq[0] == 7
    prack = one.renumbered(numbered(9, "PRACK", RAck="1 8 INVITE"), Side.ACCESS)
    assert (prack.cseq[0], prack.headers.get("RAck")) == (10, "1 9 INVITE")
    assert one.renumbered(numbered(9, "PRACK", RAck="1 7 INVITE"), Side.ACCESS).headers.get("RAck") == "1 7 INVITE"
    assert one.renumbered(numbered(8, "BYE"), Side.CORE).cseq[0] == 8


@pytest.mark.clause("RFC 3515", "2.4.6")
def test_every_number_that_was_shifted_is_found_again():
    one = dialog(7)
    seen = {}
    for number in range(5, 20):
        if number in (8, 12, 13):
            one.reinvite(Side.ACCESS, b"", 0.0)
        following = numbered(number, "REFER")
        one.request_seen(following, Side.CORE)
        seen[number] = one.renumbered(following, Side.ACCESS).cseq[0]
    assert {number: one.unshifted(shown, Side.ACCESS) for number, shown in seen.items()} == {
        number: number for number in seen
    }
    inserted = set(range(5, max(seen.values()))) - set(seen.values())
    assert len(inserted) == 3
    assert {one.unshifted(number, Side.ACCESS) for number in inserted} == inserted, "nobody referred by them"


@pytest.mark.parametrize(
    "written", ["refer", "refer;id", "refer;id=x", "refer;id=99999999999", "dialog;id=10", "refer;;", "", "refer;id=7"]
)
def test_an_event_that_names_no_renumbered_refer_stays_as_it_is(written):
    one = dialog(7)
    one.reinvite(Side.ACCESS, b"", 0.0)
    assert one.renumbered(numbered(9, "NOTIFY", Event=written), Side.CORE).headers.get("Event") == written
    assert one.renumbered(numbered(9, "SUBSCRIBE", Event=written), Side.ACCESS).headers.get("Event") == written
    assert one.renumbered(numbered(9, "NOTIFY"), Side.CORE).headers.get("Event") is None
