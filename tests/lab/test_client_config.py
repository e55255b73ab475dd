"""Configurations of foreign clients: what cannot be is said, and secrets stand where they are said to stand."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from keying.secret import Secret
from lab.client_config import CLIENTS, Account, Card, ClientConfigError, sipp

PASSWORD = "s3cr3t-of-dave"
DIGEST = Account(
    user="dave",
    impu="sip:dave@ims.test",
    impi="dave@ims.test",
    domain="ims.test",
    profile="digest",
    pcscf="127.1.1.2",
    pcscf_port=5060,
    pcscf_tls_port=5061,
    callee="sip:bob@ims.test",
    address="127.0.0.1",
    folder="/tmp/client",
    password=Secret(PASSWORD.encode()),
)
CARD = Card(Secret(b"K" * 16), Secret(b"O" * 16), b"\xb9\xb9")
AKA = replace(DIGEST, profile="aka-udp", password=None, card=CARD)


@pytest.mark.attack("T8")
@pytest.mark.parametrize("client", CLIENTS)
def test_the_password_is_in_files_marked_secret_and_in_no_command_or_note(client: str) -> None:
    made = CLIENTS[client](DIGEST)
    holding = {name for name, text in made.files.items() if PASSWORD in text}
    assert holding == made.secret
    assert holding
    assert PASSWORD not in " ".join((*made.commands, *made.notes, repr(DIGEST)))


def test_sipp_answers_a_challenge_with_the_keys_of_the_card() -> None:
    made = sipp(AKA)
    assert f"aka_K=0x{b'K'.hex() * 16} aka_OP=0x{b'O'.hex() * 16} aka_AMF=0xb9b9" in made.files["register.xml"]
    assert b"K".hex() * 16 not in " ".join(made.commands)
    for name in ("register.xml", "call.xml"):
        assert ET.fromstring(made.files[name]).tag == "scenario"


def test_an_agreement_on_media_security_is_asked_for_and_repeated_on_request() -> None:
    asking = sipp(replace(AKA, mediasec=True)).files["register.xml"]
    assert asking.count("Security-Client: sdes-srtp;mediasec") == 2
    assert asking.count("Security-Verify:[$agreed]") == 1
    assert "mediasec" not in sipp(AKA).files["register.xml"]


def test_only_a_request_that_is_answered_is_repeated() -> None:
    sends = ET.fromstring(sipp(DIGEST).files["call.xml"]).findall("send")
    assert [("ACK" in (send.text or "").split()[:1], "retrans" in send.attrib) for send in sends] == [
        (False, True),
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("account", "said"),
    [
        (replace(AKA, card=None), "usim:"),
        (replace(AKA, card=replace(CARD, k=Secret(b"K" * 15 + b"\x00"))), "cannot use k"),
        (replace(AKA, card=replace(CARD, op=Secret(b"O" * 15 + b"["))), "cannot use op"),
        (replace(AKA, card=replace(CARD, amf=b"\x80\x00")), "cannot use amf"),
        (replace(AKA, profile="aka-tls"), "over TLS"),
    ],
)
def test_what_sipp_cannot_do_is_said(account: Account, said: str) -> None:
    with pytest.raises(ClientConfigError, match=said):
        sipp(account)


@pytest.mark.parametrize("client", ["baresip", "linphone"])
def test_clients_without_aka_are_not_given_an_aka_user(client: str) -> None:
    with pytest.raises(ClientConfigError, match="digest"):
        CLIENTS[client](AKA)


def test_an_ipv6_address_of_the_pcscf_has_brackets() -> None:
    assert "[::1]:5060" in sipp(replace(DIGEST, pcscf="::1")).files["register.sh"]
