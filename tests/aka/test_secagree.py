from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalling.secagree import (
    MechanismEntry,
    SecurityHeaderError,
    agreed_mechanisms,
    announce,
    choose_signalling,
    format_entries,
    media_entries,
    media_mechanisms,
    parse_security_header,
    same_list,
    signalling_entries,
)

SERVER = (
    "ipsec-3gpp;q=0.9;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=3000000021;spi-s=3000000022;port-c=46020;port-s=46021,\r\n"
    " ipsec-3gpp;q=0.5;alg=hmac-sha-1-96;spi-c=3000000021;spi-s=3000000022;port-c=46020;port-s=46021,"
    " sdes-srtp;mediasec, msrp-tls;mediasec, udptl-dtls;mediasec"
)


@pytest.mark.clause("RFC 3329", "2.2")
@pytest.mark.clause("TS 24.229", "7.2A.7")
def test_signalling_and_media_entries_are_told_apart():
    entries = parse_security_header(SERVER)
    assert [entry.name for entry in signalling_entries(entries)] == ["ipsec-3gpp", "ipsec-3gpp"]
    assert [entry.name for entry in media_entries(entries)] == ["sdes-srtp", "msrp-tls", "udptl-dtls"]
    assert entries[0].q == Decimal("0.9")
    assert entries[0].get("SPI-C") == "3000000021"
    assert entries[2].get("mediasec") is None
    assert entries[2].is_media


@pytest.mark.clause("TS 33.328", "7.1-1")
@pytest.mark.clause("TS 24.229", "5.1.1")
def test_one_list_or_many_headers_mean_the_same():
    pieces = [str(entry) for entry in parse_security_header(SERVER)]
    assert parse_security_header(pieces) == parse_security_header(SERVER)
    assert parse_security_header(format_entries(parse_security_header(SERVER))) == parse_security_header(SERVER)


@pytest.mark.clause("RFC 3329", "2.2")
def test_quoted_values_may_hold_commas():
    entries = parse_security_header('digest;d-alg=md5;d-qop=auth;d-ver="0000,1111;2", tls;q=0.2')
    assert entries[0].get("d-ver") == "0000,1111;2"
    assert entries[1].name == "tls"
    assert str(entries[0]) == 'digest;d-alg=md5;d-qop=auth;d-ver="0000,1111;2"'


@pytest.mark.clause("RFC 3329", "2.2", "2.3.1")
@pytest.mark.attack("T1")
@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ",",
        "tls,",
        ",tls",
        "tls;",
        "tls;;q=1",
        "tls;q=",
        "tls;q=1.5",
        "tls;q=0.1234",
        "tls;q=x",
        "tls;q=0.1;Q=0.2",
        "tls;q=0.1,digest;q=0.1",
        "tls q=1",
        "tls:mediasec",
        'tls;x="',
        "a" * 20000,
        "tls," * 100 + "tls",
    ],
)
def test_malformed_headers_are_refused(value):
    with pytest.raises(SecurityHeaderError):
        parse_security_header(value)


@pytest.mark.clause("TS 33.328", "7.1-5")
@pytest.mark.clause("TS 24.229", "REG-8")
def test_a_preference_on_a_media_entry_does_no_harm():
    entries = parse_security_header("tls;q=0.1, sdes-srtp;mediasec;q=0.1, msrp-tls;q=0.1;mediasec;spi-c=x")
    assert media_mechanisms(entries) == ("sdes-srtp", "msrp-tls")


@pytest.mark.clause("TS 33.328", "7.1-2", "7.1.1-3")
@pytest.mark.clause("TS 24.229", "REG-7")
@pytest.mark.attack("T1")
def test_unknown_media_mechanisms_and_borrowed_names_are_ignored():
    entries = parse_security_header("tls;mediasec, SDES-SRTP;MediaSec, future;mediasec, sdes-srtp;mediasec, sdes-srtp")
    assert media_mechanisms(entries) == ("sdes-srtp",)
    assert media_mechanisms(parse_security_header("sdes-srtp")) == ()
    with pytest.raises(ValueError, match="signalling"):
        announce(["tls"])


@pytest.mark.clause("TS 33.328", "7.1-4", "5.4.1-3")
def test_agreed_is_what_both_announced():
    client = announce(["sdes-srtp", "msrp-tls"])
    server = announce(["udptl-dtls", "sdes-srtp"])
    assert agreed_mechanisms(client, server) == ("sdes-srtp",)
    assert agreed_mechanisms((), server) == ()
    assert format_entries(client) == "sdes-srtp;mediasec, msrp-tls;mediasec"


@pytest.mark.clause("RFC 3329", "2.3.1")
@pytest.mark.clause("TS 33.203", "PC-15", "PC-16")
@pytest.mark.parametrize(
    "echo",
    [
        SERVER,
        SERVER.replace(" ", "  "),
        SERVER.replace("ipsec-3gpp;q=0.9;alg=hmac-sha-1-96", "IPsec-3GPP;alg=HMAC-SHA-1-96;q=0.9"),
        SERVER.replace("mediasec", "MEDIASEC"),
    ],
)
def test_an_honest_echo_is_the_same_list(echo):
    assert same_list(parse_security_header(SERVER), parse_security_header(echo))


@pytest.mark.clause("RFC 3329", "2.3.1")
@pytest.mark.clause("TS 33.203", "PC-15", "PC-16")
@pytest.mark.clause("TS 33.328", "7.1.1-7")
@pytest.mark.attack("T1")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ealg=aes-cbc", "ealg=null"),
        ("q=0.9", "q=0.8"),
        (";spi-c=3000000021", ""),
        ("port-s=46021", "port-s=46022"),
        ("sdes-srtp;mediasec, ", ""),
        ("sdes-srtp;mediasec, msrp-tls;mediasec", "msrp-tls;mediasec, sdes-srtp;mediasec"),
        ("udptl-dtls;mediasec", "udptl-dtls"),
        ("udptl-dtls;mediasec", "udptl-dtls;mediasec, tls;q=0.1"),
    ],
)
def test_a_list_that_was_tampered_with_is_not_the_same(old, new):
    changed = SERVER.replace(old, new)
    assert changed != SERVER
    assert not same_list(parse_security_header(SERVER), parse_security_header(changed))


@pytest.mark.clause("RFC 3329", "2.3.1")
@pytest.mark.clause("TS 33.203", "UE-3")
@pytest.mark.clause("TS 33.328", "7.1-6")
def test_the_client_takes_the_highest_preference_it_supports():
    server = parse_security_header(SERVER)
    cbc = MechanismEntry("ipsec-3gpp", (("alg", "hmac-sha-1-96"), ("ealg", "aes-cbc")))
    null = MechanismEntry("ipsec-3gpp", (("alg", "hmac-sha-1-96"), ("ealg", "null")))
    assert choose_signalling(server, [null, cbc]) == server[0]
    assert choose_signalling(server, [null]) == server[1]
    assert choose_signalling(server, [MechanismEntry("tls")]) is None
    unordered = parse_security_header("tls, digest, sdes-srtp;mediasec")
    assert choose_signalling(unordered, [MechanismEntry("digest"), MechanismEntry("tls")]) == unordered[0]


@pytest.mark.attack("T7")
@given(st.text(alphabet='abt;,=" \t\\q.019', max_size=60))
def test_any_text_is_read_or_refused_and_what_is_read_survives(text):
    try:
        entries = parse_security_header(text)
    except SecurityHeaderError:
        return
    assert parse_security_header(format_entries(entries)) == entries
