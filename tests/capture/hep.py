"""A strict reader of HEP3, written from the specification and not from the encoder."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

SIZES = {1: 1, 2: 1, 3: 4, 4: 4, 5: 16, 6: 16, 7: 2, 8: 2, 9: 4, 10: 4, 11: 1, 12: 4}
"""Octets of the values of generic chunks whose length is fixed."""
TEXTS = {14, 15, 17, 19}


@dataclass
class Hep:
    """A packet: generic chunks by type, others by vendor and type."""

    chunks: dict[int, bytes] = field(default_factory=dict)
    others: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def number(self, kind: int) -> int:
        return int.from_bytes(self.chunks[kind], "big")

    @property
    def source(self) -> tuple[str, int]:
        return str(ipaddress.ip_address(self.chunks[3] if self.number(1) == 2 else self.chunks[5])), self.number(7)

    @property
    def destination(self) -> tuple[str, int]:
        return str(ipaddress.ip_address(self.chunks[4] if self.number(1) == 2 else self.chunks[6])), self.number(8)

    @property
    def time(self) -> float:
        return self.number(9) + self.number(10) / 1e6

    @property
    def payload(self) -> bytes:
        return self.chunks[15]


def read(octets: bytes) -> Hep:
    """Read exactly one packet."""
    found, rest = read_first(octets)
    assert not rest, "octets behind the packet"
    return found


def read_first(octets: bytes) -> tuple[Hep, bytes]:
    """Read the first packet of a stream; returns it and what follows."""
    assert octets[:4] == b"HEP3"
    length = int.from_bytes(octets[4:6], "big")
    assert 6 < length <= len(octets), "the length is that of the whole packet"
    found, at = Hep(), 6
    while at < length:
        vendor, kind, size = (int.from_bytes(octets[at + n : at + n + 2], "big") for n in (0, 2, 4))
        assert size >= 6, "a chunk's length counts its head"
        assert at + size <= length, "a chunk ends within its packet"
        value = octets[at + 6 : at + size]
        if vendor:
            found.others[vendor, kind] = value
        else:
            assert kind in SIZES or kind in TEXTS, f"no chunk {kind}"
            assert kind not in found.chunks, f"chunk {kind} twice"
            if kind in SIZES:
                assert len(value) == SIZES[kind], f"chunk {kind} has {len(value)} octets"
            found.chunks[kind] = value
        at += size
    assert at == length
    family = found.number(1)
    assert family in (2, 10)
    assert ({3, 4} if family == 2 else {5, 6}) <= set(found.chunks)
    assert {2, 7, 8, 9, 10, 11, 12, 15} <= set(found.chunks), "a mandatory chunk is missing"
    assert found.number(10) < 1_000_000
    return found, octets[length:]
