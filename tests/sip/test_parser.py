"""Headers kept as they came, limits, round trips."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalling.sip import limits
from signalling.sip.headers import GrammarError, parse_name_addr, parse_via
from signalling.sip.message import (
    Headers,
    SipParseError,
    SipRequest,
    SipResponse,
    StreamFault,
    StreamMessage,
    StreamParser,
    StreamPing,
    parse_message,
)
from signalling.sip.uri import UriError, parse_sip_uri, parse_uri
from tests.sip.support import headers

VIA = ("Via", "SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bK1")


def message(extra=(), body=b""):
    return SipRequest("OPTIONS", "sip:bob@ims.test", [VIA, *headers("OPTIONS", extra=extra)], body)


def test_unknown_header_comes_out_octet_for_octet():
    line = b"x-MiXeD :\t  some ,, \xc3\xa4\xff value;  "
    data = message().to_bytes().replace(b"Call-ID", line + b"\r\nCall-ID")
    assert b"\r\n" + line + b"\r\n" in parse_message(data).to_bytes()


@pytest.mark.clause("RFC 3261", "7.3.1")
def test_folded_line_is_one_line_with_one_space():
    data = message().to_bytes().replace(b"Call-ID", b"Subject: one\r\n \t two\r\n\tthree\r\nCall-ID")
    parsed = parse_message(data)
    assert parsed.headers.get("s") == "one two three"
    assert b"Subject: one two three\r\n" in parsed.to_bytes()


@pytest.mark.clause("RFC 3261", "7.3.1", "20")
def test_lists_are_split_and_authentication_is_not():
    fields = Headers(
        [
            ("Route", '"a, b" <sip:x,y@h;lr>, <sip:two@h>'),
            ("route", "<sip:three@h>"),
            ("Authorization", 'Digest username="a", realm="b"'),
        ]
    )
    assert fields.values("ROUTE") == ['"a, b" <sip:x,y@h;lr>', "<sip:two@h>", "<sip:three@h>"]
    assert fields.values("authorization") == ['Digest username="a", realm="b"']
    assert fields.remove_first_value("route") == '"a, b" <sip:x,y@h;lr>'
    assert fields.get_all("route") == ["<sip:two@h>", "<sip:three@h>"]


def test_headers_change_in_place_and_keep_their_order():
    fields = Headers([("v", "1"), ("To", "t"), ("Via", "2")])
    fields.prepend("Via", "0")
    assert fields.get_all("via") == ["0", "1", "2"]
    fields.set("VIA", "x")
    assert fields.items() == [("Via", "x"), ("To", "t")]
    fields.add("Via", "y")
    assert fields.items() == [("Via", "x"), ("Via", "y"), ("To", "t")]
    fields.remove("v")
    assert fields.items() == [("To", "t")]


def test_content_length_is_that_of_the_body():
    request = message([("l", "99")], b"four")
    assert b"l: 4\r\n" in request.to_bytes()
    assert request.to_bytes().lower().count(b"content-length") == 0
    assert message(body=b"x").to_bytes().endswith(b"Content-Length: 1\r\n\r\nx")


@pytest.mark.attack("T7")
@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ([("X", "y" * (limits.MAX_HEADER_LINE + 1))], 400),
        ([("X", "y")] * (limits.MAX_HEADER_COUNT + 1), 400),
        ([("X", "y" * 8000)] * 9, 513),
        ([("Route", ",".join(["<sip:a@b;lr>"] * (limits.MAX_ROUTE_ENTRIES + 1)))], 400),
        ([("Via", "SIP/2.0/UDP h;branch=z9hG4bKx")] * 70, 400),
        ([("Content-Length", str(limits.MAX_BODY + 1))], 413),
    ],
)
def test_header_bomb_is_refused(extra, status):
    lines = [f"{name}: {value}" for name, value in [VIA, *headers("OPTIONS"), *extra]]
    data = "\r\n".join(["OPTIONS sip:bob@ims.test SIP/2.0", *lines, "", ""]).encode()
    with pytest.raises(SipParseError) as refused:
        parse_message(data)
    assert refused.value.status == status


@pytest.mark.attack("T7")
@pytest.mark.parametrize("line_break", [b"\n", b"\r", b"\n\r"])
@pytest.mark.parametrize("before", [b"Subject: hi", b"To: <sip:bob@ims.test>", b"Subject: hi\r\n more"])
def test_no_header_hides_behind_a_lone_cr_or_lf(before, line_break):
    hidden = before + line_break + b"P-Asserted-Identity: <sip:ceo@ims.test>\r\nCall-ID"
    with pytest.raises(SipParseError, match="400"):
        parse_message(message().to_bytes().replace(b"Call-ID", hidden))
    answer = b"SIP/2.0 200 OK" + line_break + b"P-Asserted-Identity: <sip:ceo@ims.test>\r\n"
    with pytest.raises(SipParseError, match="400"):
        parse_message(answer + message().to_bytes().partition(b"\r\n")[2])


@pytest.mark.attack("T7")
def test_a_value_with_a_line_break_is_not_written():
    found = message().headers
    written = found.items()
    for write in (found.add, found.set, found.prepend, found.replace_first_value):
        with pytest.raises(GrammarError):
            write("Route", "<sip:h>\r\nP-Asserted-Identity: <sip:ceo@ims.test>")
    with pytest.raises(GrammarError):
        found.set_values("Route", ["<sip:h>", "<sip:h>\n"])
    with pytest.raises(GrammarError):
        Headers([("Route", "<sip:h>\r\nX: y")])
    assert found.items() == written


@pytest.mark.attack("T7")
def test_endless_header_block_ends_the_stream_with_bounded_memory():
    parser = StreamParser()
    events = []
    for _ in range(200):
        events += parser.receive(b"OPTIONS sip:a@b SIP/2.0\r\nX: " + b"y" * 1000)
    assert [type(event) for event in events] == [StreamFault]
    assert events[0].error.fatal
    assert len(parser._buffer) == 0


def test_stream_goes_on_after_a_malformed_message_that_can_be_framed():
    bad = message().to_bytes().replace(b"CSeq: 1", b"CSeq: x")
    events = StreamParser().receive(bad + b"\r\n\r\n" + message(body=b"abc").to_bytes())
    kinds = [type(event) for event in events if isinstance(event, StreamFault | StreamPing | StreamMessage)]
    assert kinds == [StreamFault, StreamPing, StreamMessage]


@pytest.mark.clause("RFC 3261", "18.3")
def test_message_without_content_length_ends_a_stream_and_fills_a_datagram():
    data = message(body=b"abc").to_bytes().replace(b"Content-Length: 3\r\n", b"")
    assert parse_message(data).body == b"abc"
    assert isinstance(StreamParser().receive(data)[0], StreamFault)


TOKEN = st.text(st.sampled_from("abcXYZ019-.!%*_+`'~"), min_size=1, max_size=12)
VALUE = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=("Cs",)), max_size=40).map(
    lambda text: text.strip(" \t")
)


@given(
    names=st.lists(TOKEN.map(lambda text: "X-" + text), max_size=8),
    values=st.lists(VALUE, min_size=8, max_size=8),
    body=st.binary(max_size=200),
    status=st.one_of(st.none(), st.integers(100, 699)),
    reason=VALUE,
)
def test_what_is_written_is_read_back(names, values, body, status, reason):
    lines = [VIA, *headers("OPTIONS"), *zip(names, values, strict=False)]
    original = (
        SipRequest("OPTIONS", "sip:bob@ims.test", lines, body)
        if status is None
        else SipResponse(status, reason, lines, body)
    )
    original.headers.set("Content-Length", str(len(body)))
    again = parse_message(original.to_bytes())
    assert again == original
    assert again.to_bytes() == original.to_bytes()


@given(st.binary(max_size=400))
def test_no_octets_raise_anything_but_a_parse_error(data):
    with contextlib.suppress(SipParseError):
        parse_message(data).to_bytes()
    assert isinstance(StreamParser().receive(data), list)


@given(st.text(max_size=80))
def test_addresses_and_uris_raise_only_their_own_errors(text):
    for parse, fault in ((parse_uri, UriError), (parse_name_addr, GrammarError), (parse_via, GrammarError)):
        try:
            str(parse(text))
        except fault:
            continue


@pytest.mark.clause("RFC 3261", "19.1.4")
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp", True),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5", True),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on", True),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            True,
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            True,
        ),
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP", False),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060", False),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp", True),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp", False),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting", False),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off", False),
        ("sip:bob@[2001:DB8::1]", "sip:bob@[2001:db8:0::1]", True),
        ("sip:bob@h;maddr=1.2.3.4", "sip:bob@h", False),
        ("sips:bob@h", "sip:bob@h", False),
    ],
)
def test_uris_compare_as_the_rfc_lists(one, other, same):
    assert parse_sip_uri(one).equivalent(parse_sip_uri(other)) is same
    assert parse_sip_uri(other).equivalent(parse_sip_uri(one)) is same


def test_tel_and_urn_compare_by_their_own_rules():
    assert parse_uri("tel:+1-555-0100").equivalent(parse_uri("tel:+15550100"))
    assert not parse_uri("tel:5550100;phone-context=+1").equivalent(parse_uri("tel:5550100;phone-context=+2"))
    assert parse_uri("urn:service:SOS.fire").equivalent(parse_uri("URN:Service:sos.fire"))
