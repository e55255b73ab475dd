import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalling.sdp import KeyManagement, SdpAttributeError, SdpError, parse_sdp
from signalling.sdp.keymgmt import SESSION, identifiers, identifiers_at, messages, place

ONE, TWO, THREE = "AQ4F", "AQ8F", "AQYF"


def described(session=(), *media):
    lines = ["v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", "c=IN IP4 192.0.2.1", "t=0 0"]
    lines += [f"a=key-mgmt:{value}" for value in session]
    for index, (port, values) in enumerate(media):
        lines.append(f"m=audio {port or 0} RTP/SAVP 8")
        lines += [f"a=key-mgmt:{value}" for value in values]
        assert index < 9
    return parse_sdp("\r\n".join(lines) + "\r\n")


@pytest.mark.clause("RFC 4567", "3.1")
@pytest.mark.parametrize("value", [f"mikey {ONE}", f" mikey {ONE}"])
def test_a_line_is_a_protocol_and_a_message_with_or_without_a_space_before(value):
    line = KeyManagement.parse(value)
    assert (line.protocol, line.data) == ("mikey", b"\x01\x0e\x05")
    assert str(line) == f"mikey {ONE}"
    assert "AQ4F" not in repr(line)


@pytest.mark.clause("RFC 4567", "3.1", "9.1")
@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    "value", ["", "mikey", "mikey ", f"mikey  {ONE}", f"mi key {ONE} x", f"mikey {ONE[:3]}", "mikey ====", "mikey A Q4F",
              f"({ONE}", "mikey " + "A" * 120_000]
)  # fmt: skip
def test_what_does_not_follow_the_grammar_is_refused(value):
    with pytest.raises(SdpAttributeError):
        KeyManagement.parse(value)


@given(st.binary(min_size=1, max_size=400))
def test_a_written_line_reads_the_same(data):
    assert KeyManagement.parse(str(KeyManagement("mikey", data))).data == data


@pytest.mark.clause("RFC 4567", "3.1")
@pytest.mark.clause("TS 33.328", "7.2.3")
def test_a_message_of_an_m_line_overrides_that_of_the_session():
    sdp = described([f"mikey {ONE}"], (5000, [f"mikey {TWO}"]), (5002, []))
    assert dict(messages(sdp)) == {SESSION: b"\x01\x0e\x05", 0: b"\x01\x0f\x05"}


@pytest.mark.clause("RFC 4567", "3.1", "4.1.2")
def test_a_session_message_that_serves_nobody_is_ignored():
    sdp = described([f"mikey {ONE}"], (5000, [f"mikey {TWO}"]), (None, []))
    assert list(messages(sdp)) == [0]
    assert not messages(described([f"mikey {ONE}"], (None, [])))


@pytest.mark.clause("RFC 4567", "4.1.2")
@pytest.mark.attack("T5")
@pytest.mark.parametrize("session", [[f"mikey {ONE}", f"mikey {TWO}"], ["mikey ?"], [f"mikey {ONE}", "keyp1 ?"]])
def test_one_line_that_fails_fails_the_description(session):
    with pytest.raises(SdpAttributeError):
        messages(described(session, (5000, [])))


@pytest.mark.clause("RFC 4567", "4.1.2", "3.1")
def test_other_protocols_are_no_mikey_and_case_counts():
    sdp = described([f"keyp1 {ONE}", f"MIKEY {TWO}", f"mikey {THREE}"], (5000, []))
    assert dict(messages(sdp)) == {SESSION: b"\x01\x06\x05"}


@pytest.mark.clause("RFC 4567", "4.1.4")
@pytest.mark.clause("TS 33.328", "7.2.3-5")
def test_the_list_of_protocols_is_that_of_the_description_in_its_order():
    sdp = described([f"mikey {ONE}", f" keyp1 {TWO}"], (5000, []), (5002, [f"keyp2 {THREE}"]))
    assert identifiers(sdp) == ("mikey", "keyp1", "keyp2")
    assert identifiers_at(sdp) == ("mikey", "keyp1")


@pytest.mark.clause("TS 33.328", "7.2.3")
def test_a_message_is_written_where_it_belongs():
    sdp = described([], (5000, []), (5002, []))
    place(sdp, SESSION, b"\x01\x0e\x05")
    place(sdp, 1, b"\x01\x0f\x05")
    again = parse_sdp(sdp.to_bytes())
    assert dict(messages(again)) == {SESSION: b"\x01\x0e\x05", 1: b"\x01\x0f\x05"}
    with pytest.raises(SdpError):
        place(sdp, 2, b"\x01")
