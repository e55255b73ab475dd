"""A MIKEY message told to people: names, values, MACs, and no key by accident."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.mikey.cipher import mac, plain_kemac
from keying.mikey.codec import decode, encode, without_initiator_data
from keying.mikey.describe import Tree, describe, label, payload_tree, summary, text_of
from keying.mikey.describe_keys import Known, with_keys
from keying.mikey.ntp import interval
from keying.mikey.payloads import (
    ErrorPayload,
    GeneralExtension,
    Header,
    IdRoled,
    Kemac,
    KeyData,
    Message,
    RandRoled,
    SecurityPolicy,
    Signature,
    TicketPayload,
    Timestamp,
    TimestampRole,
)
from keying.mikey.registry import (
    DataType,
    EncrAlg,
    ErrorNumber,
    IdRole,
    IdType,
    KeyDataType,
    MacAlg,
    SignType,
    TicketFlag,
    TsRole,
    TsType,
)
from keying.secret import Secret
from tests.keying.mikey import generate, vectors

KEYS = {
    "PSK_I": vectors.PSK_I,
    "PSK_R": vectors.PSK_R,
    "TPK": vectors.TPK,
    "MPK": vectors.MPK,
    "TGK": vectors.TGK,
    "MPKi": bytes.fromhex(vectors.MPKI),
    "MPKr": bytes.fromhex(vectors.MPKR),
    "MPKr'": bytes.fromhex(vectors.FORKED_MPKR),
    "TGK'": bytes.fromhex(vectors.FORKED_TGK),
}


def key(text: str) -> Secret:
    return Secret(bytes.fromhex(text))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("REQUEST_INIT_PSK", "REQUEST_INIT_PSK: T, RANDRi, IDRi, IDRkms, TP, IDRpsk, V"),
        ("REQUEST_RESP", "REQUEST_RESP: T, IDRkms, TICKET, KEMAC, V"),
        ("TRANSFER_INIT", "TRANSFER_INIT: T, RANDRi, IDRi, IDRr, SP, TICKET, V"),
        ("RESOLVE_INIT_PSK", "RESOLVE_INIT_PSK: T, RANDRr, IDRr, IDRkms, TICKET, IDRpsk, V"),
        ("RESOLVE_RESP", "RESOLVE_RESP: T, IDRkms, KEMAC, IDRr, RANDRkms, V"),
        ("TRANSFER_RESP", "TRANSFER_RESP: T, RANDRr, IDRr, RANDRkms, V"),
    ],
)
def test_the_summary_names_the_payloads_as_the_rfc_does(name: str, line: str) -> None:
    assert summary(vectors.MESSAGES[name]) == line


@pytest.mark.clause("RFC 6043", "6.9")
def test_the_summary_of_an_error_message_says_the_error() -> None:
    t = Timestamp(TsType.NTP_UTC, bytes(8))
    octets = encode(Message(Header(DataType.ERROR, 1), (t, ErrorPayload(ErrorNumber.INVALID_TICKET), ErrorPayload(99))))
    assert summary(octets) == "ERROR: T, ERR INVALID_TICKET, ERR 99"


@pytest.mark.parametrize(
    ("octets", "line"),
    [
        (b"", "MIKEY message: not readable (HDR: cut short"),
        (b"\x01\x04\x05\x00" + bytes(20), "DH_INIT: not readable (HDR: messages of type DH_INIT are not read"),
        (vectors.TRANSFER_INIT[:40], "TRANSFER_INIT: not readable (T: cut short"),
        (b"\x01\x63" + bytes(20), "MIKEY message: not readable (HDR: data type 99"),
    ],
)
def test_the_summary_of_what_cannot_be_read_says_why(octets: bytes, line: str) -> None:
    assert summary(octets).startswith(line)
    assert not describe(octets).sound


def test_the_tree_says_what_stands_in_a_transfer_init() -> None:
    tree = describe(vectors.TRANSFER_INIT)
    assert tree.find("HDR", "CSB ID").value == "55667788"
    assert tree.find("HDR", "CS ID map", "CS 1").value == "SRTP; policies 0; session data 01020304; SPI 02"
    assert tree.find("T").value == "2013-07-29T09:13:38.000Z (NTP_UTC)"
    assert tree.find("IDRi").value == "sip:alice@a.example (URI)"
    assert tree.find("SP").value == "policy 0, SRTP, all defaults"
    assert tree.find("TICKET", "flags").value == "D E F G H I N O"
    assert tree.find("TICKET", "TP Data", "IDRr").value == "sip:bob@b.example (URI)"
    assert tree.find("TICKET", "Ticket Data", "KEMAC").value == "AES_CM_128, 44 octets"
    assert tree.find("TICKET", "Initiator Data", "Vi").value == tree.find("V").value
    assert tree.sound
    with pytest.raises(KeyError):
        tree.find("TICKET", "nothing")


def test_lines_and_json_are_the_same_tree() -> None:
    tree = describe(vectors.TRANSFER_INIT)
    lines = tree.lines()
    assert lines[0] == "TRANSFER_INIT: 362 octets"
    assert "      IDRkms: kms.a.example (URI)" in lines

    def count(node: dict) -> int:
        return 1 + sum(map(count, node.get("children", ())))

    assert count(json.loads(json.dumps(tree.as_json()))) == len(lines)
    assert Tree("MAC", "does not hold", bad=True).as_json()["fault"] is True


@given(st.binary(max_size=300))
def test_no_octets_raise(octets: bytes) -> None:
    for start in (octets, vectors.TRANSFER_INIT[:10] + octets, vectors.REQUEST_RESP[: len(octets)] + octets):
        assert summary(start)
        assert describe(start).lines()


@given(generate.messages)
def test_every_message_has_a_line_and_a_tree(message: Message) -> None:
    octets = encode(message)
    assert summary(octets).startswith(f"{message.header.data_type.name}: ")
    everything = Known(
        psk=Secret(vectors.PSK_I),
        tpk=Secret(vectors.TPK),
        mpki=key(vectors.MPKI),
        mpkr=key(vectors.MPKR),
        initial=vectors.TRANSFER_INIT,
    )
    tree = describe(octets, with_keys(everything))
    assert len(tree.children) > len(message.payloads)
    assert json.dumps(tree.as_json())


# Keys.

CHECKS = [
    pytest.param("REQUEST_INIT_PSK", Known(psk=Secret(vectors.PSK_I)), ["MAC"], id="REQUEST_INIT"),
    pytest.param(
        "REQUEST_RESP", Known(psk=Secret(vectors.PSK_I), initial=vectors.REQUEST_INIT_PSK), ["MAC"], id="REQUEST_RESP"
    ),
    pytest.param("TRANSFER_INIT", Known(mpki=key(vectors.MPKI)), ["MAC"], id="TRANSFER_INIT by MPKi"),
    pytest.param(
        "TRANSFER_INIT", Known(tpk=Secret(vectors.TPK)), ["ticket MAC", "MAC", "Vr MAC"], id="TRANSFER_INIT by TPK"
    ),
    pytest.param("RESOLVE_INIT_PSK", Known(psk=Secret(vectors.PSK_R)), ["MAC"], id="RESOLVE_INIT"),
    pytest.param(
        "RESOLVE_INIT_PSK",
        Known(psk=Secret(vectors.PSK_R), tpk=Secret(vectors.TPK)),
        ["ticket MAC", "MAC", "Vr MAC"],
        id="RESOLVE_INIT by TPK",
    ),
    pytest.param(
        "RESOLVE_RESP", Known(psk=Secret(vectors.PSK_R), initial=vectors.RESOLVE_INIT_PSK), ["MAC"], id="RESOLVE_RESP"
    ),
    pytest.param(
        "TRANSFER_RESP",
        Known(mpkr=key(vectors.MPKR), initial=vectors.TRANSFER_INIT),
        ["MAC"],
        id="TRANSFER_RESP by MPKr",
    ),
    pytest.param(
        "TRANSFER_RESP",
        Known(forked_mpkr=key(vectors.FORKED_MPKR), initial=vectors.TRANSFER_INIT),
        ["MAC"],
        id="TRANSFER_RESP by forked MPKr",
    ),
    pytest.param(
        "TRANSFER_RESP",
        Known(tpk=Secret(vectors.TPK), initial=vectors.TRANSFER_INIT),
        ["MAC"],
        id="TRANSFER_RESP by TPK",
    ),
]


@pytest.mark.parametrize(("name", "known", "held"), CHECKS)
def test_with_its_key_every_mac_of_the_exchange_holds(name: str, known: Known, held: list[str]) -> None:
    tree = describe(vectors.MESSAGES[name], with_keys(known))
    assert {where: tree.find(where).value for where in held} == dict.fromkeys(held, "holds")
    assert tree.sound


@pytest.mark.parametrize(("name", "known", "held"), CHECKS)
def test_a_changed_mac_does_not_hold(name: str, known: Known, held: list[str]) -> None:
    octets = bytearray(vectors.MESSAGES[name])
    octets[-1] ^= 1
    tree = describe(bytes(octets), with_keys(known))
    assert tree.find("MAC").bad
    assert not tree.sound


def test_a_changed_ticket_or_initiator_data_does_not_hold() -> None:
    known = with_keys(Known(tpk=Secret(vectors.TPK)))
    message = decode(vectors.TRANSFER_INIT)
    place = [isinstance(payload, TicketPayload) for payload in message.payloads].index(True)
    ticket = message.payloads[place]
    for change, where in (
        ({"ticket_data": ticket.ticket_data[:-1] + b"\0"}, "ticket MAC"),
        ({"policy": replace(ticket.policy, flags=ticket.policy.flags | TicketFlag.J)}, "ticket MAC"),
        ({"initiator_data": ticket.initiator_data[:-1] + b"\0"}, "Vr MAC"),
        ({"initiator_data": ticket.initiator_data[:4] + b"\0" + ticket.initiator_data[5:]}, "Vi"),
    ):
        payloads = (*message.payloads[:place], replace(ticket, **change), *message.payloads[place + 1 :])
        tree = describe(encode(replace(message, payloads=payloads)), known)
        assert tree.find(where).bad, where


@pytest.mark.parametrize("name", vectors.MESSAGES)
def test_without_its_key_a_mac_is_said_to_be_unchecked(name: str) -> None:
    tree = describe(vectors.MESSAGES[name], with_keys(Known()))
    assert tree.find("MAC").value.startswith("not checked")
    assert not any("holds" in line for line in tree.lines())
    assert tree.sound


def test_a_key_that_is_too_short_is_a_fault_in_the_tree() -> None:
    assert not describe(vectors.REQUEST_INIT_PSK, with_keys(Known(psk=Secret(b"short")))).sound


@pytest.mark.parametrize(("name", "known", "held"), CHECKS)
def test_no_key_is_printed_unless_it_is_asked_for(name: str, known: Known, held: list[str]) -> None:
    shown = "\n".join(describe(vectors.MESSAGES[name], with_keys(known)).lines())
    shown += json.dumps(describe(vectors.MESSAGES[name], with_keys(known)).as_json()) + repr(known)
    assert not [which for which, octets in KEYS.items() if octets.hex() in shown]


def test_keys_are_printed_when_they_are_asked_for() -> None:
    known = Known(psk=Secret(vectors.PSK_R), initial=vectors.RESOLVE_INIT_PSK, show_keys=True)
    tree = describe(vectors.RESOLVE_RESP, with_keys(known))
    keys = [child.find("key").value for child in tree.find("keys in KEMAC").children]
    assert keys == [vectors.MPKI, vectors.FORKED_MPKR, vectors.FORKED_TGK]


def test_omitted_identities_come_from_the_ticket_policy_or_are_given() -> None:
    message = decode(vectors.TRANSFER_INIT)
    bare = tuple(payload for payload in message.payloads if not isinstance(payload, IdRoled))
    octets = encode(replace(message, payloads=bare))
    covered = without_initiator_data(octets) + vectors.ALICE + vectors.BOB
    octets = octets[:-20] + mac(MacAlg.HMAC_SHA_1_160, key(vectors.TRANSFER_INIT_AUTH), covered)
    assert describe(octets, with_keys(Known(mpki=key(vectors.MPKI)))).find("MAC").value == "holds"
    other = {IdRole.INITIATOR: b"sip:mallory@a.example"}
    assert describe(octets, with_keys(Known(mpki=key(vectors.MPKI), identities=other))).find("MAC").bad


# Values.


@pytest.mark.parametrize(
    ("payload", "name", "value"),
    [
        (IdRoled(IdRole.APPLICATION, IdType.NAI, b"app"), "IDRapp", "app (NAI)"),
        (IdRoled(250, IdType.NAI, b"\x1b[31m"), "IDR250", "1b5b33316d (NAI)"),
        (RandRoled(9, b""), "RANDR9", "empty"),
        (interval(90), "TRr", "90 s"),
        (TimestampRole(TsRole.REKEY, TsType.NTP_UTC, bytes(8)), "TRr", "0000000000000000"),
        (TimestampRole(77, TsType.COUNTER, b"\0\0\0\x07"), "TR77", "counter 7"),
        (TimestampRole(TsRole.END, TsType.NTP_UTC_32, bytes(4)), "TRe", "2036-02-07T06:28:16.000Z (NTP_UTC_32)"),
        (GeneralExtension(1, b"mikey"), "GENEXT", "SDP_IDS: mikey"),
        (GeneralExtension(241, b"\0\1"), "GENEXT", "241: 0001"),
        (Signature(SignType.RSA_PSS, bytes(256)), "SIGN", "RSA_PSS, 256 octets"),
        (SecurityPolicy(3, 241), "SP", "policy 3, 241, all defaults"),
    ],
)
def test_values_are_said_in_words(payload, name: str, value: str) -> None:
    assert (label(payload), payload_tree(payload).value) == (name, value)


def test_policy_parameters_have_their_names() -> None:
    tree = payload_tree(SecurityPolicy(0, 0, ((0, b"\x06"), (20, b"\x10"), (99, bytes(9)))))
    assert [(child.name, child.value) for child in tree.children] == [
        ("ENCRYPTION", "6"),
        ("AEAD_TAG_LENGTH", "16"),
        ("99", "00" * 9),
    ]


def test_the_keys_that_a_policy_asks_for_are_listed() -> None:
    wish = plain_kemac([KeyData(KeyDataType.TGK, Secret(bytes(16)), spi=b"\x02")])
    tree = payload_tree(wish)
    assert tree.find("Key data", "key").value == "<secret 16 bytes>"
    assert tree.find("Key data", "SPI").value == "02"
    assert not payload_tree(Kemac(EncrAlg.NULL, b"\xff")).sound


def test_long_and_unprintable_data_are_cut_and_in_hex() -> None:
    assert text_of(b"plain") == "plain"
    assert text_of("säule".encode()) == "73c3a4756c65"
    assert text_of(bytes(1000)).endswith("... (1000 octets)")
    assert text_of(b"a" * 1000).endswith("... (1000 octets)")
