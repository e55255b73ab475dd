"""Attacks on calls with keys of the KMS: a hostile node on the way, a hostile subscriber (T1, T5, T7)."""

import asyncio
import dataclasses

import pytest

from keying.mikey.identity import Identity
from keying.mikey.policy import WantedKey, wished_policy
from keying.mikey.registry import KeyDataType
from keying.mikey.ticket import Ticket
from nodes.https import HttpFault
from nodes.ue.config import KmsPolicy
from nodes.ue.kms_policy import identity_of, judge_ticket, level_towards, wish_for
from nodes.ue.media_security import KMS, MediaSecurityRefused, offer_lines
from nodes.ue.mikey_media import Plan
from nodes.ue.session_media import OfferRefused
from sba.testing import async_test
from signalling.sdp import MediaDescription, parse_sdp
from signalling.sip.dialog import Dialog
from signalling.sip.message import SipResponse
from tests.ue.fake_pcscf import until
from tests.ue.kms_calls import Bob, Kms, called, caller, established, final, offered, talking
from tests.ue.kms_stand_in import ALICE, BOB, CAROL, MALLORY, StandInKms
from tests.ue.test_calls import far_end, place
from tests.ue.test_mikey_calls import CONTEXT, End, agreed, pair
from tests.ue.test_session_media import side

TAP = 6666
"""Where the node on the way wants to hear the call."""
GROUP = "sip:sales@ims.test"


def tapped(how):
    """A line that the node on the way puts into an offer."""
    media = MediaDescription.build("audio", TAP, "RTP/AVP" if how == "plain" else "RTP/SAVP", ["8"])
    media.add("rtpmap", "8 PCMA/8000")
    if how == "sdes":
        media.crypto = [offer_lines(CONTEXT.suites)[0].encode()]
    if how == "foreign":
        media.proto = "RTP/AVP"
        media.add("key-mgmt", "kmp2 AAAA")
    return media


def heard_at(end):
    """Where a side sends what it says, with the mode."""
    return {stream.remote[1]: stream.keys.security for stream in end.media.streams if stream.agreed}


# a node on the way ----------------------------------------------------------------------------------------------------


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.2.3-4")
@pytest.mark.parametrize("how", ["plain", "sdes", "foreign"])
@async_test
async def test_a_line_added_to_an_offer_taps_no_call(how):
    _, alice, bob = pair()
    offer = parse_sdp(await alice.offer())
    offer.media.append(tapped(how))
    answer = parse_sdp(await bob.answer(offer.to_bytes()))
    assert [media.port != 0 for media in answer.media] == [True, False]
    assert heard_at(bob) == {4000: KMS}


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.4-1")
@pytest.mark.parametrize("silent", [True, False])
@pytest.mark.parametrize("how", ["plain", "sdes", "foreign"])
@async_test
async def test_a_line_added_to_a_later_offer_taps_no_call(how, silent):
    _, alice, bob = await agreed()
    offer = parse_sdp(alice.media.next_offer(direction="sendrecv"))
    if silent:
        offer.remove("key-mgmt")
    offer.media.append(tapped(how))
    answer = parse_sdp(await bob.answer(offer.to_bytes()))
    assert [media.port != 0 for media in answer.media] == [True, False]
    assert heard_at(bob) == {4000: KMS}


@pytest.mark.attack("T1")
@pytest.mark.parametrize("how", ["plain", "sdes", "foreign"])
@async_test
async def test_a_line_in_place_of_the_protected_one_is_refused(how):
    _, alice, bob = await agreed()
    before = bob.stream()
    offer = parse_sdp(alice.media.next_offer(direction="sendrecv"))
    offer.remove("key-mgmt")
    offer.media[0].port = 0
    offer.media.append(tapped(how))
    with pytest.raises(OfferRefused) as refused:
        await bob.answer(offer.to_bytes())
    assert (refused.value.status, refused.value.token) == (488, "downgrade-refused")
    assert heard_at(bob) == {4000: KMS}
    assert bob.stream() == before


@pytest.mark.attack("T1")
@async_test
async def test_a_call_is_told_as_e2e_kms_only_when_all_of_it_is():
    _, alice, bob = await agreed()
    alice.media.take_answer(await bob.answer(alice.media.next_offer(add=True)))
    assert bob.media.security == KMS
    bob.media.streams[1].keys = dataclasses.replace(bob.media.streams[1].keys, keying="sdes")
    assert bob.media.security == "e2e-sdes"
    for stream in bob.media.streams:
        stream.close()
    assert bob.media.security == "e2e-sdes"


# a subscriber with tickets of others ----------------------------------------------------------------------------------


async def posing(**policy):
    """Return the KMS, an offer that mallory makes as alice with a ticket of hers for their group, and who gets it."""
    kms = StandInKms(groups={GROUP: (BOB, MALLORY)})
    alice = End(kms, ALICE, 4000, dialled=GROUP, forking=False)
    mallory = End(kms, MALLORY, 6000, groups=(GROUP,), shared_tickets=True)
    bob = End(kms, BOB, 5000, groups=(GROUP,), **policy)
    offer = await alice.offer(peer=GROUP)
    incoming = await mallory.keys.receive(mallory.mikey, offer, CONTEXT, own=(MALLORY,), judge=lambda _: None)
    ((responder, resolution),) = incoming.transfers.values()
    stolen = Ticket(responder.ticket, resolution.mpki, None, resolution.keys)
    forger = End(kms, MALLORY, 7000)
    forger.mikey.plan = Plan(stolen, Identity.uri(ALICE), Identity.uri(BOB))
    kms.asked.clear()
    return kms, forger.media.first_offer(KMS), bob


@pytest.mark.attack("T5")
@pytest.mark.clause("RFC 6043", "12.4", "9")
@async_test
async def test_a_member_of_the_group_a_ticket_names_cannot_pose_as_its_initiator():
    kms, forged, bob = await posing()
    with pytest.raises(OfferRefused) as refused:
        await bob.answer(forged)
    assert (refused.value.token, kms.asked) == ("mikey-invalid", [])


@pytest.mark.attack("T5")
@pytest.mark.clause("RFC 6043", "12.4")
@async_test
async def test_what_policy_lets_happen_that_takes_tickets_of_several_without_key_forking():
    _, forged, bob = await posing(shared_tickets=True)
    await bob.answer(forged)
    assert bob.mikey.peer.text == ALICE


@pytest.mark.attack("T5")
def test_an_unforked_ticket_is_for_this_user_alone_under_any_of_its_names():
    kms = StandInKms()
    policy = End(kms, BOB, 5000).keys.policy
    own = (identity_of(BOB), identity_of("tel:+15550102"))

    def ticket(*named, forking=False):
        wish = dataclasses.replace(wish_for(policy, [identity_of(each) for each in named]), forking=forking)
        return wished_policy(kms.profile, wish, Identity.uri(ALICE), kms.identity, 0.0)

    judge_ticket(policy, ticket("sip:bob@IMS.test"), own)
    judge_ticket(policy, ticket("tel:+1-555-0102"), own)
    judge_ticket(policy, ticket(GROUP, CAROL, forking=True), own)
    for named in ((GROUP,), ("sip:*@ims.test",), (BOB, CAROL), (BOB, "tel:+15550102")):
        with pytest.raises(MediaSecurityRefused):
            judge_ticket(policy, ticket(*named), own)


# who is shown ---------------------------------------------------------------------------------------------------------


def claims(site, name, asserted):
    """Let the next INVITE say who calls: From, and P-Asserted-Identity or none."""
    build = site.pcscf.invite

    def invite(*args, **more):
        request = build(*args, **more)
        request.headers.set("From", f"<{name}>;tag=b1")
        request.headers.remove("P-Asserted-Identity")
        if asserted:
            request.headers.add("P-Asserted-Identity", f"<{asserted}>")
        return request

    site.pcscf.invite = invite


@pytest.mark.attack("T5", "T7")
@pytest.mark.clause("TS 33.328", "6.2.3.6-1")
@pytest.mark.parametrize(
    ("name", "asserted", "status"),
    [
        ("sip:boss@ims.test", "", 488),
        ("sip:boss@ims.test", BOB, 200),
        (BOB, "sip:boss@ims.test", 488),
        (BOB, "", 200),
        ("sip:anonymous@anonymous.invalid", "", 200),
    ],
)
@async_test
async def test_nobody_is_shown_but_whose_ticket_it_is(tmp_path, name, asserted, status):
    async with Kms(tmp_path) as site:
        claims(site, name, asserted)
        _, seen = await called(site, await caller(site).offer(peer=ALICE))
        response = await final(seen)
        assert response.status == status
        calls = [*site.ue.agent.calls.values(), *site.ue.agent.finished.values()]
        assert [call.party for call in calls if call.media.security == KMS] == ([BOB] if status == 200 else [])


@pytest.mark.attack("T5")
@pytest.mark.clause("TS 33.328", "6.2.3.6-1")
@async_test
async def test_the_network_cannot_show_another_than_the_ticket_s_responder(tmp_path):
    async with Kms(tmp_path) as site:
        Bob(site, site.kms, asserted="sip:boss@ims.test")
        events = await place(site, security=KMS)
        assert events[-1].security == KMS
        (call,) = site.ue.agent.finished.values()
        assert call.party == BOB


@pytest.mark.attack("T5", "T1")
@pytest.mark.clause("TS 33.328", "6.2.3.6-1")
@async_test
async def test_a_call_without_keys_is_not_taken_over_by_another_s_ticket(tmp_path):
    async with Kms(tmp_path) as site:
        bob = far_end()
        request, seen = await called(site, bob.first_offer("none"))
        response = await final(seen)
        bob.take_answer(response.body)
        dialog = site.pcscf.acknowledge(request, response)
        call = await established(site)
        mallory = End(site.kms, MALLORY, 6000, dialled=ALICE)
        asserted = ("P-Asserted-Identity", f"<{MALLORY}>")
        response = await offered(site, dialog, "INVITE", await mallory.offer(peer=ALICE), asserted)
        assert response.status == 488
        assert (call.media.security, call.party) == ("none", BOB)


# keys that were used --------------------------------------------------------------------------------------------------


@pytest.mark.attack("T5", "T7")
@pytest.mark.clause("RFC 3711", "9.1", "9.2")
@async_test
async def test_an_update_does_not_go_back_to_a_key_that_was_left():
    _, alice, bob = await agreed()
    former = alice.mikey.bundles[None].association.sessions
    alice.media.take_answer(await bob.answer(alice.media.next_offer(rekey=0)))
    now = bob.stream()
    alice.mikey._sessions = lambda *_: list(former)
    with pytest.raises(OfferRefused) as refused:
        await bob.answer(alice.media.next_offer(direction="sendonly"))
    assert refused.value.token == "mikey-invalid"
    assert bob.stream() == now


class Former:
    """An update that is answered with crypto sessions of before."""

    def __init__(self, update, sessions):
        self.update, self.sessions_before = update, sessions

    def __getattr__(self, name):
        return getattr(self.update, name)

    def accept(self, at, **more):
        self.update.sessions = self.sessions_before
        return self.update.accept(at, **more)


@pytest.mark.attack("T5", "T7")
@pytest.mark.clause("RFC 3711", "9.1", "9.2")
@async_test
async def test_the_answer_to_an_update_does_not_go_back_to_a_key_that_was_left():
    _, alice, bob = await agreed()
    former = alice.mikey.bundles[None].association.sessions
    alice.media.take_answer(await bob.answer(alice.media.next_offer(rekey=0)))
    association = bob.mikey.bundles[None].association
    association.left.clear()
    bob.media.streams[0].left.clear()
    bob.mikey.read_update = lambda _, octets: Former(association.receive(octets, bob.mikey.now()), former)
    answer = await bob.answer(alice.media.next_offer(direction="sendonly"))
    with pytest.raises(OfferRefused) as refused:
        alice.media.take_answer(answer)
    assert refused.value.token == "mikey-invalid"


@pytest.mark.attack("T2", "T7")
@pytest.mark.clause("RFC 3711", "9.2")
def test_an_sdes_key_that_was_left_is_refused_and_ends_nothing():
    one, other = side(4000), side(5000)
    one.take_answer(other.answer(one.first_offer("e2e-sdes")))
    former = parse_sdp(one.local.to_bytes()).media[0].crypto
    one.take_answer(other.answer(one.next_offer(rekey=0)))
    now = other.streams[0].keys
    for move in (None, 0):
        offer = parse_sdp(one.next_offer(move=move))
        offer.media[0].crypto = list(former)
        with pytest.raises(OfferRefused) as refused:
            other.answer(offer.to_bytes())
        assert (refused.value.status, refused.value.token) == (488, "bad-key")
        one.withdraw_offer()
    assert other.streams[0].keys == now


@pytest.mark.attack("T1", "T9")
@pytest.mark.clause("RFC 6043", "6.10")
@pytest.mark.clause("TS 33.328", "7.2.3-7")
@pytest.mark.parametrize("how", ["500", "silence", "kms"])
@async_test
async def test_whoever_keeps_keys_from_being_changed_ends_the_call(tmp_path, how):
    async with Kms(tmp_path, rekey_s=1, session_keys=how != "kms") as site:
        bob = Bob(site, site.kms)
        task = asyncio.ensure_future(place(site, security=KMS, seconds=60))
        call = await established(site)
        site.pcscf.on_invite = lambda txn: txn.respond(bob.response(txn, 500)) if how == "500" else None
        site.keys.client._https.down = HttpFault.UNREACHABLE if how == "kms" else None
        events = await task
        assert (events[-1].state, call.figures.reason) == ("ended", "the keys are too old and could not be changed")
        assert 'text="media security"' in site.pcscf.of("BYE")[0].headers.get("Reason")


@pytest.mark.attack("T9")
@async_test
async def test_one_failure_to_change_the_keys_ends_no_call(tmp_path):
    async with Kms(tmp_path, rekey_s=2) as site:
        bob = Bob(site, site.kms)
        task = asyncio.ensure_future(place(site, security=KMS, seconds=60))
        call = await established(site)
        first = call.media.streams[0].keys

        def once(txn):
            site.pcscf.on_invite = bob.invited
            txn.respond(bob.response(txn, 500))

        site.pcscf.on_invite = once
        await until(lambda: call.media.streams[0].keys.send != first.send)
        assert call.state == "established"
        await call.hang_up()
        await task


# floods ---------------------------------------------------------------------------------------------------------------


@pytest.mark.attack("T7", "T5")
@pytest.mark.parametrize("offers", [True, False])
@async_test
async def test_one_caller_does_not_keep_the_kms_from_the_calls_of_others(tmp_path, offers):
    kms = StandInKms()
    async with Kms(tmp_path, kms=kms, resolving_at_once=8, timeout_s=5.0) as site:
        mallory = End(kms, MALLORY, 6000, dialled=ALICE)
        bodies = [await mallory.offer(peer=ALICE) if offers else b"" for _ in range(6)]
        bob = await caller(site).offer(peer=ALICE)
        kms.asked.clear()
        held = asyncio.Event()
        kms.script[:] = [held.wait] * 7
        claims(site, MALLORY, MALLORY)
        calls = [(await called(site, body))[1] for body in bodies]
        await until(lambda: sum(map(is_refused, calls)) == 4 and len(kms.asked) == 2)
        claims(site, BOB, BOB)
        _, seen = await called(site, bob)
        await until(lambda: len(kms.asked) == 3)
        held.set()
        assert (await final(seen)).status == 200


def is_refused(seen):
    over = [one for one in seen if isinstance(one, SipResponse) and one.status >= 200]
    return bool(over) and "kms-unreachable" in over[0].headers.values("Warning")[0]


@pytest.mark.attack("T7")
@pytest.mark.parametrize("offer", [True, False])
@pytest.mark.parametrize("failure", [OSError("no ports"), RuntimeError("a fault")])
@async_test
async def test_a_call_that_finds_no_ports_is_refused_and_forgotten(tmp_path, monkeypatch, failure, offer):
    async with Kms(tmp_path, level="off") as site:

        def fail(*_, **__):
            raise failure

        monkeypatch.setattr("nodes.ue.call.Stream.open", fail)
        _, seen = await called(site, far_end().first_offer("none") if offer else b"")
        assert (await final(seen)).status == 500
        await until(lambda: not site.ue.agent.calls)


@pytest.mark.attack("T7")
def test_an_offer_of_many_streams_does_not_open_ports_for_all():
    one, other = side(4000), side(5000)
    offer = parse_sdp(one.first_offer("none"))
    offer.media = [offer.media[0].copy() for _ in range(100)]
    answer = parse_sdp(other.answer(offer.to_bytes()))
    assert [media.port != 0 for media in answer.media] == [True] * 8 + [False] * 92
    assert sum(stream.endpoint is not None for stream in other.streams) == 8


def fault():
    raise RuntimeError("a fault")


@pytest.mark.attack("T7", "T9")
@async_test
async def test_a_fault_while_a_ticket_is_resolved_refuses_the_call(tmp_path):
    async with Kms(tmp_path) as site:
        offer = await caller(site).offer(peer=ALICE)
        site.kms.script.append(fault)
        _, seen = await called(site, offer)
        assert (await final(seen)).status == 500
        await until(lambda: not site.ue.agent.calls)


@pytest.mark.attack("T7", "T9")
@async_test
async def test_a_fault_while_a_later_ticket_is_resolved_leaves_the_call_as_it_is(tmp_path):
    async with Kms(tmp_path) as site:
        bob = caller(site, session_keys=False)
        dialog, call = await talking(site, bob)
        await bob.keys.prepare(bob.mikey, own=BOB, peer=ALICE)
        site.kms.script.append(fault)
        assert (await offered(site, dialog, "INVITE", bob.media.next_offer(rekey=0))).status == 500
        bob.media.withdraw_offer()
        later = await offered(site, dialog, "UPDATE", bob.media.next_offer(direction="sendonly"))
        assert later.status == 200
        assert call.state == "established"


# keys that others have ------------------------------------------------------------------------------------------------


async def keyed(end, kind, responders=(BOB,), peer=BOB):
    """Return an offer under a ticket that the KMS filled with a key of that kind."""
    wish = wish_for(end.keys.policy, [identity_of(each) for each in responders])
    held = await end.keys.obtain(Identity.uri(end.user), dataclasses.replace(wish, keys=(WantedKey(kind, 16),)))
    return await end.offer(peer=peer, ticket_id=held.ticket_id)


@pytest.mark.attack("T3", "T5")
@pytest.mark.clause("RFC 6043", "5.1.1", "5.1.3")
@async_test
async def test_no_stream_has_one_key_for_both_directions_so_nothing_is_reflected():
    _, alice, bob = pair()
    with pytest.raises(OfferRefused, match="one key for both directions") as refused:
        await bob.answer(await keyed(alice, KeyDataType.TEK_SALT))
    assert refused.value.token == "mikey-invalid"


@pytest.mark.attack("T5")
@pytest.mark.clause("RFC 6043", "5.1.1", "12.4")
@pytest.mark.parametrize(
    ("kind", "responders", "status"),
    [
        (KeyDataType.TGK, (BOB, ALICE), 200),
        (KeyDataType.GTGK, (BOB, ALICE), 488),
        (KeyDataType.GTGK, (ALICE,), 200),
    ],
)
@async_test
async def test_keys_that_every_responder_of_a_ticket_has_are_taken_only_where_policy_says_so(
    tmp_path, kind, responders, status
):
    async with Kms(tmp_path) as site:
        mallory = End(site.kms, MALLORY, 6000, dialled=ALICE)
        claims(site, MALLORY, MALLORY)
        _, seen = await called(site, await keyed(mallory, kind, responders, ALICE))
        assert (await final(seen)).status == status


# at the same time -----------------------------------------------------------------------------------------------------


class Hasty(Bob):
    """Offers with a ticket in its 183 and in the plain in its 2xx, which does not wait for the PRACK."""

    async def serve(self, txn):
        body = await self.end.offer(peer=ALICE)
        self.dialog = Dialog.from_uas(txn.request, self.response(txn, 200))
        self.held = asyncio.Event()
        self.kms.script.append(self.held.wait)
        txn.respond(self.response(txn, 183, body, [("Require", "100rel"), ("RSeq", "7")]))
        await until(lambda: "ticketresolve" in self.kms.asked)
        txn.respond(self.response(txn, 200, far_end().first_offer("none")))


@pytest.mark.attack("T1")
@pytest.mark.clause("RFC 3262", "5")
@pytest.mark.clause("RFC 3264", "4")
@async_test
async def test_a_2xx_in_the_plain_does_not_pass_for_the_offer_with_a_ticket_before_it(tmp_path):
    async with Kms(tmp_path) as site:
        bob = Hasty(site, site.kms)
        task = asyncio.ensure_future(place(site, security="", offerless="true", seconds=1))
        await until(lambda: site.pcscf.acks)
        bob.held.set()
        await until(lambda: site.pcscf.of("PRACK"))
        events = await task
        assert site.pcscf.of("PRACK")[0].body == b""
        assert [event.state for event in events] == ["calling", "ringing", "established", "ended"]
        assert {event.security for event in events} == {"none"}


@pytest.mark.attack("T1")
@async_test
async def test_a_2xx_in_the_plain_after_an_offer_with_a_ticket_is_no_call_where_policy_wants_keys(tmp_path):
    async with Kms(tmp_path, level="required") as site:
        bob = Hasty(site, site.kms)
        task = asyncio.ensure_future(place(site, security="", offerless="true", seconds=1))
        await until(lambda: site.pcscf.acks)
        bob.held.set()
        events = await task
        assert (events[-1].state, events[-1].result, events[-1].security) == ("ended", "refused", "none")


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "6.2.3.3-1")
@pytest.mark.parametrize(
    "spelt",
    [
        "sip:boss@ims.test:5060", "sips:boss@ims.test", "sip:%62oss@ims.test", "sip:boss;x=y@ims.test",
        "sip:boss:pw@IMS.test;transport=udp", "sip:boss@ims.test.", "sip:boss@ims.test?subject=x",
    ],
)  # fmt: skip
def test_no_other_spelling_of_a_name_gets_around_what_policy_requires_for_it(spelt):
    policy = KmsPolicy(level="off", peers={"sip:boss@ims.test": "required"})
    assert level_towards(policy, spelt) == "required"
    assert level_towards(KmsPolicy(level="off", peers={"*@ims.test": "required"}), spelt) == "required"
    assert level_towards(policy, "sip:bos@ims.test") == "off"


@pytest.mark.attack("T3", "T5")
@pytest.mark.clause("RFC 3711", "9.1")
@pytest.mark.clause("RFC 3830", "5.4")
@async_test
async def test_the_answer_of_one_branch_under_the_tag_of_another_begins_no_context_anew():
    kms = StandInKms()
    alice = End(kms, ALICE, 4000, dialled=BOB)
    desk, mobile = End(kms, BOB, 5000), End(kms, BOB, 6000)
    offer = await alice.offer()
    first, second = await desk.answer(offer), await mobile.answer(offer)
    alice.media.take_answer(first)
    alice.media.reopen()
    with pytest.raises(OfferRefused, match="another branch comes again"):
        alice.media.take_answer(first)
    alice.media.reopen()
    alice.media.take_answer(second)
    assert alice.stream().send == mobile.stream().receive
