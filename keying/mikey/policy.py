"""Ticket policy: what an initiator wishes, the rules between the flags, the validity, what is acceptable (RFC 6043 6.10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from keying.mikey.identity import Identity
from keying.mikey.payloads import TicketPolicy
from keying.mikey.profile import Profile
from keying.mikey.registry import KeyDataType, TicketFlag


@dataclass(frozen=True, slots=True)
class WantedKey:
    """A session key asked for or granted: `length` and `salt_length` in octets; `spi` empty = the KMS chooses."""

    key_type: KeyDataType = KeyDataType.TGK
    length: int = 16
    spi: bytes = b""
    salt_length: int = 14


@dataclass(frozen=True, slots=True)
class Wish:
    """What an initiator wants of a ticket, in words; :func:`wished_policy` writes it as TP.

    `validity_s` None leaves the end open; times are Unix seconds. `keys` empty leaves the keys to the KMS (one TGK).
    """

    responders: tuple[Identity, ...]
    forking: bool = True
    reusable: bool = False
    response: bool = True
    responder_rand: bool = True
    initiator_rand: bool = True
    resolve: bool = True
    initiator_keys: bool = False
    responder_keys: bool = False
    not_before: float | None = None
    validity_s: float | None = 3600.0
    rekey_interval_s: int | None = None
    keys: tuple[WantedKey, ...] = ()
    applications: tuple[Identity, ...] = ()
    ticket_type: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Validity:
    """When a ticket may be used, Unix seconds; None is unbounded."""

    start: float | None
    end: float | None

    def covers(self, now: float) -> bool:
        """Return whether `now` lies within, the ends included."""
        return (self.start is None or now >= self.start) and (self.end is None or now <= self.end)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a KMS grants at most; the rest of a wish it takes as it stands.

    `max_validity_s` shortens or closes the validity; `reusable`, `forking_required`, `initiator_keys`,
    `responder_keys` say which flags may be had; `max_keys` bounds the keys. `responders` None grants those asked for.
    """

    max_validity_s: float | None = None
    reusable: bool = True
    forking_required: bool = False
    initiator_keys: bool = True
    responder_keys: bool = True
    max_keys: int = 8
    responders: tuple[Identity, ...] | None = None
    groups: frozenset[Identity] = field(default_factory=frozenset)


def wished_policy(
    profile: Profile, wish: Wish, initiator: Identity, kms: Identity | None, now: float, *, made_by_kms: bool = True
) -> TicketPolicy:
    """Return the TP that asks for `wish`; with `made_by_kms` False the policy of a ticket the initiator makes (mode 3).

    Raises InvalidTicketPolicy where the wish breaks a dependency of the flags.
    """
    raise NotImplementedError


def check_dependencies(policy: TicketPolicy, *, tgk_in_ticket: bool = True) -> None:
    """Check every rule between the flags and the cardinality of TP Data (RFC 6043 6.10). Raises InvalidTicketPolicy."""
    raise NotImplementedError


def check_usable(profile: Profile, policy: TicketPolicy, now: float) -> None:
    """Check that a responder can use the ticket now: known type (or O=1), validity, flags.

    Raises InvalidTicket for an unknown type, InvalidTicketPolicy else.
    """
    raise NotImplementedError


def validity(policy: TicketPolicy) -> Validity:
    """Return TRs and TRe as Unix seconds, with the era rule (RFC 6043 6.3, 6.10)."""
    raise NotImplementedError


def rekey_interval(policy: TicketPolicy) -> int | None:
    """Return TRr, seconds between two re-keyings at most, or None."""
    raise NotImplementedError


def wanted_keys(policy: TicketPolicy) -> tuple[WantedKey, ...]:
    """Return the keys that TP's KEMAC asks for; none where it has no KEMAC. Raises InvalidTicketPolicy."""
    raise NotImplementedError


def grant(
    profile: Profile, asked: TicketPolicy, limits: Limits, initiator: Identity, kms: Identity, now: float
) -> tuple[TicketPolicy, tuple[WantedKey, ...]]:
    """Return the policy a KMS grants for `asked` and the keys to make; K tells of any change (RFC 6043 6.10).

    Raises InvalidTicket for a ticket type that is not issued, InvalidTicketPolicy for what cannot be repaired.
    """
    raise NotImplementedError


def check_acceptable(wish: Wish, asked: TicketPolicy, granted: TicketPolicy, now: float) -> None:
    """Check that a granted policy is what was asked for or, with K, no worse (RFC 6043 4.2.1.6).

    Raises InvalidTicketPolicy: the initiator discards the ticket and may ask again.
    """
    raise NotImplementedError


def flags_text(policy: TicketPolicy) -> str:
    """Return the flags that are 1 as letters, e.g. ``DEFGHINO``."""
    return "".join(flag.name or "" for flag in sorted(TicketFlag, reverse=True) if policy.flags & flag)


def has(policy: TicketPolicy, flag: TicketFlag) -> bool:
    """Return whether `flag` is 1."""
    return bool(policy.flags & flag)


def initiator_of(policy: TicketPolicy) -> Identity | None:
    """Return IDRi of the policy: who asked for or made the ticket."""
    raise NotImplementedError


def responders_of(policy: TicketPolicy) -> Sequence[Identity]:
    """Return the IDRr of the policy: who may resolve the ticket."""
    raise NotImplementedError


def kms_of(policy: TicketPolicy) -> Identity | None:
    """Return IDRkms of the policy: a KMS that can resolve the ticket."""
    raise NotImplementedError
