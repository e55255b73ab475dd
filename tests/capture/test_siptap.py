"""SIP for captures: what stands in them, with and without keys."""

from __future__ import annotations

import pytest

from nodes.siptap import SipTap
from protos import capture_pb2
from sba.tap import Tap
from sba.testing import async_test
from signalling.sip.flow import Flow
from signalling.sip.message import SipMessage, parse_message

KEY = "WnD7c1ksDGs+dIefCEo8omPg4uO8DYIinNGL5yxQ"
REQUEST = (
    "INVITE sip:bob@ims.test SIP/2.0\r\nVia: SIP/2.0/TLS 127.1.1.2;branch=z9hG4bKx\r\nFrom: <sip:a:pass@ims.test>;tag=1\r\n"
    "To: <sip:bob@ims.test>\r\nCall-ID: call-1@ims.test\r\nCSeq: 1 INVITE\r\n"
    'Authorization: Digest username="a",response="0123456789abcdef0123456789abcdef"\r\n'
    'WWW-Authenticate: Digest realm="x",nonce="y",ik="00112233445566778899aabbccddeeff",ck="ffeeddccbbaa99887766554433221100"\r\n'
    f"Content-Length: 61\r\n\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}\r\n"
).encode()
FLOW = Flow("TLS", ("127.1.1.2", 5061), ("127.1.1.3", 6061), "f", "mw")


def tapped(tap: Tap) -> tuple[SipTap, SipMessage]:
    parsed = parse_message(REQUEST)
    assert isinstance(parsed, SipMessage)
    return SipTap(tap, {"mw": "Mw"}, lambda _message: "ab" * 16), parsed


@pytest.mark.attack("T8")
@async_test
async def test_only_media_keys_show_and_only_with_the_switch() -> None:
    tap = Tap()
    sip, parsed = tapped(tap)
    with tap.reading([], with_keys=False) as masked, tap.reading([], with_keys=True) as keyed:
        sip.message_sent(REQUEST, parsed, FLOW, "key")
        without, with_keys = [(await anext(reader.items())).message for reader in (masked, keyed)]
    assert KEY.encode() not in without.payload
    assert KEY.encode() in with_keys.payload
    for one in (without, with_keys):
        for secret in (b":pass@", b"0123456789abcdef", b"00112233", b"ffeeddcc"):
            assert secret not in one.payload
        assert (one.correlation, one.trace_id, one.comment) == ("call-1@ims.test", "ab" * 16, "Mw")


@async_test
async def test_direction_retransmissions_and_what_was_dropped() -> None:
    tap = Tap()
    sip, parsed = tapped(tap)
    with tap.reading([], with_keys=False) as reader:
        sip.message_received(REQUEST, parsed, FLOW, "key")
        sip.retransmission("sent", REQUEST, parsed, FLOW, "key")
        sip.message_dropped("malformed: no Via", b"nonsense inline:" + KEY.encode(), FLOW)
        sip.message_dropped("too many connections", b"", None)
        items = reader.items()
        came, again, dropped = [(await anext(items)).message for _ in range(3)]
        assert not reader._waiting
    assert (came.source_port, came.destination_port, came.sent) == (6061, 5061, False)
    assert (again.source_port, again.sent, again.comment) == (5061, True, "Mw, retransmission")
    assert dropped.comment == "Mw, dropped: malformed: no Via"
    assert KEY.encode() not in dropped.payload
    assert {one.kind for one in (came, again, dropped)} == {capture_pb2.CAPTURE_SIP}


@pytest.mark.attack("T7")
@async_test
async def test_a_call_id_of_octets_that_are_no_text_is_captured_as_spans_have_it() -> None:
    tap = Tap()
    sip, _ = tapped(tap)
    hostile = REQUEST.replace(b"call-1@ims.test", b"call-\xff\xfe@ims.test")
    parsed = parse_message(hostile)
    assert isinstance(parsed, SipMessage)
    with tap.reading([], with_keys=False) as reader:
        sip.message_received(hostile, parsed, FLOW, "key")
        sip.message_dropped(f"malformed: {parsed.call_id}", hostile, FLOW)
        items = reader.items()
        came, dropped = [(await anext(items)).message for _ in range(2)]
    assert came.correlation == "call-\\udcff\\udcfe@ims.test"
    assert b"call-\xff\xfe" in came.payload
    assert dropped.comment.startswith("Mw, dropped: malformed: call-")
