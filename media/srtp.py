"""The reference SRTP and SRTCP implementation (RFC 3711, 6188, 7714; TS 33.328 Annex C), sans-IO.

An :class:`SrtpContext` serves one direction of one stream address: `<*, address, port>` until an SSRC's first packet
authenticated (late binding, RFC 4568 6.4.1). A new key on the same address goes in through :meth:`SrtpContext.rekey`
and keeps ROC and SRTCP index; a new key on a new address is a new context with ROC 0 (RFC 4568 7.1.4).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from keying.sdes import CryptoAttribute
from keying.secret import Secret
from keying.suites import CryptoSuite
from media.srtp_errors import (
    AuthenticationFailure,
    KeyExpired,
    KeyReused,
    MalformedPacket,
    NotEncrypted,
    ReplayError,
    ReplayTooOld,
    SrtpError,
    TooManySources,
    TruncatedPacket,
    UnknownMki,
)
from media.srtp_keys import MasterKey, MasterKeySet, encode_mki
from media.srtp_transform import E_FLAG, RTCP_CLEAR_LENGTH
from media.srtp_window import DEFAULT_WINDOW, MAXIMUM_ROC, SourceState

__all__ = [
    "AuthenticationFailure",
    "KeyExpired",
    "KeyReused",
    "MalformedPacket",
    "MasterKey",
    "MasterKeySet",
    "NotEncrypted",
    "ReplayError",
    "ReplayTooOld",
    "SrtpContext",
    "SrtpError",
    "TooManySources",
    "TruncatedPacket",
    "UnknownMki",
]

_T = TypeVar("_T")

MAXIMUM_PACKET = 65_535
"""Octets of the longest packet; far below the 2^16 cipher blocks one AES-CM packet may take (RFC 3711 4.1.1)."""
MAXIMUM_SOURCES = 32
"""SSRCs one context binds at most, so that an authenticated peer cannot grow it without end (testbed choice)."""
DEFAULT_GRACE = 5.0
"""Seconds the former receive keys stay valid after a re-key (RFC 4568 7.1.4 wants a window; its length is assumed)."""
MAXIMUM_FORMER_SETS = 4
MAXIMUM_RTCP_INDEX = (1 << 31) - 1
RTP_FIXED_HEADER = 12


def rtp_header_length(packet: bytes) -> int:
    """Return the octets of the RTP header with CSRC list and extension (RFC 3550 5.1). Raises MalformedPacket."""
    length = len(packet)
    if length < RTP_FIXED_HEADER:
        raise TruncatedPacket("shorter than an RTP header")
    if packet[0] >> 6 != 2:
        raise MalformedPacket("not RTP version 2")
    header = RTP_FIXED_HEADER + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:
        if length < header + 4:
            raise TruncatedPacket("header extension cut short")
        header += 4 + 4 * int.from_bytes(packet[header + 2 : header + 4], "big")
    if length < header:
        raise TruncatedPacket("RTP header cut short")
    return header


@dataclass(frozen=True, slots=True)
class _FormerKeys:
    keys: MasterKeySet
    expires: float


class SrtpContext:
    """A cryptographic context: master keys, and ROC, indices and replay lists per SSRC (RFC 3711 3.2).

    `mki` with `mki_length` octets is put into and expected in every packet; `lifetime` and the replay `window` are in
    packets; `clock` gives seconds and only times the grace period of former keys. One context belongs to one direction.
    Raises ValueError when key, salt or MKI do not fit.
    """

    def __init__(
        self,
        suite: CryptoSuite,
        key: Secret,
        salt: Secret,
        *,
        mki: int | None = None,
        mki_length: int = 0,
        lifetime: int | None = None,
        window: int = DEFAULT_WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bind(
            MasterKeySet([MasterKey(suite, key, salt, mki=encode_mki(mki, mki_length), lifetime=lifetime)]),
            window,
            clock,
        )

    @classmethod
    def from_keys(
        cls, keys: MasterKeySet, *, window: int = DEFAULT_WINDOW, clock: Callable[[], float] = time.monotonic
    ) -> "SrtpContext":
        """Return a context over several master keys."""
        context = cls.__new__(cls)
        context._bind(keys, window, clock)  # noqa: SLF001 - the class's own constructor
        return context

    @classmethod
    def from_crypto(
        cls, crypto: CryptoAttribute, *, window: int = DEFAULT_WINDOW, clock: Callable[[], float] = time.monotonic
    ) -> "SrtpContext":
        """Return the context an SDES crypto line describes, with all its keys (RFC 4568 6). Raises ValueError."""
        return cls.from_keys(MasterKeySet.from_crypto(crypto), window=window, clock=clock)

    def _bind(self, keys: MasterKeySet, window: int, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._former: list[_FormerKeys] = []
        self._window = window
        self._clock = clock
        self._outbound: dict[int, SourceState] = {}
        self._inbound: dict[int, SourceState] = {}
        self._start: dict[int, tuple[int, int | None]] = {}
        SourceState(window)  # a window below the minimum fails here, not with the first packet

    def __repr__(self) -> str:
        return f"<SrtpContext {self.suite.name}, {len(self._outbound)} out, {len(self._inbound)} in>"

    @property
    def suite(self) -> CryptoSuite:
        """The suite of the current keys."""
        return self._keys.suite

    @property
    def needs_rekey(self) -> bool:
        """Whether nine tenths of the sending key's lifetime are used."""
        return self._keys.sending.nears_expiry(len(self._outbound))

    def roc(self, ssrc: int) -> int | None:
        """Return the rollover counter of `ssrc`, or None while it is not bound."""
        state = self._inbound.get(ssrc) or self._outbound.get(ssrc)
        return state.roc if state else None

    def set_roc(self, ssrc: int, roc: int, sequence: int | None = None) -> None:
        """Start `ssrc` at `roc` in both directions, for one that joins late (RFC 3711 3.3.1).

        `sequence` is the last SEQ under that ROC if it is known. Raises ValueError for a value out of range or
        behind what was already authenticated.
        """
        if not 0 <= roc <= MAXIMUM_ROC or (sequence is not None and not 0 <= sequence <= 0xFFFF):
            raise ValueError("ROC is 32 bits and SEQ is 16 bits")
        for table in (self._inbound, self._outbound):
            state = table.get(ssrc)
            if state is None:
                continue
            if roc < state.roc:
                raise ValueError("the rollover counter never goes back")
            if roc > state.roc:
                state.roc, state.highest_sequence = roc, sequence
        self._start[ssrc] = (roc, sequence)

    def forget(self, ssrc: int) -> None:
        """Drop all state of `ssrc`, after its BYE or time-out (RFC 4568 6.5); a later packet binds it with ROC 0."""
        self._inbound.pop(ssrc, None)
        self._outbound.pop(ssrc, None)
        self._start.pop(ssrc, None)

    def select_key(self, mki: int) -> None:
        """Send with the key of this MKI from now on. Raises UnknownMki."""
        key = self._keys.by_mki.get(encode_mki(mki, self._keys.mki_length))
        if key is None:
            raise UnknownMki("no master key has this MKI")
        self._keys.sending = key

    def rekey(
        self,
        suite: CryptoSuite,
        key: Secret,
        salt: Secret,
        *,
        mki: int | None = None,
        mki_length: int = 0,
        lifetime: int | None = None,
        grace: float = DEFAULT_GRACE,
    ) -> None:
        """Send with a new master key and receive with it and, for `grace` seconds, with the former ones.

        ROC, SRTCP index and replay lists go on (RFC 3711 3.3.1, 3.4; RFC 4568 7.1.4). The current key again changes
        nothing. Raises KeyReused for a former key still remembered, ValueError for lengths.
        """
        self.rekey_to(
            MasterKeySet([MasterKey(suite, key, salt, mki=encode_mki(mki, mki_length), lifetime=lifetime)]), grace=grace
        )

    def rekey_to(self, keys: MasterKeySet, *, grace: float = DEFAULT_GRACE) -> None:
        """Do what :meth:`rekey` does with a whole key set (`MasterKeySet.from_crypto`)."""
        if self._keys.suite == keys.suite and self._keys.sending.same_key(keys.sending):
            return
        for former in self._former:
            if any(old.same_key(new) for old in former.keys.by_mki.values() for new in keys.by_mki.values()):
                raise KeyReused("this master key was used before")
        self._former.insert(0, _FormerKeys(self._keys, self._clock() + grace))
        del self._former[MAXIMUM_FORMER_SETS:]
        self._keys = keys

    def protect_rtp(self, packet: bytes) -> bytes:
        """Return the SRTP packet. Raises MalformedPacket, KeyExpired, TooManySources, ReplayError.

        The same index twice under one key would be a two-time pad (RFC 3711 9.1), so a repeated SEQ is refused.
        """
        header = rtp_header_length(packet)
        if len(packet) > MAXIMUM_PACKET:
            raise MalformedPacket("longer than a datagram")
        ssrc = int.from_bytes(packet[8:12], "big")
        state = self._source(self._outbound, ssrc)
        index = state.estimate(packet[2] << 8 | packet[3])
        state.rtp_window.check(index)
        key = self._keys.sending
        key.check_srtp(len(self._outbound))
        body, tag = key.rtp.seal_rtp(packet[:header], packet[header:], ssrc, index)
        self._outbound[ssrc] = state
        state.accept(index)
        key.srtp_packets += 1
        return b"".join((body, key.mki, tag))

    def unprotect_rtp(self, packet: bytes) -> bytes:
        """Return the RTP packet. Raises the SrtpError of the drop cause; a refused packet changes no state."""
        header = rtp_header_length(packet)
        ssrc = int.from_bytes(packet[8:12], "big")
        state = self._source(self._inbound, ssrc)
        index = state.estimate(packet[2] << 8 | packet[3])
        state.rtp_window.check(index)
        sources = len(self._inbound)

        def open_with(keys: MasterKeySet) -> tuple[MasterKey, bytes]:
            aead = keys.suite.auth == "AEAD"
            tag_length = keys.suite.srtp_tag_length
            key, body, tag = keys.cut(packet, 0 if aead else tag_length, header + (tag_length if aead else 0))
            key.check_srtp(sources)
            return key, key.rtp.open_rtp(header, body, tag, ssrc, index)

        key, plain = self._with_valid_keys(open_with)
        self._inbound[ssrc] = state
        state.accept(index)
        key.srtp_packets += 1
        return plain

    def protect_rtcp(self, packet: bytes) -> bytes:
        """Return the SRTCP packet of a compound RTCP packet. Raises MalformedPacket, KeyExpired, TooManySources."""
        _check_rtcp(packet)
        if len(packet) > MAXIMUM_PACKET:
            raise MalformedPacket("longer than a datagram")
        ssrc = int.from_bytes(packet[4:8], "big")
        state = self._source(self._outbound, ssrc)
        if state.next_rtcp_index > MAXIMUM_RTCP_INDEX:
            raise KeyExpired("the SRTCP index is used up")
        key = self._keys.sending
        key.check_srtcp()
        body, tag = key.rtcp.seal_rtcp(packet, ssrc, state.next_rtcp_index)
        self._outbound[ssrc] = state
        state.next_rtcp_index += 1
        key.srtcp_packets += 1
        return b"".join((body, key.mki, tag))

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        """Return the RTCP packet. Raises the SrtpError of the drop cause; a refused packet changes no state."""
        _check_rtcp(packet)
        ssrc = int.from_bytes(packet[4:8], "big")
        state = self._source(self._inbound, ssrc)

        def open_with(keys: MasterKeySet) -> tuple[MasterKey, tuple[bytes, int]]:
            aead = keys.suite.auth == "AEAD"
            tag_length = keys.suite.srtcp_tag_length
            minimum = RTCP_CLEAR_LENGTH + 4 + (tag_length if aead else 0)
            key, body, tag = keys.cut(packet, 0 if aead else tag_length, minimum)
            word = int.from_bytes(body[-4:], "big")
            if not word & E_FLAG:
                raise NotEncrypted("E flag is 0")
            index = word ^ E_FLAG
            state.rtcp_window.check(index)
            key.check_srtcp()
            return key, (key.rtcp.open_rtcp(body, tag, ssrc, index), index)

        key, (plain, index) = self._with_valid_keys(open_with)
        self._inbound[ssrc] = state
        state.rtcp_window.accept(index)
        key.srtcp_packets += 1
        return plain

    def _with_valid_keys(self, attempt: Callable[[MasterKeySet], tuple[MasterKey, _T]]) -> tuple[MasterKey, _T]:
        """Try the current key set and then those in their grace period; the tag tells them apart (RFC 4568 7.1.4)."""
        try:
            return attempt(self._keys)
        except SrtpError as fault:
            if not self._former:
                raise
            cause = fault
        now = self._clock()
        for former in self._former:
            if former.expires < now:
                continue
            try:
                return attempt(former.keys)
            except ReplayError as fault:
                cause = fault
            except SrtpError:
                continue
        raise cause

    def _source(self, table: dict[int, SourceState], ssrc: int) -> SourceState:
        """Return the state of `ssrc`, or a fresh one that the caller enters once the packet proved good."""
        state = table.get(ssrc)
        if state is not None:
            return state
        if len(table) >= MAXIMUM_SOURCES:
            raise TooManySources("no room for another SSRC")
        return SourceState(self._window, *self._start.get(ssrc, (0, None)))


def _check_rtcp(packet: bytes) -> None:
    """Raise MalformedPacket unless `packet` starts like RTCP (RFC 3550 6.4.1)."""
    if len(packet) < RTCP_CLEAR_LENGTH:
        raise TruncatedPacket("shorter than an RTCP header with SSRC")
    if packet[0] >> 6 != 2:
        raise MalformedPacket("not RTCP version 2")
