"""What goes wrong with MIKEY messages: one class a fault, with the error number of RFC 3830 6.12 and RFC 6043 6.9."""

# ruff: noqa: N818 - named after the error of the RFC

from __future__ import annotations

from typing import ClassVar

from keying.mikey.registry import ErrorNumber


class MikeyError(Exception):
    """A MIKEY message, ticket or key that cannot be used.

    `where` names the payload or field, `reason` says what was wrong in words without any key material, `number` is what
    an Error message would carry; None asks for silence (RFC 3830 5.1.2).
    """

    default: ClassVar[ErrorNumber | None] = ErrorNumber.UNSPECIFIED

    def __init__(self, where: str, reason: str, *, silent: bool = False) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason
        self.number: ErrorNumber | None = None if silent else self.default


class MalformedMessage(MikeyError):
    """The octets are no message: truncated, too long, an unknown payload number, a field outside its range."""


class UnsupportedDataType(MikeyError):
    """The data type is unknown here, or one of those that are refused by name (Diffie-Hellman, RSA-R)."""

    default = ErrorNumber.INVALID_DT

    def __init__(self, where: str, reason: str, *, data_type: int = -1, silent: bool = False) -> None:
        super().__init__(where, reason, silent=silent)
        self.data_type = data_type


class AuthenticationFailure(MikeyError):
    """A MAC, a signature or a party's claim to an identity did not hold."""

    default = ErrorNumber.AUTH_FAILURE


class InvalidTimestamp(MikeyError):
    """A timestamp of a type we do not take, or outside the clock skew."""

    default = ErrorNumber.INVALID_TS


class Replayed(InvalidTimestamp):
    """The message was seen before, or may have been (RFC 3830 5.4)."""


class InvalidPrf(MikeyError):
    """A PRF function that is unknown or does not go with the other algorithms."""

    default = ErrorNumber.INVALID_PRF


class InvalidMac(MikeyError):
    """A MAC algorithm that is unknown, or NULL where a MAC is due."""

    default = ErrorNumber.INVALID_MAC


class InvalidEncryption(MikeyError):
    """An encryption algorithm that is unknown, refused, or NULL where secrecy is due."""

    default = ErrorNumber.INVALID_EA


class InvalidHash(MikeyError):
    """A hash function that is unknown."""

    default = ErrorNumber.INVALID_HA


class InvalidIdentity(MikeyError):
    """An identity that is missing, of an unknown type, or not one the sender may use."""

    default = ErrorNumber.INVALID_ID


class InvalidCertificate(MikeyError):
    """A certificate that is unreadable or not trusted."""

    default = ErrorNumber.INVALID_CERT


class InvalidPolicy(MikeyError):
    """A security policy (SP) of a protocol we do not do, or none where one is due."""

    default = ErrorNumber.INVALID_SP


class InvalidPolicyParameter(MikeyError):
    """A parameter of a security policy that is not acceptable."""

    default = ErrorNumber.INVALID_SP_PAR


class InvalidTicket(MikeyError):
    """A ticket of an unknown type, with a MAC that does not hold, out of its time, or not for this party."""

    default = ErrorNumber.INVALID_TICKET


class InvalidTicketPolicy(MikeyError):
    """Flags or data of a ticket policy that contradict each other or that local policy does not grant."""

    default = ErrorNumber.INVALID_TP_PAR


class Unspecified(MikeyError):
    """What has no number of its own, e.g. a key below 128 bits."""


class PeerError(MikeyError):
    """The peer answered with an Error message; never answered in turn. `numbers` are its ERR payloads in order.

    `authenticated` tells whether its V held; without, it is advice only (RFC 3830 5.1.2).
    """

    default = None

    def __init__(self, numbers: tuple[int, ...], *, authenticated: bool = False) -> None:
        super().__init__("Error message", ", ".join(map(_word, numbers)) or "no error number")
        self.numbers = numbers
        self.authenticated = authenticated


def _word(number: int) -> str:
    try:
        return ErrorNumber(number).name
    except ValueError:
        return str(number)
