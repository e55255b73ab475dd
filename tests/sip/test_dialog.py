"""Dialogs, offer/answer bookkeeping, reliable provisional responses."""

from __future__ import annotations

import json
import random

import pytest

from signalling.sip.dialog import Dialog, DialogError, DialogState
from signalling.sip.message import SipRequest
from signalling.sip.offer_answer import Carrier, Exchange, OfferAnswer, OfferAnswerError
from signalling.sip.reliable import ReliableError, ReliableReceiver, ReliableSender, is_reliable
from signalling.sip.responses import make_response
from signalling.sip.timers import TimerConfig
from tests.sip.support import headers

RR = [("Record-Route", "<sip:p1@h;lr>"), ("Record-Route", "<sip:p2@h;lr>")]


def invite(extra=()):
    lines = [("Via", "SIP/2.0/UDP h;branch=z9hG4bK1"), *headers(extra=[("Contact", "<sip:alice@a>"), *extra])]
    return SipRequest("INVITE", "sip:bob@ims.test", lines)


def answer(request, status=200, tag="b1", **kwargs):
    return make_response(request, status, to_tag=tag, headers=[("Contact", "<sip:bob@b>")], **kwargs)


@pytest.mark.clause("RFC 3261", "12.1", "12.2.1.1")
def test_both_sides_build_mirrored_dialogs():
    request = invite(RR)
    response = answer(request)
    uac, uas = Dialog.from_uac(request, response), Dialog.from_uas(request, response)
    assert uac.id == (uas.call_id, uas.remote_tag, uas.local_tag)
    assert uac.route_set == ["<sip:p2@h;lr>", "<sip:p1@h;lr>"]
    assert uas.route_set == ["<sip:p1@h;lr>", "<sip:p2@h;lr>"]
    bye = uac.request("BYE")
    assert (bye.uri, bye.cseq) == ("sip:bob@b", (2, "BYE"))
    assert bye.headers.get_all("route") == uac.route_set
    uas.check_incoming(bye)
    assert uas.request("INFO").uri == "sip:alice@a"


@pytest.mark.clause("RFC 3261", "12.2.1.1")
def test_strict_router_takes_the_request_uri():
    request = invite([("Record-Route", "<sip:strict@h>")])
    bye = Dialog.from_uac(request, answer(request)).request("BYE")
    assert bye.uri == "sip:strict@h"
    assert bye.headers.get_all("route") == ["<sip:bob@b>"]


@pytest.mark.clause("RFC 3261", "12.2.2")
def test_cseq_must_rise_and_the_dialog_must_be_known():
    request = invite()
    uac, uas = Dialog.from_uac(request, answer(request)), Dialog.from_uas(request, answer(request))
    update = uac.request("UPDATE")
    uas.check_incoming(update)
    with pytest.raises(DialogError) as late:
        uas.check_incoming(update)
    assert late.value.status == 500
    uas.terminate()
    with pytest.raises(DialogError) as gone:
        uas.check_incoming(uac.request("BYE"))
    assert gone.value.status == 481


@pytest.mark.clause("RFC 3261", "13.2.2.4")
def test_ack_has_the_number_of_its_invite_and_is_the_same_when_repeated():
    request = invite()
    dialog = Dialog.from_uac(request, answer(request))
    ack = dialog.ack_for(answer(request))
    assert ack.cseq == (1, "ACK")
    assert dialog.ack_for(answer(request)) is ack
    assert dialog.request("BYE").cseq[0] == 2


def test_early_becomes_confirmed_and_481_ends_it():
    request = invite()
    dialog = Dialog.from_uac(request, answer(request, 183))
    assert dialog.state is DialogState.EARLY
    dialog.take_response(request, answer(request))
    assert dialog.state is DialogState.CONFIRMED
    update = dialog.request("UPDATE")
    dialog.take_response(update, make_response(update, 488))
    assert dialog.state is DialogState.CONFIRMED
    dialog.take_response(update, make_response(update, 481))
    assert dialog.state is DialogState.TERMINATED


def test_stored_dialog_goes_on_where_it_was():
    request = invite(RR)
    dialog = Dialog.from_uac(request, answer(request))
    again = Dialog.from_dict(json.loads(json.dumps(dialog.to_dict())))
    assert again == dialog
    assert again.request("BYE").to_bytes() == dialog.request("BYE").to_bytes()


@pytest.mark.clause("RFC 6337", "2.2")
@pytest.mark.parametrize(
    ("offer", "answered"),
    [
        (Carrier.INVITE, Carrier.SUCCESS),
        (Carrier.INVITE, Carrier.RELIABLE_PROVISIONAL),
        (Carrier.SUCCESS, Carrier.ACK),
        (Carrier.RELIABLE_PROVISIONAL, Carrier.PRACK),
        (Carrier.PRACK, Carrier.PRACK_SUCCESS),
    ],
)
def test_pattern_completes_for_both_sides(offer, answered):
    one, other = OfferAnswer(), OfferAnswer()
    one.sent_offer(offer)
    other.received_offer(offer)
    other.sent_answer(answered)
    assert one.received_answer(answered)
    assert one.established
    assert other.established
    one.sent_offer(Carrier.UPDATE)
    other.received_offer(Carrier.UPDATE)
    other.sent_answer(Carrier.UPDATE_SUCCESS)
    one.received_answer(Carrier.UPDATE_SUCCESS)
    assert one.completed == 2


@pytest.mark.clause("RFC 3261", "13.2.1")
@pytest.mark.clause("RFC 6337", "3.1.1")
def test_first_sdp_of_the_responses_counts_and_only_a_reliable_one_completes():
    side = OfferAnswer()
    side.sent_offer(Carrier.INVITE)
    assert side.received_answer(Carrier.PROVISIONAL)
    assert side.state is Exchange.ANSWER_PREVIEWED
    assert not side.received_answer(Carrier.PROVISIONAL)
    with pytest.raises(OfferAnswerError):
        side.sent_offer(Carrier.UPDATE)
    assert not side.received_answer(Carrier.SUCCESS)
    assert side.established
    assert not side.received_answer(Carrier.SUCCESS)


@pytest.mark.clause("RFC 3311", "5.2")
def test_update_glare_is_491_and_an_unanswered_one_500_with_retry_after():
    side = OfferAnswer(random.Random(1))
    side.received_offer(Carrier.INVITE)
    side.sent_answer(Carrier.SUCCESS)
    side.sent_offer(Carrier.UPDATE)
    with pytest.raises(OfferAnswerError) as glare:
        side.received_offer(Carrier.UPDATE)
    assert glare.value.status == 491
    side.rejected_offer()
    side.received_offer(Carrier.UPDATE)
    with pytest.raises(OfferAnswerError) as busy:
        side.received_offer(Carrier.UPDATE)
    assert busy.value.status == 500
    assert 0 <= busy.value.retry_after <= 10


@pytest.mark.clause("RFC 3261", "14.1", "14.2")
def test_invite_glare_is_491_and_the_retry_times_of_the_two_sides_never_meet():
    side = OfferAnswer()
    side.start_invite()
    with pytest.raises(OfferAnswerError) as glare:
        side.received_invite()
    assert glare.value.status == 491
    side.end_own_invite()
    side.received_invite()
    with pytest.raises(OfferAnswerError) as busy:
        side.received_invite()
    assert busy.value.status == 500
    with pytest.raises(OfferAnswerError):
        side.start_invite()
    side.end_peer_invite()
    side.start_invite()
    assert all(2.1 <= side.retry_delay(owns_call_id=True) <= 4 for _ in range(50))
    assert all(0 <= side.retry_delay(owns_call_id=False) <= 2 for _ in range(50))


@pytest.mark.clause("RFC 3262", "3")
def test_reliable_response_is_repeated_without_cap_until_the_prack():
    request = invite([("Supported", "100rel")])
    sender = ReliableSender(request, TimerConfig.core(), first_rseq=7)
    sent = sender.send(answer(request, 183, body=b"sdp"), 0.0)
    assert is_reliable(sent)
    assert sent.headers.get("rseq") == "7"
    assert not sender.may_send_success
    times = []
    while sender.next_time < 32:
        times.append(sender.next_time)
        assert sender.due(sender.next_time) is sent
    assert times == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    with pytest.raises(ReliableError):
        sender.send(answer(request, 180), 1.0)
    with pytest.raises(ReliableError) as expired:
        sender.due(32.0)
    assert expired.value.status == 504


@pytest.mark.clause("RFC 3262", "3", "4")
def test_prack_matches_by_rack_and_order_is_kept():
    request = invite([("Require", "100rel")])
    sender, receiver = ReliableSender(request, TimerConfig.core(), first_rseq=1), ReliableReceiver()
    first = sender.send(answer(request, 183), 0.0)
    rack = receiver.receive(first)
    assert str(rack) == "1 1 INVITE"
    assert receiver.receive(first) is None
    with pytest.raises(ReliableError) as wrong:
        sender.acknowledge(SipRequest("PRACK", "sip:b", [("RAck", "2 1 INVITE")]))
    assert wrong.value.status == 481
    sender.acknowledge(SipRequest("PRACK", "sip:b", [("RAck", str(rack))]))
    second = sender.send(answer(request, 180), 1.0)
    assert receiver.receive(second).rseq == 2
    late = second.copy()
    late.headers.set("RSeq", "4")
    assert receiver.receive(late) is None


def test_caller_without_100rel_gets_no_reliable_response():
    with pytest.raises(ReliableError):
        ReliableSender(invite(), TimerConfig.core()).send(answer(invite(), 183), 0.0)


@pytest.mark.clause("RFC 3262", "3")
def test_prack_of_a_response_that_the_final_one_overtook_is_taken_once_and_nothing_is_repeated():
    request = invite([("Supported", "100rel")])
    sender = ReliableSender(request, TimerConfig.core(), first_rseq=5)
    sender.send(answer(request, 180), 0.0)
    sender.final_sent()
    assert sender.next_time is None
    prack = SipRequest("PRACK", "sip:bob@b", headers("PRACK", extra=[("RAck", "5 1 INVITE")]))
    sender.acknowledge(prack)
    with pytest.raises(ReliableError, match="481"):
        sender.acknowledge(prack)
