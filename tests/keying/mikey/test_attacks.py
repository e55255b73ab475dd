"""What somebody on the path can do to MIKEY-TICKET without holding any key: every attempt ends in a MikeyError (T5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidTicket,
    InvalidTimestamp,
    MikeyError,
    PeerError,
    Replayed,
    UnsupportedDataType,
)
from keying.mikey.policy import Wish
from keying.mikey.registry import TicketFlag
from keying.mikey.ticket import Ticket
from keying.secret import Secret
from tests.keying.mikey.independent import forge
from tests.keying.mikey.independent.wire import parse
from tests.keying.mikey.stage import BOB, LONG, NOW, Played, Stage, counting, credential

pytestmark = [pytest.mark.attack("T5"), pytest.mark.clause("TS 33.328", "D-8", "D-9", "D-10")]

MESSAGES = ["REQUEST_INIT", "REQUEST_RESP", "TRANSFER_INIT", "RESOLVE_INIT", "RESOLVE_RESP", "TRANSFER_RESP"]


class Victims:
    """An exchange with each message on its way: `take(name, octets)` gives `octets` to whom message `name` is for."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.request = stage.request()
        self.octets = {"REQUEST_INIT": self.request.message}
        witness = Stage(
            profile=stage.profile, wish=stage.wish
        )  # a KMS with caches of its own makes the honest messages
        witness.key = stage.key
        self.octets["REQUEST_RESP"] = witness.grant(self.request.message).response
        self.ticket = self.request.receive(self.octets["REQUEST_RESP"], stage.tick())
        self.initiator = stage.initiate(self.ticket)
        self.octets["TRANSFER_INIT"] = self.initiator.message
        responder = witness.respond(self.initiator.message)
        self.resolve = stage.ask(responder)
        self.octets["RESOLVE_INIT"] = self.resolve.message
        self.octets["RESOLVE_RESP"] = witness.answer(self.resolve.message)
        resolution = self.resolve.receive(self.octets["RESOLVE_RESP"], stage.tick())
        response = witness.accept(responder, resolution).response
        assert response is not None
        self.octets["TRANSFER_RESP"] = response

    def take(self, name: str, octets: bytes) -> object:
        """Let the receiver do all it does with this message, up to where keys would be used or handed out."""
        if name == "TRANSFER_INIT":
            responder, resolution = self.stage.resolved(octets)
            return self.stage.accept(responder, resolution)
        receivers: dict[str, Callable[[], object]] = {
            "REQUEST_INIT": lambda: self.stage.grant(octets),
            "REQUEST_RESP": lambda: self.request.receive(octets, self.stage.now),
            "RESOLVE_INIT": lambda: self.stage.answer(octets),
            "RESOLVE_RESP": lambda: self.resolve.receive(octets, self.stage.now),
            "TRANSFER_RESP": lambda: self.initiator.receive(octets, self.stage.now),
        }
        return receivers[name]()


@pytest.fixture(params=["forked", "plain", "long"])
def victims(request: pytest.FixtureRequest) -> Victims:
    stages = {
        "forked": Stage,
        "plain": lambda: Stage(wish=Wish(responders=(BOB,), forking=False)),
        "long": lambda: Stage(profile=LONG),
    }
    return Victims(stages[request.param]())


def spoilt(octets: bytes) -> Iterator[bytes]:
    for place in range(len(octets)):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(octets)
            changed[place] ^= mask
            yield bytes(changed)


@pytest.mark.parametrize("name", MESSAGES)
def test_no_octet_may_be_flipped_and_the_true_message_is_still_taken(victims, name):
    for changed in spoilt(victims.octets[name]):
        victims.stage.now = NOW + 5  # thousands of tries must not run the clock out of the skew
        with pytest.raises(MikeyError):
            victims.take(name, changed)
    assert victims.take(name, victims.octets[name])


@pytest.mark.parametrize("name", MESSAGES)
def test_no_message_may_be_cut_or_grow(victims, name):
    octets = victims.octets[name]
    for changed in [*(octets[:length] for length in range(len(octets))), octets + b"\0", octets + octets]:
        victims.stage.now = NOW + 5
        with pytest.raises(MikeyError):
            victims.take(name, changed)


@pytest.mark.clause("TS 33.328", "D-11")
@pytest.mark.parametrize("name", ["REQUEST_INIT", "TRANSFER_INIT", "RESOLVE_INIT"])
def test_an_initial_message_is_taken_once(victims, name):
    victims.take(name, victims.octets[name])
    with pytest.raises(Replayed):
        victims.take(name, victims.octets[name])


@pytest.mark.clause("RFC 6043", "12.4")
@pytest.mark.clause("TS 33.328", "D-11")
def test_a_replayed_transfer_is_refused_before_any_kms_is_asked(victims):
    octets = victims.octets["TRANSFER_INIT"]
    victims.take("TRANSFER_INIT", octets)
    with pytest.raises(Replayed):
        victims.stage.respond(octets)
    if inserted := parse(octets).get("TICKET")["initiator_data"]:  # the MAC of the message does not cover it
        with pytest.raises(Replayed):
            victims.stage.respond(octets.replace(inserted, inserted[:-1] + bytes([inserted[-1] ^ 1])))


@pytest.mark.clause("TS 33.328", "D-11")
@pytest.mark.parametrize("name", ["REQUEST_INIT", "TRANSFER_INIT", "RESOLVE_INIT"])
def test_a_message_that_does_not_authenticate_leaves_nothing_in_the_replay_cache(victims, name):
    octets = victims.octets[name]
    with pytest.raises(AuthenticationFailure):
        victims.take(name, octets[:-1] + bytes([octets[-1] ^ 1]))
    assert len(victims.stage.replay) == (1 if name == "TRANSFER_INIT" else 0)  # the responder's own RESOLVE_INIT
    assert len(victims.stage.responder_replay) == 0
    assert victims.take(name, octets)


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("shift", [-3600, 3600, -(2**32), 2**32, -(2**31), 2**31])
def test_no_message_is_taken_outside_its_time(victims, name, shift):
    victims.stage.now = NOW + 5 + shift
    with pytest.raises((InvalidTimestamp, InvalidTicket)):
        victims.take(name, victims.octets[name])


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("given", MESSAGES)
def test_no_message_passes_for_another(victims, name, given):
    if name == given:
        assert victims.take(name, victims.octets[given])
        return
    with pytest.raises(UnsupportedDataType):
        victims.take(name, victims.octets[given])


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("data_type", [*range(20), 26, 255])
def test_no_message_passes_with_the_data_type_of_another(victims, name, data_type):
    octets = victims.octets[name]
    if octets[1] == data_type:
        return
    with pytest.raises(MikeyError):
        victims.take(name, octets[:1] + bytes([data_type]) + octets[2:])


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_one_exchange_is_none_of_another(victims, name):
    other = Victims(Stage(profile=victims.stage.profile, wish=victims.stage.wish, draw=counting(77)))
    if name.endswith("RESP"):
        with pytest.raises(MikeyError):
            victims.take(name, other.octets[name])
        assert victims.take(name, victims.octets[name])
        return
    # An initial message stands for itself: only its own answer goes with it.
    victims.take(name, other.octets[name])
    with pytest.raises(MikeyError):
        victims.take(name.replace("INIT", "RESP"), other.octets[name.replace("INIT", "RESP")])


@pytest.mark.parametrize("name", MESSAGES)
def test_another_key_does_not_authenticate(victims, name):
    wrong = Secret(b"another key of the same length..")
    if name in ("REQUEST_INIT", "RESOLVE_INIT"):
        take = victims.stage.grant if name == "REQUEST_INIT" else victims.stage.answer
        with pytest.raises(AuthenticationFailure):
            take(victims.octets[name], wrong)
        return
    tag = len(parse(victims.octets[name]).get("V")["mac"])
    with pytest.raises(AuthenticationFailure):
        victims.take(name, victims.octets[name][:-tag] + bytes(tag))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_without_mac_is_refused(victims, name):
    header, parts = forge.take_apart(victims.octets[name])
    data_type, csb_id = header.pop("data_type"), header.pop("csb_id")
    for last in ([], [forge.v(0)]):
        bare = forge.message(data_type, csb_id, [*parts[:-1], *last], **header)
        with pytest.raises(MikeyError):
            victims.take(name, bare)


@pytest.mark.clause("RFC 6043", "12.4")
def test_the_ticket_of_another_call_does_not_go_with_this_transfer(victims):
    other = victims.stage.initiate(_second_ticket(victims.stage))
    own, foreign = (_ticket_part(octets) for octets in (victims.octets["TRANSFER_INIT"], other.message))
    swapped = victims.octets["TRANSFER_INIT"].replace(own, foreign)
    assert swapped != victims.octets["TRANSFER_INIT"]
    with pytest.raises(AuthenticationFailure):
        victims.take("TRANSFER_INIT", swapped)


def test_the_ticket_data_of_another_call_does_not_go_with_this_policy(victims):
    other = victims.stage.initiate(_second_ticket(victims.stage))
    own, foreign = (
        forge.parse_ticket(_ticket_part(octets))[1] for octets in (victims.octets["TRANSFER_INIT"], other.message)
    )
    with pytest.raises(InvalidTicket):
        victims.take("TRANSFER_INIT", victims.octets["TRANSFER_INIT"].replace(own, foreign))


def _ticket_part(octets: bytes) -> bytes:
    ticket = parse(octets).get("TICKET")
    return octets[ticket["start"] + 1 : ticket["end"]]


def _second_ticket(stage: Stage) -> Ticket:
    request = stage.request()
    return request.receive(stage.grant(request.message).response, stage.tick())


@pytest.mark.clause("RFC 6043", "6.10")
@pytest.mark.parametrize("flag", list("DEFGHIJKLMNO"))
def test_no_flag_of_a_ticket_may_change_on_its_way(victims, flag):
    octets = bytearray(victims.octets["TRANSFER_INIT"])
    place = parse(bytes(octets)).get("TICKET")["start"] + 5
    word = int.from_bytes(octets[place : place + 3], "big") ^ TicketFlag[flag]
    octets[place : place + 3] = word.to_bytes(3, "big")
    with pytest.raises(MikeyError):
        victims.take("TRANSFER_INIT", bytes(octets))


@pytest.mark.clause("RFC 6043", "5.4")
@pytest.mark.parametrize("name", ["REQUEST_RESP", "RESOLVE_RESP", "TRANSFER_RESP"])
@pytest.mark.parametrize("authenticated", [False, True])
def test_a_forged_error_is_advice_and_the_true_answer_is_still_taken(victims, name, authenticated):
    initial = parse(victims.octets[name.replace("RESP", "INIT")])
    parts = [forge.t(parse(victims.octets[name]).get("T")["value"]), forge.err(0)]
    suite = forge.LONG if initial.prf else forge.SHORT
    error = forge.message(
        6, initial.csb_id, [*parts, *([forge.v(suite[2])] if authenticated else [])], prf_func=initial.prf
    )
    error += bytes(32 if initial.prf else 20) if authenticated else b""
    with pytest.raises(PeerError if not authenticated else MikeyError) as caught:
        victims.take(name, error)
    assert not getattr(caught.value, "authenticated", False)
    assert victims.take(name, victims.octets[name])


@pytest.mark.clause("RFC 6043", "5.4")
def test_an_error_is_never_answered_with_an_error(victims):
    error = forge.message(6, b"\1\2\3\4", [forge.t(bytes(8)), forge.err(0)])
    for read in (victims.stage.authority.read_request, victims.stage.authority.read_resolve):
        with pytest.raises(MikeyError) as caught:
            read(error, victims.stage.now)
        assert victims.stage.authority.error(error, caught.value, victims.stage.now) is None


def test_an_answer_of_one_branch_does_not_become_the_answer_of_another():
    stage = Stage()
    first: Played = stage.play()
    octets = first.octets["TRANSFER_RESP"]
    modifier = parse(octets).get("RANDRkms")
    for place in (modifier["end"] - 1, parse(octets).get("IDRr")["end"] - 1):
        other = bytearray(octets)
        other[place] ^= 1
        with pytest.raises(AuthenticationFailure):
            first.initiator.receive(bytes(other), stage.now)
    assert first.initiator.receive(octets, stage.now).responder == BOB


def test_a_key_that_the_kms_does_not_know_opens_no_ticket():
    stage = Stage()
    victims = Victims(stage)
    stage.key = type(stage.key)(b"tpk-0002", stage.key.key, None)
    with pytest.raises(InvalidTicket):
        victims.take("RESOLVE_INIT", victims.octets["RESOLVE_INIT"])


@pytest.mark.clause("RFC 6043", "4.2.3.2")
def test_the_resolver_needs_its_own_credential():
    victims = Victims(Stage())
    with pytest.raises(AuthenticationFailure):
        victims.stage.answer(victims.octets["RESOLVE_INIT"], credential("mallory").key)
