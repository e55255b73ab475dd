from __future__ import annotations

import json
import math
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.packets import call_addresses, media_frames, sip_frames
from lab.pcapng import TCP, UDP, Frame, PcapngWriter, sip_payload
from lab.verdict import Verdict
from protos import capture_pb2
from tests.lab.traced import BASE, CALL, NAMES, SDP, call_spans, message

A, B = ("127.1.1.13", 40000), ("127.1.1.8", 41000)


def blocks(content: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(content):
        kind, length = struct.unpack_from("<II", content, at)
        assert length % 4 == 0
        assert struct.unpack_from("<I", content, at + length - 4)[0] == length
        found.append((kind, content[at + 8 : at + length - 4]))
        at += length
    return found


def rtp(sequence: int) -> bytes:
    return struct.pack("!BBHII", 0x80, 8, sequence, sequence * 160, 0x1234) + bytes(160)


def test_a_file_is_a_section_an_interface_a_node_and_a_block_a_frame() -> None:
    frames = [Frame(BASE + n, f"node-{n % 2}", UDP, A, B, b"x" * n) for n in range(5)]
    kinds = [kind for kind, _ in blocks(PcapngWriter("hello").file(frames))]
    assert kinds == [0x0A0D0D0A, 1, 1, 6, 6, 6, 6, 6]


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=300), st.booleans()), max_size=8), st.text(max_size=20)
)
def test_any_frames_make_a_well_formed_file(given_frames: list[tuple[int, bytes, bool]], comment: str) -> None:
    frames = [
        Frame(BASE + at, "n", TCP if tcp else UDP, ("::1", 1) if tcp else A, ("::2", 2) if tcp else B, payload, comment)
        for at, payload, tcp in given_frames
    ]
    assert len(blocks(PcapngWriter(comment).file(frames))) == 1 + bool(frames) + len(frames)


def test_the_length_of_a_redacted_message_is_true_again() -> None:
    text = message("INVITE sip:bob@ims.test SIP/2.0", "1 INVITE", SDP)
    head, _, body = sip_payload(text).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.count(b"\r\n") == SDP.count("\r\n")
    assert b"inline:<" in body


def test_each_sip_message_of_a_call_is_one_frame() -> None:
    spans = [span for span in call_spans() if span.text("sip.call_id") == CALL]
    frames = sip_frames(spans, NAMES)
    assert sum(frame.payload.startswith(b"INVITE") for frame in frames) == 4
    assert sum(frame.payload.startswith(b"SIP/2.0 200") for frame in frames) == 3
    assert all("decrypted" in frame.comment for frame in frames)


def test_a_packet_both_gateways_saw_is_kept_once() -> None:
    def packet(at: float, sequence: int) -> capture_pb2.CapturedPacket:
        return capture_pb2.CapturedPacket(
            timestamp=at, source_ip=A[0], source_port=A[1], destination_ip=B[0], destination_port=B[1],
            payload=rtp(sequence), comment="core",
        )  # fmt: skip

    seen = [("imsagw-a", packet(1.0, 1)), ("imsagw-b", packet(1.001, 1)), ("imsagw-a", packet(1.02, 2))]
    assert len(media_frames(seen, frozenset())) == 2


def test_packets_of_other_calls_are_left_out() -> None:
    other = capture_pb2.CapturedPacket(source_ip="127.1.1.99", source_port=1, destination_ip="127.1.1.98", payload=b"x")
    assert media_frames([("imsagw-a", other)], frozenset((A, B))) == []


def test_without_legs_nothing_is_filtered() -> None:
    verdict = Verdict(CALL, "", "failed", 0, 0.0, "")
    assert call_addresses(verdict) == frozenset()


@pytest.mark.peer("tshark")
def test_tshark_dissects_sip_sdp_and_rtp(tmp_path: Path) -> None:
    frames = sip_frames([span for span in call_spans() if span.text("sip.call_id") == CALL], NAMES)
    frames += [
        Frame(BASE + int(6e8) + n * 20_000_000, "imsagw-a", UDP, B, A, rtp(n), "access, SRTP") for n in range(10)
    ]
    target = tmp_path / "call.pcapng"
    target.write_bytes(PcapngWriter("imslab").file(frames))
    packets = json.loads(
        subprocess.run(
            ["tshark", "-r", str(target), "-T", "json", "-J", "frame sip sdp rtp srtp tcp"],
            capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    protocols = [packet["_source"]["layers"]["frame"]["frame.protocols"] for packet in packets]
    assert sum(":sip" in line for line in protocols) == 7
    assert sum(":sdp" in line for line in protocols) == 4
    assert sum(":rtp" in line for line in protocols) == 10
    interfaces = {
        packet["_source"]["layers"]["frame"]["frame.interface_id_tree"]["frame.interface_name"] for packet in packets
    }
    assert {"alice", "pcscf-a", "cscf", "imsagw-a"} <= interfaces
    wrong = [f"{layer}.checksum.status==0" for layer in ("ip", "udp", "tcp")]
    checks = [word for layer in ("ip", "udp", "tcp") for word in ("-o", f"{layer}.check_checksum:TRUE")]
    warned = subprocess.run(
        ["tshark", "-r", str(target), *checks, "-Y", " or ".join(["_ws.malformed", *wrong])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert warned.stdout == ""


@pytest.mark.attack("T9")
@pytest.mark.parametrize(
    "lie",
    [
        {"network.peer.address": "x"},
        {"network.peer.port": 70_000},
        {"network.peer.port": -1},
        {"network.local.address": "::1"},
        {"imslab.interface": "x" * 70_000},
    ],
)
def test_what_fits_no_packet_does_not_keep_a_call_from_being_written(lie: dict[str, str | int]) -> None:
    spans = [span for span in call_spans() if span.text("sip.call_id") == CALL]
    lies = [replace(span, attributes={**span.attributes, **lie}) for span in spans]
    assert PcapngWriter().file(sip_frames(lies, NAMES))


@pytest.mark.attack("T9")
@pytest.mark.parametrize("timestamp", [math.nan, math.inf, -1.0, 1e300])
def test_a_packet_of_no_time_does_not_keep_a_call_from_being_written(timestamp: float) -> None:
    packet = capture_pb2.CapturedPacket(timestamp=timestamp, source_ip="x", source_port=70_000, comment="x" * 70_000)
    assert PcapngWriter().file(media_frames([("imsagw-a", packet)], frozenset()))
