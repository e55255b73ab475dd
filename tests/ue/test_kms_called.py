"""Calls to a UE with keys of the KMS, on real SIP (TS 33.328 7.2.3, 7.3.3, B.2)."""

import asyncio
import json

import pytest

from nodes.https import HttpFault
from nodes.ue.config import Behaviour
from nodes.ue.media_security import KMS
from sba.testing import async_test
from signalling.sip.dialog import Dialog
from signalling.sip.stack import Hop
from tests.ue.fake_pcscf import IP, until
from tests.ue.kms_calls import Bob, Kms, called, caller, established, final, offered, spans, talking
from tests.ue.kms_stand_in import ALICE, BOB, CAROL
from tests.ue.test_calls import place
from tests.ue.test_mikey_calls import End


@pytest.mark.clause("TS 33.328", "7.3.3")
@async_test
async def test_an_offer_with_a_ticket_is_answered(tmp_path):
    async with Kms(tmp_path) as site:
        bob = caller(site)
        _, call = await talking(site, bob)
        mine = call.media.streams[0].keys
        assert (mine.send, mine.receive) == (bob.stream().receive, bob.stream().send)
        assert call.event().security == KMS


@pytest.mark.clause("TS 33.328", "7.3.3-1")
@pytest.mark.clause("RFC 4567", "4.1.2")
@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    ("how", "token", "asked"),
    [("flip-mac", "mikey-invalid", 1), ("expired", "mikey-invalid", 0), ("wrong-ticket", "kms-refused", 1),
     ("wrong-responder", "mikey-invalid", 0)],
)  # fmt: skip
@async_test
async def test_what_cannot_be_used_is_488_with_both_warnings(tmp_path, how, token, asked):
    async with Kms(tmp_path) as site:
        offer = await caller(site).offer(peer=ALICE, tamper=how)
        site.kms.asked.clear()
        _, seen = await called(site, offer)
        response = await final(seen)
        assert response.status == 488
        warnings = response.headers.values("Warning")
        assert [warning.split(" ")[0] for warning in warnings] == ["399", "306"]
        assert f'"media-sec:{token}"' in warnings[0]
        assert len(site.kms.asked) == asked


def refusals_logged(site):
    lines = map(json.loads, site.ue.log.getvalue().splitlines())
    return [line for line in lines if line["event"] == "ue.security-refused"]


WHICH = {
    "flip-mac": "AuthenticationFailure: V: the MAC does not hold",
    "truncate": "MalformedMessage: V: cut short: 20 octets are due, 10 are left",
    "replay": "Replayed: message: seen before",
    "wrong-ticket": "the KMS refused: INVALID_TICKET",
    "wrong-responder": "InvalidIdentity: IDRr: the ticket is for others",
    "strip-sdp-ids": "the offered key management protocols are not those of its sender",
    "expired": "InvalidTicket: TRs/TRe: outside the validity of the ticket",
    "old-timestamp": "InvalidTimestamp: T: outside the clock skew of 300 s",
    "strip": "a secure stream without a key",
    "garbage": "SdpAttributeError: key-mgmt message is not base64",
}


"""What a refused UE says of each way to spoil an offer."""


@pytest.mark.clause("TS 33.328", "7.3.3-1")
@pytest.mark.attack("T5", "T8")
@pytest.mark.parametrize("how", WHICH)
@async_test
async def test_the_check_that_failed_is_told_here_and_not_to_the_far_end(tmp_path, how):
    async with Kms(tmp_path, reusable=True) as site:
        far = caller(site, reusable=True)
        if how == "replay":
            _, seen = await called(site, await far.offer(peer=ALICE))
            assert (await final(seen)).status == 200
            far.keys.last_transfer = far.mikey.exchange.transfer_init
            far.media.streams.clear()
        offer = await far.offer(peer=ALICE, tamper=how)
        request, seen = await called(site, offer)
        response = await final(seen)
        call = site.ue.agent.find(request.call_id)
        word, _, why = call.event().reason.partition(": ")
        assert response.status == 488
        assert response.headers.values("Warning")[0] == f'399 {IP} "{word}"'
        assert why == WHICH[how]
        decided = spans(site, "key.decision")[-1].attributes
        assert f"media-sec:{decided['imslab.decision.reason']}" == word
        assert decided["imslab.decision.mode"] == ("e2e-sdes" if how == "strip" else KMS)
        assert decided["imslab.decision.detail"] == why
        (logged,) = refusals_logged(site)
        assert (logged["call_id"], logged["cause"], logged["detail"]) == (request.call_id, word[10:], why)
        assert why not in response.to_bytes().decode()


@pytest.mark.clause("TS 33.328", "7.3.3-1")
@pytest.mark.attack("T5", "T8")
@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("flip-mac", "AuthenticationFailure: V: the MAC does not hold"),
        ("reflect", "UnsupportedDataType: HDR: TRANSFER_INIT is not expected here"),
    ],
)
@async_test
async def test_of_a_spoilt_answer_the_caller_is_told_which_check_failed(tmp_path, how, why):
    async with Kms(tmp_path) as site:
        bob = Bob(site, site.kms)
        bob.end.mikey.tamper_answer = how
        events = await place(site, security=KMS)
        assert (events[-1].sip_status, events[-1].reason) == (488, f"media-sec:mikey-invalid: {why}")
        assert [line["detail"] for line in refusals_logged(site)] == [why]
        (bye,) = site.pcscf.of("BYE")
        assert bye.headers.get("Reason") == 'SIP;cause=488;text="media security"'


@pytest.mark.clause("TS 33.328", "7.3.3-1")
@pytest.mark.attack("T9")
@async_test
async def test_a_callee_without_kms_refuses(tmp_path):
    async with Kms(tmp_path) as site:
        offer = await caller(site).offer(peer=ALICE)
        site.keys.client._https.down = HttpFault.UNREACHABLE
        _, seen = await called(site, offer)
        response = await final(seen)
        assert response.status == 488
        assert '"media-sec:kms-unreachable"' in response.headers.values("Warning")[0]
        assert [one.status for one in seen if one.status not in {100, 488}] == []


@pytest.mark.clause("TS 33.328", "6.2.3.6-1")
@pytest.mark.attack("T5", "T7")
@async_test
async def test_a_ticket_of_another_user_is_refused_before_the_kms_is_asked(tmp_path):
    async with Kms(tmp_path) as site:
        carol = End(site.kms, CAROL, 5000, dialled=ALICE)
        offer = await carol.offer(peer=ALICE)
        site.kms.asked.clear()
        _, seen = await called(site, offer)
        assert (await final(seen)).status == 488
        assert site.kms.asked == []


@pytest.mark.clause("RFC 3261", "9.2")
@async_test
async def test_cancel_ends_a_call_whose_ticket_is_being_resolved(tmp_path):
    async with Kms(tmp_path) as site:
        waiting = asyncio.Event()
        offer = await caller(site).offer(peer=ALICE)
        site.kms.script = [waiting.wait]
        site.ue.agent.behaviour = Behaviour.read({"media": "off", "answer_after_s": "0"})
        request, seen = site.pcscf.invite(site.ue, offer), []
        txn = site.pcscf.send(request, seen)
        await until(lambda: site.kms.asked[-1] == "ticketresolve" and seen)
        txn.cancel()
        assert (await final(seen)).status == 487
        waiting.set()
        await until(lambda: not site.ue.agent.calls)
        assert [one.status for one in seen if one.status >= 200] == [487]


async def answered_early(site, bob):
    """Have bob call and take the answer in the 183; gives the request, the responses so far and that one."""
    headers = [("Supported", "100rel")]
    request, seen = await called(site, await bob.offer(peer=ALICE), headers=headers, early_media="1")
    await until(lambda: any(one.status == 183 for one in seen))
    early = next(one for one in seen if one.status == 183)
    bob.media.take_answer(early.body)
    return request, seen, early


@pytest.mark.clause("TS 33.328", "7.3.3")
@async_test
async def test_early_media_has_the_keys_of_the_answer_in_the_183(tmp_path):
    async with Kms(tmp_path) as site:
        bob = caller(site)
        request, seen, early = await answered_early(site, bob)
        (call,) = site.ue.agent.calls.values()
        assert call.media.streams[0].keys.send == bob.stream().receive
        dialog = Dialog.from_uac(request, early)
        site.pcscf.send(dialog.request("PRACK", [("RAck", f"{early.headers.get('RSeq')} 1 INVITE")]), [])
        assert (await final(seen)).status == 200


@pytest.mark.clause("RFC 3262", "5")
@pytest.mark.clause("TS 33.328", "7.2.3-7")
@async_test
async def test_an_offer_in_a_prack_and_one_in_an_update_change_the_keys(tmp_path):
    async with Kms(tmp_path) as site:
        bob = caller(site)
        request, seen, early = await answered_early(site, bob)
        (call,) = site.ue.agent.calls.values()
        dialog = Dialog.from_uac(request, early)
        rack = ("RAck", f"{early.headers.get('RSeq')} 1 INVITE")
        for method, more in (("PRACK", [rack]), ("UPDATE", [])):
            before = bob.stream()
            response = await offered(site, dialog, method, bob.media.next_offer(rekey=0), *more)
            bob.media.take_answer(response.body)
            mine = call.media.streams[0].keys
            assert (mine.send, mine.receive) == (bob.stream().receive, bob.stream().send)
            assert bob.stream() != before
        assert (await final(seen)).status == 200


def sent_under(call):
    """The MKI that the UE's packets carry now."""
    return call.media.streams[0].endpoint.session.protection.sending._keys.sending.mki


def mki_of(line):
    return line.keys[0].mki_octets


@pytest.mark.clause("RFC 4567", "4.1.2")
@pytest.mark.clause("TS 33.328", "7.2.3-7")
@async_test
async def test_the_former_key_serves_until_the_ack_of_a_re_invite_and_a_moment_after_an_update(tmp_path):
    async with Kms(tmp_path) as site:
        bob = caller(site)
        request, seen = await called(site, await bob.offer(peer=ALICE), media="on")
        response = await final(seen)
        bob.media.take_answer(response.body)
        dialog, call = site.pcscf.acknowledge(request, response), await established(site)
        for method in ("INVITE", "UPDATE"):
            former = mki_of(bob.stream().receive)
            assert sent_under(call) == former
            answer = await offered(site, dialog, method, bob.media.next_offer(rekey=0))
            assert sent_under(call) == former
            bob.media.take_answer(answer.body)
            if method == "INVITE":
                site.pcscf.stack.send_ack(dialog.ack_for(answer), hop(site), "gm")
            await until(lambda: sent_under(call) == mki_of(bob.stream().receive))
            assert sent_under(call) != former


@pytest.mark.attack("T5")
@async_test
async def test_an_ack_of_an_earlier_invite_sent_again_does_not_change_the_key(tmp_path):
    """The far end has no answer yet, and would lose what comes under the new key."""
    async with Kms(tmp_path) as site:
        bob = caller(site)
        request, seen = await called(site, await bob.offer(peer=ALICE), media="on")
        response = await final(seen)
        bob.media.take_answer(response.body)
        dialog, call = site.pcscf.acknowledge(request, response), await established(site)
        former = mki_of(bob.stream().receive)
        answer = await offered(site, dialog, "INVITE", bob.media.next_offer(rekey=0))
        call.later.ack_received(dialog.ack_for(response))
        assert sent_under(call) == former
        bob.media.take_answer(answer.body)
        site.pcscf.stack.send_ack(dialog.ack_for(answer), hop(site), "gm")
        await until(lambda: sent_under(call) == mki_of(bob.stream().receive))


@pytest.mark.clause("TS 33.328", "7.2.3")
@async_test
async def test_a_callee_without_offer_makes_one_with_a_ticket_of_its_own(tmp_path):
    async with Kms(tmp_path) as site:
        bob = caller(site)
        request, seen = await called(site, b"")
        response = await final(seen)
        assert site.kms.asked == ["ticketrequest"]
        answer = await bob.answer(response.body)
        dialog = Dialog.from_uac(request, response)
        site.pcscf.stack.send_ack(
            dialog.ack_for(response, [("Content-Type", "application/sdp")], answer), hop(site), "gm"
        )
        (call,) = site.ue.agent.calls.values()
        await until(lambda: call.media.security == KMS)
        assert call.media.streams[0].keys.send == bob.stream().receive


def hop(site):
    return Hop.over(site.pcscf.flow)


@pytest.mark.clause("TS 33.328", "7.4-1", "7.2.3-7")
@async_test
async def test_a_re_invite_with_another_ticket_waits_for_the_kms_and_changes_the_keys(tmp_path):
    async with Kms(tmp_path) as site:
        bob = caller(site, session_keys=False)
        dialog, call = await talking(site, bob)
        before = call.media.streams[0].keys
        await bob.keys.prepare(bob.mikey, own=BOB, peer=ALICE)
        response = await offered(site, dialog, "INVITE", bob.media.next_offer(rekey=0))
        assert response.status == 200
        bob.media.take_answer(response.body)
        mine = call.media.streams[0].keys
        assert mine.send == bob.stream().receive
        assert mine.send != before.send


@pytest.mark.attack("T5", "T1")
@pytest.mark.clause("RFC 4567", "4.1.2")
@async_test
async def test_a_re_invite_of_somebody_else_s_ticket_leaves_the_call_as_it_is(tmp_path):
    async with Kms(tmp_path) as site:
        dialog, call = await talking(site, caller(site))
        before = call.media.streams[0].keys
        carol = End(site.kms, CAROL, 5000, dialled=ALICE)
        response = await offered(site, dialog, "INVITE", await carol.offer(peer=ALICE))
        assert response.status == 488
        assert "responder-not-allowed" in response.headers.values("Warning")[0]
        assert call.media.streams[0].keys == before
        assert call.state == "established"
