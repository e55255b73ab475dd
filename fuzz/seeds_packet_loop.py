"""Write the seeds of fuzz_packet_loop.c: the tests' packets and hostile ones, in its script (see `step` there)."""

from __future__ import annotations

import sys
from pathlib import Path

RTP = bytes([0x80, 8, 0, 1, 0, 0, 0, 160]) + (0x0DECADE0).to_bytes(4, "big")
PACKETS = {
    "rtp": RTP + bytes(40),
    "csrc": b"\x8f" + RTP[1:] + bytes(60),
    "extension": b"\x90" + RTP[1:] + b"\xbe\xde\0\1" + bytes(44),
    "endless-extension": b"\x90" + RTP[1:] + b"\xbe\xde\xff\xff" + bytes(44),
    "rtcp": bytes([0x81, 201, 0, 7]) + bytes(28),
    "stun": bytes.fromhex("000100002112a442") + bytes(12),
    "dtls": bytes.fromhex("16fefd0000000000000000"),
    "short": RTP[:11],
    "empty": b"",
    "garbage": b"\xff" * 30,
}
DELIVER, RTP_IN_ORDER, RUN, TAKE, WATCH, LET_GO, CONFIGURE, SRTP, SENDING, MEMORY, TIME = (
    0,
    3,
    6,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
)
SECURED, MUXED, OPAQUE = 0x8C, 0x82, 0x81


def op(number: int, place: int = 0) -> int:
    return number | place << 4


def configured(choice: int, trailer: int = 10) -> bytes:
    """The configuration of the six sockets at the start, and again of the first."""
    return bytes([choice, trailer, 2] * 6)


def delivered(packet: bytes, place: int, size: int | None = None) -> bytes:
    length = len(packet) if size is None else size
    head = packet[:64].ljust(min(length, 64), b"\0")
    return bytes([op(DELIVER, place)]) + length.to_bytes(2, "big") + b"\0" + head + b"\1"


def seeds() -> dict[str, bytes]:
    """By name."""
    talk = b"".join(bytes([op(RTP_IN_ORDER, 0), 20, 0, turn, 0]) for turn in range(20))
    found = {}
    for name, choice in (("plain", 0x80), ("secured", SECURED), ("muxed", MUXED), ("opaque", OPAQUE)):
        start = configured(choice)
        found[f"talk-{name}"] = start + talk + bytes([RUN, RUN, TAKE])
        for kind, packet in PACKETS.items():
            for place in (0, 1):
                script = delivered(packet, place) + talk[:20] + bytes([RUN, TAKE, RUN, TIME, 200])
                found[f"{kind}-{name}-{place}"] = start + script
        found[f"oversized-{name}"] = start + delivered(PACKETS["rtp"], 0, 9300) + bytes([RUN])
        faults = b"".join(bytes([op(SENDING), fault]) + talk[:30] + bytes([RUN]) for fault in range(6))
        found[f"faults-{name}"] = start + faults + bytes([op(SRTP), 9]) + talk + bytes([RUN, op(MEMORY), 0xEE]) + talk
        found[f"change-{name}"] = (
            start + talk + bytes([op(LET_GO), RUN, op(WATCH), RUN, op(CONFIGURE), choice, 0, 0, RUN])
        )
        found[f"again-{name}"] = start + talk + bytes([RUN, op(LET_GO), op(WATCH), RUN]) + talk
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, octets in seeds().items():
        for threaded in (0, 1):
            (folder / f"{name}-{threaded}").write_bytes(bytes([threaded]) + octets)


if __name__ == "__main__":
    main()
