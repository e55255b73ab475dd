"""The SRTP transforms: key derivation, AES counter mode with HMAC-SHA1, AES-GCM (RFC 3711 4, RFC 6188, RFC 7714).

A transform holds one set of session keys. A sealed packet is ``body | MKI | tag``; AEAD suites have their tag inside
the body and an empty one behind the MKI (RFC 7714 7.1, 8.2, 9.2), so that the caller cuts both kinds alike.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keying.secret import Secret
from keying.suites import DEFAULT_SUITES, CryptoSuite, SuiteError, enable_suite
from media.srtp_errors import AuthenticationFailure

LABEL_RTP_ENCRYPTION, LABEL_RTP_AUTHENTICATION, LABEL_RTP_SALT = 0, 1, 2
LABEL_RTCP_ENCRYPTION, LABEL_RTCP_AUTHENTICATION, LABEL_RTCP_SALT = 3, 4, 5
AUTHENTICATION_KEY_LENGTH = 20
"""Octets of the HMAC-SHA1 session key, for every suite (RFC 3711 8.2, RFC 6188 4)."""
PRF_SALT_LENGTH = 14
RTCP_CLEAR_LENGTH = 8
"""Octets of an SRTCP packet that stay in clear: the first header and its SSRC (RFC 3711 3.4)."""
E_FLAG = 1 << 31


def derive_session_key(master_key: Secret, master_salt: Secret, label: int, length: int) -> Secret:
    """Derive `length` octets for `label` with key derivation rate 0 (RFC 3711 4.3.1, RFC 6188 3, RFC 7714 11).

    The AES-CM PRF takes a 112-bit salt; the 96-bit one of GCM suites is filled up with zero bits on the right (assumed,
    as deployed stacks do). Raises ValueError for a key that is no AES key.
    """
    salt = int.from_bytes(master_salt.reveal().ljust(PRF_SALT_LENGTH, b"\0"), "big")
    block = (salt ^ label << 48) << 16
    prf = Cipher(algorithms.AES(master_key.reveal()), modes.CTR(block.to_bytes(16, "big"))).encryptor()
    return Secret(prf.update(bytes(length)))


class Transform(Protocol):
    """Session keys of one direction, for RTP or for RTCP."""

    def seal_rtp(self, header: bytes, payload: bytes, ssrc: int, index: int) -> tuple[bytes, bytes]:
        """Return body and tag of the SRTP packet with this 48-bit `index`."""

    def open_rtp(self, header_length: int, body: bytes, tag: bytes, ssrc: int, index: int) -> bytes:
        """Return the RTP packet. Raises AuthenticationFailure."""

    def seal_rtcp(self, packet: bytes, ssrc: int, index: int) -> tuple[bytes, bytes]:
        """Return body (with the E flag and 31-bit `index` inside) and tag of the SRTCP packet."""

    def open_rtcp(self, body: bytes, tag: bytes, ssrc: int, index: int) -> bytes:
        """Return the RTCP packet. Raises AuthenticationFailure."""


class CounterModeTransform:
    """AES counter mode with HMAC-SHA1 (RFC 3711 4.1.1, 4.2.1; key sizes of RFC 6188)."""

    __slots__ = ("_cipher", "_hmac", "_salt", "_tag_length")

    def __init__(self, key: Secret, salt: Secret, authentication_key: Secret, tag_length: int) -> None:
        self._cipher: CipherContext = Cipher(algorithms.AES(key.reveal()), modes.CTR(bytes(16))).encryptor()
        self._salt = int.from_bytes(salt.reveal(), "big") << 16
        self._hmac = hmac.new(authentication_key.reveal(), digestmod="sha1")
        self._tag_length = tag_length

    def _crypt(self, octets: bytes, ssrc: int, index: int) -> bytes:
        self._cipher.reset_nonce((self._salt ^ ssrc << 64 ^ index << 16).to_bytes(16, "big"))
        return self._cipher.update(octets)

    def _tag(self, octets: bytes) -> bytes:
        code = self._hmac.copy()
        code.update(octets)
        return code.digest()[: self._tag_length]

    def _verify(self, octets: bytes, tag: bytes) -> None:
        if not hmac.compare_digest(self._tag(octets), tag):
            raise AuthenticationFailure("authentication tag does not match")

    def seal_rtp(self, header: bytes, payload: bytes, ssrc: int, index: int) -> tuple[bytes, bytes]:
        """Encrypt the payload, then authenticate header, payload and ROC (RFC 3711 3.1, 4.2)."""
        body = header + self._crypt(payload, ssrc, index)
        return body, self._tag(body + (index >> 16).to_bytes(4, "big"))

    def open_rtp(self, header_length: int, body: bytes, tag: bytes, ssrc: int, index: int) -> bytes:
        """Verify, then decrypt. Raises AuthenticationFailure."""
        self._verify(body + (index >> 16).to_bytes(4, "big"), tag)
        return body[:header_length] + self._crypt(body[header_length:], ssrc, index)

    def seal_rtcp(self, packet: bytes, ssrc: int, index: int) -> tuple[bytes, bytes]:
        """Encrypt from octet 9 on, append E flag and index, authenticate all of it (RFC 3711 3.4)."""
        body = (
            packet[:RTCP_CLEAR_LENGTH]
            + self._crypt(packet[RTCP_CLEAR_LENGTH:], ssrc, index)
            + (E_FLAG | index).to_bytes(4, "big")
        )
        return body, self._tag(body)

    def open_rtcp(self, body: bytes, tag: bytes, ssrc: int, index: int) -> bytes:
        """Verify, then decrypt. Raises AuthenticationFailure."""
        self._verify(body, tag)
        return body[:RTCP_CLEAR_LENGTH] + self._crypt(body[RTCP_CLEAR_LENGTH:-4], ssrc, index)


class GcmTransform:
    """AES-GCM with a 16-octet tag inside the ciphertext (RFC 7714 8, 9)."""

    __slots__ = ("_aead", "_salt")

    def __init__(self, key: Secret, salt: Secret) -> None:
        self._aead = AESGCM(key.reveal())
        self._salt = int.from_bytes(salt.reveal(), "big")

    def _open(self, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        try:
            return self._aead.decrypt(nonce, ciphertext, associated)
        except InvalidTag:
            raise AuthenticationFailure("authentication tag does not match") from None

    def _nonce(self, ssrc: int, index: int) -> bytes:
        # RTP: 0000 | SSRC | ROC | SEQ (RFC 7714 8.1); RTCP: 0000 | SSRC | 0000 | index (9.1): the same 48-bit tail
        return (self._salt ^ ssrc << 48 ^ index).to_bytes(12, "big")

    def seal_rtp(self, header: bytes, payload: bytes, ssrc: int, index: int) -> tuple[bytes, bytes]:
        """Encrypt the payload with the whole RTP header as associated data (RFC 7714 8.2)."""
        return header + self._aead.encrypt(self._nonce(ssrc, index), payload, header), b""

    def open_rtp(self, header_length: int, body: bytes, tag: bytes, ssrc: int, index: int) -> bytes:  # noqa: ARG002 - empty
        """Verify and decrypt. Raises AuthenticationFailure."""
        header = body[:header_length]
        return header + self._open(self._nonce(ssrc, index), body[header_length:], header)

    def seal_rtcp(self, packet: bytes, ssrc: int, index: int) -> tuple[bytes, bytes]:
        """Encrypt from octet 9 on; first 8 octets and the E flag with index are associated data (RFC 7714 9.2)."""
        header, word = packet[:RTCP_CLEAR_LENGTH], (E_FLAG | index).to_bytes(4, "big")
        sealed = self._aead.encrypt(self._nonce(ssrc, index), packet[RTCP_CLEAR_LENGTH:], header + word)
        return header + sealed + word, b""

    def open_rtcp(self, body: bytes, tag: bytes, ssrc: int, index: int) -> bytes:  # noqa: ARG002 - empty
        """Verify and decrypt. Raises AuthenticationFailure."""
        header = body[:RTCP_CLEAR_LENGTH]
        return header + self._open(self._nonce(ssrc, index), body[RTCP_CLEAR_LENGTH:-4], header + body[-4:])


@dataclass(frozen=True)
class SrtpSuite:
    """A crypto suite that a package brings by an entry point of ``imslab.crypto_suites``: its row and its transforms.

    `rtp` and `rtcp` take master key and master salt, in the lengths of the row, and derive the session keys.
    """

    suite: CryptoSuite
    rtp: Callable[[Secret, Secret], Transform]
    rtcp: Callable[[Secret, Secret], Transform]


_OF_PACKAGES: dict[str, SrtpSuite] = {}
_BUILT_IN_CIPHERS = frozenset({"AES-CM", "AES-GCM"})


def enable_srtp_suite(name: str, offered: object) -> None:
    """Let this process run the suite that an entry point `name` offers. Raises SuiteError for what is none."""
    if not isinstance(offered, SrtpSuite) or offered.suite.name != name:
        raise SuiteError(f"{name}: {type(offered).__name__} is no SrtpSuite of that name")
    enable_suite(offered.suite)
    _OF_PACKAGES[name] = offered


def is_carried(suite: CryptoSuite) -> bool:
    """Tell whether this process can protect packets with `suite`."""
    return suite.name in _OF_PACKAGES or (suite.name in DEFAULT_SUITES and suite.cipher in _BUILT_IN_CIPHERS)


def rtp_transform(suite: CryptoSuite, master_key: Secret, master_salt: Secret) -> Transform:
    """Derive the SRTP session keys of `suite` (RFC 3711 4.3.1)."""
    if suite.name in _OF_PACKAGES:
        return _OF_PACKAGES[suite.name].rtp(master_key, master_salt)
    return _transform(
        suite,
        master_key,
        master_salt,
        (LABEL_RTP_ENCRYPTION, LABEL_RTP_AUTHENTICATION, LABEL_RTP_SALT),
        suite.srtp_tag_length,
    )


def rtcp_transform(suite: CryptoSuite, master_key: Secret, master_salt: Secret) -> Transform:
    """Derive the SRTCP session keys of `suite` (RFC 3711 4.3.2)."""
    if suite.name in _OF_PACKAGES:
        return _OF_PACKAGES[suite.name].rtcp(master_key, master_salt)
    return _transform(
        suite,
        master_key,
        master_salt,
        (LABEL_RTCP_ENCRYPTION, LABEL_RTCP_AUTHENTICATION, LABEL_RTCP_SALT),
        suite.srtcp_tag_length,
    )


def _transform(
    suite: CryptoSuite, key: Secret, salt: Secret, labels: tuple[int, int, int], tag_length: int
) -> Transform:
    encryption, authentication, salting = labels
    session_key = derive_session_key(key, salt, encryption, suite.key_length)
    session_salt = derive_session_key(key, salt, salting, suite.salt_length)
    if suite.auth == "AEAD":
        return GcmTransform(session_key, session_salt)
    return CounterModeTransform(
        session_key,
        session_salt,
        derive_session_key(key, salt, authentication, AUTHENTICATION_KEY_LENGTH),
        tag_length,
    )
