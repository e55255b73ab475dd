import dataclasses

import pytest

from nodes.ue.media_security import SecurityContext
from nodes.ue.session_media import OfferRefused, SessionMedia
from nodes.ue.stream import Stream
from signalling.sdp import check_successor, parse_sdp

CONTEXT = SecurityContext(
    "preferred", announced=True, agreed=True, confidential=True, suites=("AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM")
)


class FakeEndpoint:
    """Records what the media end is told."""

    def __init__(self, port):
        self.local = ("127.0.0.1", port)
        self.told = []
        self.on_event = None

    def __getattr__(self, name):
        return lambda *args, **_: self.told.append((name, *args))

    def move(self):
        self.local = ("127.0.0.1", self.local[1] + 1000)

    def statistics(self):
        return None

    def names(self):
        return [name for name, *_ in self.told]


def side(port=4000, context=CONTEXT):
    def opener(index):
        return Stream(index, "127.0.0.1", FakeEndpoint(port + 2 * index))

    return SessionMedia("127.0.0.1", context, opener)


def agreed(mode="e2e-sdes"):
    one, other = side(4000), side(5000)
    one.take_answer(other.answer(one.first_offer(mode)))
    return one, other


def told(end, index=0):
    names = end.streams[index].endpoint.names()
    end.streams[index].endpoint.told.clear()
    return names


@pytest.mark.clause("RFC 4568", "5.1", "SDES-13")
@pytest.mark.clause("TS 33.328", "7.2.2-1")
def test_each_end_sends_with_its_own_key_and_receives_with_the_others():
    one, other = agreed()
    mine, theirs = one.streams[0].keys, other.streams[0].keys
    assert mine.send == theirs.receive
    assert mine.receive == theirs.send
    assert mine.send != mine.receive
    assert one.security == other.security == "e2e-sdes"
    assert one.streams[0].remote == ("127.0.0.1", 5000)


@pytest.mark.clause("RFC 4568", "SDES-18")
def test_nothing_is_taken_in_the_plain_while_the_answer_is_out():
    one = side()
    one.first_offer("e2ae-sdes")
    assert told(one) == ["secure"]


def test_a_plain_call_has_no_keys():
    one, other = agreed("none")
    assert (one.security, other.security) == ("none", "none")
    assert "unsecure" in told(one)


@pytest.mark.clause("RFC 3264", "8.4", "6.1")
@pytest.mark.clause("TS 33.328", "7.4-10")
def test_hold_and_resume_keep_the_keys():
    one, other = agreed()
    keys = one.streams[0].keys
    told(one)
    told(other)
    one.take_answer(other.answer(one.next_offer(direction="sendonly")))
    assert ("set_direction", "sendonly") in one.streams[0].endpoint.told
    assert ("set_direction", "recvonly") in other.streams[0].endpoint.told
    assert other.local.media[0].direction == "recvonly"
    one.take_answer(other.answer(one.next_offer(direction="sendrecv")))
    assert one.streams[0].keys == keys
    assert not {"rekey_sending", "secure_sending", "secure_receiving"} & {*told(one), *told(other)}


@pytest.mark.clause("RFC 4568", "7.1.4", "SDES-17")
@pytest.mark.clause("TS 33.328", "7.4-4", "7.4-5")
def test_a_new_key_on_the_same_port_goes_on_with_the_context():
    one, other = agreed()
    told(one)
    told(other)
    former = one.streams[0].keys
    one.take_answer(other.answer(one.next_offer(rekey=0)))
    assert one.streams[0].keys.send != former.send
    assert one.streams[0].keys.receive == former.receive
    assert "rekey_sending" in told(one)
    assert "rekey_receiving" in told(other)


@pytest.mark.clause("RFC 4568", "7.1.4", "SDES-17")
@pytest.mark.clause("TS 33.328", "7.4-3")
def test_a_move_brings_a_new_key_and_a_new_context():
    one, other = agreed()
    told(one)
    told(other)
    former = one.streams[0].keys.send
    offer = one.next_offer(move=0)
    assert parse_sdp(offer).media[0].port == 5000
    one.take_answer(other.answer(offer))
    assert one.streams[0].keys.send != former
    assert "secure_sending" in told(one)
    assert "secure_receiving" in told(other)


@pytest.mark.clause("RFC 4568", "7.1.4", "SDES-17")
@pytest.mark.attack("T2")
def test_a_move_with_the_old_key_is_refused_and_the_session_stays():
    one, other = agreed()
    offer = one.next_offer(direction="sendonly").replace(b"m=audio 4000", b"m=audio 4444")
    keys = other.streams[0].keys
    with pytest.raises(OfferRefused) as caught:
        other.answer(offer)
    assert (caught.value.status, caught.value.token) == (488, "bad-key")
    assert other.streams[0].keys == keys
    assert other.streams[0].remote == ("127.0.0.1", 4000)


@pytest.mark.clause("TS 33.328", "7.4-2")
@pytest.mark.clause("TS 24.229", "PS-8")
@pytest.mark.attack("T1")
def test_a_reoffer_without_keys_is_refused():
    one, other = agreed()
    plain = parse_sdp(one.next_offer())
    plain.media[0].crypto = []
    plain.media[0].proto = "RTP/AVP"
    with pytest.raises(OfferRefused) as caught:
        other.answer(plain.to_bytes())
    assert caught.value.token == "downgrade-refused"
    assert other.security == "e2e-sdes"


@pytest.mark.clause("TS 33.328", "7.4-1")
@pytest.mark.clause("RFC 3264", "8.1", "8.2")
def test_streams_are_added_below_and_dropped_with_port_0():
    one, other = agreed()
    one.take_answer(other.answer(one.next_offer(add=True)))
    assert [stream.keys.protected for stream in one.streams] == [True, True]
    assert one.streams[0].keys.send != one.streams[1].keys.send
    one.take_answer(other.answer(one.next_offer(drop=1)))
    assert [media.port for media in one.local.media] == [4000, 0]
    assert other.streams[1].ended
    one.take_answer(other.answer(one.next_offer(direction="sendonly")))
    assert len(one.local.media) == 2


@pytest.mark.clause("RFC 3264", "8")
def test_versions_rise_with_every_change():
    one, other = agreed()
    first = one.local
    one.take_answer(other.answer(one.next_offer(direction="sendonly")))
    check_successor(first, one.local)


@pytest.mark.clause("RFC 4568", "7.1.4", "SDES-17a")
def test_a_refused_offer_leaves_the_old_keys():
    one, _ = agreed()
    keys, local = one.streams[0].keys, one.local
    one.next_offer(rekey=0)
    one.withdraw_offer()
    assert one.streams[0].keys == keys
    assert one.local is local


def test_a_refused_new_stream_is_given_back():
    one, _ = agreed()
    one.next_offer(add=True)
    one.withdraw_offer()
    assert len(one.streams) == 1


@pytest.mark.attack("T1")
def test_a_plain_answer_to_a_secure_offer_ends_the_negotiation():
    one, other = side(4000), side(5000)
    other.tamper_answer = "plain-profile"
    answer = other.answer(one.first_offer("e2e-sdes"))
    with pytest.raises(OfferRefused) as caught:
        one.take_answer(answer)
    assert caught.value.status == 488


@pytest.mark.clause("TS 24.229", "UO-5")
@pytest.mark.attack("T1")
def test_a_plain_offer_is_refused_where_protection_is_required():
    other = side(context=dataclasses.replace(CONTEXT, level="required"))
    with pytest.raises(OfferRefused) as caught:
        other.answer(side().first_offer("none"))
    assert caught.value.warning == "media-sec:protection-required"


@pytest.mark.clause("RFC 3264", "6")
def test_other_media_is_refused_stream_by_stream():
    offer = side().first_offer("none") + b"m=video 6000 RTP/AVP 31\r\nm=audio 6002 RTP/AVP 96\r\n"
    other = side(5000)
    answer = parse_sdp(other.answer(offer))
    assert [media.port for media in answer.media] == [5000, 0, 0]
    assert [media.media for media in answer.media] == ["audio", "video", "audio"]


@pytest.mark.parametrize("body", [b"", b"v=0\r\n", b"\xff"])
def test_a_broken_description_is_400(body):
    with pytest.raises(OfferRefused) as caught:
        side().answer(body)
    assert caught.value.status == 400


@pytest.mark.clause("RFC 3264", "6")
def test_no_common_codec_is_488():
    with pytest.raises(OfferRefused) as caught:
        side().answer(
            side()
            .first_offer("none")
            .replace(b"8 0 101", b"96")
            .replace(b"a=rtpmap:8 PCMA/8000", b"a=rtpmap:96 AMR/8000")
        )
    assert caught.value.status == 488


@pytest.mark.clause("RFC 4568", "7.3", "SDES-19")
def test_the_answer_of_another_fork_begins_a_new_context():
    one, first, second = side(4000), side(5000), side(6000)
    offer = one.first_offer("e2e-sdes")
    one.take_answer(first.answer(offer))
    answer = second.answer(offer)
    one.reopen()
    one.take_answer(answer)
    assert one.streams[0].remote == ("127.0.0.1", 6000)
    assert one.streams[0].keys.receive == second.streams[0].keys.send


def test_an_old_style_hold_is_understood():
    one, other = agreed("none")
    told(other)
    other.answer(one.next_offer(direction="sendonly").replace(b"c=IN IP4 127.0.0.1", b"c=IN IP4 0.0.0.0"))
    assert "set_remote" not in other.streams[0].endpoint.names()


def two_secured():
    """One end whose offer of two secured streams is out, and the answer an honest peer gave."""
    one, other = agreed("e2ae-sdes")
    return one, other.answer(one.next_offer(add=True))


@pytest.mark.attack("T2")
@pytest.mark.clause("RFC 4568", "6.1", "7.1.3")
@pytest.mark.parametrize("shared", ["answer", "offer"])
def test_an_answer_with_one_key_on_two_streams_is_refused(shared):
    one, answer = two_secured()
    body = parse_sdp(answer)
    source = body.media[0] if shared == "answer" else one._draft.media[0]
    tag = body.media[1].crypto[0].partition(" ")[0]
    body.media[1].crypto = [tag + source.crypto[0][source.crypto[0].index(" ") :]]
    with pytest.raises(OfferRefused, match="more than one place") as refused:
        one.take_answer(body.to_bytes())
    assert refused.value.status == 488


@pytest.mark.attack("T2")
@pytest.mark.clause("RFC 4568", "6.1")
def test_an_offered_stream_with_the_key_of_a_refused_one_is_not_taken():
    one, other = side(4000), side(5000)
    body = parse_sdp(one.first_offer("e2e-sdes"))
    shared = body.media[0].copy()
    body.media[0].remove("rtpmap")
    body.media[0].formats = ["99"]
    body.media.append(shared)
    with pytest.raises(OfferRefused):
        other.answer(body.to_bytes())
