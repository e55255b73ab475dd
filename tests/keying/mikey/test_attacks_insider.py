"""Attacks by those who hold keys of their own: messages with right MACs and wrong contents (T5).

A subscriber towards its KMS, an initiator towards a responder, a responder towards the KMS and the initiator. The forger
of tests/keying/mikey/independent writes what no honest implementation would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidEncryption,
    InvalidIdentity,
    InvalidMac,
    InvalidPolicy,
    InvalidPolicyParameter,
    InvalidPrf,
    InvalidTicket,
    InvalidTicketPolicy,
    InvalidTimestamp,
    MalformedMessage,
    MikeyError,
    Unspecified,
    UnsupportedDataType,
)
from keying.mikey.groups import Groups
from keying.mikey.policy import WantedKey, Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.registry import KeyDataType
from keying.mikey.ticket import mode3_ticket_key
from keying.secret import Secret
from tests.keying.mikey.independent import forge
from tests.keying.mikey.independent.forge import Part
from tests.keying.mikey.independent.wire import parse
from tests.keying.mikey.stage import ALICE, BOB, CAROL, KMS, LONG, MALLORY, NOW, Played, Stage, credential

pytestmark = [pytest.mark.attack("T5"), pytest.mark.clause("33.328", "D-8", "D-9", "D-10")]

Edit = Callable[[list[Part]], list[Part]]
LATER = forge.t(bytes.fromhex("ee5bc00000000000"))


def twice(number: int, role: int | None = None) -> Edit:
    """The payload of that number (and role), and a copy of it right behind."""
    return lambda parts: [part for part in parts for _ in range(2 if _is(part, number, role) else 1)]


def without(number: int, role: int | None = None) -> Edit:
    return lambda parts: [part for part in parts if not _is(part, number, role)]


def instead(number: int, part: Part, role: int | None = None) -> Edit:
    return lambda parts: [part if _is(old, number, role) else old for old in parts]


def before_v(*extra: Part) -> Edit:
    return lambda parts: [*parts[:-1], *extra, parts[-1]]


def _is(part: Part, number: int, role: int | None) -> bool:
    return part[0] == number and (role is None or part[1][0] == role)


# --- a subscriber and its KMS ----------------------------------------------------------------------------------------

SHORT_POLICY = [forge.idr(3, KMS.data), forge.idr(1, ALICE.data), forge.idr(2, BOB.data)]


def tp(flags: str = "DEFGHINO", parts: list[Part] | None = None, **fields: Any) -> Part:
    return 16, forge.policy(parts or SHORT_POLICY, flags, **fields)


def respelt_request(stage: Stage, edit: Edit = list, suite: forge.Suite = forge.SHORT, **header: Any) -> bytes:
    return forge.respell(
        stage.request().message,
        credential("alice").key.reveal(),
        edit,
        behind=ALICE.data + KMS.data,
        suite=suite,
        **header,
    )


def test_a_request_respelt_without_change_is_granted():
    assert Stage().grant(respelt_request(Stage())).ticket


BAD_REQUESTS: dict[str, tuple[Edit, type[MikeyError] | tuple[type[MikeyError], ...]]] = {
    "two T": (twice(5), MalformedMessage),
    "two RANDRi": (twice(15), MalformedMessage),
    "two IDRi": (twice(14, 1), MalformedMessage),
    "two IDRkms": (twice(14, 3), MalformedMessage),
    "two IDRpsk": (twice(14, 4), MalformedMessage),
    "two TP": (twice(16), MalformedMessage),
    "two V": (twice(9), MalformedMessage),
    "no T": (without(5), MalformedMessage),
    "no RANDRi": (without(15), MalformedMessage),
    "no TP": (without(16), MalformedMessage),
    "V is not last": (
        lambda parts: [*parts[:-1], forge.v(1, bytes(20)), forge.genext(250, b"x"), parts[-1]],
        MalformedMessage,
    ),
    "RANDRr for RANDRi": (
        lambda parts: [(n, b"\2" + b[1:]) if n == 15 else (n, b) for n, b in parts],
        MalformedMessage,
    ),
    "RAND for RANDRi": (lambda parts: [(11, b[1:]) if n == 15 else (n, b) for n, b in parts], MalformedMessage),
    "ID for IDRi": (lambda parts: [(6, b[1:]) if n == 14 and b[0] == 1 else (n, b) for n, b in parts], MikeyError),
    "T is a counter": (instead(5, forge.t(bytes(4), 2)), InvalidTimestamp),
    "T of 2104": (instead(5, forge.t(b"\x7f" * 8)), InvalidTimestamp),
    "T of 1968": (instead(5, forge.t(b"\x80" + bytes(7))), InvalidTimestamp),
    "T of 2036": (instead(5, forge.t(bytes(8))), InvalidTimestamp),
    "no RAND octets": (instead(15, forge.randr(1, b"")), (Unspecified, MalformedMessage)),
    "RAND of 8": (instead(15, forge.randr(1, b"r" * 8)), Unspecified),
    "RAND shorter than the key": (instead(15, forge.randr(1, b"r" * 31)), Unspecified),
    "another KMS": (instead(14, forge.idr(3, b"kms.evil.test"), 3), (InvalidIdentity, AuthenticationFailure)),
    "NULL MAC": (instead(9, forge.v(0)), InvalidMac),
    "SHA-256 under the 128-bit PRF": (instead(9, forge.v(2)), InvalidMac),
    "ticket type 0": (instead(16, tp(kind=(0, 1, 1))), InvalidTicket),
    "ticket type 7": (instead(16, tp(kind=(7, 1, 1))), InvalidTicket),
    "ticket of another subtype": (instead(16, tp(kind=(1, 2, 1))), InvalidTicket),
    "no responder": (instead(16, tp(parts=SHORT_POLICY[:2])), InvalidTicketPolicy),
    "too many responders": (
        instead(16, tp(parts=[*SHORT_POLICY, *[forge.idr(2, b"sip:%d@x" % n) for n in range(70)]])),
        InvalidTicketPolicy,
    ),
    "two initiators": (instead(16, tp(parts=[*SHORT_POLICY, SHORT_POLICY[1]])), InvalidTicketPolicy),
    "another's ticket": (
        instead(16, tp(parts=[SHORT_POLICY[0], forge.idr(1, CAROL.data), SHORT_POLICY[2]])),
        InvalidIdentity,
    ),
    "ended": (
        instead(16, tp(parts=[*SHORT_POLICY[:2], forge.tr(3, b"\xd0" + bytes(3)), SHORT_POLICY[2]])),
        InvalidTicketPolicy,
    ),
    "ends before it starts": (
        instead(
            16,
            tp(
                parts=[
                    *SHORT_POLICY[:2],
                    forge.tr(2, b"\x10" + bytes(3)),
                    forge.tr(3, b"\xff" + bytes(3)),
                    SHORT_POLICY[2],
                ]
            ),
        ),
        InvalidTicketPolicy,
    ),
    "two ends": (
        instead(16, tp(parts=[*SHORT_POLICY[:2], *[forge.tr(3, b"\xff" + bytes(3))] * 2, SHORT_POLICY[2]])),
        InvalidTicketPolicy,
    ),
    "ends at a count": (
        instead(16, tp(parts=[*SHORT_POLICY[:2], forge.tr(3, bytes(4), 2), SHORT_POLICY[2]])),
        InvalidTicketPolicy,
    ),
    "rekey interval as a date": (
        instead(16, tp(parts=[*SHORT_POLICY[:2], forge.tr(4, bytes(8), 0), SHORT_POLICY[2]])),
        InvalidTicketPolicy,
    ),
    "encrypted wish": (
        instead(16, tp(parts=[*SHORT_POLICY[:2], forge.kemac(bytes(20), 1), SHORT_POLICY[2]])),
        (InvalidTicketPolicy, InvalidEncryption),
    ),
    "wish for an MPK": (
        instead(
            16,
            tp(
                parts=[
                    *SHORT_POLICY[:2],
                    forge.kemac(forge.chain([forge.key(6, bytes(16), b"x")])[1], 0),
                    SHORT_POLICY[2],
                ]
            ),
        ),
        InvalidTicketPolicy,
    ),
    "two wishes": (
        instead(
            16,
            tp(
                parts=[
                    *SHORT_POLICY[:2],
                    *[forge.kemac(forge.chain([forge.key(0, bytes(16), b"x")])[1], 0)] * 2,
                    SHORT_POLICY[2],
                ]
            ),
        ),
        InvalidTicketPolicy,
    ),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_subscriber_gets_no_ticket_for_a_request_that_is_wrong(what):
    edit, error = BAD_REQUESTS[what]
    stage = Stage()
    with pytest.raises(error):
        stage.grant(respelt_request(stage, edit))


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"data_type": 16}, UnsupportedDataType),
        ({"data_type": 14}, UnsupportedDataType),
        ({"data_type": 12}, UnsupportedDataType),
        ({"data_type": 13}, UnsupportedDataType),
        ({"prf_func": 2}, InvalidPrf),
        ({"prf_func": 0x7F}, InvalidPrf),
        ({"map_type": 0}, MalformedMessage),
        ({"map_type": 2}, MalformedMessage),
        ({"sessions": [forge.session(1, b"", b"")], "map_type": 2}, MalformedMessage),
    ],
)
def test_a_header_that_does_not_go_with_a_request_is_refused(header, error):
    with pytest.raises(error):
        Stage().grant(respelt_request(Stage(), **header))


@pytest.mark.clause("33.328", "D-3")
@pytest.mark.parametrize("suite", [(1, 1, 1), (0, 1, 2)])
def test_algorithms_of_two_strengths_are_not_mixed(suite):
    octets = respelt_request(Stage(), instead(9, forge.v(suite[2])), suite=suite, prf_func=suite[0])
    with pytest.raises(InvalidMac):
        Stage().grant(octets)


@pytest.mark.clause("33.328", "D-3")
def test_a_kms_for_the_256_bit_algorithms_takes_no_others():
    strict = replace(LONG, suites_accepted=frozenset({"256"}))
    with pytest.raises(InvalidPrf):
        Stage(profile=strict).grant(Stage().request().message)
    assert Stage(profile=strict).grant(Stage(profile=LONG).request().message).ticket


@pytest.mark.clause("33.328", "D-5")
@pytest.mark.parametrize("flags", ["", "D", "I", "M", "DG", "DI", "DK", "DM", "EFGHIJKLMNO", "DFGHI", "GHM", "DEHI"])
def test_a_ticket_never_has_flags_that_contradict_each_other(flags):
    stage = Stage()
    try:
        granted = stage.grant(respelt_request(stage, instead(16, tp(flags))))
    except InvalidTicketPolicy:
        return
    from tests.keying.mikey.independent.rfc6043 import check_flags

    ticket = parse(granted.response).get("TICKET")
    check_flags(ticket["flags"])
    assert ticket["flags"]["D"] == 1
    assert not (ticket["flags"]["I"] and not ticket["flags"]["F"])  # the default key is a TGK
    assert ticket["flags"]["K"] == 1


def test_the_asker_does_not_choose_the_keys():
    stage = Stage()
    chosen = forge.kemac(forge.chain([forge.key(0, b"k" * 16, b"\1\2\3\4")])[1], 0)
    granted = stage.grant(respelt_request(stage, instead(16, tp(parts=[*SHORT_POLICY[:2], chosen, SHORT_POLICY[2]]))))
    assert [key.key.reveal() for key in granted.keys] != [b"k" * 16]
    assert not any(part["name"] == "KEMAC" for part in parse(granted.response).get("TICKET")["policy"])


@pytest.mark.parametrize(("count", "length"), [(1, 0), (1, 1), (1, 8), (1, 1000), (200, 16)])
def test_keys_that_are_asked_for_are_neither_weak_nor_endless(count, length):
    stage = Stage()
    wished = [forge.key(0, bytes(length), n.to_bytes(4, "big")) for n in range(count)]
    parts = [*SHORT_POLICY[:2], forge.kemac(forge.chain(wished)[1], 0), SHORT_POLICY[2]]
    try:
        granted = stage.grant(respelt_request(stage, instead(16, tp(parts=parts))))
    except MikeyError:
        return
    assert all(16 <= len(key.key) <= 16 for key in granted.keys)
    assert len(granted.keys) <= 8
    assert granted.altered


def test_payloads_that_nobody_expects_change_nothing():
    stage = Stage()
    extra = [forge.genext(250, b"x"), forge.err(0), (11, b"\4rand"), forge.sp(3), (8, b"\2" + bytes(32))]
    assert stage.grant(respelt_request(stage, before_v(*extra))).ticket


# --- a KMS that is compromised or foreign, and the initiator ---------------------------------------------------------


def respelt_grant(stage: Stage, edit: Edit = list, **header: Any) -> tuple[Any, bytes]:
    request = stage.request()
    octets = stage.grant(request.message).response
    key = credential("alice").key.reveal()
    return request, forge.respell(octets, key, edit, initial=request.message, **header)


def regranted(flags: str | None = None, parts: list[Part] | None = None, **fields: Any) -> Edit:
    """The same ticket under another policy."""

    def edit(whole: list[Part]) -> list[Part]:
        place = next(place for place, part in enumerate(whole) if part[0] == 17)
        _, data, _ = forge.parse_ticket(whole[place][1])
        whole[place] = forge.ticket(forge.policy(parts or SHORT_POLICY, flags or "DEFGHINO", **fields), data)
        return whole

    return edit


def with_initiator_data(parts: list[Part]) -> list[Part]:
    return [
        forge.ticket(*forge.parse_ticket(b)[:2], bytes([9, 9, 1]) + bytes(22 + 20)) if n == 17 else (n, b)
        for n, b in parts
    ]


BAD_GRANTS: dict[str, tuple[Edit, type[MikeyError] | tuple[type[MikeyError], ...]]] = {
    "two TICKET": (twice(17), MalformedMessage),
    "two KEMAC": (twice(1), MalformedMessage),
    "two T": (twice(5), MalformedMessage),
    "no TICKET": (without(17), MalformedMessage),
    "no KEMAC": (without(1), MalformedMessage),
    "plain KEMAC": (
        instead(1, forge.kemac(forge.chain([forge.key(6, b"m" * 16, b"1"), forge.key(6, b"n" * 16, b"2")])[1], 0)),
        InvalidEncryption,
    ),
    "wrapped KEMAC": (instead(1, forge.kemac(bytes(64), 2)), InvalidEncryption),
    "256-bit KEMAC under the 128-bit PRF": (instead(1, forge.kemac(bytes(64), 3)), InvalidEncryption),
    "KEMAC with a MAC of its own": (instead(1, (1, b"\1" + forge.vector(bytes(64)) + b"\1" + bytes(20))), InvalidMac),
    "KEMAC of nothing": (instead(1, forge.kemac(b"", 1)), MalformedMessage),
    "Initiator Data": (with_initiator_data, InvalidTicket),
    "another KMS": (instead(14, forge.idr(3, b"kms.evil.test"), 3), InvalidIdentity),
    "another responder": (regranted(parts=[*SHORT_POLICY[:2], forge.idr(2, MALLORY.data)]), InvalidTicketPolicy),
    "one responder more, K says so": (
        regranted("DEFGHIKNO", [*SHORT_POLICY, forge.idr(2, MALLORY.data)]),
        InvalidTicketPolicy,
    ),
    "one responder more": (regranted(parts=[*SHORT_POLICY, forge.idr(2, MALLORY.data)]), InvalidTicketPolicy),
    "another initiator, K says so": (
        regranted("DEFGHIKNO", [SHORT_POLICY[0], forge.idr(1, CAROL.data), SHORT_POLICY[2]]),
        InvalidTicketPolicy,
    ),
    "no forking, K says so": (regranted("DEFGHKNO"), InvalidTicketPolicy),
    "no RANDRr, K says so": (regranted("DEFHIKNO"), InvalidTicketPolicy),
    "no response, K says so": (regranted("DEHKNO"), InvalidTicketPolicy),
    "made by nobody": (regranted("EFGHIKNO"), InvalidTicketPolicy),
    "flags that contradict each other": (regranted("DFGHIKNO"), InvalidTicketPolicy),
    "unknown ticket type": (regranted(kind=(9, 1, 1)), InvalidTicket),
    "special ticket without N": (regranted("DEFGHIKO", kind=(1, 7, 1)), InvalidTicket),
    "ended already": (
        regranted("DEFGHIKNO", [*SHORT_POLICY[:2], forge.tr(3, b"\xd0" + bytes(3)), SHORT_POLICY[2]]),
        InvalidTicket,
    ),
    "wish in the granted policy": (
        regranted(
            "DEFGHIKNO",
            [*SHORT_POLICY[:2], forge.kemac(forge.chain([forge.key(0, bytes(16), b"x")])[1], 0), SHORT_POLICY[2]],
        ),
        InvalidTicketPolicy,
    ),
    "NULL MAC": (instead(9, forge.v(0)), InvalidMac),
}


@pytest.mark.parametrize("what", BAD_GRANTS)
def test_an_initiator_takes_no_ticket_that_it_did_not_ask_for(what):
    edit, error = BAD_GRANTS[what]
    request, octets = respelt_grant(Stage(wish=Wish(responders=(BOB,), validity_s=None)), edit)
    with pytest.raises(error):
        request.receive(octets, NOW + 1)


@pytest.mark.parametrize("header", [{"csb_id": b"\0\1\2\3"}, {"prf_func": 1}, {"map_type": 0}, {"data_type": 18}])
def test_a_grant_with_another_header_is_none(header):
    request, octets = respelt_grant(Stage(), **header)
    with pytest.raises(MikeyError):
        request.receive(octets, NOW + 1)


@pytest.mark.parametrize(
    "keys",
    [
        [(6, 16, b"1")],
        [(6, 16, b"1"), (6, 16, b"1")],
        [(6, 16, b"1"), (0, 16, b"2")],
        [(0, 16, b"2"), (6, 16, b"1"), (6, 16, b"3")],
        [(6, 16, b"1"), (6, 16, b"3"), (0, 16, b"2"), (6, 16, b"4")],
        [(6, 15, b"1"), (6, 16, b"3"), (0, 16, b"2")],
        [(6, 16, b"1"), (6, 16, b"3"), (0, 8, b"2")],
        [(6, 16, b"1"), (6, 16, b"3"), (0, 16, b"")],
        [(6, 16, b"1"), (6, 16, b"3"), (0, 16, b"2"), (0, 16, b"2")],
        [(6, 16, b"1"), (6, 16, b"3")],
    ],
)
def test_the_keys_of_a_grant_are_complete_strong_and_told_apart(keys):
    stage = Stage(wish=Wish(responders=(BOB,), keys=(WantedKey(),)))
    request = stage.request()
    octets = stage.grant(request.message).response
    read, psk = parse(octets), credential("alice").key.reveal()
    rand_i = parse(request.message).get("RANDRi")["data"]
    under = forge.protect(forge.SHORT, psk, read.csb_id, 2, rand_i, b"")
    box = forge.encrypted(
        [forge.key(k, b"k" * n, spi) for k, n, spi in keys], under, read.csb_id, read.get("T")["value"], 1
    )
    with pytest.raises(MikeyError):
        request.receive(forge.respell(octets, psk, instead(1, box), initial=request.message), NOW + 1)


# --- an initiator and the responder, before any KMS is asked ----------------------------------------------------------


def played(**stage: Any) -> tuple[Stage, Played]:
    staged = Stage(**stage)
    done = Played(key=staged.key)
    done.request = staged.request()
    done.ticket = done.request.receive(staged.grant(done.request.message).response, staged.tick())
    done.initiator = staged.initiate(done.ticket)
    return staged, done


def respelt_transfer(done: Played, edit: Edit = list, who: bytes = ALICE.data + BOB.data, **changes: Any) -> bytes:
    mpkr = done.ticket.mpkr.key.reveal() if done.ticket.mpkr else None
    given: dict[str, Any] = {"behind": who, "mpkr": mpkr} | changes
    return forge.respell(done.initiator.message, done.ticket.mpki.key.reveal(), edit, **given)


def test_a_transfer_respelt_without_change_is_accepted():
    stage, done = played()
    responder, resolution = stage.resolved(respelt_transfer(done))
    assert stage.accept(responder, resolution).initiator == ALICE


def repolicied(flags: str | None = None, parts: list[Part] | None = None, **fields: Any) -> Edit:
    def edit(whole: list[Part]) -> list[Part]:
        place = next(place for place, part in enumerate(whole) if part[0] == 17)
        _, data, inserted = forge.parse_ticket(whole[place][1])
        whole[place] = forge.ticket(forge.policy(parts or SHORT_POLICY, flags or "DEFGHINO", **fields), data, inserted)
        return whole

    return edit


AES_CM = bytes.fromhex("000101 010110 020101 030114 04010e 050100 070101 080101 0a0101 0b010a".replace(" ", ""))
BAD_TRANSFERS: dict[str, tuple[Edit, type[MikeyError] | tuple[type[MikeyError], ...]]] = {
    "two T": (twice(5), MalformedMessage),
    "two RANDRi": (twice(15), MalformedMessage),
    "two IDRi": (twice(14, 1), MalformedMessage),
    "two IDRr": (twice(14, 2), MalformedMessage),
    "two TICKET": (twice(17), MalformedMessage),
    "two V": (twice(9), MalformedMessage),
    "two SP of one number": (twice(10), MalformedMessage),
    "no T": (without(5), MalformedMessage),
    "no RANDRi": (without(15), MalformedMessage),
    "no TICKET": (without(17), MalformedMessage),
    "no SP": (without(10), InvalidPolicy),
    "RAND of 8": (instead(15, forge.randr(1, b"r" * 8)), Unspecified),
    "T is a counter": (instead(5, forge.t(bytes(4), 2)), InvalidTimestamp),
    "IDRi of another": (instead(14, forge.idr(1, MALLORY.data), 1), InvalidIdentity),
    "KEMAC without L": (before_v(forge.kemac(bytes(40), 1)), InvalidTicketPolicy),
    "NULL MAC": (instead(9, forge.v(0)), InvalidMac),
    "NULL encryption": (instead(10, forge.sp(0, b"\0\1\0" + AES_CM[3:])), InvalidPolicyParameter),
    "F8": (instead(10, forge.sp(0, b"\0\1\2" + AES_CM[3:])), InvalidPolicyParameter),
    "SRTP encryption off": (instead(10, forge.sp(0, AES_CM.replace(b"\7\1\1", b"\7\1\0"))), InvalidPolicyParameter),
    "SRTCP encryption off": (
        instead(10, forge.sp(0, AES_CM.replace(b"\x08\1\1", b"\x08\1\0"))),
        InvalidPolicyParameter,
    ),
    "SRTP authentication off": (
        instead(10, forge.sp(0, AES_CM.replace(b"\x0a\1\1", b"\x0a\1\0"))),
        InvalidPolicyParameter,
    ),
    "NULL authentication": (instead(10, forge.sp(0, AES_CM.replace(b"\2\1\1", b"\2\1\0"))), InvalidPolicyParameter),
    "tag of nothing": (instead(10, forge.sp(0, AES_CM.replace(b"\x0b\1\x0a", b"\x0b\1\0"))), InvalidPolicyParameter),
    "key of 8 octets": (instead(10, forge.sp(0, AES_CM.replace(b"\1\1\x10", b"\1\1\x08"))), InvalidPolicyParameter),
    "parameter twice": (instead(10, forge.sp(0, AES_CM + b"\7\1\0")), InvalidPolicyParameter),
    "parameter without value": (instead(10, forge.sp(0, b"\0\0" + AES_CM[3:])), InvalidPolicyParameter),
    "unknown parameter": (instead(10, forge.sp(0, AES_CM + b"\x63\1\1")), InvalidPolicyParameter),
    "another protocol": (instead(10, forge.sp(0, AES_CM, prot=241)), InvalidPolicy),
    "not for us": (repolicied(parts=[*SHORT_POLICY[:2], forge.idr(2, CAROL.data)]), InvalidIdentity),
    "for nobody": (repolicied(parts=SHORT_POLICY[:2]), InvalidTicketPolicy),
    "unknown ticket type": (repolicied(kind=(9, 1, 1)), InvalidTicket),
    "unknown subtype without O": (repolicied("DEFGHIN", kind=(1, 9, 1)), InvalidTicket),
    "PRF of the ticket": (repolicied(prf_func=1), InvalidPrf),
    "ended": (repolicied(parts=[*SHORT_POLICY[:2], forge.tr(3, b"\xd0" + bytes(3)), SHORT_POLICY[2]]), InvalidTicket),
    "not begun": (
        repolicied(parts=[*SHORT_POLICY[:2], forge.tr(2, b"\xff" + bytes(3)), SHORT_POLICY[2]]),
        InvalidTicket,
    ),
    "begins in another era": (
        repolicied(parts=[*SHORT_POLICY[:2], forge.tr(2, bytes(4)), SHORT_POLICY[2]]),
        InvalidTicket,
    ),
    "a wish in the policy": (
        repolicied(
            parts=[*SHORT_POLICY[:2], forge.kemac(forge.chain([forge.key(0, bytes(16), b"x")])[1], 0), SHORT_POLICY[2]]
        ),
        InvalidTicketPolicy,
    ),
    **{
        f"flags {flags}": (repolicied(flags), InvalidTicketPolicy)
        for flags in ("EFGHINO", "DEGHINO", "DEFINO", "DFGHINO", "DEHMNO", "EFGHIKLNO")
    },
}


@pytest.mark.parametrize("what", BAD_TRANSFERS)
def test_a_responder_refuses_before_it_asks_its_kms(what):
    edit, error = BAD_TRANSFERS[what]
    stage, done = played()
    changes = {"mpkr": None} if what == "NULL MAC" else {}
    with pytest.raises(error):
        stage.respond(respelt_transfer(done, edit, **changes))


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"sessions": [forge.session(1, b"abcd", b""), forge.session(1, b"", b"")]}, MalformedMessage),
        ({"sessions": [forge.session(1, b"abc", b"")]}, MalformedMessage),
        ({"sessions": [forge.session(1, b"abcdefghij", b"")]}, MalformedMessage),
        ({"sessions": [forge.session(1, b"abcd", b"", b"\7")]}, InvalidPolicy),
        ({"sessions": [forge.session(1, b"", b"", b"\0", prot=241)]}, InvalidPolicy),
        ({"sessions": [forge.session(n, b"abcd", b"") for n in range(40)]}, MalformedMessage),
        ({"sessions": [bytes(9)], "map_type": 0}, MalformedMessage),
        ({"sessions": [], "map_type": 1}, MalformedMessage),
        ({"prf_func": 1}, (InvalidPrf, InvalidMac)),
        ({"data_type": 15}, UnsupportedDataType),
    ],
)
def test_a_map_that_cannot_be_answered_is_refused_early(header, error):
    stage, done = played()
    with pytest.raises(error):
        stage.respond(respelt_transfer(done, **header))


# --- somebody who knows MPKi: every party that may resolve the ticket -------------------------------------------------


def test_initiator_data_of_one_message_cannot_be_spliced_into_another():
    stage, done = played()
    fresh = respelt_transfer(done, instead(15, forge.randr(1, b"R" * 32)), mpkr=None)
    responder, resolution = stage.resolved(fresh)  # the KMS sees a right Vr: it is Alice's
    with pytest.raises(AuthenticationFailure, match="Vi"):
        stage.accept(responder, resolution)


def test_initiator_data_takes_mpkr_which_no_responder_has():
    stage, done = played()
    forged = respelt_transfer(done, instead(15, forge.randr(1, b"R" * 32)), mpkr=done.ticket.mpki.key.reveal())
    with pytest.raises(AuthenticationFailure, match="Vr"):
        stage.resolved(forged)


def test_a_forked_ticket_without_initiator_data_goes_nowhere():
    stage, done = played()
    bare = respelt_transfer(
        done,
        lambda parts: [forge.ticket(*forge.parse_ticket(b)[:2]) if n == 17 else (n, b) for n, b in parts],
        mpkr=None,
    )
    with pytest.raises(InvalidTicket):
        stage.respond(bare)
    kms = Stage()
    kms.key = stage.key
    octets = respelt_resolve(
        stage, done, lambda parts: [forge.ticket(*forge.parse_ticket(b)[:2]) if n == 17 else (n, b) for n, b in parts]
    )
    with pytest.raises(InvalidTicket):
        kms.answer(octets)


def test_a_stranger_to_an_unforked_ticket_is_not_its_initiator():
    stage, done = played(wish=Wish(responders=(BOB, CAROL), forking=False))
    forged = respelt_transfer(done, instead(14, forge.idr(1, MALLORY.data), 1), who=MALLORY.data + BOB.data)
    with pytest.raises(InvalidIdentity):
        stage.respond(forged)


def test_another_bundle_of_a_transfer_is_not_accepted_under_its_mac():
    stage, done = played()
    other = respelt_transfer(done, csb_id=b"\0\1\2\3", mpkr=None)
    responder, resolution = stage.resolved(other)
    with pytest.raises(AuthenticationFailure):
        stage.accept(responder, resolution)


@pytest.mark.parametrize(
    "box",
    [
        forge.kemac(forge.chain([forge.key(2, b"t" * 16, b"own1")])[1], 0),
        forge.kemac(bytes(40), 2),
        forge.kemac(bytes(40), 3),
        forge.kemac(b"", 1),
        (1, b"\1" + forge.vector(bytes(40)) + b"\1" + bytes(20)),
    ],
)
def test_keys_of_the_initiator_come_encrypted_or_not_at_all(box):
    stage, done = played(wish=Wish(responders=(BOB,), initiator_keys=True))
    responder, resolution = stage.resolved(respelt_transfer(done, before_v(box)))
    with pytest.raises(MikeyError):
        stage.accept(responder, resolution)


# --- a responder and the KMS ------------------------------------------------------------------------------------------


def respelt_resolve(stage: Stage, done: Played, edit: Edit = list, **header: Any) -> bytes:
    responder = Stage(wish=stage.wish).respond(done.initiator.message)
    asked = stage.ask(responder).message
    return forge.respell(asked, credential("bob").key.reveal(), edit, behind=BOB.data + KMS.data, **header)


def test_a_resolve_respelt_without_change_is_answered():
    stage, done = played()
    assert stage.answer(respelt_resolve(stage, done))


BAD_RESOLVES: dict[str, tuple[Edit, type[MikeyError] | tuple[type[MikeyError], ...]]] = {
    "two T": (twice(5), MalformedMessage),
    "two RANDRr": (twice(15), MalformedMessage),
    "two TICKET": (twice(17), MalformedMessage),
    "two IDRr": (twice(14, 2), MalformedMessage),
    "two IDRkms": (twice(14, 3), MalformedMessage),
    "two IDRpsk": (twice(14, 4), MalformedMessage),
    "two V": (twice(9), MalformedMessage),
    "no RANDRr": (without(15), MalformedMessage),
    "no TICKET": (without(17), MalformedMessage),
    "RAND shorter than the key": (instead(15, forge.randr(2, b"r" * 16)), Unspecified),
    "NULL MAC": (instead(9, forge.v(0)), InvalidMac),
    "policy for another": (repolicied(parts=[*SHORT_POLICY, forge.idr(2, MALLORY.data)]), InvalidTicket),
    "policy without forking": (
        lambda parts: [
            forge.ticket(forge.policy(SHORT_POLICY, "DEFGHNO"), forge.parse_ticket(b)[1]) if n == 17 else (n, b)
            for n, b in parts
        ],
        InvalidTicket,
    ),
    "flags that contradict each other": (repolicied("DFGHINO"), InvalidTicketPolicy),
    "another PRF for the ticket": (repolicied(prf_func=1), (InvalidMac, InvalidTicket)),
    "another ticket type": (repolicied(kind=(2, 1, 1)), InvalidTicket),
    "unknown ticket type": (repolicied(kind=(9, 1, 1)), InvalidTicket),
}


@pytest.mark.parametrize("what", BAD_RESOLVES)
def test_a_kms_resolves_nothing_that_is_wrong(what):
    edit, error = BAD_RESOLVES[what]
    stage, done = played(wish=Wish(responders=(BOB,), validity_s=None))
    with pytest.raises(error):
        stage.answer(respelt_resolve(stage, done, edit))


def test_who_is_not_in_the_policy_gets_no_keys():
    stage, done = played()
    responder = stage.respond(done.initiator.message)
    message = stage.ask(responder).message
    stage.own = (MALLORY,)
    with pytest.raises(InvalidIdentity):
        stage.answer(message)


@pytest.mark.parametrize(
    "name",
    [
        "sip:*@ims.test",
        "sip:*@*",
        "*",
        "sip:bob@ims.test@evil.test",
        "sip:bob@ims.test;x=y",
        "SIP:BOB@ims.test",
        "sip:bob@ims.tes",
    ],
)
def test_a_name_that_only_looks_like_a_responder_is_none(name):
    stage, done = played(wish=Wish(responders=(BOB,)))
    responder = stage.respond(done.initiator.message)
    ticket = stage.ask(responder)._ticket
    from keying.mikey.identity import Identity

    claimed = Identity.uri(name)
    try:
        resolution = stage.authority.resolve_ticket(ticket, [claimed], stage.find_tpk, stage.now)
    except InvalidIdentity:
        return
    assert claimed.same(BOB)  # only another spelling of the same identity
    assert resolution.responder == BOB  # and the KMS says it as the ticket does


def test_a_wildcard_of_a_ticket_does_not_reach_beyond_its_domain():
    from keying.mikey.identity import Identity

    everyone = Identity.uri("sip:*@ims.test")
    stage, done = played(wish=Wish(responders=(everyone,)), peer=everyone)
    ticket = Stage(wish=stage.wish).respond(done.initiator.message).ticket
    for name in (
        "sip:bob@evil.test",
        "sip:bob@ims.test.evil.test",
        "sip:bob@sub.ims.test",
        "sip:@ims.test",
        "sip:ims.test",
        "tel:+1@ims.test",
        "sips:bob@ims.test",
        "sip:*@ims.test",
    ):
        with pytest.raises(InvalidIdentity):
            stage.authority.resolve_ticket(ticket, [Identity.uri(name)], stage.find_tpk, stage.now)
    assert stage.authority.resolve_ticket(ticket, [BOB], stage.find_tpk, stage.now).responder == BOB


def test_an_expired_ticket_opens_for_nobody():
    stage, done = played(wish=Wish(responders=(BOB,), validity_s=60.0))
    ticket = stage.respond(done.initiator.message).ticket
    stage.now += 120
    with pytest.raises(InvalidTicket):
        stage.respond(done.initiator.message)
    with pytest.raises(InvalidTicket):
        stage.authority.resolve_ticket(ticket, [BOB], stage.find_tpk, stage.now)
    with pytest.raises(InvalidTicket):
        stage.initiate(done.ticket)


def test_members_of_a_group_are_those_the_kms_knows():
    from keying.mikey.identity import Identity

    desk = Identity.uri("sip:helpdesk@ims.test")
    groups = Groups({"sip:helpdesk@ims.test": ["sip:bob@ims.test"]})
    stage, done = played(wish=Wish(responders=(desk,)), peer=desk, groups=groups)
    ticket = stage.respond(done.initiator.message).ticket
    for who in (CAROL, desk):
        if who == desk:
            continue
        with pytest.raises(InvalidIdentity):
            stage.authority.resolve_ticket(ticket, [who], stage.find_tpk, stage.now, groups=groups)
    with pytest.raises(InvalidIdentity):
        stage.authority.resolve_ticket(ticket, [BOB], stage.find_tpk, stage.now)  # a KMS without that group


# --- tickets that somebody makes itself -------------------------------------------------------------------------------


def homemade(
    flags: str = "EFGHILNO", maker: str = "mallory", name: bytes = MALLORY.data, **changes: Any
) -> tuple[Stage, forge.Part, Any]:
    """A TICKET under the key that `maker` shares with the KMS, in the name of `name`."""
    stage = Stage(wish=Wish(responders=(BOB,)))
    owner = {"mallory": MALLORY, "alice": ALICE}[maker]
    stage.key = mode3_ticket_key(credential(maker).identity, credential(maker).key, KMS, 16, (owner,))
    parts = changes.pop("parts", [forge.idr(3, KMS.data), forge.idr(1, name), forge.idr(2, BOB.data)])
    policy = forge.policy(parts, flags, **changes.pop("fields", {}))
    keys = changes.pop("keys", [forge.key(6, b"m" * 16, b"1"), forge.key(0, b"g" * 16, b"2")])
    rand = changes.pop("rand", b"r" * 16)
    key_id = forge.idr(4, stage.key.key_id, 2)
    data = forge.ticket_data(
        policy, stage.key.key.reveal(), keys, rand, LATER[1][1:], changes.pop("suite", forge.SHORT), key_id
    )
    mpkr = forge.mpk_part(forge.SHORT, "MPKr", b"m" * 16, rand)
    inserted = forge.initiator_data(forge.SHORT, mpkr, b"v" * 20) if "I" in flags else b""
    return stage, forge.ticket(policy, data, changes.pop("inserted", inserted)), stage.key


def resolve(stage: Stage, part: Part) -> Any:
    from keying.mikey.codec import decode_ticket

    return stage.authority.resolve_ticket(decode_ticket(part[1]), [BOB], stage.find_tpk, NOW)


def test_an_honest_homemade_ticket_is_resolved():
    stage, part, _ = homemade()
    assert resolve(stage, part).responder == BOB


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": ALICE.data}, InvalidIdentity),
        ({"parts": [forge.idr(3, KMS.data), forge.idr(2, BOB.data)]}, InvalidIdentity),
        ({"flags": "DEFGHINO"}, InvalidTicket),
        ({"flags": "DEFGHILNO"}, InvalidTicket),
        ({"flags": "EFGHINO"}, (InvalidTicketPolicy, InvalidTicket)),
        ({"flags": "EFGHIKLNO"}, (InvalidTicketPolicy, InvalidTicket)),
        ({"flags": "FGHILNO"}, InvalidTicketPolicy),
        ({"flags": "EGHILNO"}, InvalidTicketPolicy),
        ({"flags": "EHILNO"}, InvalidTicketPolicy),
        ({"keys": [forge.key(0, b"g" * 16, b"2")]}, MalformedMessage),
        ({"keys": [forge.key(6, b"m" * 16, b"1"), forge.key(6, b"n" * 16, b"2")]}, MalformedMessage),
        ({"keys": [forge.key(0, b"g" * 16, b"2"), forge.key(6, b"m" * 16, b"1")]}, MalformedMessage),
        ({"keys": [forge.key(6, b"m" * 16, b"1"), forge.key(0, b"g" * 16, b"1")]}, MalformedMessage),
        ({"keys": [forge.key(6, b"m" * 16, b"1"), forge.key(0, b"g" * 16, b"")]}, MalformedMessage),
        ({"keys": [forge.key(6, b"m" * 16, b"1"), forge.key(0, b"g" * 8, b"2")]}, Unspecified),
        ({"keys": [forge.key(6, b"m" * 8, b"1"), forge.key(0, b"g" * 16, b"2")]}, Unspecified),
        ({"rand": b"r" * 15}, Unspecified),
        ({"rand": b""}, Unspecified),
        ({"suite": (0, 0, 1)}, InvalidEncryption),
        ({"suite": (0, 2, 1)}, InvalidEncryption),
        ({"suite": (0, 3, 1)}, InvalidEncryption),
        ({"suite": (0, 1, 2)}, InvalidMac),
        ({"suite": forge.LONG}, (InvalidMac, InvalidTicket, InvalidEncryption)),
        ({"inserted": b""}, InvalidTicket),
        ({"inserted": b"\x09\x00\x00\x00\x00"}, (InvalidTicket, InvalidMac)),
        ({"inserted": b"\x09\x09\x00\x00\x00"}, (InvalidTicket, InvalidMac)),
        ({"inserted": b"\x09\x09\x01" + bytes(20)}, InvalidTicket),
        ({"inserted": b"\x05\x09\x01" + bytes(42)}, InvalidTicket),
        ({"flags": "EFGHLNO", "inserted": b"\x09\x09\x01" + bytes(42)}, InvalidTicket),
        ({"fields": {"kind": (7, 1, 1)}}, InvalidTicket),
    ],
)
def test_a_homemade_ticket_obeys_every_rule_or_opens_nothing(changes, error):
    stage, part, _ = homemade(**changes)
    with pytest.raises(error):
        resolve(stage, part)


def test_a_ticket_under_a_key_of_ones_own_choice_opens_nothing():
    stage, part, key = homemade()
    stage.key = type(key)(key.key_id, Secret(b"another key here"), key.owners)
    with pytest.raises(InvalidTicket):
        resolve(stage, part)


def test_the_kms_key_makes_no_ticket_in_the_name_of_a_user():
    stage, part, key = homemade(name=ALICE.data)
    stage.key = type(key)(key.key_id, key.key, None)
    with pytest.raises(InvalidTicket):
        resolve(stage, part)


# --- a responder and the initiator ------------------------------------------------------------------------------------


def respelt_answer(edit: Edit = list, stage: Stage | None = None, **header: Any) -> tuple[Stage, Played, bytes]:
    staged = stage or Stage()
    done = staged.play()
    key = (done.resolution.forked_mpkr or done.resolution.mpki).key.reveal()
    octets = forge.respell(done.octets["TRANSFER_RESP"], key, edit, initial=done.initiator.message, **header)
    return staged, done, octets


def test_an_answer_respelt_without_change_is_taken():
    stage, done, octets = respelt_answer()
    assert done.initiator.receive(octets, stage.now).responder == BOB


BAD_ANSWERS: dict[str, tuple[Edit, type[MikeyError] | tuple[type[MikeyError], ...]]] = {
    "two T": (twice(5), MalformedMessage),
    "two RANDRr": (twice(15, 2), MalformedMessage),
    "two RANDRkms": (twice(15, 3), MalformedMessage),
    "two IDRr": (twice(14, 2), MalformedMessage),
    "two V": (twice(9), MalformedMessage),
    "no RANDRr": (without(15, 2), MalformedMessage),
    "no RANDRkms": (without(15, 3), MalformedMessage),
    "no IDRr": (without(14, 2), MalformedMessage),
    "RANDRkms of 8": (instead(15, forge.randr(3, b"k" * 8), 3), Unspecified),
    "RANDRr of 8": (instead(15, forge.randr(2, b"k" * 8), 2), Unspecified),
    "the name of another": (instead(14, forge.idr(2, CAROL.data), 2), AuthenticationFailure),
    "the name of the caller": (instead(14, forge.idr(2, ALICE.data), 2), AuthenticationFailure),
    "another modifier": (instead(15, forge.randr(3, b"k" * 32), 3), AuthenticationFailure),
    "KEMAC without M": (before_v(forge.kemac(bytes(40), 1)), InvalidTicketPolicy),
    "NULL MAC": (instead(9, forge.v(0)), InvalidMac),
    "policy redefined": (before_v(forge.sp(0, b"\0\1\0")), MalformedMessage),
    "T is a counter": (instead(5, forge.t(bytes(4), 2)), InvalidTimestamp),
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_an_initiator_takes_no_answer_that_is_wrong(what):
    edit, error = BAD_ANSWERS[what]
    stage, done, octets = respelt_answer(edit)
    with pytest.raises(error):
        done.initiator.receive(octets, stage.now)
    assert done.initiator.receive(done.octets["TRANSFER_RESP"], stage.now).responder == BOB


CS1, CS2 = (forge.session(cs, b"\1\2\3" + bytes([cs]), b"SPI.") for cs in (1, 2))


@pytest.mark.parametrize(
    "sessions",
    [
        [],
        [CS1],
        [CS2],
        [CS1, CS1],
        [CS1, forge.session(2, b"\1\2\3\2", b"SPI.", b"")],
        [CS1, forge.session(2, b"\1\2\3\2", b"SPI.", b"\0\0")],
        [CS1, forge.session(2, b"\1\2\3\2", b"SPI.", b"\7")],
        [CS1, forge.session(2, b"", b"SPI.")],
        [CS1, forge.session(2, b"\1\2\3", b"SPI.")],
        [CS1, forge.session(2, b"\1\2\3\2", b"")],
        [CS1, forge.session(2, b"\1\2\3\2", b"none")],
        [CS1, forge.session(2, b"\1\2\3\2", b"SPI.", prot=241)],
        [CS1, CS2, forge.session(3, b"", b"SPI.", prot=241)],
        [CS1, CS2, forge.session(3, b"\1\2\3\3", b"SPI.", b"\7")],
    ],
)
def test_the_map_of_an_answer_is_complete_and_what_was_offered(sessions):
    stage = Stage()
    done = stage.play()
    spi = done.ticket.keys[0].spi
    blocks = [block.replace(b"SPI.", spi) for block in sessions]
    key = done.resolution.forked_mpkr.key.reveal()
    octets = forge.respell(done.octets["TRANSFER_RESP"], key, initial=done.initiator.message, sessions=blocks)
    with pytest.raises(MikeyError):
        done.initiator.receive(octets, stage.now)


@pytest.mark.parametrize("params", [b"\0\1\0", b"\7\1\0", b"\x0a\1\0", b"\2\1\0", b"\0\1\2"])
def test_a_responder_cannot_talk_the_initiator_down(params):
    stage = Stage()
    done = stage.play()
    spi = done.ticket.keys[0].spi
    blocks = [forge.session(cs, b"\1\2\3" + bytes([cs]), spi, b"\5") for cs in (1, 2)]
    key = done.resolution.forked_mpkr.key.reveal()
    octets = forge.respell(
        done.octets["TRANSFER_RESP"],
        key,
        before_v(forge.sp(5, params)),
        initial=done.initiator.message,
        sessions=blocks,
    )
    with pytest.raises((InvalidPolicy, InvalidPolicyParameter)):
        done.initiator.receive(octets, stage.now)


def test_the_key_of_the_initial_message_does_not_protect_the_answer_of_a_fork():
    stage = Stage()
    done = stage.play()
    octets = forge.respell(done.octets["TRANSFER_RESP"], done.ticket.mpki.key.reveal(), initial=done.initiator.message)
    with pytest.raises(AuthenticationFailure):
        done.initiator.receive(octets, stage.now)


@pytest.mark.parametrize("kind", [KeyDataType.TEK_SALT])
def test_two_streams_never_share_key_and_ssrc(kind):
    """A TEK that is carried serves every stream: with one SSRC twice, SRTP would use its keystream twice (RFC 3711 9.1)."""
    wish = Wish(responders=(BOB,), keys=(WantedKey(kind),))
    stage = Stage(wish=wish)
    done = Played(request=stage.request())
    done.ticket = done.request.receive(stage.grant(done.request.message).response, stage.tick())
    initiator = stage.initiate(done.ticket)
    responder, resolution = stage.resolved(initiator.message)
    with pytest.raises(MikeyError):
        stage.accept(responder, resolution, ssrcs={2: 0x01020301})


def test_the_strengths_of_the_default_profile_are_all_on():
    assert (DEFAULT_PROFILE.forking, DEFAULT_PROFILE.responder_rand, DEFAULT_PROFILE.initiator_rand) == (
        True,
        True,
        True,
    )
    assert not DEFAULT_PROFILE.accept_public_key
