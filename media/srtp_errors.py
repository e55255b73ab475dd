"""Why an SRTP or SRTCP packet was refused: one class per drop cause, each with the name its counter carries."""

# ruff: noqa: N818 - a drop cause is named after what happened to the packet

from typing import ClassVar


class SrtpError(Exception):
    """A packet could not be protected or was refused; `cause` names the drop counter."""

    cause: ClassVar[str] = "srtp"


class MalformedPacket(SrtpError):
    """The octets are no RTP or RTCP packet (version, header or length wrong)."""

    cause = "malformed"


class TruncatedPacket(MalformedPacket):
    """The packet is too short to hold its header, MKI and authentication tag."""

    cause = "truncated"


class AuthenticationFailure(SrtpError):
    """The authentication tag does not match: altered, wrong key or wrong ROC (RFC 3711 4.2)."""

    cause = "auth_failure"


class ReplayError(SrtpError):
    """The index was already received, or already used for sending (RFC 3711 3.3.2)."""

    cause = "replay"


class ReplayTooOld(ReplayError):
    """The index lies behind the replay window and counts as received (RFC 3711 3.3.2)."""

    cause = "replay_too_old"


class UnknownMki(SrtpError):
    """The packet's master key identifier names no key of this context (RFC 3711 3.2.1)."""

    cause = "unknown_mki"


class TooManySources(SrtpError):
    """The context is already bound to as many SSRCs as it may hold."""

    cause = "too_many_ssrcs"


class NotEncrypted(SrtpError):
    """An SRTCP packet with E = 0 where encryption was agreed (RFC 3711 3.4, RFC 4568 6.3.2)."""

    cause = "not_encrypted"


class KeyExpired(SrtpError):
    """The master key has served its lifetime, or the index space is used up (RFC 3711 3.3.1, 9.2)."""

    cause = "key_expired"


class KeyReused(SrtpError):
    """A master key that was used in this context before was offered again (RFC 3711 9.2)."""

    cause = "key_reused"
