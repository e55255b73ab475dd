"""Calls that a UE places with keys of the KMS, on real SIP (TS 33.328 7.2.3, B.2)."""

import asyncio
import base64

import pytest

from nodes.https import HttpFault, HttpResponse
from nodes.ue.media_security import KMS
from protos import ue_control_pb2
from sba.testing import async_test
from signalling.sdp import parse_sdp
from signalling.sip.dialog import Dialog
from tests.ue.fake_pcscf import until
from tests.ue.kms_calls import Bob, Kms, caller, established, offered, spans, talking, transfers
from tests.ue.kms_stand_in import ALICE, BOB, CAROL
from tests.ue.test_calls import FarEnd, place


@pytest.mark.clause("TS 33.328", "7.2.3", "6.2.3.1-1", "B.2.2-1")
@async_test
async def test_a_call_with_keys_of_the_kms(tmp_path):
    async with Kms(tmp_path) as site:
        bob = Bob(site, site.kms)
        events = await place(site, security=KMS)
        assert [event.state for event in events if event.state != "media"][-2:] == ["established", "ended"]
        last = events[-1]
        assert (last.result, last.security) == ("established", KMS)
        (leg,) = last.legs
        assert (leg.protection, leg.keying, leg.scope, leg.suite) == (
            "SRTP", "MIKEY-TICKET", "e2e", "AES_CM_128_HMAC_SHA1_80",
        )  # fmt: skip
        (invite,) = site.pcscf.of("INVITE")
        sdp = parse_sdp(invite.body)
        assert (sdp.media[0].proto, sdp.media[0].crypto, sdp.media[0].e2ae, len(sdp.key_mgmt)) == (
            "RTP/SAVP",
            [],
            None,
            1,
        )
        assert site.kms.asked == ["ticketrequest", "ticketresolve"]
        assert bob.media.security == KMS


@pytest.mark.clause("TS 33.328", "7.2.3")
@async_test
async def test_the_trace_of_a_call_names_its_messages_and_nothing_secret(tmp_path):
    async with Kms(tmp_path) as site:
        bob = Bob(site, site.kms)
        await place(site, security=KMS)
        sent, received = spans(site, "mikey.transfer")
        assert sent.attributes["imslab.mikey.message"].startswith("TRANSFER_INIT: T, RANDRi, IDRi, IDRr, SP")
        assert received.attributes["imslab.mikey.message"].startswith("TRANSFER_RESP: T, RANDRr")
        assert [one.attributes["imslab.mikey.direction"] for one in (sent, received)] == ["sent", "received"]
        decided = spans(site, "key.decision")[-1].attributes
        assert (decided["imslab.decision.mode"], decided["imslab.decision.peer"]) == (KMS, BOB)
        assert decided["imslab.decision.cs_ids"] == "1,2"
        assert "imslab.decision.tag" not in decided
        told = [each for span in site.spans.get_finished_spans() for each in (span, *span.events)]
        messages = "".join(str(value) for each in told for value in each.attributes.values())
        (value,) = parse_sdp(site.pcscf.of("INVITE")[0].body).key_mgmt
        assert f"key-mgmt:{value}" in messages  # every key in it is encrypted
        for line in (bob.end.stream().send, bob.end.stream().receive):
            key = line.keys[0].key_salt.reveal()
            assert key.hex() not in messages
            assert base64.b64encode(key).decode() not in messages


@pytest.mark.clause("TS 33.328", "7.3.3-1", "5.4.3-1")
@pytest.mark.attack("T9")
@pytest.mark.parametrize("fault", list(HttpFault))
@async_test
async def test_without_kms_the_call_is_refused_before_a_word_is_sent(tmp_path, fault):
    async with Kms(tmp_path) as site:
        site.keys.client._https.down = fault
        events = await place(site, security=KMS)
        assert (events[-1].result, events[-1].sip_status) == ("refused", 488)
        assert events[-1].reason.startswith("media-sec:kms-unreachable: kms.ims.test: ")
        assert site.pcscf.of("INVITE") == []


@pytest.mark.clause("RFC 6043", "12.1")
@pytest.mark.parametrize(
    ("suites", "named"),
    [
        (("AEAD_AES_256_GCM",), "AEAD_AES_256_GCM (256-bit keys)"),
        (
            ("AES_192_CM_HMAC_SHA1_80", "AES_256_CM_HMAC_SHA1_32"),
            "AES_192_CM_HMAC_SHA1_80 (192-bit keys), AES_256_CM_HMAC_SHA1_32 (256-bit keys)",
        ),
    ],
)
@async_test
async def test_suites_that_the_profile_makes_no_keys_for_are_refused_by_name_before_a_word_is_sent(
    tmp_path, suites, named
):
    async with Kms(tmp_path) as site:
        events = await place(site, security=KMS, suites=suites)
        assert (events[-1].result, events[-1].sip_status) == ("refused", 488)
        assert events[-1].reason == (
            f"media-sec:suite-too-strong: the 128-bit MIKEY profile protects no keys for {named}, RFC 6043 12.1"
        )
        assert site.pcscf.of("INVITE") == []
        assert site.kms.asked == []


@pytest.mark.clause("RFC 6043", "12.1")
@async_test
async def test_of_several_suites_those_with_keys_are_offered_and_the_others_are_told(tmp_path):
    async with Kms(tmp_path) as site:
        Bob(site, site.kms)
        events = await place(site, security=KMS, suites=("AEAD_AES_256_GCM", "AEAD_AES_128_GCM"))
        assert (events[-1].result, events[-1].legs[0].suite) == ("established", "AEAD_AES_128_GCM")
        decided = spans(site, "key.decision")[-1].attributes
        assert decided["imslab.decision.suites_left_out"] == "AEAD_AES_256_GCM"


@pytest.mark.attack("T9")
@async_test
async def test_a_kms_that_never_answers_holds_no_call_up(tmp_path):
    async with Kms(tmp_path, timeout_s=0.05) as site:
        site.kms.script = [lambda: asyncio.sleep(60)]
        events = await place(site, security=KMS)
        assert events[-1].reason == "media-sec:kms-unreachable: no answer in time"


@pytest.mark.clause("TS 33.328", "6.2.3.5-1")
@async_test
async def test_what_the_kms_refuses_is_told_with_its_mikey_error(tmp_path):
    async with Kms(tmp_path) as site:
        events = await place(site, security=KMS, preferred_identity="sip:mallory@ims.test")
        assert events[-1].reason == "media-sec:kms-refused: the KMS refused: INVALID_ID"


@pytest.mark.clause("TS 33.328", "6.2.3.3-1")
@pytest.mark.parametrize(
    ("policy", "security", "mode"),
    [
        ({"fallback": True}, "", "e2ae-sdes"),
        ({"fallback": True}, KMS, ""),
        ({"fallback": False}, "", ""),
        ({"fallback": True, "level": "required"}, "", ""),
    ],
)
@async_test
async def test_another_mode_is_taken_only_where_policy_says_so_and_is_told(tmp_path, policy, security, mode):
    async with Kms(tmp_path, **policy) as site:
        site.keys.client._https.down = HttpFault.UNREACHABLE
        FarEnd(site)
        events = await place(site, security=security)
        if mode:
            assert (events[-1].result, events[-1].security) == ("established", mode)
            assert "ue.kms-fallback" in site.ue.log.getvalue()
            first = spans(site, "key.decision")[0].attributes
            assert (first["imslab.decision.mode"], first["imslab.decision.outcome"]) == (KMS, "fallback")
        else:
            assert (events[-1].result, events[-1].sip_status) == ("refused", 488)
            (decided,) = (span.attributes for span in spans(site, "key.decision"))
            assert (decided["imslab.decision.mode"], decided["imslab.decision.outcome"]) == (KMS, "refused")
            assert site.pcscf.of("INVITE") == []


@pytest.mark.clause("TS 33.328", "6.2.3.3-1")
@async_test
async def test_policy_towards_the_user_chooses_the_mode(tmp_path):
    async with Kms(tmp_path, level="allowed", peers={BOB: "required", "*@partner.test": "off"}) as site:
        Bob(site, site.kms)
        assert (await place(site, security=""))[-1].security == KMS
        events = await place(site, security="none")
        assert events[-1].reason.startswith("media-sec:protection-required: policy requires keys from the KMS")
        events = await place(site, security=KMS, target="sip:erin@partner.test")
        assert events[-1].reason == ("media-sec:profile-refused: policy excludes keys from a KMS, or there is no KMS")


@pytest.mark.clause("RFC 3261", "9.1")
@async_test
async def test_a_call_can_be_given_up_while_the_kms_is_asked(tmp_path):
    async with Kms(tmp_path) as site:
        waiting = asyncio.Event()
        site.kms.script = [waiting.wait]
        task = asyncio.ensure_future(place(site, security=KMS))
        await until(lambda: site.kms.asked)
        (call,) = site.ue.agent.calls.values()
        await call.hang_up()
        waiting.set()
        events = await task
        assert (events[-1].result, events[-1].sip_status) == ("failed", 487)
        assert site.pcscf.of("INVITE") == []


@pytest.mark.clause("TS 33.328", "7.3.3-2", "6.2.3.6-1")
@pytest.mark.parametrize(("allowed", "result"), [("1", "established"), ("0", "refused")])
@async_test
async def test_a_diverted_call_is_ended_unless_policy_lets_it_be(tmp_path, allowed, result):
    async with Kms(tmp_path) as site:
        Bob(site, site.kms, user=CAROL, asserted=CAROL)
        events = await place(site, security=KMS, responders=f"{BOB} {CAROL}", allow_diverted=allowed)
        assert events[-1].result == result
        await until(lambda: site.pcscf.of("BYE"))
        if result == "refused":
            assert events[-1].reason == f"media-sec:responder-not-allowed: {CAROL} answered in place of {BOB}"
            assert "cause=488" in site.pcscf.of("BYE")[0].headers.get("Reason")


@pytest.mark.clause("RFC 6043", "5.1.1")
@pytest.mark.clause("TS 33.328", "7.2.3-2")
@async_test
async def test_the_branch_that_wins_brings_its_own_keys(tmp_path):
    async with Kms(tmp_path) as site:
        bob = Bob(site, site.kms, tags=("desk", "mobile"), early="desk")
        task = asyncio.ensure_future(place(site, security=KMS, seconds=0.3))
        call = await established(site)
        mine = call.media.streams[0].keys
        theirs = bob.ends["mobile"].stream()
        assert (mine.send, mine.receive) == (theirs.receive, theirs.send)
        assert mine.send != bob.ends["desk"].stream().receive
        assert (await task)[-1].result == "established"


@pytest.mark.clause("TS 33.328", "7.4-10", "7.2.3-7", "7.4-1")
@async_test
async def test_hold_re_key_and_further_streams_in_a_call(tmp_path):
    async with Kms(tmp_path) as site:
        bob = Bob(site, site.kms)
        task = asyncio.ensure_future(place(site, security=KMS, seconds=30))
        call = await established(site)
        first = call.media.streams[0].keys
        for action in ("hold", "resume", "rekey", "add-stream", "move-port"):
            answer = await site.ue.control.Modify(
                ue_control_pb2.ModifyRequest(call_id=call.call_id, action=action), None
            )
            assert (action, answer.sip_status) == (action, 200)
            mine, theirs = call.media.streams[0].keys, bob.end.stream()
            assert (mine.send, mine.receive) == (theirs.receive, theirs.send)
            assert (mine == first) is (action in {"hold", "resume"})
        assert [leg.keying for leg in answer.legs] == ["MIKEY-TICKET", "MIKEY-TICKET"]
        new, update = transfers(site)[:2], transfers(site)[2:]
        assert new == [("TRANSFER_INIT", "sent"), ("TRANSFER_RESP", "received")]
        assert set(update) == {("TRANSFER_INIT (CSB update)", "sent"), ("TRANSFER_RESP (CSB update)", "received")}
        assert site.kms.asked == ["ticketrequest", "ticketresolve"]
        await call.hang_up()
        await task


@pytest.mark.clause("RFC 6043", "5.2")
@async_test
async def test_the_trace_says_of_a_far_ends_update_that_it_is_one(tmp_path):
    async with Kms(tmp_path) as site:
        bob = caller(site)
        dialog, _ = await talking(site, bob)
        await offered(site, dialog, "UPDATE", bob.media.next_offer(rekey=0))
        assert transfers(site) == [
            ("TRANSFER_INIT", "received"),
            ("TRANSFER_RESP", "sent"),
            ("TRANSFER_INIT (CSB update)", "received"),
            ("TRANSFER_RESP (CSB update)", "sent"),
        ]


@pytest.mark.clause("RFC 6043", "6.10")
@async_test
async def test_keys_are_changed_before_they_are_too_old(tmp_path):
    async with Kms(tmp_path, rekey_s=1) as site:
        bob = Bob(site, site.kms)
        task = asyncio.ensure_future(place(site, security=KMS, seconds=30))
        call = await established(site)
        first = call.media.streams[0].keys
        await until(lambda: call.media.streams[0].keys.send != first.send)
        mine, theirs = call.media.streams[0].keys, bob.end.stream()
        assert (mine.send, mine.receive) == (theirs.receive, theirs.send)
        await call.hang_up()
        await task


class Early(Bob):
    """Makes the offer in a reliable provisional response."""

    async def serve(self, txn):
        body = await self.end.offer(peer=ALICE)
        self.dialog = Dialog.from_uas(txn.request, self.response(txn, 200))
        txn.respond(self.response(txn, 183, body, [("Require", "100rel"), ("RSeq", "7")]))
        await until(lambda: self.site.pcscf.of("PRACK"))
        self.media.take_answer(self.site.pcscf.of("PRACK")[0].body)
        txn.respond(self.response(txn, 200))


@pytest.mark.clause("RFC 3262", "5")
@pytest.mark.clause("TS 33.328", "7.2.3")
@async_test
async def test_the_offer_of_a_reliable_183_is_resolved_before_its_prack(tmp_path):
    async with Kms(tmp_path) as site:
        bob = Early(site, site.kms)
        events = await place(site, offerless="1", security="")
        assert (events[-1].result, events[-1].security) == ("established", KMS)
        (prack,) = site.pcscf.of("PRACK")
        assert parse_sdp(prack.body).key_mgmt
        assert bob.media.security == KMS


@pytest.mark.clause("TS 33.328", "7.3.3-1")
@async_test
async def test_an_offer_of_a_183_that_cannot_be_resolved_ends_the_call(tmp_path):
    async with Kms(tmp_path) as site:
        bob = Early(site, site.kms)
        bob.kms.script = [None, HttpResponse(403)]
        events = await place(site, offerless="1", security="")
        assert (events[-1].result, events[-1].reason) == ("refused", "media-sec:kms-refused: the KMS answered 403")


@pytest.mark.clause("TS 33.328", "7.2.3-7")
@pytest.mark.clause("RFC 4567", "4.1.2")
@async_test
async def test_a_refused_re_keying_ends_the_call(tmp_path):
    async with Kms(tmp_path) as site:
        bob = Bob(site, site.kms)
        task = asyncio.ensure_future(place(site, security=KMS, seconds=30))
        call = await established(site)
        site.pcscf.on_invite = lambda txn: txn.respond(bob.response(txn, 488))
        await site.ue.control.Modify(ue_control_pb2.ModifyRequest(call_id=call.call_id, action="rekey"), None)
        events = await task
        assert events[-1].state == "ended"
        assert "cause=488" in site.pcscf.of("BYE")[0].headers.get("Reason")


@pytest.mark.clause("TS 33.328", "7.2.3")
@pytest.mark.clause("RFC 3261", "13.2.2.4")
@async_test
async def test_the_offer_of_a_2xx_is_resolved_before_the_ack_that_answers_it(tmp_path):
    async with Kms(tmp_path) as site:
        waiting = asyncio.Event()
        bob = Bob(site, site.kms)
        bob.kms.script = [None, waiting.wait]
        task = asyncio.ensure_future(place(site, offerless="1", security="", seconds=0.2))
        await until(lambda: "ticketresolve" in site.kms.asked)
        await until(lambda: len(bob.again) > 1)  # the 200 comes again meanwhile, and is not acknowledged bare
        assert site.pcscf.acks == []
        waiting.set()
        events = await task
        assert (events[-1].result, events[-1].security) == ("established", KMS)
        assert parse_sdp(site.pcscf.acks[0].body).key_mgmt
        bob.media.take_answer(site.pcscf.acks[0].body)
        assert bob.media.security == KMS
