"""Sessions for suites the SRTP library gets wrong, carried by the reference implementation.

libsrtp 2.7 in the pinned wheel derives the session keys of AES_192_CM with the AES-256 function; RFC 6188 3.1 wants
the one
of AES-192, and its vectors (7.4) say so. Nobody else would understand such packets, so these suites take the slow but
right way. The same interface as `libsrtp.Session`.
"""

from typing import Protocol

import cffi

from media.relay import libsrtp
from media.relay.interface import REPLAY_WINDOW, BadStreamConfigError, KeySet
from media.relay.libsrtp import Pointer, Session, Transform, check_keys
from media.srtp import (
    KeyExpired,
    MalformedPacket,
    MasterKey,
    MasterKeySet,
    NotEncrypted,
    ReplayError,
    SrtpContext,
    SrtpError,
    UnknownMki,
)
from media.srtp_keys import encode_mki

SUITES = frozenset({"AES_192_CM_HMAC_SHA1_80", "AES_192_CM_HMAC_SHA1_32"})
"""Suites that go this way, beside those of packages."""

_STATUS: tuple[tuple[type[SrtpError], int], ...] = (
    (ReplayError, libsrtp.REPLAY_FAIL),
    (UnknownMki, libsrtp.BAD_MKI),
    (KeyExpired, libsrtp.KEY_EXPIRED),
    (NotEncrypted, libsrtp.AUTH_FAIL),
    (MalformedPacket, libsrtp.PARSE_ERROR),
    (SrtpError, libsrtp.AUTH_FAIL),
)
_ffi = cffi.FFI()


class SrtpSession(Protocol):
    """One direction of an SRTP stream: transforms on a buffer in place, and the state they go by."""

    mki_length: int

    @property
    def rtp(self) -> Transform:
        """The transform of RTP packets; good until the keys change."""

    @property
    def rtcp(self) -> Transform:
        """The transform of RTCP packets; good until the keys change."""

    def update(self, keys: KeySet) -> None:
        """Change the key; ROC and SRTCP index go on."""

    def roc(self, ssrc: int) -> int | None:
        """Return the rollover counter of an SSRC, None when it is not bound."""

    def start_at(self, keys: KeySet, ssrc: int, roc: int, sequence: int) -> None:
        """Place an SSRC of a fresh receiver or sender at an index."""


class ReferenceSession:
    """A session over `media.srtp.SrtpContext`."""

    def __init__(self, keys: KeySet, *, sender: bool) -> None:
        check_keys(keys)
        self.mki_length = keys.keys[0].mki_length
        self._context = context = SrtpContext.from_keys(_master_keys(keys), window=REPLAY_WINDOW)
        self._sender = sender
        self.rtp: Transform = _in_place(context.protect_rtp if sender else context.unprotect_rtp)
        self.rtcp: Transform = _in_place(context.protect_rtcp if sender else context.unprotect_rtcp)

    def update(self, keys: KeySet) -> None:
        """See :class:`SrtpSession`."""
        check_keys(keys)
        self._context.rekey_to(_master_keys(keys), grace=0.0)
        self.mki_length = keys.keys[0].mki_length

    def roc(self, ssrc: int) -> int | None:
        """See :class:`SrtpSession`."""
        return self._context.roc(ssrc)

    def start_at(self, keys: KeySet, ssrc: int, roc: int, sequence: int) -> None:
        """See :class:`SrtpSession`."""
        del keys
        self._context.set_roc(ssrc, roc, sequence)


class _Packet(Protocol):
    def __call__(self, packet: bytes) -> bytes: ...


def _in_place(transform: _Packet) -> Transform:
    def run(data: object, length: Pointer) -> int:
        memory = _ffi.buffer(data)
        try:
            packet = transform(bytes(memory[: length[0]]))
        except SrtpError as error:
            return next(status for kind, status in _STATUS if isinstance(error, kind))
        memory[: len(packet)] = packet
        length[0] = len(packet)
        return libsrtp.OK

    return run


def _master_keys(keys: KeySet) -> MasterKeySet:
    suite = keys.suite
    try:
        return MasterKeySet(
            [
                MasterKey(
                    suite,
                    key.key_salt.part(0, suite.key_length),
                    key.key_salt.part(suite.key_length, suite.key_salt_length),
                    mki=encode_mki(key.mki if key.mki_length else None, key.mki_length),
                )
                for key in keys.keys
            ]
        )
    except ValueError as error:
        raise BadStreamConfigError(str(error)) from None


def open_session(keys: KeySet, *, sender: bool) -> SrtpSession:
    """Return a session for the suite. Raises BadStreamConfigError."""
    if keys.suite.name in SUITES or keys.suite.name not in libsrtp.SUPPORTED_SUITES:
        return ReferenceSession(keys, sender=sender)
    return Session(keys, sender=sender)
