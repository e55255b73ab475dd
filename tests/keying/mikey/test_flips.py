"""One bit of any message changed, by chance: nobody takes it, nobody's keys change."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keying.mikey.errors import AuthenticationFailure, InvalidTicket, MikeyError
from keying.mikey.payloads import TicketPayload
from keying.mikey.policy import Wish
from keying.mikey.profile import DEFAULT_PROFILE, Profile
from keying.mikey.registry import DataType
from keying.mikey.ticket import ticket_octets
from tests.keying.mikey.independent.wire import parse
from tests.keying.mikey.stage import BOB, LONG, NOW, Played, Stage

pytestmark = [pytest.mark.attack("T5"), pytest.mark.clause("TS 33.328", "D-8", "D-9", "D-10")]

WISHES = {"forked": Wish((BOB,)), "plain": Wish((BOB,), forking=False)}
PROFILES = {"128": DEFAULT_PROFILE, "256": LONG}
INITIAL = ("REQUEST_INIT", "TRANSFER_INIT", "RESOLVE_INIT")


def stage(profile: Profile, wish: Wish) -> Stage:
    made = Stage(profile=profile, wish=wish)
    made.now = NOW + 5
    return made


PLAYED: dict[tuple[str, str], Played] = {
    (p, w): Stage(profile=profile, wish=wish).play() for p, profile in PROFILES.items() for w, wish in WISHES.items()
}


def take(played: Played, profile: Profile, wish: Wish, name: str, octets: bytes) -> object:
    """Give octets to whom message `name` is for; whoever takes an initial message has an empty replay cache."""
    fresh = stage(profile, wish)
    fresh.key = played.key
    if name == "REQUEST_INIT":
        return fresh.grant(octets)
    if name == "RESOLVE_INIT":
        return fresh.answer(octets)
    if name == "TRANSFER_INIT":
        responder, resolution = fresh.resolved(octets)
        return fresh.accept(responder, resolution)
    receiver = {"REQUEST_RESP": played.request, "RESOLVE_RESP": played.resolve, "TRANSFER_RESP": played.initiator}
    return receiver[name].receive(octets, fresh.now)


@pytest.mark.clause("RFC 6043", "5.5")
@settings(max_examples=1000)
@given(st.data())
def test_no_bit_may_flip(data):
    suite, kind = data.draw(st.sampled_from(sorted(PLAYED)))
    played = PLAYED[suite, kind]
    name = data.draw(st.sampled_from(sorted(played.octets)))
    octets = bytearray(played.octets[name])
    place, bit = data.draw(st.integers(0, len(octets) - 1)), data.draw(st.integers(0, 7))
    octets[place] ^= 1 << bit
    with pytest.raises(MikeyError):
        take(played, PROFILES[suite], WISHES[kind], name, bytes(octets))


@pytest.mark.parametrize("suite", PROFILES)
@pytest.mark.parametrize("kind", WISHES)
def test_what_was_not_changed_is_taken(suite, kind):
    played = PLAYED[suite, kind]
    for name, octets in played.octets.items():
        assert take(played, PROFILES[suite], WISHES[kind], name, octets)


def initiator_data(octets: bytes) -> range:
    ticket = parse(octets).get("TICKET")
    played = PLAYED["128", "forked"]
    length = len(played.responder.ticket.initiator_data)
    return range(ticket["end"] - length, ticket["end"])


@pytest.mark.clause("RFC 6043", "5.5")
@pytest.mark.clause("TS 33.328", "D-9")
def test_initiator_data_are_outside_the_mac_of_the_transfer_and_inside_that_of_the_kms():
    played = PLAYED["128", "forked"]
    octets = played.octets["TRANSFER_INIT"]
    for place in initiator_data(octets):
        changed = bytearray(octets)
        changed[place] ^= 0x10
        fresh = stage(DEFAULT_PROFILE, WISHES["forked"])
        fresh.key = played.key
        try:
            responder = fresh.respond(bytes(changed))
        except InvalidTicket:  # no Vi and Vr to be read any more
            continue
        # The responder's own check of Vi finds a change in Vi alone; Vr is for the KMS to check.
        vi_differs = responder.ticket.initiator_data[:23] != played.responder.ticket.initiator_data[:23]
        if vi_differs and responder.ticket.initiator_data[3:23] != played.responder.ticket.initiator_data[3:23]:
            with pytest.raises(AuthenticationFailure, match="Vi"):
                fresh.accept(responder, played.resolution)
        with pytest.raises(MikeyError):
            fresh.authority.resolve_ticket(responder.ticket, (BOB,), fresh.find_tpk, fresh.now)


@pytest.mark.clause("TS 33.328", "D-9")
def test_the_next_payload_of_the_ticket_is_no_part_of_the_ticket():
    """It changes when the ticket moves from message to message; the MAC of each message covers it there."""
    played = PLAYED["128", "forked"]
    tickets: dict[DataType, TicketPayload] = {
        DataType.REQUEST_RESP: played.granted.ticket,
        DataType.TRANSFER_INIT: played.responder.ticket,
    }
    assert len({ticket_octets(each) for each in tickets.values()}) == 1
    places = {name: parse(played.octets[name]).get("TICKET")["start"] for name in INITIAL[1:]}
    following = {name: played.octets[name][place] for name, place in places.items()}
    assert following["TRANSFER_INIT"] != following["RESOLVE_INIT"]
