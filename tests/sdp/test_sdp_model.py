import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalling.sdp import (
    Candidate,
    Connection,
    Fingerprint,
    MediaDescription,
    Origin,
    RtcpAddress,
    RtpMap,
    SdpAttributeError,
    SdpError,
    SessionDescription,
    parse_sdp,
)

TEXT = """v=0
o=alice 1001 7 IN IP4 192.0.2.10
s=-
c=IN IP4 192.0.2.10
t=0 0
a=fingerprint:SHA-256 0F:B4:1f
a=setup:actpass
a=key-mgmt:mikey AQ==
a=recvonly
m=audio 40000 RTP/SAVP 97 98
a=rtpmap:97 AMR-WB/16000
a=rtpmap:98 telephone-event/16000/1
a=fmtp:98 0-15
a=ptime:20
a=3ge2ae: requested
a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x
a=crypto:2 AEAD_AES_128_GCM inline:y
a=rtcp:40005 IN IP6 2001:db8::5
a=rtcp-mux
a=sendonly
m=application 50000/2 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP6 2001:db8::1
a=fingerprint:sha-1 AA
a=setup:ACTIVE
a=tls-id:aa2a2ebda2a9898a6232
a=dcmap:0 subprotocol="http"
a=candidate:1 1 UDP 2130706431 192.0.2.10 50000 typ host generation 0
"""


@pytest.fixture
def sdp():
    return parse_sdp(TEXT)


def test_typed_views_of_an_audio_stream(sdp):
    audio = sdp.media[0]
    assert (audio.media, audio.port, audio.port_count, audio.proto, audio.formats) == (
        "audio",
        40000,
        1,
        "RTP/SAVP",
        ("97", "98"),
    )
    assert audio.is_secure_rtp
    assert audio.rtpmaps == {97: RtpMap(97, "AMR-WB", 16000), 98: RtpMap(98, "telephone-event", 16000, "1")}
    assert audio.fmtps == {"98": "0-15"}
    assert audio.ptime == 20
    assert audio.crypto == ["1 AES_CM_128_HMAC_SHA1_80 inline:x", "2 AEAD_AES_128_GCM inline:y"]
    assert audio.rtcp == RtcpAddress(40005, "2001:db8::5", "IP6")
    assert audio.rtcp_mux
    assert audio.direction == "sendonly"
    assert audio.connection is None


@pytest.mark.clause("TS 24.229", "7.5.2")
def test_3ge2ae_takes_one_space_and_ignores_other_values(sdp):
    audio = sdp.media[0]
    assert audio.e2ae == "requested"
    audio.add("3ge2ae", "requested")
    assert audio.e2ae == "requested"
    audio.add("3ge2ae", "something")
    assert audio.e2ae == "requested"
    audio.add("3ge2ae", "applied")
    with pytest.raises(SdpAttributeError):
        _ = audio.e2ae
    audio.remove("3ge2ae")
    assert audio.e2ae is None


@pytest.mark.clause("TS 33.328", "7.2.1-1")
@pytest.mark.clause("RFC 4568", "4", "SDES-1")
def test_media_security_attributes_at_session_level_do_not_count_for_a_stream():
    text = TEXT.replace("a=recvonly\n", "a=3ge2ae:applied\na=crypto:9 X inline:z\na=recvonly\n")
    audio = parse_sdp(text).media[0]
    assert audio.e2ae == "requested"
    assert len(audio.crypto) == 2


@pytest.mark.clause("RFC 8122", "5")
@pytest.mark.clause("RFC 4145", "4")
@pytest.mark.clause("RFC 4567", "3.1")
def test_media_level_values_win_over_session_level_ones(sdp):
    audio, data = sdp.media
    assert sdp.fingerprints_of(audio) == (Fingerprint("sha-256", b"\x0f\xb4\x1f"),)
    assert sdp.fingerprints_of(data) == (Fingerprint("sha-1", b"\xaa"),)
    assert (sdp.setup_of(audio), sdp.setup_of(data)) == ("actpass", "active")
    assert sdp.key_mgmt_of(audio) == ("mikey AQ==",)
    assert sdp.connection_of(audio) == Connection("192.0.2.10")
    assert sdp.connection_of(data) == Connection("2001:db8::1", "IN", "IP6")
    assert (sdp.direction_of(audio), sdp.direction_of(data)) == ("sendonly", "recvonly")


def test_typed_views_of_a_data_channel(sdp):
    data = sdp.media[1]
    assert data.port_count == 2
    assert data.tls_id == "aa2a2ebda2a9898a6232"
    assert data.dcmaps == ('0 subprotocol="http"',)
    assert data.candidates == (
        Candidate("1", 1, "UDP", 2130706431, "192.0.2.10", 50000, "host", (("generation", "0"),)),
    )
    assert str(data.candidates[0]) == data.get("candidate")


@pytest.mark.parametrize(
    ("name", "value", "view"),
    [
        ("rtpmap", "97", "rtpmaps"),
        ("rtpmap", "200 X/8000", "rtpmaps"),
        ("rtpmap", "97 X/abc", "rtpmaps"),
        ("fmtp", "97", "fmtps"),
        ("fingerprint", "sha-256 XX", "fingerprints"),
        ("fingerprint", "sha-256", "fingerprints"),
        ("setup", "sometimes", "setup"),
        ("rtcp", "x", "rtcp"),
        ("rtcp", "70000", "rtcp"),
        ("rtcp", "1 IN IP4", "rtcp"),
        ("candidate", "1 1 UDP", "candidates"),
        ("candidate", "1 1 UDP x 192.0.2.1 1 typ host", "candidates"),
    ],
)
def test_a_bad_attribute_is_an_error_of_that_attribute_alone(name, value, view):
    media = MediaDescription.build("audio", 1, "RTP/AVP", ["0"])
    media.add(name, value)
    with pytest.raises(SdpAttributeError):
        getattr(media, view)


def test_rewriting_a_stream_for_the_other_side_keeps_everything_else(sdp):
    audio = sdp.media[0]
    audio.proto = "RTP/AVP"
    audio.port = 30000
    audio.remove("crypto")
    audio.remove("3ge2ae")
    audio.connection = Connection.for_address("198.51.100.11")
    expected = (
        TEXT.replace("m=audio 40000 RTP/SAVP 97 98\n", "m=audio 30000 RTP/AVP 97 98\nc=IN IP4 198.51.100.11\n")
        .replace("a=3ge2ae: requested\n", "")
        .replace("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\n", "")
        .replace("a=crypto:2 AEAD_AES_128_GCM inline:y\n", "")
    )
    assert sdp.to_bytes().decode() == expected.replace("\n", "\r\n")


def test_replacing_crypto_lines_and_the_direction(sdp):
    audio = sdp.media[0]
    audio.crypto = ["1 X inline:new"]
    audio.direction = "inactive"
    assert audio.crypto == ["1 X inline:new"]
    assert audio.own_direction == "inactive"
    assert audio.get("sendonly") is None
    with pytest.raises(SdpError):
        audio.direction = "sideways"


def test_an_attribute_keeps_its_place_when_it_is_set(sdp):
    audio = sdp.media[0]
    audio.set("ptime", "30")
    names = [attribute.name for attribute in audio.attributes]
    assert names.index("ptime") == 3
    audio.add("first", index=0)
    assert audio.attributes[0].name == "first"
    assert audio.remove("rtpmap") == 2


def test_session_lines_go_where_the_order_wants_them(sdp):
    sdp.origin = dataclasses.replace(sdp.origin, version=8)
    sdp.set_line("b", "AS:64")
    sdp.connection = None
    kinds = "".join(line.kind for line in sdp.lines)
    assert kinds.startswith("vosbt")
    assert parse_sdp(sdp.to_bytes()).origin.version == 8


@pytest.mark.attack("T7")
@pytest.mark.parametrize("value", ["x\r\na=crypto:1 X inline:y", "x\nb", "x\0"])
def test_no_value_can_smuggle_in_a_line(sdp, value):
    audio = sdp.media[0]
    for change in (
        lambda: audio.add("x", value),
        lambda: audio.set("x", value),
        lambda: audio.set_line("i", value),
        lambda: setattr(audio, "proto", value),
        lambda: setattr(audio, "formats", [value]),
        lambda: audio.add(value),
    ):
        with pytest.raises(SdpError):
            change()


def test_ports_and_formats_are_checked_on_the_way_in(sdp):
    data = sdp.media[1]
    data.port = 0
    assert data.lines[0].value.startswith("application 0/2 ")
    for bad in (-1, 65536):
        with pytest.raises(SdpError):
            data.port = bad
    with pytest.raises(SdpError):
        data.formats = []


def test_a_copy_is_independent(sdp):
    before = sdp.to_bytes()
    other = sdp.copy()
    other.media[0].port = 1
    other.add("x")
    assert sdp.to_bytes() == before


def test_a_description_built_from_parts_is_well_formed():
    audio = MediaDescription.build("audio", 40000, "RTP/AVP", ["0", "101"])
    audio.add("rtpmap", "0 PCMU/8000")
    origin = Origin("alice", "1", 1, "2001:db8::1", addrtype="IP6")
    sdp = SessionDescription.build(origin, Connection.for_address("2001:db8::1"), [audio])
    assert parse_sdp(sdp.to_bytes()).to_bytes() == sdp.to_bytes()
    assert sdp.connection == Connection("2001:db8::1", "IN", "IP6")
    with pytest.raises(ValueError):
        Connection.for_address("host.test")


@pytest.mark.clause("RFC 3264", "8.4")
def test_the_unspecified_address_means_hold():
    assert Connection.parse("IN IP4 0.0.0.0").is_hold
    assert not Connection.parse("IN IP4 192.0.2.1").is_hold


@given(
    st.text(alphabet="abc-_", min_size=1, max_size=8),
    st.text(alphabet=st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=30),
)
def test_any_attribute_that_is_added_is_read_back(name, value):
    media = MediaDescription.build("audio", 1, "RTP/AVP", ["0"])
    media.add(name, value)
    assert media.get_all(name) == [value]
    text = SessionDescription.build(Origin("-", "1", 1, "192.0.2.1"), Connection("192.0.2.1"), [media]).to_bytes()
    assert parse_sdp(text).media[0].get(name) == value
