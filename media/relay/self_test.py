"""Start-up check of the SRTP library: one packet per suite, protected and unprotected, against stored octets.

Keys are those of RFC 3711 B.3 (128 bit) and RFC 6188 7.2 and 7.4 (256 and 192 bit); the GCM suites use the same keys
with the first twelve octets of the salt. A test derives the stored packets again from the session keys printed in the
RFCs.
"""

from functools import cache
from typing import NamedTuple

from keying.secret import Secret
from keying.suites import SUITES
from media.relay import libsrtp
from media.relay.interface import KeySet, MasterKey, RelayUnavailableError
from media.relay.reference import open_session

_KEY_128 = "e1f97a0d3e018be0d64fa32c06de41390ec675ad498afeebb6960b3aabe6"
_KEY_192 = "73edc66c4fa15776fb57f9505c17136550ffda71f3e8e5f1c8522f3acd4ce86d5add78edbb11"
_KEY_256 = "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b63b04803de51ee7c96423ab5b78d2"

PLAIN_PACKET = bytes.fromhex("80080001000000a0deadbeef") + bytes(range(20))
"""RTP: PCMA, sequence number 1, timestamp 160, twenty octets of payload."""


class Vector(NamedTuple):
    """Master key and salt, and what :data:`PLAIN_PACKET` becomes under them, in hexadecimal."""

    suite: str
    key_salt: str
    protected: str


VECTORS: tuple[Vector, ...] = (
    Vector(
        "AES_CM_128_HMAC_SHA1_80",
        _KEY_128,
        "80080001000000a0deadbeef0aacfba28409026b58bb4ab6cf1e8c7331534608d37d3230c40d500a0d68",
    ),
    Vector(
        "AES_CM_128_HMAC_SHA1_32",
        _KEY_128,
        "80080001000000a0deadbeef0aacfba28409026b58bb4ab6cf1e8c7331534608d37d3230",
    ),
    Vector(
        "AEAD_AES_128_GCM",
        _KEY_128[:-4],
        "80080001000000a0deadbeefe29bc973f3a8517017e4c478d23070327c1a1f1e7567d5a6f1c2e732cefff088f4736c3a",
    ),
    Vector(
        "AEAD_AES_256_GCM",
        _KEY_256[:-4],
        "80080001000000a0deadbeef3c12b52bffba97d43391e674fa990805a5d17ddf8d10578fd32bc7bb0079ca2601440938",
    ),
    Vector(
        "AES_256_CM_HMAC_SHA1_80",
        _KEY_256,
        "80080001000000a0deadbeefe076a5528dd36e6928a313b13a4bd32825eddaa52349cfbcd446fc5e6f6b",
    ),
    Vector(
        "AES_256_CM_HMAC_SHA1_32",
        _KEY_256,
        "80080001000000a0deadbeefe076a5528dd36e6928a313b13a4bd32825eddaa52349cfbc",
    ),
    Vector(
        "AES_192_CM_HMAC_SHA1_80",
        _KEY_192,
        "80080001000000a0deadbeefea81ab5872674c249c8851c3a09c32359a421cc5bd33b53db59d717bb7f5",
    ),
    Vector(
        "AES_192_CM_HMAC_SHA1_32",
        _KEY_192,
        "80080001000000a0deadbeefea81ab5872674c249c8851c3a09c32359a421cc5bd33b53d",
    ),
)


@cache
def run_self_test() -> None:
    """Check symbols, version, structure size and every vector, once a process. Raises RelayUnavailableError naming
    what differs."""
    for vector in VECTORS:
        keys = KeySet(SUITES[vector.suite], (MasterKey(Secret(bytes.fromhex(vector.key_salt))),))
        sender, receiver = open_session(keys, sender=True), open_session(keys, sender=False)
        buffer = libsrtp.PacketBuffer(256)
        buffer.load(PLAIN_PACKET)
        if sender.rtp(buffer.data, buffer.length) != libsrtp.OK or buffer.packet().hex() != vector.protected:
            raise RelayUnavailableError(f"the SRTP library protects wrongly with {vector.suite}")
        if receiver.rtp(buffer.data, buffer.length) != libsrtp.OK or buffer.packet() != PLAIN_PACKET:
            raise RelayUnavailableError(f"the SRTP library unprotects wrongly with {vector.suite}")
        buffer.load(bytes.fromhex(vector.protected))
        buffer.octets[len(PLAIN_PACKET) - 1] ^= 1
        if receiver.rtp(buffer.data, buffer.length) == libsrtp.OK:
            raise RelayUnavailableError(f"the SRTP library accepts a forged packet with {vector.suite}")
