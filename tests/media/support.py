"""Packets, keys and clocks the media tests share."""

import struct
from dataclasses import dataclass

from keying.secret import Secret
from keying.suites import SUITES, CryptoSuite
from media.srtp import MasterKey, MasterKeySet, SrtpContext

SUITE_NAMES = sorted(SUITES)
AES_80 = SUITES["AES_CM_128_HMAC_SHA1_80"]
SSRC = 0x1234_5678


@dataclass
class FakeClock:
    """Seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def rtp(sequence: int, *, ssrc: int = SSRC, payload: bytes = b"\xd5" * 160, payload_type: int = 8) -> bytes:
    return struct.pack("!BBHII", 0x80, payload_type, sequence & 0xFFFF, sequence * 160 & 0xFFFFFFFF, ssrc) + payload


def rtcp(ssrc: int = SSRC, text: bytes = b"alice@test.") -> bytes:
    report = struct.pack("!BBHI", 0x80, 201, 1, ssrc)
    item = struct.pack("!I", ssrc) + bytes((1, len(text))) + text + b"\0"
    item += bytes(-len(item) % 4)
    return report + struct.pack("!BBH", 0x81, 202, len(item) // 4) + item


def octets(length: int, seed: int) -> bytes:
    return bytes((seed * 37 + n * 11) & 0xFF for n in range(length))


def key_pair(suite: CryptoSuite, seed: int = 1) -> tuple[Secret, Secret]:
    return Secret(octets(suite.key_length, seed)), Secret(octets(suite.salt_length, seed + 100))


def pair(suite: CryptoSuite = AES_80, seed: int = 1, **options) -> tuple[SrtpContext, SrtpContext]:
    """Return a sending and a receiving context under the same key."""
    return SrtpContext(suite, *key_pair(suite, seed), **options), SrtpContext(suite, *key_pair(suite, seed), **options)


def key_set(*mkis: bytes, suite: CryptoSuite = AES_80, seed: int = 1, lifetime: int | None = None) -> MasterKeySet:
    return MasterKeySet(
        [MasterKey(suite, *key_pair(suite, seed + n), mki=mki, lifetime=lifetime) for n, mki in enumerate(mkis)]
    )
