"""The independent path against numbers it did not make: third-party PRF vectors and one whole exchange, octet by octet."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.keying.mikey.independent import forge
from tests.keying.mikey.independent.crypto import aes_cm, prf, unix
from tests.keying.mikey.independent.example import EXCHANGE, INPUTS, KEYS, SESSIONS
from tests.keying.mikey.independent.rfc6043 import verify_exchange
from tests.keying.mikey.independent.update import verify_error, verify_update
from tests.keying.mikey.independent.wire import Mismatch, parse, read_initiator_data, read_ticket_data

# Streamwide/sw_mikey_sakke, unit_tests/test_key_deriv.cc: labels of RFC 3830 without length octets, PRF 1.
THIRD_PARTY = [
    ("04", "05A85C16", "15798CEF", 128, "3924935940c154ccbc3c2ad05c8f5181"),
    ("04", "05A85C16", "39A2C14B", 96, "1725869b80f370cc9f24e13b"),
    ("00", "05A85C16", "15798CEF", 128, "f17c80a8d2f9befa47cf712603d7229a"),
    ("00", "05A85C16", "39A2C14B", 96, "c3b7b561a291a1d3abef482b"),
    ("04", "0633F457", "2AD01C64", 128, "59aaa49ebb54813602b7cc165961b4e8"),
    ("04", "0633F457", "39A2C14B", 96, "745eb4df7d155c473114a799"),
]


@pytest.mark.parametrize(("cs_id", "csb_id", "const", "bits", "expected"), THIRD_PARTY)
def test_prf_gives_the_third_party_outputs(cs_id, csb_id, const, bits, expected):
    inkey, rand = bytes.fromhex("A27B7D578EEB9B1EE7705E385996D300"), "4339F62F55AAC86348846A482C893802"
    assert prf(1, inkey, bytes.fromhex(const + cs_id + csb_id + rand), bits).hex() == expected


@pytest.mark.parametrize(
    ("function", "bits", "expected"),
    [
        (0, 160, "0e84844afdda023b708c4a8e9eb8871198b5c8ec"),
        (1, 256, "14dc868321c33ef5b272bcf950d3bea4a3e64d9b181447743f4ae92398e6f180"),
    ],
)
def test_prf_xors_the_blocks_of_a_long_key(function, bits, expected):
    assert prf(function, bytes(range(0x30)), b"label", bits).hex() == expected


def test_key_transport_runs_the_counter_of_rfc_3711():
    key, salt = bytes.fromhex("2B7E151628AED2A6ABF7158809CF4F3C"), bytes.fromhex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD")
    stream = aes_cm(key, salt, bytes(4), bytes(8), bytes(48)).hex()
    assert stream == "e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab41e95b3bb0a2e8dd477901e4fca894c0"


def test_every_key_of_the_example_comes_out():
    verified = verify_exchange(EXCHANGE)
    assert {name: verified.keys[name].hex() for name in KEYS} == KEYS
    assert {cs: (s["tek"].hex(), s["salt"].hex()) for cs, s in verified.sessions.items()} == SESSIONS
    assert (verified.initiator, verified.responder) == (b"sip:alice@a.example", b"sip:bob@b.example")
    assert [(key["type"], key["data"], key["spi"]) for key in verified.master] == [
        (0, bytes(range(0x20, 0x30)), b"\x02")
    ]


def test_the_example_is_rebuilt_from_its_inputs_octet_by_octet():
    built = forge.exchange(**INPUTS)
    assert {name: octets.hex() for name, octets in built.items()} == {name: EXCHANGE[name].hex() for name in built}


def test_an_exchange_file_of_the_lab_is_read():
    text: dict[str, Any] = {name: base64.b64encode(EXCHANGE[name]).decode() for name in EXCHANGE if name.isupper()}
    text |= {name: EXCHANGE[name].hex() for name in ("psk_i", "psk_r", "tpk")}
    assert verify_exchange(json.loads(json.dumps(text))).sessions == verify_exchange(EXCHANGE).sessions


def test_ticket_data_and_initiator_data_are_read():
    ticket = parse(EXCHANGE["TRANSFER_INIT"]).get("TICKET")
    inside = read_ticket_data(ticket["data"])
    assert set(inside) == {"THDR", "T", "RAND", "KEMAC", "V"}
    assert len(ticket["data"]) == 102
    vi, vr = read_initiator_data(ticket["initiator_data"])
    assert vi["mac"] == parse(EXCHANGE["TRANSFER_INIT"]).get("V")["mac"] != vr["mac"]


@pytest.mark.parametrize("name", [name for name in EXCHANGE if name.isupper()])
def test_no_octet_of_any_message_may_change(name):
    for place in range(len(EXCHANGE[name])):
        changed = bytearray(EXCHANGE[name])
        changed[place] ^= 0x01
        with pytest.raises(Mismatch):
            verify_exchange(EXCHANGE | {name: bytes(changed)})


@pytest.mark.parametrize("name", [name for name in EXCHANGE if name.isupper()])
def test_no_message_may_be_cut_or_grow(name):
    octets = EXCHANGE[name]
    for changed in [*(octets[:length] for length in range(1, len(octets))), octets + b"\0"]:
        with pytest.raises(Mismatch):
            verify_exchange(EXCHANGE | {name: changed})


@pytest.mark.parametrize(
    ("value", "expected"),
    [("80000000", -61505152), ("ffffffff", 2085978495), ("00000000", 2085978496), ("7fffffff", 4233462143)],
)
def test_timestamps_reach_from_1968_to_2104(value, expected):
    assert unix({"type": 3, "value": bytes.fromhex(value)}) == expected


SUITES = {"128": forge.SHORT, "256": forge.LONG}
FLAG_SETS = ["DEFGHINO", "DEFGIN", "DEFHIJNO", "DEFGHNO", "DEFHNO", "DFGNO", "DEHNO", "DHNO"]


@pytest.mark.parametrize("flags", FLAG_SETS)
@pytest.mark.parametrize("suite", SUITES)
def test_every_kind_of_ticket_makes_an_exchange_that_verifies(flags, suite):
    long = 2 if suite == "256" else 1
    rands = {name: octets * long for name, octets in INPUTS["rands"].items()}
    keys = [
        (0, b"g" * 16 * long, b"\x02", b""),
        (5, b"h" * 16 * long, b"\x12", b"s" * 14),
        (3, b"t" * 16, b"\x22", b"u" * 14),
    ]
    sessions = [
        [
            (n, ssrc, spi)
            for n, (ssrc, spi) in enumerate(zip(("01020304",) * 3, (b"\x02", b"\x12", b"\x22"), strict=True), 1)
        ]
    ] * 2
    inputs = INPUTS | {"flags": flags, "suite": SUITES[suite], "mpk": b"m" * 16 * long, "tpk": b"p" * 16 * long}
    inputs |= {"rands": rands, "keys": keys, "sessions": sessions}
    verified = verify_exchange(forge.exchange(**inputs) | {name: inputs[name] for name in ("psk_i", "psk_r", "tpk")})
    assert (verified.session_keys[0]["data"] == keys[0][1]) == ("I" not in flags)
    assert [key["data"] for key in verified.session_keys[1:]] == [keys[1][1], keys[2][1]]
    assert verified.sessions[2]["salt"] == b"s" * 14
    assert (verified.sessions[3]["tek"], verified.sessions[3]["salt"]) == (b"t" * 16, b"u" * 14)


def test_mixed_suites_are_refused():
    built = forge.exchange(**INPUTS | {"suite": (0, 1, 2)})
    with pytest.raises(Mismatch, match="mixed"):
        verify_exchange(EXCHANGE | built)


@pytest.mark.parametrize("flags", ["EFGHINO", "DEGHINO", "DEFINO", "DFGHINO", "DEHMNO", "EFHK"])
def test_flags_that_contradict_each_other_are_refused(flags):
    built = {**EXCHANGE, "TRANSFER_RESP": None, **forge.exchange(**INPUTS | {"flags": flags})}
    with pytest.raises(Mismatch):
        verify_exchange(built)


def test_updates_of_both_sides_verify_and_a_changed_one_does_not():
    verified = verify_exchange(EXCHANGE)
    under, csb_id, times = (
        verified.last["keys"],
        INPUTS["csb_ids"][1],
        [b"\xd5\xa0\xb0\xd0" + bytes(3) + bytes([n]) for n in (1, 2)],
    )
    blocks = [forge.session(cs, b"\x01\x02\x03\x04", b"\x02") for cs in (1, 2, 3)]
    for starter in ("i", "r"):
        parts = [forge.t(times[0]), forge.v(1)]
        init = forge.message(14, csb_id, parts, flag=1, sessions=blocks, map_type=2)
        init = forge.sealed(init, forge.SHORT, under["auth"], verified.initiator + verified.responder)
        resp = forge.message(15, csb_id, [forge.t(times[1]), forge.v(1)], sessions=blocks, map_type=2)
        resp = forge.sealed(resp, forge.SHORT, under["auth"], init)
        fresh = verify_update(verified, init, resp, starter)
        assert (fresh.sessions[1]["tek"].hex(), fresh.sessions[1]["salt"].hex()) == SESSIONS[1]
        assert fresh.sessions[3]["tek"] not in {fresh.sessions[1]["tek"], fresh.sessions[2]["tek"]}
        with pytest.raises(Mismatch):
            verify_update(verified, init[:-1] + bytes([init[-1] ^ 1]), resp, starter)
        with pytest.raises(Mismatch):
            verify_update(verified, init, None, starter)


def test_an_error_message_names_its_numbers_and_covers_itself():
    auth = bytes.fromhex(KEYS["REQUEST_INIT.auth"])
    parts = [forge.t(INPUTS["times"][1]), forge.err(14), forge.err(15), forge.v(1)]
    error = forge.sealed(forge.message(6, INPUTS["csb_ids"][0], parts), forge.SHORT, auth, b"")
    assert verify_error(error, EXCHANGE["REQUEST_INIT"], auth) == [14, 15]
    with pytest.raises(Mismatch):
        verify_error(error[:-1] + b"\0", EXCHANGE["REQUEST_INIT"], auth)
    with pytest.raises(Mismatch):
        verify_error(error, error, auth)


def test_a_message_taken_apart_goes_together_again():
    keys, names = {name: EXCHANGE.get(name, b"") for name in EXCHANGE}, INPUTS["identities"]
    verified = verify_exchange(EXCHANGE)
    mpki, mpkr, forked = (verified.keys[name] for name in ("MPKi", "MPKr", "MPKr'"))
    for name, inkey, behind in (
        ("REQUEST_INIT", keys["psk_i"], names["i"] + names["kms"]),
        ("REQUEST_RESP", keys["psk_i"], b""),
        ("TRANSFER_INIT", mpki, names["i"] + names["r"]),
        ("RESOLVE_INIT", keys["psk_r"], names["r"] + names["kms"]),
        ("RESOLVE_RESP", keys["psk_r"], b""),
        ("TRANSFER_RESP", forked, b""),
    ):
        initial = keys[name.replace("RESP", "INIT")] if name.endswith("RESP") else b""
        again = forge.respell(
            EXCHANGE[name], inkey, behind=behind, initial=initial, mpkr=mpkr if name == "TRANSFER_INIT" else None
        )
        assert again.hex() == EXCHANGE[name].hex()
