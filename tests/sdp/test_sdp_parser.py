import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalling.sdp import SdpError, parse_sdp
from signalling.sdp.parser import MAX_LINES, MAX_MEDIA, MAX_OCTETS

MINIMAL = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n"
OFFER = (
    b"v=0\r\no=alice 1001 1 IN IP4 192.0.2.10\r\ns= \r\ni=a call\r\nu=http://example.test/\r\ne=a@example.test\r\n"
    b"p=+1 555 0100\r\nc=IN IP4 192.0.2.10\r\nb=AS:64\r\nb=X-NEW:1\r\nt=0 0\r\nr=7d 1h 0 25h\r\nt=1 2\r\nz=1 -1h\r\nk=prompt\r\n"
    b"a=charset:ISO-8859-1\r\na=sendrecv\r\n"
    b"m=audio 40000 RTP/SAVP 97 98\r\ni=voice\r\nc=IN IP6 2001:db8::1\r\nb=AS:64\r\na=rtpmap:97 AMR-WB/16000/1\r\n"
    b"a=unknown: \t odd  spaces \r\na=crypto:1 BROKEN\r\na=3ge2ae:requested\r\n"
    b"m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\na=name: \xc3\xa9 \xff\xfe\r\n"
)


@pytest.mark.clause("RFC 8866", "5")
def test_every_line_survives_a_round_trip_byte_for_byte():
    assert parse_sdp(OFFER).to_bytes() == OFFER
    assert parse_sdp(OFFER.decode("utf-8", "surrogateescape")).to_bytes() == OFFER


@pytest.mark.clause("RFC 8866", "5", "9")
def test_bare_line_feeds_and_a_missing_last_line_end_are_taken():
    assert parse_sdp(OFFER.replace(b"\r\n", b"\n")).to_bytes() == OFFER
    assert parse_sdp(OFFER[:-2]).to_bytes() == OFFER


@pytest.mark.clause("RFC 8866", "5")
@pytest.mark.parametrize("missing", [b"v=0\r\n", b"o=- 1 1 IN IP4 192.0.2.1\r\n", b"s=-\r\n", b"t=0 0\r\n"])
def test_version_origin_name_and_time_must_be_there(missing):
    with pytest.raises(SdpError):
        parse_sdp(MINIMAL.replace(missing, b""))


@pytest.mark.clause("RFC 8866", "5")
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\r\n",
        b"v=1\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n",
        b" " + MINIMAL,
        MINIMAL + b"\r\n",
        MINIMAL + b"x=1\r\n",
        MINIMAL + b"A=1\r\n",
        MINIMAL + b"a\r\n",
        MINIMAL + b"a =x\r\n",
        MINIMAL + b"a=\r\n",
        MINIMAL + b"a=a b\r\n",
        MINIMAL + b"a=x\x00\r\n",
        MINIMAL + b"a=x\ry\r\n",
        MINIMAL + b"v=0\r\n",
        MINIMAL + b"c=IN IP4 192.0.2.1\r\n",
        MINIMAL.replace(b"s=-\r\n", b"s=-\r\ns=-\r\n"),
        MINIMAL + b"m=audio 1 RTP/AVP 0\r\nt=0 0\r\n",
        MINIMAL + b"m=audio 1 RTP/AVP 0\r\na=x\r\nc=IN IP4 192.0.2.1\r\n",
        MINIMAL + b"m=audio 1 RTP/AVP 0\r\ni=a\r\ni=b\r\n",
        MINIMAL.replace(b"1 1 IN", b"1 x IN"),
        MINIMAL.replace(b"1 1 IN", b"1 " + b"9" * 5000 + b" IN"),
        MINIMAL.replace(b" IP4 192.0.2.1", b" IP4"),
        MINIMAL.replace(b"s=-\r\n", b"s=-\r\nc=IN IP4\r\n"),
    ],
)
def test_what_breaks_grammar_or_order_is_refused(text):
    with pytest.raises(SdpError):
        parse_sdp(text)


@pytest.mark.clause("RFC 8866", "5.14")
@pytest.mark.parametrize(
    "value",
    [
        b"audio",
        b"audio 1",
        b"audio 1 RTP/AVP",
        b"audio 1 RTP/AVP ",
        b"audio  1 RTP/AVP 0",
        b"audio x RTP/AVP 0",
        b"audio -1 RTP/AVP 0",
        b"audio 65536 RTP/AVP 0",
        b"audio 1/ RTP/AVP 0",
        b"audio 1/0 RTP/AVP 0",
        b"audio 1/x RTP/AVP 0",
        b"audio 1 RTP/ 0",
        b"au:dio 1 RTP/AVP 0",
        b"audio \xd9\xa1 RTP/AVP 0",
        b"audio 000001 RTP/AVP 0",
    ],
)
def test_a_media_line_has_type_port_profile_and_formats(value):
    with pytest.raises(SdpError) as caught:
        parse_sdp(MINIMAL + b"m=" + value + b"\r\n")
    assert caught.value.line == 5


@pytest.mark.attack("T7")
def test_endless_descriptions_are_refused():
    for text in (
        MINIMAL + b"a=x\r\n" * MAX_LINES,
        MINIMAL + b"m=audio 1 RTP/AVP 0\r\n" * (MAX_MEDIA + 1),
        MINIMAL + b"a=" + b"x" * MAX_OCTETS,
    ):
        with pytest.raises(SdpError):
            parse_sdp(text)


def test_a_faulty_crypto_line_does_not_stop_the_reader():
    assert parse_sdp(OFFER).media[0].crypto == ["1 BROKEN"]


@pytest.mark.attack("T8")
def test_errors_do_not_repeat_the_text():
    with pytest.raises(SdpError) as caught:
        parse_sdp(MINIMAL + b"crypto inline:SECRET\r\n")
    assert "SECRET" not in str(caught.value)


@pytest.mark.attack("T7")
@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda tail: MINIMAL + tail))
def test_any_octets_are_read_or_refused_and_what_is_read_survives(octets):
    try:
        description = parse_sdp(octets)
    except SdpError:
        return
    assert parse_sdp(description.to_bytes()).to_bytes() == description.to_bytes()


@pytest.mark.attack("T7")
@given(st.integers(0, len(OFFER) - 1), st.binary(max_size=3))
def test_a_damaged_description_is_read_or_refused(place, junk):
    try:
        description = parse_sdp(OFFER[:place] + junk + OFFER[place + 1 :])
    except SdpError:
        return
    assert description.to_bytes().startswith(b"v=0\r\n")
