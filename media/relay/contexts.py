"""SRTP contexts of one side: what it receives with and sends with, over re-keys (RFC 3711 3.3.1, RFC 4568 7.1.4)."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest

from keying.suites import CryptoSuite
from media.relay import libsrtp
from media.relay.interface import (
    MAX_SSRCS,
    OLD_KEY_GRACE_S,
    BadStreamConfigError,
    DropCause,
    KeyReusedError,
    KeySet,
    SrtpIndex,
)
from media.relay.libsrtp import PacketBuffer
from media.relay.reference import SrtpSession, open_session

CAUSE_OF: Mapping[int, DropCause] = {
    libsrtp.BAD_PARAM: DropCause.TOO_SHORT,
    libsrtp.PARSE_ERROR: DropCause.TOO_SHORT,
    libsrtp.REPLAY_FAIL: DropCause.REPLAYED,
    libsrtp.REPLAY_OLD: DropCause.REPLAYED,
    libsrtp.INDEX_OLD: DropCause.REPLAYED,
    libsrtp.BAD_MKI: DropCause.MKI,
    libsrtp.KEY_EXPIRED: DropCause.KEY_EXPIRED,
}
"""Cause of a drop by libsrtp error; any other error counts as failed authentication."""

_DIGEST_OCTETS = 32
_MOST_SRTCP_BEHIND = 4096
_E_BIT = 0x80
_RTCP_LEAST = 8 + 4
"""Octets of an RTCP header and the SRTCP index."""


@dataclass(slots=True)
class Source:
    """An SSRC that was accepted on one side: RFC 3550 A.1 sequence state, for loss figures and for the ROC of a new
    key."""

    ssrc: int
    highest: int
    """Highest sequence number received, 16 bits."""
    received: int = 0
    cycles: int = 0
    first: int = 0
    transit: float | None = None
    jitter: float = 0.0
    following: "Source | None" = field(default=None, repr=False, compare=False)
    """The one that was accepted after it."""

    def note(self, sequence: int) -> None:
        """Take in the sequence number of an accepted packet."""
        self.received += 1
        if self.received == 1:
            self.first = self.highest = sequence
        elif 0 < ((sequence - self.highest) & 0xFFFF) < 0x8000:
            if sequence < self.highest:
                self.cycles += 1
            self.highest = sequence

    def measure(self, transit: float) -> None:
        """Take in arrival minus RTP timestamp, in timestamp units (RFC 3550 6.4.1)."""
        if self.transit is not None:
            distance = abs(transit - self.transit)
            if distance < 1 << 20:  # beyond that the sender's clock jumped, or wrapped
                self.jitter += (distance - self.jitter) / 16
        self.transit = transit

    @property
    def lost(self) -> int:
        """Packets expected and not received, never below 0."""
        if not self.received:
            return 0
        return max(0, (self.cycles << 16) + self.highest - self.first + 1 - self.received)


@dataclass(slots=True)
class Lifetime:
    """Packets left under one key; SRTP and SRTCP are counted apart and each stays below the limit (RFC 4568 6.1)."""

    srtp: int
    srtcp: int
    srtp_used: int = 0
    srtcp_used: int = 0
    near_told: bool = False
    end_told: bool = False

    @classmethod
    def of(cls, keys: KeySet) -> "Lifetime":
        """Read the limits of a key set: the signalled lifetime of its shortest key, or the suite's."""
        signalled = [key.lifetime for key in keys.keys if key.lifetime is not None]
        limit = min(signalled, default=keys.suite.max_srtp_packets)
        return cls(limit, min(limit, keys.suite.max_srtcp_packets))

    @property
    def expired(self) -> bool:
        """Whether either count has reached its limit."""
        return self.srtp_used >= self.srtp or self.srtcp_used >= self.srtcp

    @property
    def near(self) -> bool:
        """Whether nine tenths of either count are used."""
        return self.srtp_used * 10 >= self.srtp * 9 or self.srtcp_used * 10 >= self.srtcp * 9


class UsedKeys:
    """Digests of the keys a stream has seen: a used key never comes back (RFC 3711 9.2, RFC 4568 6.1).

    It never changes; :meth:`taking` returns the next. Raises BadStreamConfigError for what is no SHA-256.
    """

    __slots__ = ("_digests",)

    def __init__(self, digests: Collection[bytes] = ()) -> None:
        self._digests = b"".join(digests)
        if any(len(digest) != _DIGEST_OCTETS for digest in digests):
            raise BadStreamConfigError("used keys are named by their SHA-256")

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, len(self._digests), _DIGEST_OCTETS):
            yield self._digests[at : at + _DIGEST_OCTETS]

    def taking(self, keys: KeySet) -> "UsedKeys":
        """Return these and the keys. Raises KeyReusedError when one of them, or one twice in the set, is among them."""
        digests = [*self, *(sha256(key.key_salt.reveal()).digest() for key in keys.keys)]
        if len(set(digests)) < len(digests):
            raise KeyReusedError("a key was used before on this stream")
        return UsedKeys(digests)


class Context:
    """What both directions keep of their keys once a session has them: not the keys."""

    __slots__ = ("_fingerprint", "buffer", "lifetime", "session", "suite")

    def __init__(self, keys: KeySet, buffer: PacketBuffer, *, sender: bool) -> None:
        self.buffer = buffer
        self.session = open_session(keys, sender=sender)
        self._note(keys)

    def _note(self, keys: KeySet) -> None:
        self.suite: CryptoSuite = keys.suite
        self.lifetime = Lifetime.of(keys)
        self._fingerprint = _fingerprint(keys)

    def has(self, keys: KeySet) -> bool:
        """Whether these are the present keys."""
        return compare_digest(self._fingerprint, _fingerprint(keys))

    def resume(self, keys: KeySet, positions: Mapping[int, SrtpIndex]) -> None:
        """Go on where each SSRC was under a key before `keys`, the present ones; for a context without a packet yet."""
        for ssrc, (roc, sequence) in positions.items():
            self.session.start_at(keys, ssrc, roc, sequence)


def _fingerprint(keys: KeySet) -> bytes:
    """SHA-256 over everything a key set says."""
    digest = sha256(keys.suite.name.encode())
    for key in keys.keys:
        digest.update(f" {key.lifetime} {key.mki} {key.mki_length} ".encode() + key.key_salt.reveal())
    return digest.digest()


class Receiver(Context):
    """Unprotects what the peer sends: the present key and, for a grace time, the one before."""

    __slots__ = ("_previous",)

    def __init__(self, keys: KeySet, buffer: PacketBuffer) -> None:
        super().__init__(keys, buffer, sender=False)
        self._previous: tuple[SrtpSession, CryptoSuite, float] | None = None
        """Session and suite of the key before, and until when it works."""

    def rekey(self, keys: KeySet, sources: Iterable[Source], now: float, *, reset_roc: bool) -> None:
        """Change to `keys` at `now` seconds. ROC of each known SSRC goes on unless `reset_roc`."""
        session = open_session(keys, sender=False)
        if not reset_roc:
            for source in sources:
                roc = self.session.roc(source.ssrc)
                if roc is not None and source.received:
                    session.start_at(keys, source.ssrc, roc, source.highest)
        self._previous = self.session, self.suite, now + OLD_KEY_GRACE_S
        self.session = session
        self._note(keys)

    def in_grace(self, now: float) -> bool:
        """Whether the key before the present one still works at `now`; forgets it when not."""
        if self._previous is not None and now >= self._previous[2]:
            self._previous = None
        return self._previous is not None

    def unprotect(self, now: float, *, rtcp: bool) -> DropCause | None:
        """Authenticate and decrypt the packet in the buffer. Returns why it must be dropped, or None."""
        lifetime = self.lifetime
        if lifetime.expired and not self.in_grace(now):
            return DropCause.KEY_EXPIRED
        buffer = self.buffer
        saved = buffer.packet() if self.in_grace(now) else None  # AEAD decrypts before it knows
        cause = DropCause.KEY_EXPIRED if lifetime.expired else self._unprotect(self.session, self.suite, rtcp=rtcp)
        if cause is None:
            if rtcp:
                lifetime.srtcp_used += 1
            else:
                lifetime.srtp_used += 1
            return None
        if saved is None or self._previous is None:
            return cause
        buffer.load(saved)
        session, suite, _ = self._previous
        earlier = self._unprotect(session, suite, rtcp=rtcp)
        return cause if earlier is DropCause.AUTH_FAILED else earlier

    def _unprotect(self, session: SrtpSession, suite: CryptoSuite, *, rtcp: bool) -> DropCause | None:
        buffer = self.buffer
        if rtcp and not self._encrypted_rtcp(suite, session.mki_length, buffer):
            return DropCause.AUTH_FAILED
        status = (session.rtcp if rtcp else session.rtp)(buffer.data, buffer.length)
        return None if status == libsrtp.OK else CAUSE_OF.get(status, DropCause.AUTH_FAILED)

    @staticmethod
    def _encrypted_rtcp(suite: CryptoSuite, mki_length: int, buffer: PacketBuffer) -> bool:
        """Whether the E bit is set, as SDP without UNENCRYPTED_SRTCP demands (RFC 4568 6.3.2)."""
        after_index = mki_length
        if suite.auth != "AEAD":
            after_index += suite.srtcp_tag_length
        if buffer.length[0] < after_index + _RTCP_LEAST:
            return False
        return bool(buffer.octets[buffer.length[0] - after_index - 4] & _E_BIT)


class Sender(Context):
    """Protects what goes to the peer."""

    __slots__ = ("_behind", "_srtcp_sent")

    def __init__(self, keys: KeySet, buffer: PacketBuffer) -> None:
        super().__init__(keys, buffer, sender=True)
        self._srtcp_sent = 0
        self._behind: set[int] | None = None
        """SSRCs whose SRTCP index was brought up to that."""

    def go_on_after(self, srtcp_sent: int) -> None:
        """Begin the SRTCP index of each SSRC behind as many packets as contexts before this one sent.

        No more than 4096: each is protected anew, for the SRTP library cannot be told an index.
        """
        self._srtcp_sent = min(srtcp_sent, _MOST_SRTCP_BEHIND)

    def _catch_up(self) -> None:
        """Use up SRTCP indices of the SSRC whose packet is in the buffer; what is made of them never leaves here."""
        buffer = self.buffer
        packet = buffer.packet()
        ssrc = int.from_bytes(packet[4:8], "big")
        self._behind = self._behind or set()
        if ssrc in self._behind or len(self._behind) >= MAX_SSRCS:
            return
        self._behind.add(ssrc)
        empty = b"\x80\xc9\x00\x01" + packet[4:8]  # a receiver report about nobody (RFC 3550 6.4.2)
        for _ in range(self._srtcp_sent):
            buffer.load(empty)
            self.session.rtcp(buffer.data, buffer.length)
        self.lifetime.srtcp_used += self._srtcp_sent
        buffer.load(packet)

    def rekey(self, keys: KeySet, *, reset_roc: bool) -> None:
        """Change to `keys`; ROC and SRTCP index of every SSRC go on unless `reset_roc`."""
        if reset_roc:
            self.session = open_session(keys, sender=True)
            self._srtcp_sent = 0
        else:
            self.session.update(keys)
        self._note(keys)

    def protect(self, *, rtcp: bool) -> DropCause | None:
        """Encrypt the packet in the buffer and add its tag. Returns why it must be dropped, or None."""
        lifetime = self.lifetime
        if lifetime.expired:
            return DropCause.KEY_EXPIRED
        buffer = self.buffer
        if rtcp and self._srtcp_sent:
            self._catch_up()
        status = (self.session.rtcp if rtcp else self.session.rtp)(buffer.data, buffer.length)
        if status != libsrtp.OK:
            return CAUSE_OF.get(status, DropCause.AUTH_FAILED)
        if rtcp:
            lifetime.srtcp_used += 1
        else:
            lifetime.srtp_used += 1
        return None
