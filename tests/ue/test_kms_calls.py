"""Calls of a UE with keys of the KMS, on real SIP (TS 33.328 7.2.3, 7.3.3, B.2)."""

import asyncio
import base64
import json
import time

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from keying.mikey.identity import Identity
from nodes.https import HttpFault, HttpResponse
from nodes.ue.config import Behaviour
from nodes.ue.kms_policy import identity_of, wish_for
from nodes.ue.media_security import KMS
from protos import ue_control_pb2
from sba.errors import ProblemError
from sba.testing import async_test
from signalling.sdp import parse_sdp
from signalling.sip.dialog import Dialog
from signalling.sip.message import SipResponse
from signalling.sip.stack import Hop
from tests.ue.fake_pcscf import IP, Site, until
from tests.ue.kms_stand_in import ALICE, BOB, CAROL, StandInKms, management
from tests.ue.test_calls import FarEnd, place
from tests.ue.test_mikey_calls import End


class Bob(FarEnd):
    """The far end, with keys of its own; asks the KMS before it answers."""

    def __init__(self, site, kms, *, user=BOB, asserted=BOB, tags=("b2",), early="", **more):
        super().__init__(site, **more)
        self.kms, self.asserted, self.early = kms, asserted, early
        self.ends = {tag: End(kms, user, 5000 + 100 * at, peer=ALICE) for at, tag in enumerate(tags)}
        self.end = self.ends[tags[0]]
        self.media = self.end.media
        self.tag = tags[0]
        self.tasks = []
        self.again = []
        """Repetitions of the 2xx."""

    def response(self, txn, status, body=b"", headers=()):
        asserted = [("P-Asserted-Identity", f"<{self.asserted}>")] if self.asserted else []
        return super().response(txn, status, body, [*asserted, *headers])

    def invited(self, txn):
        self.tasks.append(asyncio.ensure_future(self.serve(txn)))

    async def serve(self, txn):
        request = txn.request
        if request.to_tag is not None:
            self.dialog.check_incoming(request)
            txn.respond(self.response(txn, 200, await self.end.answer(request.body)))
            return
        if self.status >= 300:
            txn.respond(self.response(txn, self.status))
            return
        if self.early:
            self.tag = self.early
            body = await self.ends[self.early].answer(request.body)
            txn.respond(self.response(txn, 183, body, [("Require", "100rel"), ("RSeq", "7")]))
            await until(lambda: self.site.pcscf.of("PRACK"))
            self.tag = next(tag for tag in self.ends if tag != self.early)
            self.end = self.ends[self.tag]
            self.media = self.end.media
        body = self.change(await self.end.answer(request.body) if request.body else await self.end.offer(peer=ALICE))
        final = self.response(txn, 200, body)
        self.dialog = Dialog.from_uas(request, final)
        resend = txn.send_success_again
        txn.send_success_again = lambda response: (self.again.append(response), resend(response))
        txn.respond(final)


class Kms:
    """A UE with a KMS at hand, registered."""

    def __init__(self, folder, *, kms=None, settings=(), key_export=False, **policy):
        self.folder = folder
        self.kms = kms or StandInKms()
        self.keys = management(self.kms, ALICE, "tel:+15550100", key_export=key_export, **policy)
        self.spans = InMemorySpanExporter()
        self.more = dict(settings)

    async def __aenter__(self):
        self.site = Site(self.folder, keys=self.keys, kms_policy=self.keys.policy, **self.more)
        site = await self.site.__aenter__()
        site.kms, site.keys, site.spans = self.kms, self.keys, self.spans
        site.ue.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        await site.ue.register()
        return site

    async def __aexit__(self, *caught):
        await self.site.__aexit__(*caught)

    def named(self, name):
        return [span for span in self.spans.get_finished_spans() if span.name == name]


def spans(site, name):
    return [span for span in site.spans.get_finished_spans() if span.name == name]


async def established(site):
    """Return the UE's call once it is established."""
    await until(lambda: any(call.state == "established" for call in site.ue.agent.calls.values()))
    (call,) = site.ue.agent.calls.values()
    return call


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


def transfers(site):
    told = (span.attributes for span in spans(site, "mikey.transfer"))
    return [(one["imslab.mikey.message"].partition(":")[0], one["imslab.mikey.direction"]) for one in told]


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


# incoming -------------------------------------------------------------------------------------------------------------


async def called(site, body, *, headers=(), **behaviour):
    """Call the UE; returns the request and the responses so far."""
    site.ue.agent.behaviour = Behaviour.read({"media": "off", "answer_after_s": "0", **behaviour})
    request = site.pcscf.invite(site.ue, body, headers)
    seen = []
    site.pcscf.send(request, seen)
    return request, seen


async def final(seen):
    await until(lambda: any(isinstance(one, SipResponse) and one.status >= 200 for one in seen))
    return seen[-1]


def caller(site, **more):
    return End(site.kms, BOB, 5000, dialled=ALICE, **more)


async def talking(site, bob):
    """Have `bob` call the UE; returns his dialog and the UE's call."""
    request, seen = await called(site, await bob.offer(peer=ALICE))
    response = await final(seen)
    bob.media.take_answer(response.body)
    return site.pcscf.acknowledge(request, response), await established(site)


async def offered(site, dialog, method, body, *more):
    """Send the UE an offer within a dialog; returns the final response."""
    seen = []
    fields = [("Content-Type", "application/sdp"), ("Contact", f"<sip:bob@{IP}:{site.pcscf.port}>"), *more]
    site.pcscf.send(dialog.request(method, fields, body), seen)
    return await final(seen)


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


@pytest.mark.clause("TS 33.328", "7.3.3")
@async_test
async def test_early_media_has_the_keys_of_the_answer_in_the_183(tmp_path):
    async with Kms(tmp_path) as site:
        bob = caller(site)
        headers = [("Supported", "100rel")]
        request, seen = await called(site, await bob.offer(peer=ALICE), headers=headers, early_media="1")
        await until(lambda: any(one.status == 183 for one in seen))
        early = next(one for one in seen if one.status == 183)
        bob.media.take_answer(early.body)
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
        headers = [("Supported", "100rel")]
        request, seen = await called(site, await bob.offer(peer=ALICE), headers=headers, early_media="1")
        await until(lambda: any(one.status == 183 for one in seen))
        early = next(one for one in seen if one.status == 183)
        bob.media.take_answer(early.body)
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


# by hand --------------------------------------------------------------------------------------------------------------


@pytest.mark.clause("TS 33.328", "6.2.3.7-1", "7.2.3-1")
@async_test
async def test_a_ticket_asked_for_by_hand_serves_the_next_calls(tmp_path):
    async with Kms(tmp_path) as site:
        Bob(site, site.kms)
        order = ue_control_pb2.TicketOrder(responders=[BOB], reusable=True, validity_s=600)
        info = await site.ue.control.RequestTicket(order, None)
        assert (info.kms, info.initiator, list(info.responders)) == ("kms.ims.test", ALICE, [BOB])
        assert {"D", "E", "F", "I", "J"} <= set(info.flags)
        assert info.not_after == pytest.approx(time.time() + 600, abs=5)
        assert info.request_init[1] == 11
        assert info.request_resp[1] == 13
        site.kms.asked.clear()
        assert (await place(site, security=KMS))[-1].result == "established"
        assert (await place(site, security=KMS, ticket=info.ticket_id))[-1].result == "established"
        assert "ticketrequest" not in site.kms.asked
        (listed,) = (await site.ue.control.ListTickets(ue_control_pb2.TicketListRequest(), None)).tickets
        assert (listed.ticket_id, listed.uses) == (info.ticket_id, 2)
        await place(site, security=KMS, fresh_ticket="1")
        assert "ticketrequest" in site.kms.asked


@pytest.mark.clause("RFC 6043", "4.1.1")
@async_test
async def test_a_ticket_made_by_hand_is_of_mode_3(tmp_path):
    async with Kms(tmp_path) as site:
        info = await site.ue.control.RequestTicket(ue_control_pb2.TicketOrder(responders=[BOB], mode_3=True), None)
        assert site.kms.asked == []
        assert "D" not in info.flags
        assert "L" in info.flags


@pytest.mark.clause("TS 33.328", "5.4.3-1")
@async_test
async def test_a_ticket_is_resolved_by_hand(tmp_path):
    async with Kms(tmp_path) as site:
        bob = management(site.kms, BOB)
        held = await bob.obtain(*wish(bob, BOB, ALICE))
        info = await site.ue.control.ResolveTicket(ue_control_pb2.ResolveOrder(ticket=held.octets), None)
        assert (info.kms, info.responder, info.forked) == ("kms.ims.test", ALICE, False)
        assert (info.resolve_init[1], info.resolve_resp[1]) == (16, 18)


def wish(keys, initiator, responder):
    policy = keys.policy.model_copy(update={"forking": False})
    return Identity.uri(initiator), wish_for(policy, (identity_of(responder),))


@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"tamper": "flip-mac"}, "MIKEY_AUTH_FAILURE"),
        ({"tamper": "wrong-psk"}, "MIKEY_AUTH_FAILURE"),
        ({"tamper": "truncate"}, None),
        ({"tamper": "old-timestamp"}, "MIKEY_INVALID_TS"),
        ({"tamper": "replay"}, "MIKEY_INVALID_TS"),
        ({"initiator": "sip:mallory@ims.test"}, "MIKEY_INVALID_ID"),
        ({"nonsense": "1"}, "INVALID_PARAM"),
    ],
)
@async_test
async def test_spoilt_requests_for_tickets_are_refused_with_the_mikey_error(tmp_path, options, cause):
    async with Kms(tmp_path) as site:
        good = ue_control_pb2.TicketOrder(responders=[BOB])
        await site.ue.control.RequestTicket(good, None)
        with pytest.raises(ProblemError) as refused:
            await site.ue.control.RequestTicket(ue_control_pb2.TicketOrder(responders=[BOB], options=options), None)
        if cause is not None:
            assert refused.value.cause == cause
        assert refused.value.status in {400, 403}


@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    ("options", "cause"),
    [({"tamper": "wrong-ticket"}, "MIKEY_INVALID_TICKET"), ({"responder": "sip:mallory@ims.test"}, "MIKEY_INVALID_ID"),
     ({"tamper": "flip-mac"}, "MIKEY_AUTH_FAILURE")],
)  # fmt: skip
@async_test
async def test_spoilt_requests_to_resolve_are_refused(tmp_path, options, cause):
    async with Kms(tmp_path) as site:
        bob = management(site.kms, BOB)
        held = await bob.obtain(*wish(bob, BOB, ALICE))
        with pytest.raises(ProblemError) as refused:
            await site.ue.control.ResolveTicket(ue_control_pb2.ResolveOrder(ticket=held.octets, options=options), None)
        assert refused.value.cause == cause


@async_test
async def test_tickets_need_a_kms(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        for ask in (
            site.ue.control.RequestTicket(ue_control_pb2.TicketOrder(responders=[BOB]), None),
            site.ue.control.ListTickets(ue_control_pb2.TicketListRequest(), None),
            site.ue.control.ResolveTicket(ue_control_pb2.ResolveOrder(ticket=b"x"), None),
        ):
            with pytest.raises(ProblemError) as refused:
                await ask
            assert refused.value.cause == "KMS_NOT_CONFIGURED"
        events = await place(site, security=KMS)
        assert events[-1].reason == ("media-sec:profile-refused: policy excludes keys from a KMS, or there is no KMS")


@async_test
async def test_a_kms_that_is_down_is_told_by_hand_too(tmp_path):
    async with Kms(tmp_path) as site:
        site.kms.script = [HttpResponse(500)]
        with pytest.raises(ProblemError) as refused:
            await site.ue.control.RequestTicket(ue_control_pb2.TicketOrder(responders=[BOB]), None)
        assert refused.value.cause == "KMS_REFUSED"
        site.keys.client._https.down = HttpFault.TLS
        with pytest.raises(ProblemError) as refused:
            await site.ue.control.RequestTicket(ue_control_pb2.TicketOrder(responders=[BOB]), None)
        assert (refused.value.status, refused.value.cause) == (504, "KMS_UNREACHABLE")


@pytest.mark.attack("T8")
@pytest.mark.parametrize("export", [True, False])
@async_test
async def test_the_messages_of_a_call_are_told_only_where_the_lab_exports_keys(tmp_path, export):
    async with Kms(tmp_path, key_export=export) as site:
        Bob(site, site.kms)
        request = ue_control_pb2.CallRequest(
            target=BOB, security=KMS, seconds=0.1, options={"media": "off"}, with_keys=True
        )
        events = [event async for event in site.ue.control.Call(request, None)]
        again = await site.ue.control.Report(ue_control_pb2.ReportRequest(with_keys=True), None)
        quiet = await site.ue.control.Report(ue_control_pb2.ReportRequest(), None)
        assert not quiet.HasField("mikey")
        for event in (events[-1], again):
            assert event.HasField("mikey") is export
            if export:
                seen = event.mikey
                assert [one[1] for one in (seen.request_init, seen.request_resp, seen.transfer_init, seen.transfer_resp)] == [
                    11, 13, 14, 15,
                ]  # fmt: skip
                assert (len(seen.psk), seen.issuer, seen.resolve_init) == (32, "kms.ims.test", b"")
