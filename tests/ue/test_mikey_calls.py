"""Offers and answers with MIKEY between two UEs' media, without sockets (TS 33.328 7.2.3, 7.3.3, 7.4)."""

import asyncio
import dataclasses
import struct

import pytest

from keying.mikey.codec import decode
from keying.mikey.identity import Identity
from keying.mikey.profile import Profile
from keying.mikey.registry import DataType
from media.srtp import SrtpContext
from nodes.ue.kms_policy import judge_initiator, judge_responder
from nodes.ue.media_security import KMS, MediaSecurityRefused, SecurityContext
from nodes.ue.session_media import OfferRefused, SessionMedia
from nodes.ue.stream import Stream
from sba.testing import async_test
from signalling.sdp import check_successor, parse_sdp
from signalling.sdp.keymgmt import SESSION, messages
from tests.media.libsrtp import Libsrtp
from tests.ue.kms_stand_in import ALICE, BOB, CAROL, StandInKms, management
from tests.ue.test_session_media import FakeEndpoint, told

CONTEXT = SecurityContext(
    "preferred",
    announced=True,
    agreed=True,
    confidential=True,
    suites=("AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM"),
    kms="preferred",
)


class Ssrc:
    def __init__(self, ssrc):
        self.ssrc = ssrc


def endpoint(port):
    made = FakeEndpoint(port)
    made.session = Ssrc(port * 7919)
    return made


class End:
    """A UE's media with its key management, and the judgements a call would make."""

    def __init__(self, kms, user, port, *more, context=CONTEXT, dialled="", peer="", **policy):
        self.user, self.peer = user, peer
        self.keys = management(kms, user, *more, **policy)
        self.media = SessionMedia(
            "127.0.0.1", context, lambda index: Stream(index, "127.0.0.1", endpoint(port + 2 * index))
        )
        self.mikey = self.keys.media(context.suites)
        self.media.mikey = self.mikey
        self.dialled, self.asserted = dialled, ()
        self.mikey.judge_responder = self.judge_responder
        self.mikey.judge_initiator = lambda made, _: self.judge_initiator(made.initiator)

    def judge_responder(self, made, ticket):
        self.mikey.peer = judge_responder(
            ticket, made.responder, dialled=self.dialled or self.peer, asserted=self.asserted,
            allow_diverted=self.keys.policy.allow_diverted,
        )  # fmt: skip

    def judge_initiator(self, initiator):
        judge_initiator(initiator, asserted=self.asserted, dialled=self.dialled)

    async def offer(self, peer=BOB, **more):
        await self.keys.prepare(self.mikey, own=self.user, peer=peer, **more)
        return self.media.first_offer(KMS)

    async def answer(self, body):
        try:
            incoming = await self.keys.receive(
                self.mikey, body, self.media.context, own=(self.user,), judge=self.judge_initiator
            )
        except MediaSecurityRefused as refused:
            raise OfferRefused.of(refused) from None
        return self.media.answer(body, incoming)

    def stream(self, index=0):
        return self.media.streams[index].keys


def pair(kms=None, **policy):
    kms = kms or StandInKms()
    return kms, End(kms, ALICE, 4000, dialled=BOB, **policy), End(kms, BOB, 5000, peer=ALICE, **policy)


async def agreed(**policy):
    kms, alice, bob = pair(**policy)
    alice.media.take_answer(await bob.answer(await alice.offer()))
    return kms, alice, bob


def mirrored(one, other, index=0):
    return (
        one.stream(index).send == other.stream(index).receive and one.stream(index).receive == other.stream(index).send
    )


@pytest.mark.clause("TS 33.328", "7.2.3", "7.3.3", "7.2.3-6", "B.1.2-1")
@pytest.mark.clause("RFC 6043", "4.2.2")
@async_test
async def test_both_ends_have_the_keys_that_the_ticket_made_and_none_stands_in_sdp():
    kms, alice, bob = pair()
    offer = await alice.offer()
    answer = await bob.answer(offer)
    alice.media.take_answer(answer)
    assert mirrored(alice, bob)
    assert alice.stream().send != alice.stream().receive
    assert (alice.media.security, bob.media.security) == (KMS, KMS)
    assert kms.asked == ["ticketrequest", "ticketresolve"]
    for body in (offer, answer):
        sdp = parse_sdp(body)
        assert (sdp.media[0].proto, sdp.media[0].crypto, sdp.media[0].e2ae) == ("RTP/SAVP", [], None)
        assert b"inline" not in body
        assert list(messages(sdp)) == [SESSION]
    assert decode(messages(parse_sdp(answer))[SESSION]).header.data_type is DataType.TRANSFER_RESP


@pytest.mark.clause("TS 33.328", "7.2.3-6")
@pytest.mark.clause("RFC 3830", "6.13")
@async_test
async def test_the_mki_of_the_media_is_the_spi_of_the_key():
    _, alice, bob = await agreed()
    held = next(iter(alice.keys.store))
    (spi,) = [key.spi for key in held.ticket.keys]
    for keys in (alice.stream(), bob.stream()):
        assert [line.keys[0].mki_octets for line in (keys.send, keys.receive)] == [spi, spi]


@pytest.mark.clause("RFC 7714", "14.1")
@pytest.mark.clause("TS 33.328", "C-3")
@pytest.mark.parametrize(
    ("suite", "profile"), [("AES_CM_128_HMAC_SHA1_80", "128"), ("AES_CM_128_HMAC_SHA1_32", "128"),
                           ("AEAD_AES_128_GCM", "128"), ("AEAD_AES_256_GCM", "256"),
                           ("AES_192_CM_HMAC_SHA1_80", "256"), ("AES_CM_128_HMAC_SHA1_80", "256")]
)  # fmt: skip
@async_test
async def test_every_suite_has_keys_and_salts_of_its_own_length(suite, profile):
    kms = StandInKms(profile=Profile(suite=profile))
    context = dataclasses.replace(CONTEXT, suites=(suite,))
    alice, bob = End(kms, ALICE, 4000, dialled=BOB, context=context), End(kms, BOB, 5000, context=context)
    alice.media.take_answer(await bob.answer(await alice.offer()))
    line = alice.stream().send
    assert line.suite.name == suite
    assert len(line.master_key) == line.suite.key_length
    assert len(line.master_salt) == line.suite.salt_length
    assert mirrored(alice, bob)


@pytest.mark.clause("TS 33.328", "7.4-10")
@pytest.mark.clause("RFC 6043", "5.2")
@async_test
async def test_hold_and_resume_keep_the_keys_and_ask_no_kms():
    kms, alice, bob = await agreed()
    before = alice.stream()
    kms.asked.clear()
    for one, other, direction in ((alice, bob, "sendonly"), (bob, alice, "sendrecv"), (alice, bob, "sendrecv")):
        one.media.take_answer(await other.answer(one.media.next_offer(direction=direction)))
    assert alice.stream() == before
    assert mirrored(alice, bob)
    assert kms.asked == []


@pytest.mark.clause("TS 33.328", "7.2.3-7", "7.4-4")
@pytest.mark.clause("RFC 6043", "5.2")
@pytest.mark.parametrize("starter", ["alice", "bob"])
@async_test
async def test_either_end_re_keys_in_an_update_with_a_new_spi(starter):
    kms, alice, bob = await agreed()
    before = alice.stream()
    one, other = (alice, bob) if starter == "alice" else (bob, alice)
    assert one.mikey.can_rekey
    one.media.take_answer(await other.answer(one.media.next_offer(rekey=0)))
    after = alice.stream()
    assert mirrored(alice, bob)
    assert before.send != after.send
    assert before.receive != after.receive
    assert before.send.keys[0].mki_octets != after.send.keys[0].mki_octets
    assert len(kms.asked) == 2
    assert "rekey_sending" in one.media.streams[0].endpoint.names()
    assert "rekey_receiving" in one.media.streams[0].endpoint.names()


@pytest.mark.clause("RFC 4567", "4.1.2")
@pytest.mark.clause("TS 33.328", "7.2.3-7")
@async_test
async def test_whoever_answers_a_re_keying_sends_under_the_new_key_only_when_the_other_has_the_answer():
    _, alice, bob = await agreed()
    told(bob.media)
    answer = await bob.answer(alice.media.next_offer(rekey=0))
    assert [name for name in told(bob.media) if "ing" in name] == ["rekey_receiving"]
    alice.media.take_answer(answer)
    assert alice.media.streams[0].next_send is None
    bob.media.send_new_keys()
    assert bob.media.streams[0].endpoint.told == [("rekey_sending", bob.stream().send)]
    bob.media.send_new_keys()
    assert told(bob.media) == ["rekey_sending"]


@pytest.mark.clause("RFC 4567", "4.1.2")
@async_test
async def test_of_two_re_keyings_in_a_row_the_later_key_is_sent_under_and_a_stream_that_ended_stays_silent():
    _, alice, bob = await agreed()
    for _ in range(2):
        alice.media.take_answer(await bob.answer(alice.media.next_offer(rekey=0)))
    told(bob.media)
    bob.media.send_new_keys()
    assert bob.media.streams[0].endpoint.told == [("rekey_sending", bob.stream().send)]
    alice.media.take_answer(await bob.answer(alice.media.next_offer(rekey=0)))
    bob.media.close()
    told(bob.media)
    bob.media.send_new_keys()
    assert told(bob.media) == []


@pytest.mark.attack("T5")
@pytest.mark.parametrize("later", [{"rekey": 0}, {"direction": "sendonly"}])
@async_test
async def test_offers_that_follow_one_another_fast_keep_no_former_key_in_use(later):
    """Each of them puts off the moment after an UPDATE; its sender has the answer before, so the key goes with it."""
    _, alice, bob = await agreed()
    alice.media.take_answer(await bob.answer(alice.media.next_offer(rekey=0)))
    agreed_on = bob.stream().send
    bob.media.streams[0].endpoint.told.clear()
    alice.media.take_answer(await bob.answer(alice.media.next_offer(**later)))
    assert ("rekey_sending", agreed_on) in bob.media.streams[0].endpoint.told


@pytest.mark.clause("RFC 6043", "5.2", "6.10")
@async_test
async def test_where_the_ticket_lets_nobody_bring_keys_another_ticket_re_keys():
    kms, alice, bob = await agreed(session_keys=False)
    assert not alice.mikey.can_rekey
    with pytest.raises(OfferRefused) as refused:
        alice.media.next_offer(rekey=0)
    assert refused.value.token == "mikey-invalid"
    before = alice.stream()
    await alice.keys.prepare(alice.mikey, own=ALICE, peer=BOB)
    alice.media.take_answer(await bob.answer(alice.media.next_offer(rekey=0)))
    assert mirrored(alice, bob)
    assert alice.stream().send != before.send
    assert len(kms.asked) == 4


@pytest.mark.clause("TS 33.328", "7.4-1", "7.2.3-6")
@pytest.mark.parametrize("starter", ["alice", "bob"])
@async_test
async def test_a_further_stream_has_keys_of_its_own(starter):
    _kms, alice, bob = await agreed()
    first = alice.stream()
    one, other = (alice, bob) if starter == "alice" else (bob, alice)
    one.media.take_answer(await other.answer(one.media.next_offer(add=True)))
    assert mirrored(alice, bob, 0)
    assert mirrored(alice, bob, 1)
    assert alice.stream(0) == first
    keys = [alice.stream(0).send, alice.stream(0).receive, alice.stream(1).send, alice.stream(1).receive]
    assert [line.tag for line in keys] == [1, 2, 3, 4]
    assert all(one.keys[0].key_salt != two.keys[0].key_salt for at, one in enumerate(keys) for two in keys[:at])
    one.media.take_answer(await other.answer(one.media.next_offer(drop=1)))
    one.media.take_answer(await other.answer(one.media.next_offer(rekey=0)))
    assert mirrored(alice, bob, 0)


@pytest.mark.clause("TS 33.328", "7.4-3")
@async_test
async def test_a_move_brings_new_keys_and_a_move_with_the_old_ones_is_refused():
    _, alice, bob = await agreed()
    before = alice.stream()
    told(alice.media)
    alice.media.take_answer(await bob.answer(alice.media.next_offer(move=0)))
    assert mirrored(alice, bob)
    assert alice.stream().send != before.send
    assert told(alice.media)[:2] == ["secure_sending", "rekey_receiving"]
    offer = alice.media.next_offer(direction="sendonly")
    moved = parse_sdp(offer)
    moved.media[0].port = 4444
    with pytest.raises(OfferRefused) as refused:
        await bob.answer(moved.to_bytes())
    assert refused.value.token == "bad-key"


@pytest.mark.clause("RFC 6043", "5.1.1")
@pytest.mark.clause("TS 33.328", "7.2.3-2", "5.5.3-1")
@async_test
async def test_each_branch_of_a_forked_call_has_keys_of_its_own():
    kms = StandInKms()
    alice = End(kms, ALICE, 4000, dialled=BOB)
    desk, mobile = End(kms, BOB, 5000), End(kms, BOB, 6000)
    offer = await alice.offer()
    first, second = await desk.answer(offer), await mobile.answer(offer)
    alice.media.take_answer(first)
    early = alice.stream()
    assert mirrored(alice, desk)
    alice.media.reopen()
    alice.media.take_answer(second)
    assert mirrored(alice, mobile)
    assert alice.stream().send != early.send
    assert alice.stream().receive != early.receive
    assert alice.stream().send != desk.stream().receive


@pytest.mark.clause("TS 33.328", "6.2.3.7-1")
@pytest.mark.clause("RFC 6043", "5.3")
@async_test
async def test_a_reusable_ticket_serves_further_calls_without_the_kms():
    kms, alice, bob = await agreed(reusable=True)
    again, there = End(kms, ALICE, 4100, dialled=BOB), End(kms, BOB, 5100)
    again.keys, there.keys = alice.keys, bob.keys
    kms.asked.clear()
    again.media.take_answer(await there.answer(await again.offer()))
    assert kms.asked == []
    assert mirrored(again, there)
    assert again.stream().send != alice.stream().send
    (held,) = list(alice.keys.store)
    assert held.uses == 2


@pytest.mark.clause("TS 33.328", "6.2.3.7-1")
@pytest.mark.parametrize(("reusable", "asked"), [(True, 1), (False, 8)])
@async_test
async def test_calls_at_the_same_time_share_what_can_be_shared(reusable, asked):
    kms = StandInKms()
    ends = [End(kms, ALICE, 4000, dialled=BOB, reusable=reusable) for _ in range(8)]
    for end in ends:
        end.keys = ends[0].keys
    offers = await asyncio.gather(*(end.offer() for end in ends))
    assert len(kms.asked) == asked
    assert len(set(offers)) == 8
    assert ends[0].keys._gates == {}


@pytest.mark.attack("T5", "T7")
@async_test
async def test_an_offer_with_many_tickets_does_not_make_the_ue_flood_its_kms():
    kms, alice, bob = pair()
    offer = parse_sdp(await alice.offer())
    (value,) = offer.key_mgmt
    offer.remove("key-mgmt")
    offer.media = [offer.media[0].copy() for _ in range(6)]
    for media in offer.media:
        media.add("key-mgmt", value)
    kms.asked.clear()
    with pytest.raises(OfferRefused, match="more than 4 tickets"):
        await bob.answer(offer.to_bytes())
    assert kms.asked == []


@pytest.mark.clause("RFC 6043", "12.4")
@pytest.mark.attack("T5")
@pytest.mark.parametrize("shared", [False, True])
@async_test
async def test_a_ticket_that_others_could_pose_with_is_taken_only_where_policy_says_so(shared):
    kms = StandInKms()
    alice = End(kms, ALICE, 4000, dialled=BOB, forking=False, also=(CAROL,), allow_diverted=True)
    bob = End(kms, BOB, 5000, shared_tickets=shared)
    offer = await alice.offer()
    kms.asked.clear()
    if shared:
        alice.media.take_answer(await bob.answer(offer))
        assert mirrored(alice, bob)
        return
    with pytest.raises(OfferRefused, match="without key forking"):
        await bob.answer(offer)
    assert kms.asked == []


@pytest.mark.clause("RFC 6043", "6.10", "5.3")
@async_test
async def test_a_single_use_ticket_serves_one_call():
    kms, alice, _bob = await agreed()
    again = End(kms, ALICE, 4100, dialled=BOB)
    again.keys = alice.keys
    kms.asked.clear()
    await again.offer()
    assert kms.asked == ["ticketrequest"]


@pytest.mark.clause("RFC 6043", "6.10")
@pytest.mark.parametrize("policy", [{"forking": False}, {"forking": False, "responder_rand": False},
                                    {"responder_rand": False}, {"mode_3": True}])  # fmt: skip
@async_test
async def test_other_tickets_make_calls_too(policy):
    _, alice, bob = await agreed(**policy)
    assert mirrored(alice, bob)
    alice.media.take_answer(await bob.answer(alice.media.next_offer(add=True)))
    assert mirrored(alice, bob, 1)


@pytest.mark.clause("TS 33.328", "7.3.3-2", "6.2.3.6-1")
@pytest.mark.parametrize(
    ("also", "allowed", "asserted", "token"),
    [
        ((CAROL,), True, (CAROL,), ""),
        ((CAROL,), True, (), ""),
        ((CAROL,), False, (CAROL,), "responder-not-allowed"),
        ((CAROL,), True, (BOB,), "responder-not-allowed"),
        (("sip:*@ims.test",), True, (CAROL,), ""),
    ],
)
@async_test
async def test_who_else_may_answer(also, allowed, asserted, token):
    kms = StandInKms()
    alice = End(kms, ALICE, 4000, dialled=BOB, also=also, allow_diverted=allowed)
    carol = End(kms, CAROL, 5000)
    alice.asserted = asserted
    answer = await carol.answer(await alice.offer())
    if not token:
        alice.media.take_answer(answer)
        assert mirrored(alice, carol)
        return
    with pytest.raises(OfferRefused) as refused:
        alice.media.take_answer(answer)
    assert (refused.value.status, refused.value.token, refused.value.attribute) == (488, token, True)
    assert not alice.stream().protected


@pytest.mark.clause("TS 33.328", "7.3.3-2", "7.3.3-3")
@pytest.mark.attack("T5")
@async_test
async def test_who_is_not_in_the_ticket_refuses_before_any_kms_is_asked():
    kms = StandInKms()
    alice, carol = End(kms, ALICE, 4000, dialled=BOB), End(kms, CAROL, 5000)
    offer = await alice.offer()
    kms.asked.clear()
    with pytest.raises(OfferRefused) as refused:
        await carol.answer(offer)
    assert (refused.value.token, kms.asked) == ("mikey-invalid", [])


@pytest.mark.clause("TS 33.328", "6.2.3.6-1")
@pytest.mark.attack("T5")
@async_test
async def test_a_ticket_of_another_than_the_network_says_is_refused_before_any_kms_is_asked():
    kms, alice, bob = pair()
    offer = await alice.offer()
    kms.asked.clear()
    bob.asserted = (CAROL,)
    with pytest.raises(OfferRefused) as refused:
        await bob.answer(offer)
    assert (refused.value.token, kms.asked) == ("mikey-invalid", [])


@pytest.mark.clause("RFC 6043", "9", "12.5")
@async_test
async def test_a_group_may_be_called():
    team = "sip:team@ims.test"
    kms = StandInKms(groups={team: [BOB]})
    alice, bob = End(kms, ALICE, 4000, dialled=team), End(kms, BOB, 5000, groups=(team,))
    alice.media.take_answer(await bob.answer(await alice.offer(peer=team)))
    assert mirrored(alice, bob)


SPOILT = {
    "flip-mac": ("mikey-invalid", 1),
    "truncate": ("mikey-invalid", 0),
    "wrong-ticket": ("kms-refused", 1),
    "wrong-responder": ("mikey-invalid", 0),
    "strip-sdp-ids": ("mikey-invalid", 0),
    "expired": ("mikey-invalid", 0),
    "old-timestamp": ("mikey-invalid", 0),
    "strip": ("protection-required", 0),
    "garbage": ("mikey-invalid", 0),
}


@pytest.mark.clause("TS 33.328", "7.3.3-1", "7.3.3-3", "7.3.3-4", "7.2.3-5")
@pytest.mark.clause("RFC 4567", "4.1.2", "4.1.4")
@pytest.mark.attack("T5")
@pytest.mark.parametrize("how", SPOILT)
@async_test
async def test_a_spoilt_offer_is_refused_and_as_early_as_can_be(how):
    kms, alice, bob = pair()
    offer = await alice.offer(tamper=how)
    kms.asked.clear()
    with pytest.raises(OfferRefused) as refused:
        await bob.answer(offer)
    token, asked = SPOILT[how]
    assert (refused.value.status, refused.value.token, len(kms.asked)) == (488, token, asked)
    assert not any(stream.keys.protected for stream in bob.media.streams)


@pytest.mark.clause("RFC 6043", "12.4")
@pytest.mark.clause("RFC 3830", "5.4")
@pytest.mark.attack("T5")
@async_test
async def test_a_message_that_came_before_is_refused():
    kms, alice, bob = await agreed(reusable=True)
    again = End(kms, BOB, 5100)
    again.keys = bob.keys
    other = End(kms, ALICE, 4100, dialled=BOB)
    other.keys = alice.keys
    other.keys.last_transfer = alice.mikey.exchange.transfer_init
    with pytest.raises(OfferRefused, match="Replayed"):
        await again.answer(await other.offer(tamper="replay"))


@pytest.mark.clause("TS 33.328", "7.3.3-1")
@pytest.mark.attack("T5")
@pytest.mark.parametrize("how", ["flip-mac", "truncate", "strip", "reflect", "garbage", "with-crypto"])
@async_test
async def test_a_spoilt_answer_fails_the_negotiation(how):
    _, alice, bob = pair()
    bob.mikey.tamper_answer = how
    answer = await bob.answer(await alice.offer())
    with pytest.raises(OfferRefused) as refused:
        alice.media.take_answer(answer)
    assert refused.value.status == 488
    assert refused.value.token == ("downgrade-refused" if how == "strip" else "mikey-invalid")
    assert not alice.stream().protected


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.2.1-6")
@async_test
async def test_a_plain_answer_to_mikey_is_never_taken():
    _, alice, bob = pair()
    answer = parse_sdp(await bob.answer(await alice.offer()))
    answer.remove("key-mgmt")
    answer.media[0].proto = "RTP/AVP"
    with pytest.raises(OfferRefused) as refused:
        alice.media.take_answer(answer.to_bytes())
    assert (refused.value.status, refused.value.token) == (488, "profile-refused")


@pytest.mark.clause("TS 33.328", "7.2.3-4")
@pytest.mark.clause("RFC 4568", "7.5")
@pytest.mark.parametrize(
    ("level", "use_offered", "mode"),
    [("preferred", True, KMS), ("allowed", True, KMS), ("allowed", False, "e2e-sdes"), ("off", True, "e2e-sdes"),
     ("required", False, KMS)],
)  # fmt: skip
@async_test
async def test_beside_sdes_the_answer_takes_one_of_the_two(level, use_offered, mode):
    kms = StandInKms()
    alice = End(kms, ALICE, 4000, dialled=BOB, context=dataclasses.replace(CONTEXT, beside_sdes=True))
    bob = End(kms, BOB, 5000, context=dataclasses.replace(CONTEXT, kms=level), use_offered=use_offered)
    offer = await alice.offer()
    assert len(parse_sdp(offer).media[0].crypto) == 2
    answer = await bob.answer(offer)
    alice.media.take_answer(answer)
    sdp = parse_sdp(answer)
    assert bool(sdp.key_mgmt) is not bool(sdp.media[0].crypto)
    assert (alice.media.security, bob.media.security) == (mode, mode)
    assert mirrored(alice, bob)


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "6.2.3.3-1")
@async_test
async def test_sdes_is_no_answer_where_policy_requires_the_kms():
    kms = StandInKms()
    context = dataclasses.replace(CONTEXT, beside_sdes=True, kms="required")
    alice = End(kms, ALICE, 4000, dialled=BOB, context=context)
    bob = End(kms, BOB, 5000, context=dataclasses.replace(CONTEXT, kms="off"))
    answer = await bob.answer(await alice.offer())
    with pytest.raises(OfferRefused) as refused:
        alice.media.take_answer(answer)
    assert refused.value.token == "downgrade-refused"


@pytest.mark.clause("RFC 4567", "4.1.2")
@async_test
async def test_without_kms_key_management_is_not_understood():
    kms = StandInKms()
    alice, bob = (
        End(kms, ALICE, 4000, dialled=BOB),
        End(kms, BOB, 5000, context=dataclasses.replace(CONTEXT, kms="off")),
    )
    with pytest.raises(OfferRefused) as refused:
        await bob.answer(await alice.offer())
    assert (refused.value.token, refused.value.attribute) == ("profile-refused", True)


@pytest.mark.clause("RFC 4567", "4.1.2")
@pytest.mark.attack("T1")
@async_test
async def test_keys_of_the_kms_never_become_keys_in_sdp():
    _, _alice, bob = await agreed()
    rogue = SessionMedia("127.0.0.1", CONTEXT, lambda index: Stream(index, "127.0.0.1", endpoint(4000)))
    with pytest.raises(OfferRefused) as refused:
        await bob.answer(rogue.first_offer("e2e-sdes"))
    assert refused.value.token == "downgrade-refused"
    assert bob.stream().from_kms


@pytest.mark.clause("RFC 4567", "4.1.2")
@async_test
async def test_a_later_offer_that_says_nothing_of_keys_leaves_them():
    _, alice, bob = await agreed()
    before = bob.stream()
    quiet = parse_sdp(alice.media.next_offer(direction="sendonly"))
    quiet.remove("key-mgmt")
    answer = parse_sdp(await bob.answer(quiet.to_bytes()))
    assert bob.stream() == before
    assert answer.media[0].proto == "RTP/SAVP"
    assert not answer.key_mgmt


@pytest.mark.clause("RFC 4567", "3.1")
@async_test
async def test_messages_of_a_peer_at_media_level_are_answered_there():
    _kms, alice, bob = pair()
    offer = parse_sdp(await alice.offer())
    (value,) = offer.key_mgmt
    offer.remove("key-mgmt")
    offer.media[0].add("key-mgmt", value)
    answer = parse_sdp(await bob.answer(offer.to_bytes()))
    assert answer.media[0].key_mgmt
    assert not answer.key_mgmt
    (response,) = answer.media[0].key_mgmt
    answer.media[0].remove("key-mgmt")
    answer.add("key-mgmt", response)
    alice.media.take_answer(answer.to_bytes())
    assert mirrored(alice, bob)


@pytest.mark.clause("TS 33.328", "7.2.3")
@async_test
async def test_the_callee_makes_the_offer_of_a_call_without_one():
    kms = StandInKms()
    alice = End(kms, ALICE, 4000, dialled=BOB)
    bob = End(kms, BOB, 5000, peer=ALICE)
    bob.media.take_answer(await alice.answer(await bob.offer(peer=ALICE)))
    assert mirrored(alice, bob)
    assert kms.asked == ["ticketrequest", "ticketresolve"]


@pytest.mark.clause("RFC 4567", "4.1.2")
@pytest.mark.attack("T5")
@async_test
async def test_a_spoilt_update_leaves_the_keys():
    _, alice, bob = await agreed()
    before = bob.stream()
    offer = parse_sdp(alice.media.next_offer(rekey=0))
    assert alice.mikey.rekeying
    (value,) = offer.key_mgmt
    offer.set("key-mgmt", value[:-8] + ("AAAAAAA=" if not value.endswith("AAAAAAA=") else "BBBBBBA="))
    with pytest.raises(OfferRefused) as refused:
        await bob.answer(offer.to_bytes())
    assert (refused.value.status, refused.value.token) == (488, "mikey-invalid")
    alice.media.withdraw_offer()
    assert bob.stream() == before
    assert mirrored(alice, bob)
    alice.media.take_answer(await bob.answer(alice.media.next_offer(rekey=0)))
    assert mirrored(alice, bob)


@pytest.mark.clause("RFC 6043", "4.2.2")
@async_test
async def test_an_answer_of_identity_nobody_expected_shows_the_ticket_s_one():
    kms = StandInKms()
    alice = End(kms, ALICE, 4000, dialled="tel:+15550102")
    bob = End(kms, BOB, 5000, "tel:+15550102")
    seen = []
    alice.mikey.judge_responder = lambda made, _: seen.append(made.responder)
    offer = await alice.offer(peer="tel:+15550102")
    incoming = await bob.keys.receive(bob.mikey, offer, CONTEXT, own=(BOB, "tel:+15550102"), judge=seen.append)
    alice.media.take_answer(bob.media.answer(offer, incoming))
    assert [each.text for each in seen] == [ALICE, "tel:+15550102"]
    assert seen[1].same(Identity.uri("tel:+1-555-0102"))


@pytest.mark.clause("RFC 3261", "14.1")
@pytest.mark.clause("RFC 6043", "5.2")
@async_test
async def test_offers_that_crossed_are_made_anew_with_later_messages():
    _, alice, bob = await agreed()
    before = alice.stream()
    alice.media.next_offer(rekey=0)
    bob.media.next_offer(rekey=0)
    bob.media.take_answer(await alice.answer(bob.media.renew_offer()))
    between = alice.stream()
    assert between != before
    assert mirrored(alice, bob)
    former = alice.media.local
    alice.media.take_answer(await bob.answer(alice.media.renew_offer()))
    assert alice.stream() not in (before, between)
    assert mirrored(alice, bob)
    check_successor(former, alice.media.local)


@pytest.mark.clause("RFC 6043", "6.10")
@async_test
async def test_the_longest_time_under_one_key_is_the_initiators_to_keep():
    _, alice, bob = await agreed(rekey_s=120)
    assert (alice.mikey.rekey_interval, bob.mikey.rekey_interval) == (120, None)


def rtp(sequence, ssrc, payload=b"hello, this is alice"):
    return struct.pack(">BBHII", 0x80, 8, sequence, 160 * sequence, ssrc) + payload


def rtcp(ssrc):
    return struct.pack(">BBHI", 0x80, 201, 1, ssrc)


@pytest.mark.clause("RFC 3711", "3.1", "3.4")
@pytest.mark.clause("RFC 7714", "14.1")
@pytest.mark.clause("TS 33.328", "7.2.3-6")
@pytest.mark.parametrize("suite", ["AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32", "AEAD_AES_128_GCM"])
@async_test
async def test_media_under_the_keys_of_a_call_opens_in_libsrtp_with_its_mki(suite):
    context = dataclasses.replace(CONTEXT, suites=(suite,))
    kms = StandInKms()
    alice, bob = End(kms, ALICE, 4000, dialled=BOB, context=context), End(kms, BOB, 5000, context=context)
    alice.media.take_answer(await bob.answer(await alice.offer()))
    sends, receives = alice.stream().send, bob.stream().receive
    inline = receives.keys[0]
    oracle = Libsrtp(sends.suite, (inline.key_salt.reveal(), inline.mki_octets), inbound=True)
    ours = SrtpContext.from_crypto(sends)
    ssrc = alice.media.streams[0].ssrc
    try:
        for sequence in range(3):
            packet = rtp(sequence, ssrc)
            sealed = ours.protect_rtp(packet)
            tail = 0 if sends.suite.auth == "AEAD" else sends.suite.srtp_tag_length
            assert sealed[len(sealed) - tail - 4 : len(sealed) - tail] == inline.mki_octets
            assert oracle.unprotect_rtp(sealed) == packet
        assert oracle.unprotect_rtcp(ours.protect_rtcp(rtcp(ssrc))) == rtcp(ssrc)
    finally:
        oracle.close()
