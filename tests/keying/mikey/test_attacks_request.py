"""A subscriber who asks its KMS for what it may not have, and a KMS that grants what nobody asked for (T5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidEncryption,
    InvalidIdentity,
    InvalidMac,
    InvalidPrf,
    InvalidTicket,
    InvalidTicketPolicy,
    InvalidTimestamp,
    MalformedMessage,
    MikeyError,
    Unspecified,
    UnsupportedDataType,
)
from keying.mikey.policy import WantedKey, Wish
from tests.keying.mikey.independent import forge
from tests.keying.mikey.independent.forge import Part
from tests.keying.mikey.independent.rfc6043 import check_flags
from tests.keying.mikey.independent.wire import parse
from tests.keying.mikey.spoil import SHORT_POLICY, Edit, before_v, instead, twice, without
from tests.keying.mikey.stage import ALICE, BOB, CAROL, KMS, LONG, MALLORY, NOW, Stage, credential

pytestmark = [pytest.mark.attack("T5"), pytest.mark.clause("TS 33.328", "D-8", "D-9", "D-10")]


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


@pytest.mark.clause("RFC 6043", "4.2.1.4")
@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_subscriber_gets_no_ticket_for_a_request_that_is_wrong(what):
    edit, error = BAD_REQUESTS[what]
    stage = Stage()
    with pytest.raises(error):
        stage.grant(respelt_request(stage, edit))


@pytest.mark.clause("RFC 6043", "4.2.1.1")
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


@pytest.mark.clause("RFC 6043", "12.1")
@pytest.mark.clause("TS 33.328", "D-3")
@pytest.mark.parametrize("suite", [(1, 1, 1), (0, 1, 2)])
def test_algorithms_of_two_strengths_are_not_mixed(suite):
    octets = respelt_request(Stage(), instead(9, forge.v(suite[2])), suite=suite, prf_func=suite[0])
    with pytest.raises(InvalidMac):
        Stage().grant(octets)


@pytest.mark.clause("TS 33.328", "D-3")
def test_a_kms_for_the_256_bit_algorithms_takes_no_others():
    strict = replace(LONG, suites_accepted=frozenset({"256"}))
    with pytest.raises(InvalidPrf):
        Stage(profile=strict).grant(Stage().request().message)
    assert Stage(profile=strict).grant(Stage(profile=LONG).request().message).ticket


@pytest.mark.clause("TS 33.328", "D-5")
@pytest.mark.parametrize("flags", ["", "D", "I", "M", "DG", "DI", "DK", "DM", "EFGHIJKLMNO", "DFGHI", "GHM", "DEHI"])
def test_a_ticket_never_has_flags_that_contradict_each_other(flags):
    stage = Stage()
    try:
        granted = stage.grant(respelt_request(stage, instead(16, tp(flags))))
    except InvalidTicketPolicy:
        return
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


@pytest.mark.clause("RFC 6043", "4.2.1.4")
def test_payloads_that_nobody_expects_change_nothing():
    stage = Stage()
    extra = [forge.genext(250, b"x"), forge.err(0), (11, b"\4rand"), forge.sp(3), (8, b"\2" + bytes(32))]
    assert stage.grant(respelt_request(stage, before_v(*extra))).ticket


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


@pytest.mark.clause("RFC 6043", "4.2.1.6")
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


@pytest.mark.clause("RFC 6043", "4.2.1.5")
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
