"""RPCs as HTTP/2: a strict reader of RFC 9113 and 7541 finds what was put in."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lab.capture_http2 import MOST_FRAME, Http2View, Piece
from protos import capture_pb2

STEP = capture_pb2.SbaStep
CONSUMER, PRODUCER = ("127.0.0.1", 40000), ("127.1.1.3", 50000)
DATA, HEADERS = 0, 1
END_STREAM, END_HEADERS = 1, 4


@dataclass(frozen=True)
class Http2Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames(octets: bytes) -> list[Http2Frame]:
    found, at = [], 0
    while at < len(octets):
        length = int.from_bytes(octets[at : at + 3], "big")
        kind, flags = octets[at + 3], octets[at + 4]
        (stream,) = struct.unpack_from("!I", octets, at + 5)
        assert length <= MOST_FRAME
        assert stream % 2 == 1, "clients open odd streams"
        payload = octets[at + 9 : at + 9 + length]
        assert len(payload) == length
        found.append(Http2Frame(kind, flags, stream, payload))
        at += 9 + length
    return found


def integer(octets: bytes, at: int) -> tuple[int, int]:
    """RFC 7541 5.1 with a prefix of 7 bits; no Huffman."""
    assert not octets[at] & 0x80
    value = octets[at] & 0x7F
    at += 1
    if value < 127:
        return value, at
    shift = 0
    while True:
        value += (octets[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not octets[at - 1] & 0x80:
            return value, at


def headers(block: bytes) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(block):
        assert block[at] == 0, "a literal that no table holds"
        at += 1
        texts = []
        for _ in range(2):
            length, at = integer(block, at)
            texts.append(block[at : at + length].decode())
            assert len(block[at : at + length]) == length
            at += length
        found.append((texts[0], texts[1]))
    return found


def step(phase: int, call: str = "one", body: bytes | None = None, **more: object) -> capture_pb2.SbaStep:
    made = capture_pb2.SbaStep(phase=phase, call=call, path="/ims.iq.v1.Iq/Audit", authority="agw.ims.test", **more)
    made.headers.add(name="traceparent", value="00-aa-bb-01")
    if body is not None:
        made.shown, made.body = True, body
    return made


def one(view: Http2View, made: capture_pb2.SbaStep) -> Piece:
    ends = (CONSUMER, PRODUCER) if made.phase == STEP.REQUEST else (PRODUCER, CONSUMER)
    (piece,) = view.pieces("node", made, *ends)
    return piece


def message(frame: Http2Frame) -> bytes:
    compressed, length = struct.unpack_from("!BI", frame.payload)
    assert (compressed, length) == (0, len(frame.payload) - 5)
    return frame.payload[5:]


def test_a_call_with_messages_is_a_stream_of_headers_data_and_trailers() -> None:
    view = Http2View()
    asked = frames(one(view, step(STEP.REQUEST, body=b"question")).octets)
    answered = frames(one(view, step(STEP.RESPONSE, body=b"answer")).octets)
    ended = frames(one(view, step(STEP.END)).octets)
    assert [(frame.kind, frame.flags) for frame in asked] == [(HEADERS, END_HEADERS), (DATA, END_STREAM)]
    assert [(frame.kind, frame.flags) for frame in answered] == [(HEADERS, END_HEADERS), (DATA, 0)]
    assert [(frame.kind, frame.flags) for frame in ended] == [(HEADERS, END_HEADERS | END_STREAM)]
    assert {frame.stream for frame in (*asked, *answered, *ended)} == {1}
    assert dict(headers(asked[0].payload)) == {
        ":method": "POST",
        ":scheme": "https",
        ":path": "/ims.iq.v1.Iq/Audit",
        ":authority": "agw.ims.test",
        "content-type": "application/grpc",
        "te": "trailers",
        "traceparent": "00-aa-bb-01",
    }
    assert (message(asked[1]), message(answered[1])) == (b"question", b"answer")
    assert dict(headers(answered[0].payload))[":status"] == "200"
    assert headers(ended[0].payload) == [("grpc-status", "0")]


def test_without_messages_there_is_no_octet_of_data() -> None:
    view = Http2View()
    asked = frames(one(view, step(STEP.REQUEST, size=400)).octets)
    first = frames(one(view, step(STEP.RESPONSE, size=30)).octets)
    second = frames(one(view, step(STEP.RESPONSE, size=30)).octets)
    assert [(frame.kind, frame.flags) for frame in asked] == [(HEADERS, END_HEADERS | END_STREAM)]
    assert [(frame.kind, frame.flags) for frame in first] == [(HEADERS, END_HEADERS)]
    assert [(frame.kind, frame.payload) for frame in second] == [(DATA, b"")]


def test_a_refusal_is_trailers_alone() -> None:
    view = Http2View()
    one(view, step(STEP.REQUEST))
    (ended,) = frames(one(view, step(STEP.END, status=7, status_message="not\r\nyou: 100 %")).octets)
    found = dict(headers(ended.payload))
    assert found[":status"] == "200"
    assert found["grpc-status"] == "7"
    assert found["grpc-message"] == "not%0D%0Ayou: 100 %25"
    assert ended.flags == END_HEADERS | END_STREAM


def test_calls_of_one_connection_have_streams_of_their_own() -> None:
    view = Http2View()
    streams = [frames(one(view, step(STEP.REQUEST, call=name)).octets)[0].stream for name in "abc"]
    assert streams == [1, 3, 5]
    assert frames(one(view, step(STEP.END, call="b")).octets)[0].stream == 3


def test_a_stream_that_began_before_gets_its_headers_first() -> None:
    view = Http2View()
    opened, answered = view.pieces("node", step(STEP.RESPONSE, body=b"x"), PRODUCER, CONSUMER)
    assert (opened.source, opened.destination) == (CONSUMER, PRODUCER)
    assert "before this capture" in opened.comment
    assert dict(headers(frames(opened.octets)[0].payload))[":path"] == "/ims.iq.v1.Iq/Audit"
    assert message(frames(answered.octets)[1]) == b"x"


def test_a_port_nobody_knows_is_the_same_for_the_same_connection() -> None:
    view = Http2View()
    unknown = ("127.1.1.9", 0)
    (first,) = view.pieces("pcscf-a", step(STEP.REQUEST, call="a"), unknown, PRODUCER)
    (second,) = view.pieces("pcscf-a", step(STEP.REQUEST, call="b"), unknown, PRODUCER)
    (other,) = view.pieces("pcscf-b", step(STEP.REQUEST, call="c"), unknown, PRODUCER)
    (answer,) = view.pieces("pcscf-a", step(STEP.END, call="a"), PRODUCER, unknown)
    assert first.source == second.source == answer.destination
    assert first.source[1] > 0
    assert other.source != first.source


@given(st.binary(max_size=3 * MOST_FRAME), st.text(max_size=400))
def test_any_message_and_header_come_back(body: bytes, value: str) -> None:
    made = step(STEP.REQUEST, body=body)
    made.headers.add(name="x", value=value)
    first, *rest = frames(one(Http2View(), made).octets)
    assert ("x", value) in headers(first.payload)
    joined = b"".join(frame.payload for frame in rest)
    assert message(Http2Frame(DATA, 0, 1, joined)) == body
    assert [frame.flags for frame in rest] == [0] * (len(rest) - 1) + [END_STREAM]
