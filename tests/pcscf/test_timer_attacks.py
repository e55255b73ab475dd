"""Numbers and timers of a hostile end: what the edge does by itself in a dialog stays possible, for all other calls too."""

from __future__ import annotations

import asyncio

import pytest

from nodes.pcscf.media_plan import Side
from nodes.pcscf.session_timer import SessionTimer
from protos import iq_pb2
from sba.testing import async_test
from signalling.sip.dialog import Dialog
from signalling.sip.stack import make_response
from tests.pcscf.edge import CRYPTO_1, EdgeFixture, audio, edge, ok
from tests.pcscf.test_rekeying import ANSWER, FRESH, called, dialog, lose_keys, numbered, rekeyed
from tests.pcscf.test_session_timer import KNOWS, answered, expires, request, told
from tests.pcscf.test_sessions import SECURE, answer_next, call_out, eventually

pytestmark = pytest.mark.attack("T7")
LAST = 2**32 - 1
FAR = "<sip:x@127.0.0.1>"


def silent(it: EdgeFixture) -> None:
    """The gateway hears no media in its one call."""
    (context,) = it.iq.contexts
    it.iq.notes.put_nowait(iq_pb2.Notification(context_id=context, media_inactivity=iq_pb2.MediaInactivity(seconds=30)))


@pytest.mark.clause("RFC 3261", "8.1.1.5", "12.2.1.1")
@pytest.mark.parametrize("end", ["ue", "far-end"])
@async_test
async def test_the_last_cseq_there_is_leaves_room_for_the_requests_of_the_edge(tmp_path, end):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        (call.near if end == "ue" else call.far).local_cseq = LAST - 1
        info = (call.from_ue if end == "ue" else call.from_core)("INFO")
        assert (await info.final()).status == 400
        silent(it)
        for party in (alice, it.core):
            await answer_next(party, "BYE", b"", FAR)
        await eventually(lambda: not it.iq.contexts)
        await call_out(it, alice)  # the edge still hears what this gateway says
        silent(it)
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("RFC 3261", "12.2.1.1")
@async_test
async def test_a_bye_with_the_last_cseq_does_not_keep_a_call_that_got_new_keys(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        await rekeyed(it, alice)
        call.far.local_cseq = LAST - 1
        assert (await call.from_core("BYE").final()).status == 400
        (session,) = it.node.edge.sessions
        assert not session.confirmed.ended
        call.far.local_cseq = 2**31 - 1
        bye = call.from_core("BYE")
        await answer_next(alice, "BYE", b"", alice.contact)
        assert (await bye.final()).status == 200
        await eventually(lambda: not it.iq.contexts)


@async_test
async def test_a_call_stored_with_a_number_that_leaves_no_room_still_ends(tmp_path):
    async with edge(tmp_path) as it:
        alice, _ = await called(it)
        (session,) = it.node.edge.sessions
        session.confirmed.cseqs = dict.fromkeys(Side, LAST)
        silent(it)
        await eventually(lambda: not it.iq.contexts)
        await call_out(it, alice)
        silent(it)
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("RFC 3261", "13.2.2.4")
def test_the_ack_of_an_invite_numbered_0_keeps_its_number():
    one = dialog(0)
    one.caller = Side.CORE
    used = [one.shifted(0, Side.ACCESS), one.reinvite(Side.ACCESS, b"", 0.0).cseq[0], one.shifted(1, Side.ACCESS)]
    assert one.renumbered(numbered(0, "ACK"), Side.ACCESS).cseq[0] == 0
    assert used == sorted(set(used)) == [0, 1, 2]


@pytest.mark.clause("RFC 3515", "2.4.6")
def test_numbers_above_2_31_are_renumbered_in_event_and_rack_as_well():
    one = dialog(2**31 - 1)
    one.reinvite(Side.ACCESS, b"", 0.0)
    shown = one.renumbered(numbered(2**31, "REFER"), Side.ACCESS).cseq[0]
    notify = one.renumbered(numbered(5, "NOTIFY", o=f"refer;id={shown}"), Side.CORE)
    assert notify.headers.get("Event") == f"refer;id={2**31}"
    prack = one.renumbered(numbered(2**31 + 1, "PRACK", RAck=f"1 {2**31} INVITE"), Side.ACCESS)
    assert prack.headers.get("RAck") == f"1 {shown} INVITE"


@pytest.mark.clause("RFC 4028", "7.2")
def test_an_old_2xx_that_comes_again_after_a_later_refresh_changes_nothing():
    timer = SessionTimer()
    first, later = request("INVITE", KNOWS, expires(1800)), request("UPDATE", KNOWS, number=2)
    answered(timer, later, KNOWS, expires(900, "uas"), by=Side.CORE)
    answered(timer, first, KNOWS, expires(1800, "uac"), by=Side.CORE, now=1)
    assert timer.interval_s == 1800, "the INVITE may be answered after an UPDATE in the early dialog"
    answered(timer, request("UPDATE", KNOWS, number=3), KNOWS, expires(600, "uas"), by=Side.CORE, now=2)
    before = timer.to_dict()
    answered(timer, first, KNOWS, expires(1800, "uac"), by=Side.CORE, now=30)
    answered(timer, later, KNOWS, expires(900, "uas"), by=Side.CORE, now=30)
    assert timer.to_dict() == before


@pytest.mark.clause("RFC 4028", "7.3")
@pytest.mark.parametrize("asked", [[KNOWS, expires(900)], []], ids=["timer", "no-timer"])
@async_test
async def test_a_ue_that_always_wants_more_time_is_asked_a_few_times_only(tmp_path, asked):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice, asked=asked, agreed=[expires(900, "uas")] if asked else [])
        lose_keys(it)
        for attempt in range(6):
            invite = await alice.next("INVITE")
            invite.respond(make_response(invite.request, 422, headers=[("Min-SE", str(1000 + attempt))]))
        await answer_next(alice, "BYE", b"", alice.contact)
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.parametrize("least", ["", "x", "-1", "99999999999", "4294967295", "1000;a;b", ";", "²"])
@async_test
async def test_a_min_se_that_is_none_ends_in_a_refusal_or_another_offer(tmp_path, least):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        await call_out(it, alice, asked=[("k", "timer"), ("x", "900")], agreed=[("x", "900;refresher=uas")])
        lose_keys(it)
        first = await alice.next("INVITE")
        assert told(first.request) == ("900;refresher=uac", None, True)
        first.respond(make_response(first.request, 422, headers=[("Min-SE", least)]))
        if least[:1] in ("1", "4"):
            second = await alice.next("INVITE")
            second.respond(ok(second, ANSWER, tag="", contact=alice.contact))
            await alice.next_ack()
        else:
            await answer_next(alice, "BYE", b"", alice.contact)
            await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("RFC 3261", "13.3.1.4")
@pytest.mark.parametrize("moment", ["asked", "answered"])
@async_test
async def test_a_2xx_that_comes_again_while_the_ue_gets_new_keys_is_no_offer(tmp_path, moment):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        response = ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>")
        invite.respond(response)
        first = await attempt.final()
        near = Dialog.from_uac(attempt.txn.request, first)
        alice.stack.send_ack(near.ack_for(first), alice.hop, "ue")
        await it.core.next_ack()
        lose_keys(it)
        offer = await alice.next("INVITE")
        if moment == "asked":
            invite.send_success_again(response)
            again = await attempt.final()
            assert again.to_bytes() == first.to_bytes()
        offer.respond(ok(offer, ANSWER, tag="", contact=alice.contact))
        await alice.next_ack()
        if moment == "answered":
            invite.send_success_again(response)
            again = await attempt.final()
            assert again.to_bytes() == first.to_bytes()
        alice.stack.send_ack(near.ack_for(first), alice.hop, "ue")
        await it.core.next_ack()
        assert it.iq.contexts
        assert len(it.node.edge.sessions) == 1


@pytest.mark.clause("RFC 3261", "13.3.1.4")
@pytest.mark.parametrize("moment", ["asked", "answered"])
@async_test
async def test_a_2xx_of_the_ue_that_comes_again_while_it_gets_new_keys_is_no_offer(tmp_path, moment):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        attempt = call.from_core("INVITE", audio(51000, version=2))
        invite = await alice.next("INVITE")
        response = ok(invite, audio(40000, "RTP/SAVP", CRYPTO_1), tag="", contact=alice.contact)
        invite.respond(response)
        first = await attempt.final()
        ack = call.far.ack_for(first)
        it.core.stack.send_ack(ack, it.mw_hop(), "mw")
        await alice.next_ack()
        lose_keys(it)
        offer = await alice.next("INVITE")
        if moment == "asked":
            invite.send_success_again(response)
            assert (await attempt.final()).to_bytes() == first.to_bytes()
        offer.respond(ok(offer, audio(40000, "RTP/SAVP", FRESH, version=3), tag="", contact=alice.contact))
        await alice.next_ack()
        if moment == "answered":
            invite.send_success_again(response)
            assert (await attempt.final()).to_bytes() == first.to_bytes()
        it.core.stack.send_ack(ack, it.mw_hop(), "mw")
        assert (await alice.next_ack()).cseq[0] == invite.request.cseq[0]
        assert it.iq.contexts
        assert len(it.node.edge.sessions) == 1


@pytest.mark.clause("RFC 3261", "13.2.2.4")
@async_test
async def test_an_ack_that_comes_again_still_carries_its_answer(tmp_path):
    async with edge(tmp_path) as it:
        alice, call = await called(it)
        attempt = call.from_core("INVITE")
        invite = await alice.next("INVITE")
        invite.respond(ok(invite, audio(40000, "RTP/SAVP", CRYPTO_1), tag="", contact=alice.contact))
        final = await attempt.final()
        body = audio(51000, version=2)
        ack = call.far.ack_for(final, headers=[("Content-Type", "application/sdp")], body=body)
        it.core.stack.send_ack(ack, it.mw_hop(), "mw")
        first = await alice.next_ack()
        assert first.body
        it.core.stack.send_ack(ack, it.mw_hop(), "mw")
        assert (await alice.next_ack()).body == first.body
        await rekeyed(it, alice, audio(40000, "RTP/SAVP", FRESH, version=3))


@pytest.mark.clause("RFC 3261", "20.33")
@pytest.mark.parametrize("later", ["0", "0;duration=60", "0 (busy)"])
@async_test
async def test_a_ue_that_is_busy_is_asked_again_however_it_says_when(tmp_path, later):
    async with edge(tmp_path) as it:
        alice, _ = await called(it)
        lose_keys(it)
        first = await alice.next("INVITE")
        first.respond(make_response(first.request, 500, headers=[("Retry-After", later)]))
        second = await alice.next("INVITE")
        second.respond(ok(second, ANSWER, tag="", contact=alice.contact))
        await alice.next_ack()


@pytest.mark.clause("RFC 4028", "7.3")
@pytest.mark.parametrize("answer", ["422", "488", "481", "491", "500", "old key", "none", "garbage", "ended"])
@async_test
async def test_an_emergency_call_stays_whatever_its_ue_says_to_the_offer_of_new_keys(tmp_path, monkeypatch, answer):
    monkeypatch.setattr("nodes.pcscf.rekeying.ANSWER_S", 0.5)
    monkeypatch.setattr("nodes.pcscf.rekeying.REST_S", 0.1)
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        (session,) = it.node.edge.sessions
        session.emergency = True
        lose_keys(it)
        tries = 6 if answer in ("422", "491") else 1
        for attempt in range(tries):
            invite = await alice.next("INVITE")
            match answer:
                case "none":
                    pass
                case "old key":
                    invite.respond(
                        ok(
                            invite,
                            audio(40000, "RTP/SAVP", CRYPTO_1.replace(":1", ":2", 1)),
                            tag="",
                            contact=alice.contact,
                        )
                    )
                    await alice.next_ack()
                case "garbage":
                    invite.respond(ok(invite, b"v=0\r\n", tag="", contact=alice.contact))
                    await alice.next_ack()
                case "ended":
                    invite.respond(ok(invite, audio(0, "RTP/SAVP", FRESH), tag="", contact=alice.contact))
                    await alice.next_ack()
                case _:
                    invite.respond(
                        make_response(invite.request, int(answer), headers=[("Min-SE", str(1000 + attempt))])
                    )
        await asyncio.sleep(0.8)
        assert it.iq.contexts
        assert not session.ended
        update = call.from_ue("UPDATE", audio(40000, "RTP/SAVP", "3ge2ae:requested", FRESH, version=3))
        received = await it.core.next("UPDATE")
        received.respond(ok(received, audio(50000, version=2), tag="", contact=f"<{it.core_uri('bob')}>"))
        assert (await update.final()).status == 200
        bye = call.from_ue("BYE")
        await answer_next(it.core, "BYE", b"", FAR)
        assert (await bye.final()).status == 200
        await eventually(lambda: not it.iq.contexts)


@pytest.mark.clause("RFC 3261", "13.2.2.4", "16.7")
@pytest.mark.parametrize("status", [183, 200])
@pytest.mark.parametrize("moment", ["asked", "answered"])
@async_test
async def test_a_fork_that_is_late_does_not_end_the_call_that_gets_new_keys(tmp_path, moment, status):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        far = f"<{it.core_uri('bob')}>"
        invite.respond(ok(invite, audio(50000), contact=far))
        first = await attempt.final()
        near = Dialog.from_uac(attempt.txn.request, first)
        alice.stack.send_ack(near.ack_for(first), alice.hop, "ue")
        await it.core.next_ack()
        lose_keys(it)
        offer = await alice.next("INVITE")
        late = ok(invite, audio(52000), tag="late", contact=far, status=status)
        if moment == "asked":
            (invite.send_success_again if status == 200 else invite.respond)(late)
            await asyncio.sleep(0.1)
        offer.respond(ok(offer, ANSWER, tag="", contact=alice.contact))
        await alice.next_ack()
        if moment == "answered":
            (invite.send_success_again if status == 200 else invite.respond)(late)
            await asyncio.sleep(0.1)
        assert it.iq.contexts
        (session,) = it.node.edge.sessions
        assert not session.media.offer_open
        assert attempt.responses.empty()


@async_test
async def test_a_fault_in_one_call_does_not_end_the_watch_over_the_gateway(tmp_path, monkeypatch):
    async with edge(tmp_path) as it:
        await called(it)
        with monkeypatch.context() as patch:
            patch.setattr(it.node.edge.stack, "send", None)
            silent(it)
            await eventually(lambda: next(iter(it.node.edge.sessions)).confirmed.ended)
        await asyncio.sleep(0.1)
        silent(it)
        await eventually(lambda: not it.iq.contexts)
