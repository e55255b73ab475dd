"""CSB update from either side: new keys, more media, what stays in force and until when."""

from __future__ import annotations

import pytest

from keying.mikey import codec
from keying.mikey.errors import (
    InvalidPolicyParameter,
    InvalidTicketPolicy,
    MalformedMessage,
    MikeyError,
    PeerError,
    Replayed,
    Unspecified,
)
from keying.mikey.payloads import KeyData, RandRoled, TicketPayload
from keying.mikey.policy import Wish
from keying.mikey.registry import IdRole, KeyDataType
from keying.mikey.sessions import srtp_policy, srtp_session
from keying.secret import Secret
from tests.keying.mikey.stage import BOB, Stage, counting

pytestmark = pytest.mark.clause("TS 33.328", "D-9")

NEW = KeyData(KeyDataType.TGK, Secret(b"n" * 16), spi=b"\xee\x01")


def bundle(seed: int = 0, **flags: bool):
    """Both sides of a bundle: initiator's and responder's association, and the stage."""
    stage = Stage(wish=Wish((BOB,), **flags), draw=counting(seed))
    played = stage.play()
    return played.established.association, played.accepted.association, stage


def sides(starter: str, **flags: bool):
    caller, callee, stage = bundle(**flags)
    return (caller, callee, stage) if starter == "initiator" else (callee, caller, stage)


def teks(keys) -> dict[int, bytes]:
    return {each.cs_id: each.tek.reveal() for each in keys.by_cs_id.values()}


def rekeyed(association, spi: bytes):
    return [
        srtp_session(each.cs_id, each.policies, int.from_bytes(each.session_data, "big"), spi)
        for each in association.sessions
    ]


@pytest.mark.clause("RFC 6043", "5.2")
@pytest.mark.parametrize("starter", ["initiator", "responder"])
def test_a_new_tgk_gives_new_keys_to_all_streams_on_both_sides(starter):
    one, other, stage = sides(starter, initiator_keys=True, responder_keys=True)
    before = teks(one.keys)
    update = one.start(stage.tick(), keys=(NEW,), sessions=rekeyed(one, NEW.spi or b""))
    assert teks(one.keys) == before
    received = other.receive(update.message, stage.tick())
    assert teks(other.keys) == before
    response, theirs = received.accept(stage.tick())
    assert response is not None
    ours = update.receive(response, stage.tick())
    assert teks(ours) == teks(theirs) == teks(one.keys) == teks(other.keys)
    assert not set(teks(ours).values()) & set(before.values())
    assert ours[1].spi == NEW.spi


@pytest.mark.parametrize("starter", ["initiator", "responder"])
def test_media_are_added_without_new_keys(starter):
    one, other, stage = sides(starter)
    more = (*one.sessions, srtp_session(3, (0,), 33), srtp_session(4, (0,), None))
    update = one.start(stage.tick(), sessions=more)
    response, theirs = other.receive(update.message, stage.tick()).accept(stage.tick(), ssrcs={4: 44})
    assert response is not None
    ours = update.receive(response, stage.tick())
    assert teks(ours) == teks(theirs)
    assert len(set(teks(ours).values())) == 4
    assert (ours[3].ssrc, ours[4].ssrc) == (33, 44)


@pytest.mark.clause("RFC 6043", "5.2")
def test_the_message_repeats_nothing_that_stands_still():
    caller, _, stage = bundle()
    message = codec.decode(caller.start(stage.tick()).message)
    assert not any(isinstance(each, (RandRoled, TicketPayload)) for each in message.payloads)
    assert message.header.csb_id == caller.csb_id


@pytest.mark.clause("RFC 6043", "5.2")
@pytest.mark.parametrize(("starter", "flag"), [("initiator", "responder_keys"), ("responder", "initiator_keys")])
def test_keys_come_from_whom_the_ticket_lets(starter, flag):
    one, _, stage = sides(starter, **{flag: True})
    with pytest.raises(InvalidTicketPolicy):
        one.start(stage.tick(), keys=(NEW,))


def test_the_answering_side_supplies_keys_too():
    caller, callee, stage = bundle(responder_keys=True)
    update = caller.start(stage.tick(), sessions=rekeyed(caller, NEW.spi or b""))
    received = callee.receive(update.message, stage.tick())
    response, theirs = received.accept(stage.tick(), keys=(NEW,))
    assert response is not None
    assert teks(update.receive(response, stage.tick())) == teks(theirs)
    assert theirs[2].spi == NEW.spi


def test_without_response_the_keys_change_at_once():
    caller, callee, stage = bundle(initiator_keys=True)
    update = caller.start(stage.tick(), keys=(NEW,), sessions=rekeyed(caller, NEW.spi or b""), response=False)
    received = callee.receive(update.message, stage.tick())
    assert not received.response_wanted
    response, theirs = received.accept(stage.tick())
    assert response is None
    assert teks(update.finish()) == teks(theirs)
    with pytest.raises(MalformedMessage):
        update.receive(b"\x01\x0f" + update.message[2:], stage.tick())


def test_an_update_without_response_is_complete():
    caller, _, stage = bundle()
    with pytest.raises(Unspecified):
        caller.start(stage.tick(), sessions=(*caller.sessions, srtp_session(3, (0,), None)), response=False)


@pytest.mark.attack("T5")
@pytest.mark.parametrize("starter", ["initiator", "responder"])
def test_no_octet_of_an_update_or_its_response_may_change_and_the_old_keys_stay(starter):
    one, other, stage = sides(starter, initiator_keys=True, responder_keys=True)
    before = teks(one.keys)
    update = one.start(stage.tick(), keys=(NEW,), sessions=rekeyed(one, NEW.spi or b""))
    for place in range(len(update.message)):
        changed = bytearray(update.message)
        changed[place] ^= 1 << place % 8
        with pytest.raises(MikeyError):
            other.receive(bytes(changed), stage.now)
    response, _ = other.receive(update.message, stage.now).accept(stage.tick())
    assert response is not None
    for place in range(len(response)):
        changed = bytearray(response)
        changed[place] ^= 1 << place % 8
        with pytest.raises(MikeyError):
            update.receive(bytes(changed), stage.now)
    assert teks(one.keys) == before
    assert teks(update.receive(response, stage.now)) == teks(other.keys) != before


@pytest.mark.attack("T5")
def test_an_update_is_taken_once():
    caller, callee, stage = bundle()
    update = caller.start(stage.tick())
    callee.receive(update.message, stage.tick()).accept(stage.tick())
    with pytest.raises(Replayed):
        callee.receive(update.message, stage.tick())


def test_the_clock_may_stand_still_and_times_still_rise():
    caller, callee, stage = bundle()
    seen = set()
    for starter, other in ((caller, callee), (callee, caller), (caller, callee)):
        update = starter.start(stage.now)
        response, _ = other.receive(update.message, stage.now).accept(stage.now)
        assert response is not None
        update.receive(response, stage.now)
        seen |= {codec.decode(each).payloads[0] for each in (update.message, response)}
    assert len(seen) == 6


def test_a_refused_update_leaves_the_bundle_as_it_was():
    caller, callee, stage = bundle()
    before = teks(caller.keys)
    policies = (srtp_policy("AEAD_AES_128_GCM", 9),)
    update = caller.start(stage.tick(), policies=policies, sessions=(*caller.sessions, srtp_session(3, (9,), 33)))
    with pytest.raises(InvalidPolicyParameter) as refused:
        callee.receive(update.message, stage.tick())
    octets = callee.error(update.message, refused.value, stage.tick())
    assert octets is not None
    with pytest.raises(PeerError) as error:
        update.receive(octets, stage.now)
    assert (error.value.numbers, error.value.authenticated) == ((10,), True)
    assert teks(caller.keys) == teks(callee.keys) == before


def test_a_bundle_has_no_update_by_the_other_branch_of_its_fork():
    _, callee, stage = bundle()
    other, _, _ = bundle(1)
    with pytest.raises(MikeyError):
        callee.receive(other.start(stage.tick()).message, stage.now)


@pytest.mark.clause("RFC 6043", "5.2")
def test_roles_stay_those_of_the_initial_exchange():
    caller, callee, stage = bundle()
    message = codec.decode(callee.start(stage.tick()).message)
    named = [(each.role, each.data) for each in message.payloads if hasattr(each, "role")]
    assert named == [(IdRole.RESPONDER, callee.responder.data), (IdRole.INITIATOR, caller.initiator.data)]


def test_an_association_shows_no_key():
    caller, _, _ = bundle()
    assert caller.session_keys[0].key.reveal().hex() not in repr(caller)
    assert "reveal" not in repr(caller)
