"""docs/wireshark/mikey_ticket.lua in a real tshark: it reads what the codec reads, and survives what the codec refuses."""

from __future__ import annotations

import base64
import json
import re
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from keying.mikey.codec import decode, encode
from keying.mikey.describe import summary
from keying.mikey.errors import MikeyError
from keying.mikey.payloads import (
    ErrorPayload,
    Header,
    IdRoled,
    Message,
    RandRoled,
    TicketPayload,
    TicketPolicyPayload,
    Timestamp,
)
from keying.mikey.registry import DataType, TicketFlag, TsType
from tests.keying.mikey import generate, vectors

SCRIPT = Path(__file__).resolve().parents[3] / "docs" / "wireshark" / "mikey_ticket.lua"
MIKEY_PORT = 2269
RAW_IP = 101

pytestmark = [pytest.mark.peer("tshark")]

WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Every example is a run of tshark: a smaller one is not worth minutes."""


def packet(payload: bytes, port: int = MIKEY_PORT, *, tcp: bool = False) -> bytes:
    """An IPv4 packet with `payload`; checksums are left zero, which nothing here looks at."""
    if tcp:
        inner = struct.pack("!HHIIBBHHH", 40_000, port, 1, 1, 5 << 4, 0x18, 65_535, 0, 0) + payload
    else:
        inner = struct.pack("!HHHH", 40_000, port, 8 + len(payload), 0) + payload
    ends = bytes([127, 0, 0, 1, 127, 0, 0, 2])
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(inner), 0, 0, 64, 6 if tcp else 17, 0) + ends + inner


def dissect(folder: Path, packets: Iterable[bytes], *fields: str) -> list[list[list[str]]]:
    """Run tshark over `packets`; return for each the values of each field."""
    capture = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, RAW_IP)
    for octets in packets:
        capture += struct.pack("<IIII", 0, 0, len(octets), len(octets)) + octets
    path = folder / "messages.pcap"
    path.write_bytes(capture)
    command = ["tshark", "-n", "-X", f"lua_script:{SCRIPT}", "-r", str(path), "-T", "json"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert b"Lua" not in done.stderr, done.stderr.decode()
    assert b"Lua Error" not in done.stdout
    layers = [frame["_source"]["layers"] for frame in json.loads(done.stdout)]
    return [[layer.get(field, []) for field in fields] for layer in layers]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_the_messages_of_a_whole_exchange_are_read_as_the_codec_reads_them(folder: Path) -> None:
    fields = ("summary", "csb_id", "id.role", "id.data", "rand", "ticket.i", "ticket.j", "mac", "cs.ssrc", "cs.spi")
    names = [f"mikey_ticket.{field}" for field in fields]
    seen = dissect(folder, map(packet, vectors.MESSAGES.values()), *names)
    for octets, values in zip(vectors.MESSAGES.values(), seen, strict=True):
        message, found = decode(octets), dict(zip(fields, values, strict=True))
        policies = [p.policy for p in message.payloads if isinstance(p, TicketPayload | TicketPolicyPayload)]
        ids = [payload for payload in message.payloads if isinstance(payload, IdRoled)]
        assert found["summary"] == [summary(octets)]
        assert found["csb_id"] == [f"0x{message.header.csb_id:08x}"]
        assert {str(int(payload.role)) for payload in ids} <= set(found["id.role"])
        assert {payload.data.decode() for payload in ids if payload.role != 4} <= set(found["id.data"])
        assert {payload.value.hex() for payload in message.payloads if isinstance(payload, RandRoled)} <= set(
            found["rand"]
        )
        for flag in ("i", "j"):
            wanted = [str(int(bool(policy.flags & TicketFlag[flag.upper()]))) for policy in policies]
            assert found[f"ticket.{flag}"] == wanted
        assert message.payloads[-1].mac.hex() == found["mac"][-1]
        assert found["cs.spi"] == [session.spi.hex() for session in message.header.sessions]
        assert found["cs.ssrc"] == [f"0x{session.session_data.hex()}" for session in message.header.sessions]


def test_ticket_data_and_initiator_data_are_opened(folder: Path) -> None:
    ((numbers, macs, rands),) = dissect(
        folder,
        [packet(vectors.TRANSFER_INIT)],
        "mikey_ticket.next_payload",
        "mikey_ticket.mac",
        "mikey_ticket.rand",
    )
    v = vectors.TRANSFER_INIT[-20:].hex()
    assert macs == [vectors.TICKET_DATA[-20:].hex(), v, macs[2], v]
    assert vectors.RAND_TICKET.hex() in rands
    assert numbers.count("0") == 4  # TP Data, Ticket Data, Initiator Data and the message each end


def test_a_moment_of_the_second_era_is_told_as_one(folder: Path) -> None:
    message = Message(Header(DataType.TRANSFER_INIT, 1), (Timestamp(TsType.NTP_UTC_32, b"\0\0\0\0"),))
    ((times,),) = dissect(folder, [packet(encode(message))], "mikey_ticket.ts.time")
    assert times[0].startswith("2036-02-07T06:28:16") or times[0].startswith("Feb  7, 2036 06:28:16")


TICKET_TYPES = [kind for kind in DataType if kind >= DataType.REQUEST_INIT_PSK]
messages = st.builds(
    lambda message, kind: Message(
        Header(kind, message.header.csb_id, map_type=message.header.map_type, sessions=message.header.sessions),
        message.payloads,
    ),
    generate.messages,
    st.sampled_from(TICKET_TYPES),
)


def expected(octets: bytes) -> str:
    """The codec's line; the script does not name the number of an ERR in it."""
    return re.sub(r"\bERR \w+", "ERR", summary(octets))


@settings(
    max_examples=4,
    phases=WITHOUT_SHRINKING,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(st.lists(messages, min_size=10, max_size=20))
def test_every_message_the_codec_writes_is_read(folder: Path, batch: list[Message]) -> None:
    written = [octets for octets in map(encode, batch) if len(octets) < 60_000]
    seen = dissect(folder, map(packet, written), "mikey_ticket.summary", "mikey_ticket.malformed")
    assert seen == [[[expected(octets)], []] for octets in written]


def test_every_message_that_is_cut_short_is_told_as_malformed(folder: Path) -> None:
    prefixes = [octets[:length] for octets in vectors.MESSAGES.values() for length in range(2, len(octets))]
    seen = dissect(folder, map(packet, prefixes), "mikey_ticket.malformed", "mikey_ticket.summary")
    assert len(seen) == len(prefixes)
    assert all(malformed and not told for malformed, told in seen)


@settings(max_examples=3, phases=WITHOUT_SHRINKING, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(vectors.MESSAGES)),
            st.lists(st.tuples(st.integers(2, 400), st.integers(0, 255)), min_size=1, max_size=3),
        ),
        min_size=50,
        max_size=80,
    )
)
def test_what_is_malformed_to_tshark_is_refused_by_the_codec(
    folder: Path, damages: list[tuple[str, list[tuple[int, int]]]]
) -> None:
    damaged = []
    for name, places in damages:
        octets = bytearray(vectors.MESSAGES[name])
        for place, value in places:
            octets[2 + (place - 2) % (len(octets) - 2)] = value
        damaged.append(bytes(octets))
    seen = dissect(folder, map(packet, damaged), "mikey_ticket.malformed", "mikey_ticket.summary")
    for octets, (malformed, told) in zip(damaged, seen, strict=True):
        assert bool(malformed) is not bool(told)
        if malformed:
            with pytest.raises(MikeyError):
                decode(octets)


def test_it_comes_with_a_key_mgmt_line_of_sdp(folder: Path) -> None:
    sdp = (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"a=key-mgmt:mikey {base64.b64encode(vectors.TRANSFER_INIT).decode()}\r\nm=audio 4000 RTP/SAVP 8\r\n"
    )
    invite = (
        "INVITE sip:bob@b.example SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1\r\n"
        "From: <sip:alice@a.example>;tag=1\r\nTo: <sip:bob@b.example>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n"
        f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}"
    )
    ((told, ids),) = dissect(folder, [packet(invite.encode(), 5060)], "mikey_ticket.summary", "mikey_ticket.id.data")
    assert told == [summary(vectors.TRANSFER_INIT)]
    assert "sip:bob@b.example" in ids


@pytest.mark.parametrize("body", [vectors.REQUEST_INIT_PSK, base64.encodebytes(vectors.REQUEST_INIT_PSK)])
def test_it_comes_with_application_mikey_over_http(folder: Path, body: bytes) -> None:
    head = (
        "POST /keymanagement?requesttype=ticketrequest HTTP/1.1\r\nHost: kms.a.example\r\n"
        f"Content-Type: application/mikey\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    ((told,),) = dissect(folder, [packet(head.encode() + body, 80, tcp=True)], "mikey_ticket.summary")
    assert told == [summary(vectors.REQUEST_INIT_PSK)]


def test_other_mikey_messages_are_left_to_wireshark(folder: Path) -> None:
    error = encode(Message(Header(DataType.ERROR, 7), (Timestamp(TsType.NTP_UTC, bytes(8)), ErrorPayload(10))))
    ((protocols, told),) = dissect(folder, [packet(error)], "frame.protocols", "mikey_ticket.summary")
    assert protocols[0].endswith("mikey_ticket:mikey") or protocols[0].endswith(":mikey")
    assert told == []


def test_what_is_no_mikey_is_left_alone(folder: Path) -> None:
    seen = dissect(folder, map(packet, (b"x", b"\xff" * 30, b"hello, world", b"AAAA")), "mikey_ticket.summary")
    assert seen == [[[]]] * 4
