"""SEED_CTR_128_HMAC_SHA1_80: SRTP and SRTCP with SEED in counter mode and HMAC-SHA1 (RFC 5669 2.1, 4)."""

import hmac

from cryptography.hazmat.decrepit.ciphers.algorithms import SEED
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes
from keying import CryptoSuite, Secret
from media import AuthenticationFailure, SrtpSuite

BLOCK_OCTETS = 16
COUNTER_MASK = (1 << 128) - 1
TAG_OCTETS, KEY_OCTETS, SALT_OCTETS, AUTHENTICATION_OCTETS = 10, 16, 14, 20
CLEAR_OCTETS = 8
"""Octets of an SRTCP packet that stay in clear (RFC 3711 3.4)."""
E_FLAG = 1 << 31


def keystream(cipher: CipherContext, start: int, length: int) -> bytes:
    """Return `length` octets of SEED in counter mode, the first block being that of `start` (RFC 5669 2.1)."""
    count = -(-length // BLOCK_OCTETS)
    blocks = b"".join((start + number & COUNTER_MASK).to_bytes(BLOCK_OCTETS, "big") for number in range(count))
    return cipher.update(blocks)[:length]


def seed(key: Secret) -> CipherContext:
    """Return SEED under a key, one block after the other."""
    return Cipher(SEED(key.reveal()), modes.ECB()).encryptor()  # noqa: S305 - the counter mode is built on it


def derive(master_key: Secret, master_salt: Secret, label: int, length: int) -> Secret:
    """Derive a session key with the SEED-CTR PRF (RFC 5669 4, RFC 3711 4.3.1, key derivation rate 0)."""
    start = (int.from_bytes(master_salt.reveal(), "big") ^ label << 48) << 16
    return Secret(keystream(seed(master_key), start, length))


class SeedTransform:
    """The session keys of one direction, for RTP or for RTCP."""

    def __init__(self, key: Secret, salt: Secret, authentication_key: Secret) -> None:
        self._cipher = seed(key)
        self._salt = int.from_bytes(salt.reveal(), "big") << 16
        self._hmac = hmac.new(authentication_key.reveal(), digestmod="sha1")

    def _crypt(self, octets: bytes, ssrc: int, index: int) -> bytes:
        stream = keystream(self._cipher, self._salt ^ ssrc << 64 ^ index << 16, len(octets))
        mixed = int.from_bytes(octets, "big") ^ int.from_bytes(stream, "big")
        return mixed.to_bytes(len(octets), "big")

    def _tag(self, octets: bytes) -> bytes:
        code = self._hmac.copy()
        code.update(octets)
        return code.digest()[:TAG_OCTETS]

    def _verify(self, octets: bytes, tag: bytes) -> None:
        if not hmac.compare_digest(self._tag(octets), tag):
            raise AuthenticationFailure("authentication tag does not match")

    def seal_rtp(self, header: bytes, payload: bytes, ssrc: int, index: int) -> tuple[bytes, bytes]:
        """Encrypt the payload, authenticate header, payload and ROC."""
        body = header + self._crypt(payload, ssrc, index)
        return body, self._tag(body + (index >> 16).to_bytes(4, "big"))

    def open_rtp(self, header_length: int, body: bytes, tag: bytes, ssrc: int, index: int) -> bytes:
        """Verify, then decrypt."""
        self._verify(body + (index >> 16).to_bytes(4, "big"), tag)
        return body[:header_length] + self._crypt(body[header_length:], ssrc, index)

    def seal_rtcp(self, packet: bytes, ssrc: int, index: int) -> tuple[bytes, bytes]:
        """Encrypt from octet 9 on, append E flag and index, authenticate all of it."""
        sealed = packet[:CLEAR_OCTETS] + self._crypt(packet[CLEAR_OCTETS:], ssrc, index)
        body = sealed + (E_FLAG | index).to_bytes(4, "big")
        return body, self._tag(body)

    def open_rtcp(self, body: bytes, tag: bytes, ssrc: int, index: int) -> bytes:
        """Verify, then decrypt."""
        self._verify(body, tag)
        return body[:CLEAR_OCTETS] + self._crypt(body[CLEAR_OCTETS:-4], ssrc, index)


def _transform(master_key: Secret, master_salt: Secret, first_label: int) -> SeedTransform:
    return SeedTransform(
        derive(master_key, master_salt, first_label, KEY_OCTETS),
        derive(master_key, master_salt, first_label + 2, SALT_OCTETS),
        derive(master_key, master_salt, first_label + 1, AUTHENTICATION_OCTETS),
    )


def rtp(master_key: Secret, master_salt: Secret) -> SeedTransform:
    """Derive the session keys of SRTP (RFC 3711 4.3.1: labels 0 to 2)."""
    return _transform(master_key, master_salt, 0)


def rtcp(master_key: Secret, master_salt: Secret) -> SeedTransform:
    """Derive the session keys of SRTCP (RFC 3711 4.3.2: labels 3 to 5)."""
    return _transform(master_key, master_salt, 3)


SUITE = SrtpSuite(
    CryptoSuite(
        "SEED_CTR_128_HMAC_SHA1_80",
        "SEED-CTR",
        KEY_OCTETS,
        SALT_OCTETS,
        "HMAC-SHA1",
        TAG_OCTETS,
        TAG_OCTETS,
        2**48,
        2**31,
    ),
    rtp,
    rtcp,
)
"""What the entry point names."""
