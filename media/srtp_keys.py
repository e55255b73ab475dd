"""Master keys of an SRTP context: lengths, MKI, lifetime and derived session keys (RFC 3711 3.2.1, 9.2)."""

from collections.abc import Sequence
from functools import cached_property

from keying.sdes import CryptoAttribute
from keying.secret import Secret
from keying.suites import CryptoSuite
from media.srtp_errors import KeyExpired, TruncatedPacket, UnknownMki
from media.srtp_transform import Transform, is_carried, rtcp_transform, rtp_transform

SHARED_KEY_LIMIT = 1 << 31
"""Packets that several SSRCs under one SDES master key may send together (RFC 4568 6.4.2)."""
REKEY_ADVICE = 0.9
"""Part of the lifetime after which a new key should be negotiated (testbed choice)."""


class MasterKey:
    """One master key with its salt, MKI octets and packet counts; session keys are derived at first use and kept.

    Raises ValueError when lengths do not fit the suite or this process cannot run the suite.
    """

    def __init__(
        self, suite: CryptoSuite, key: Secret, salt: Secret, *, mki: bytes = b"", lifetime: int | None = None
    ) -> None:
        if not is_carried(suite):
            raise ValueError(f"suite {suite.name} is not supported")
        if len(key) != suite.key_length or len(salt) != suite.salt_length:
            raise ValueError(f"{suite.name} takes {suite.key_length} octets of key and {suite.salt_length} of salt")
        self.suite = suite
        self.key = key
        self.salt = salt
        self.mki = mki
        self.srtp_limit = min(suite.max_srtp_packets, lifetime or suite.max_srtp_packets)
        self.srtcp_limit = min(suite.max_srtcp_packets, lifetime or suite.max_srtcp_packets)
        self.srtp_packets = 0
        self.srtcp_packets = 0

    @cached_property
    def rtp(self) -> Transform:
        """The SRTP session keys."""
        return rtp_transform(self.suite, self.key, self.salt)

    @cached_property
    def rtcp(self) -> Transform:
        """The SRTCP session keys."""
        return rtcp_transform(self.suite, self.key, self.salt)

    def same_key(self, other: "MasterKey") -> bool:
        """Tell whether both hold the same master key and salt."""
        return self.key == other.key and self.salt == other.salt

    def check_srtp(self, sources: int) -> None:
        """Raise KeyExpired when no more SRTP packet may be sent or taken with this key (RFC 3711 9.2)."""
        if self.srtp_packets >= self._srtp_limit(sources):
            raise KeyExpired("the master key has served its lifetime in SRTP packets")

    def check_srtcp(self) -> None:
        """Raise KeyExpired when no more SRTCP packet may be sent or taken with this key."""
        if self.srtcp_packets >= self.srtcp_limit:
            raise KeyExpired("the master key has served its lifetime in SRTCP packets")

    def nears_expiry(self, sources: int) -> bool:
        """Tell whether nine tenths of either lifetime are used."""
        return (
            self.srtp_packets >= REKEY_ADVICE * self._srtp_limit(sources)
            or self.srtcp_packets >= REKEY_ADVICE * self.srtcp_limit
        )

    def _srtp_limit(self, sources: int) -> int:
        return min(self.srtp_limit, SHARED_KEY_LIMIT) if sources > 1 else self.srtp_limit


class MasterKeySet:
    """The keys of one crypto line: one without MKI, or several told apart by their MKI alone (RFC 4568 4.3, 6.1).

    Raises ValueError when several keys lack an MKI, share one, or their MKIs differ in length.
    """

    def __init__(self, keys: Sequence[MasterKey]) -> None:
        if not keys:
            raise ValueError("a key set holds at least one master key")
        self.suite = keys[0].suite
        self.mki_length = len(keys[0].mki)
        self.by_mki = {key.mki: key for key in keys}
        if len(self.by_mki) != len(keys):
            raise ValueError("several master keys need different MKIs")
        if any(len(key.mki) != self.mki_length or key.suite != self.suite for key in keys):
            raise ValueError("the keys of a set share the suite and the length of the MKI")
        self.sending = keys[0]

    @classmethod
    def from_crypto(cls, crypto: CryptoAttribute) -> "MasterKeySet":
        """Build the set a crypto line describes; its first key is the sending one. Raises ValueError."""
        cut, end = crypto.suite.key_length, crypto.suite.key_salt_length
        return cls(
            [
                MasterKey(
                    crypto.suite,
                    inline.key_salt.part(0, cut),
                    inline.key_salt.part(cut, end),
                    mki=encode_mki(inline.mki, inline.mki_length),
                    lifetime=inline.lifetime,
                )
                for inline in crypto.keys
            ]
        )

    def cut(self, packet: bytes, tag_length: int, minimum: int) -> tuple[MasterKey, bytes, bytes]:
        """Return master key, body and tag of a protected packet whose body has at least `minimum` octets.

        Raises TruncatedPacket, or UnknownMki (never trial and error among the keys of one line, RFC 4568 4.3).
        """
        tag_at = len(packet) - tag_length
        end = tag_at - self.mki_length
        if end < minimum:
            raise TruncatedPacket("too short for its authentication tag")
        key = self.by_mki.get(packet[end:tag_at])
        if key is None:
            raise UnknownMki("no master key has this MKI")
        return key, packet[:end], packet[tag_at:]


def encode_mki(mki: int | None, length: int) -> bytes:
    """Return the MKI as it stands in a packet: big-endian in `length` octets, empty without one (RFC 4568 6.1).

    Raises ValueError when it does not fit.
    """
    if mki is None:
        return b""
    try:
        return mki.to_bytes(length, "big")
    except OverflowError:
        raise ValueError("the MKI does not fit its length") from None
