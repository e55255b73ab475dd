import base64
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.mikey.codec import decode, decode_ticket_data, encode, encode_ticket_data
from keying.mikey.payloads import ErrorPayload, Header, Kemac, KeyData, Message, Payload, TicketPayload, Timestamp
from keying.mikey.registry import DataType, EncrAlg, KeyDataType, MacAlg, TsType
from keying.mikey.sealed import SEALED_TYPES
from keying.sdes import generate, redact
from keying.secret import Secret
from keying.suites import SUITES
from tests.keying.mikey import vectors

KEY = base64.b64encode(bytes(range(30))).decode()


@pytest.mark.clause("TS 33.328", "7.2.1-3")
@pytest.mark.clause("TS 24.229", "PS-13")
@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    "text",
    [
        f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}",
        f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 INLINE:{KEY}|2^20|1:4",
        f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|1:4;inline:{KEY}|2:4 FEC_KEY=inline:{KEY}",
        f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline: {KEY}",
        f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:|{KEY}",
        f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x|{KEY}|1:4",
        f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 other:{KEY}",
        f"a=acap:1 crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}",
        f"inline%3A{KEY}",
        f'{{"sdp": "a=crypto:1 X inline:{KEY}\\r\\na=x"}}',
        f"a=key-mgmt:mikey {KEY}",
        f"a=key-mgmt: mikey {KEY}",
        f"a=key-mgmt : mikey {KEY}",
        f"a=key-mgmt:mikey {base64.b64encode(vectors.TRANSFER_INIT).decode()} {KEY}",
        f"k=base64:{KEY}",
        f"v=0\r\nk=clear:{KEY}\r\n",
        f'Authorization: Digest username="a", response="{KEY}"',
        f'Authorization: Digest username="a",response={KEY},x=y',
        f'Authorization: Digest auts="{KEY}", nc=00000001',
        f'WWW-Authenticate: Digest nonce="n",ik="{KEY}",ck="{KEY}"',
        f'Authentication-Info: rspauth="{KEY}"',
        f'{{"auth": "Digest response=\\"{KEY}\\""}}',
        f"INVITE sip:alice:{KEY}@ims.test SIP/2.0",
        f'Authorization: Digest response = "{KEY}',
    ],
)
def test_no_key_survives(text):
    shown = redact(text)
    assert KEY not in shown
    assert "<redacted>" in shown
    assert redact(text.encode()) == shown.encode()


@pytest.mark.attack("T8")
@given(st.sampled_from(sorted(SUITES)), st.integers(0, 9), st.text(max_size=30), st.text(max_size=30))
def test_a_generated_key_never_survives_whatever_stands_around_it(suite, tag, before, after):
    line = generate(suite, tag).encode()
    key = line.split("inline:")[1]
    assert key not in redact(f"{before}\r\na=crypto:{line}\r\n{after}")


@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sip:alice:pw@h", "sip:alice:<redacted>@h"),
        ("SIPS:alice:pw:more@h", "SIPS:alice:<redacted>@h"),
        ("sip:asip:asip:a@h", "sip:asip:<redacted>@h"),
        ("sip:h:5060;lr <sip:a:p@h>, sip:b:q@h", "sip:h:5060;lr <sip:a:<redacted>@h>, sip:b:<redacted>@h"),
        ("sip:a:p@sip:b:q@h", "sip:a:<redacted>@sip:b:<redacted>@h"),
        ("sip:\u017fip:p@h", "sip:\u017fip:<redacted>@h"),
        ("\u017fip:a:p@h", "\u017fip:a:<redacted>@h"),
        ("sip:alice:@h", "sip:alice:@h"),
        ("sip:asip:asip:a", "sip:asip:asip:a"),
        ("sip:h:5060 bob@h", "sip:h:5060 bob@h"),
    ],
)
def test_the_password_of_a_uri_is_masked_and_nothing_beside_it(text, shown):
    assert redact(text) == shown


@pytest.mark.attack("T7")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["", "@", " ", "\u017f"])
@pytest.mark.parametrize(
    "part",
    [
        "sip:a", "sip:a:", "sips:", "sip::", "inline", "inline:", "inline:|2^1", "inline ", "crypto:1 ", "crypto:1 x ",
        "crypto:", "key-mgmt:", "key-mgmt:mikey ", "response=", "ik ", 'ck="', "k=base64:", "\nk=clear:", " ", "|1", "1",
        "\nc:", "\nc: ", "\nc:\r\n application \r\n /",
    ],
)  # fmt: skip
def test_a_megabyte_of_half_a_secret_is_read_in_one_go(part, end):
    """Reading it anew from each of its beginnings takes minutes, in one go a fraction of a second."""
    text = part * (1_000_000 // len(part)) + end
    assert len(redact(text)) >= len("<redacted>")


def test_what_is_no_secret_stays():
    text = (
        "INVITE sip:bob@ims.test SIP/2.0\r\n"
        'Authorization: Digest username="a@ims.test",realm="ims.test",nonce="I1U8=",response="",nc=00000001\r\n'
        "Contact: <sip:192.0.2.1:5060;transport=tcp>\r\nContent-Length: 1\r\n\r\n"
        "m=audio 40000 RTP/SAVP 0\r\na=3ge2ae:requested\r\na=rtpmap:0 PCMU/8000\r\n"
    )
    assert redact(text) == text


def test_suite_lifetime_and_mki_stay_readable():
    assert redact(f"a=crypto:7 AEAD_AES_128_GCM inline:{KEY}|2^20|1:4") == (
        "a=crypto:7 AEAD_AES_128_GCM inline:<redacted>|2^20|1:4"
    )


@given(st.binary(max_size=200))
def test_any_octets_can_be_redacted(octets):
    assert isinstance(redact(octets), bytes)
    if b"=" not in octets and b":" not in octets:
        assert redact(octets) == octets


# MIKEY: what a reader of a trace needs stays, what could have a key in it does not

ERROR = encode(Message(Header(DataType.ERROR, 7), (Timestamp(TsType.NTP_UTC, bytes(8)), ErrorPayload(10))))
IN_CLEAR = Kemac(EncrAlg.NULL, bytes(range(30)), MacAlg.NULL, b"")
SEALED = {"TRANSFER_INIT": vectors.TRANSFER_INIT, "TRANSFER_RESP": vectors.TRANSFER_RESP, "ERROR": ERROR}


def line(message: bytes) -> str:
    return f"a=key-mgmt:mikey {base64.b64encode(message).decode()}"


def with_payload(message: bytes, *more: Payload, kind: DataType | None = None) -> bytes:
    read = decode(message)
    header = read.header if kind is None else dataclasses.replace(read.header, data_type=kind)
    return encode(Message(header, (*more, *read.payloads)))


def with_ticket(**changed: Any) -> bytes:
    read = decode(vectors.TRANSFER_INIT)
    payloads = [
        dataclasses.replace(each, **changed) if isinstance(each, TicketPayload) else each for each in read.payloads
    ]
    return encode(Message(read.header, tuple(payloads)))


def ticket_in_clear() -> bytes:
    return encode_ticket_data(
        [
            dataclasses.replace(each, encr_alg=EncrAlg.NULL) if isinstance(each, Kemac) else each
            for each in decode_ticket_data(vectors.TICKET_DATA)
        ]
    )


@pytest.mark.parametrize("name", SEALED)
@pytest.mark.parametrize("end", ["", "\r\nm=audio 40000 RTP/SAVP 0\r\n", "\\r\\nm=audio"])
def test_a_message_of_a_ticket_transfer_stays_as_it_is(name, end):
    text = f"v=0\r\n{line(SEALED[name])}{end}"
    assert redact(text) == text
    assert redact(text.encode()) == text.encode()


@pytest.mark.attack("T8")
@pytest.mark.parametrize("name", sorted(set(vectors.MESSAGES) - set(SEALED)))
def test_a_message_between_a_user_and_a_kms_is_masked(name):
    assert redact(line(vectors.MESSAGES[name])) == "a=key-mgmt:mikey <redacted>"


@pytest.mark.attack("T8")
@pytest.mark.parametrize("kind", [kind for kind in DataType if kind not in SEALED_TYPES])
def test_a_message_of_any_other_data_type_is_masked(kind):
    octets = bytes([1, kind]) + vectors.TRANSFER_INIT[2:]
    assert redact(line(octets)) == "a=key-mgmt:mikey <redacted>"


@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    "octets",
    [
        with_payload(vectors.TRANSFER_INIT, IN_CLEAR),
        with_payload(vectors.TRANSFER_RESP, IN_CLEAR),
        with_payload(ERROR, IN_CLEAR),
        with_payload(vectors.TRANSFER_RESP, KeyData(KeyDataType.TGK, Secret(bytes(range(16))))),
        with_ticket(ticket_data=ticket_in_clear()),
        with_ticket(ticket_data=bytes(range(40))),
        with_ticket(initiator_data=bytes(range(40))),
        vectors.TRANSFER_INIT + bytes(16),
        vectors.TRANSFER_INIT[:2],
        b"",
    ],
    ids=[
        "NULL KEMAC in INIT", "NULL KEMAC in RESP", "NULL KEMAC in ERROR", "bare key", "NULL KEMAC in the ticket",
        "unreadable ticket", "unreadable Initiator Data", "octets behind it", "header alone", "nothing",
    ],
)  # fmt: skip
def test_a_message_that_could_have_a_key_in_the_clear_is_masked(octets):
    text = f"{line(octets)}."
    assert redact(text) == "a=key-mgmt:mikey <redacted>"


@pytest.mark.attack("T8")
def test_a_message_cut_anywhere_is_masked():
    whole = line(vectors.TRANSFER_INIT)
    for length in range(len("a=key-mgmt:mikey ") + 1, len(whole) - 2):
        assert redact(whole[:length]) == "a=key-mgmt:mikey <redacted>", length


@pytest.mark.attack("T8")
@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_message_is_whole_or_masked(tail, place, value):
    octets = bytearray(vectors.TRANSFER_RESP)
    octets[place % len(octets)] = value
    for message in (bytes(octets), bytes([1, DataType.TRANSFER_INIT]) + tail):
        assert redact(line(message)) in {line(message), "a=key-mgmt:mikey <redacted>"}


@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    "field",
    [
        "Content-Type:\r\n application/mikey",
        "c : \t\r\n\tapplication / mikey",
        "Content-Type: application/\r\n mikey ;x=y",
        "Content-Type: multipart/mixed;boundary=b\r\n\r\n--b\r\nContent-Type: application /mikey",
    ],
)
def test_a_folded_content_type_hides_no_body_with_a_key(field):
    """RFC 3261 25.1 lets white space stand about the slash and a field go on in the next line."""
    key = base64.b64encode(vectors.REQUEST_RESP).decode()
    text = f"MESSAGE sip:bob@ims.test SIP/2.0\r\n{field}\r\nContent-Length: 1\r\n\r\n"
    assert redact(text + key) == f"{text}<redacted>"
    assert redact(text + line(vectors.REQUEST_RESP)[17:] + "\r\n--b--") == f"{text}<redacted>"


@pytest.mark.parametrize("field", ["Content-Type: application/mikey", "c:application/MIKEY;x=y"])
@pytest.mark.parametrize("encoded", [False, True])
def test_a_body_of_mikey_is_treated_like_a_line_of_it(field, encoded):
    def body(octets: bytes) -> bytes:
        head = f"MESSAGE sip:bob@ims.test SIP/2.0\r\n{field}\r\nContent-Length: 1\r\n\r\n".encode()
        return head + (base64.encodebytes(octets) if encoded else octets)

    for octets in SEALED.values():
        assert redact(body(octets)) == body(octets)
    for octets in (vectors.REQUEST_RESP, with_payload(vectors.TRANSFER_RESP, IN_CLEAR), vectors.TRANSFER_INIT[:-1]):
        shown = redact(body(octets))
        assert shown.endswith(b"\r\n\r\n<redacted>")
        assert octets[2:20] not in shown
