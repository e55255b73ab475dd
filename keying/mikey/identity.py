"""Identities of MIKEY-TICKET: users, user groups, KMSs, key names (RFC 6043 6.6; TS 33.328 6.2.3.2 is assumed).

The fork label and the MACs take the identity's octets, so nothing here rewrites an identity that was received; what is
normalised is compared, not sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keying.mikey.errors import MalformedMessage
from keying.mikey.payloads import IdRoled, Payload
from keying.mikey.registry import IdRole, IdType

WILDCARD = "*"
"""User part that stands for all users of a domain, e.g. ``sip:*@ims.test`` (assumed: TS 33.328 6.2.3.2 is unseen)."""
_SEPARATORS = "-.()"
"""Visual separators of a telephone number (RFC 3966 3)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity: its ID type and the octets of the ID Data field."""

    id_type: IdType
    data: bytes

    @classmethod
    def uri(cls, text: str) -> Identity:
        """Return the identity of a URI, e.g. ``sip:alice@ims.test``, or of a host name that IDRkms carries."""
        return cls(IdType.URI, text.encode())

    @classmethod
    def nai(cls, text: str) -> Identity:
        """Return the identity of a network access identifier (RFC 3830 6.7)."""
        return cls(IdType.NAI, text.encode())

    @classmethod
    def octets(cls, data: bytes) -> Identity:
        """Return a byte-string identity, as IDRpsk carries it (RFC 6043 6.5)."""
        return cls(IdType.BYTE_STRING, data)

    @classmethod
    def of(cls, payload: IdRoled) -> Identity:
        """Return the identity an IDR payload carries."""
        return cls(payload.id_type, payload.data)

    @property
    def text(self) -> str:
        """The identity for people and logs; octets that are not UTF-8 are escaped."""
        return self.data.decode("utf-8", "backslashreplace")

    @property
    def wildcard(self) -> bool:
        """True where the identity stands for all users of its domain."""
        _, user, _ = _split(self.text)
        return user == WILDCARD

    def payload(self, role: IdRole) -> IdRoled:
        """Return the IDR payload of this identity in `role`."""
        return IdRoled(role, self.id_type, self.data)

    def normalised(self) -> Identity:
        """Return the identity to compare with: scheme and host in lower case, URI parameters dropped (assumed).

        TS 33.328 6.2.3.3 was not seen; ``tel:`` URIs lose their visual separators as RFC 3966 5.1.1 has it.
        """
        if self.id_type not in {IdType.URI, IdType.NAI}:
            return self
        return Identity(self.id_type, normalise(self.text).encode())

    def same(self, other: Identity) -> bool:
        """Return whether both name the same party once normalised."""
        return self.normalised() == other.normalised()


def normalise(uri: str) -> str:
    """Return `uri` as identities are compared: lower-case scheme and host, no parameters, headers or separators.

    A number that is not global keeps its phone-context: without it, it is anybody's (RFC 3966 4, 5.1.5).
    """
    scheme, user, host = _split(uri)
    if scheme == "tel:":
        number = "".join(letter for letter in user if letter not in _SEPARATORS)
        return scheme + number + ("" if number.startswith("+") else _phone_context(uri))
    host = host.lower()
    return f"{scheme}{user}@{host}" if user else f"{scheme}{host}"


def matches(authorised: Identity, user: Identity) -> bool:
    """Return whether the ticket's `authorised` identity is `user`, or a wildcard over its domain.

    Groups are not looked at: :class:`keying.mikey.groups.Groups` knows their members.
    """
    if authorised.same(user):
        return True
    if (
        not authorised.wildcard
        or user.wildcard
        or authorised.id_type is not user.id_type
        or authorised.id_type not in {IdType.URI, IdType.NAI}
    ):
        return False
    scheme, _, host = _split(normalise(authorised.text))
    user_scheme, name, user_host = _split(normalise(user.text))
    return bool(name) and scheme == user_scheme and host == user_host


def identities(payloads: Iterable[Payload], role: IdRole) -> tuple[Identity, ...]:
    """Return the identities that IDR payloads of `role` carry, in order."""
    return tuple(Identity.of(each) for each in payloads if isinstance(each, IdRoled) and each.role == role)


def identity(payloads: Iterable[Payload], role: IdRole) -> Identity | None:
    """Return the one identity of `role`, or None.

    Raises MalformedMessage for a second: two readers of one message must not see two senders.
    """
    found = identities(payloads, role)
    if len(found) > 1:
        raise MalformedMessage(f"IDR {role.name}", "stands there more than once")
    return found[0] if found else None


def _phone_context(uri: str) -> str:
    for parameter in uri.split(";")[1:]:
        name, _, value = parameter.lower().partition("=")
        if name == "phone-context":
            digits = "".join(letter for letter in value if letter not in _SEPARATORS)
            return f";phone-context={digits if value.startswith('+') else value}"
    return ""


def _split(uri: str) -> tuple[str, str, str]:
    """Return scheme with its colon (lower case), user, host (with port) of a SIP-like or tel URI or of a NAI."""
    head, colon, rest = uri.partition(":")
    scheme = head.lower() + colon if colon and head.replace("+", "").isalnum() else ""
    body = rest if scheme else uri
    if scheme == "tel:":
        return scheme, body.split("?", 1)[0].split(";", 1)[0], ""
    # a user part may have ";" and "?" (RFC 3261 25.1), so the host is cut off first
    user, at, host = body.rpartition("@")
    host = host.split("?", 1)[0].split(";", 1)[0]
    return scheme, user if at else "", host
