import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.sdes import generate, redact
from keying.suites import SUITES

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
