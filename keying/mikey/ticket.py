"""The MIKEY base ticket (RFC 6043 appendix A): what protects it, what is in it, and what an initiator holds.

A type 2 ticket (3GPP base ticket) has the same Ticket Data here: TS 33.328 D.4 was not seen (assumed).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from secrets import token_bytes

from keying.mikey.identity import Identity
from keying.mikey.payloads import KeyData, TicketPayload, TicketPolicy, Timestamp, Verification
from keying.mikey.policy import Validity, Wish
from keying.mikey.profile import Profile
from keying.secret import Secret

Entropy = Callable[[int], bytes]
"""Octets of a cryptographic random source, by number."""


@dataclass(frozen=True, slots=True)
class TicketProtectionKey:
    """A TPK and its name (IDRpsk of Ticket Data). `owners` None: the KMS's own key, for tickets with D=1 alone.

    Else the key is shared with a user (mode 3): a ticket under it has D=0 and IDRi among `owners`.
    """

    key_id: bytes
    key: Secret
    owners: tuple[Identity, ...] | None = None


FindTicketKey = Callable[[bytes], TicketProtectionKey | None]
"""The TPK of that name; the name is empty where the ticket has no IDRpsk."""


@dataclass(frozen=True, slots=True)
class TicketContents:
    """What Ticket Data says: MPK and session keys as the KMS made them, RAND, time of issue, name of the TPK."""

    mpk: KeyData
    keys: tuple[KeyData, ...]
    rand: bytes
    timestamp: Timestamp
    key_id: bytes = b""
    header: bytes = b""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket in the hands of an initiator: the payload without Initiator Data, and the keys to use it with."""

    payload: TicketPayload
    mpki: KeyData
    mpkr: KeyData | None
    keys: tuple[KeyData, ...]

    @property
    def policy(self) -> TicketPolicy:
        """The granted policy."""
        return self.payload.policy

    @property
    def validity(self) -> Validity:
        """When it may be used."""
        raise NotImplementedError

    @property
    def initiator(self) -> Identity | None:
        """IDRi of the policy."""
        raise NotImplementedError

    @property
    def responders(self) -> tuple[Identity, ...]:
        """IDRr of the policy."""
        raise NotImplementedError

    @property
    def reusable(self) -> bool:
        """The J flag."""
        raise NotImplementedError

    @property
    def forking(self) -> bool:
        """The I flag."""
        raise NotImplementedError

    def usable_for(self, responder: Identity, now: float) -> bool:
        """Return whether the ticket names `responder` (itself or by wildcard) and is valid now."""
        raise NotImplementedError

    def to_record(self) -> Mapping[str, str]:
        """Return the ticket with its keys as text fields, for sealed storage alone."""
        raise NotImplementedError

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Ticket:
        """Return the ticket of a record. Raises MalformedMessage."""
        raise NotImplementedError


def ticket_key_id(ticket: TicketPayload) -> bytes:
    """Return the name of the TPK (IDRpsk in Ticket Data), unverified; empty without one. Raises InvalidTicket."""
    raise NotImplementedError


def ticket_id(ticket: TicketPayload) -> str:
    """Return a short public name of a ticket for logs and spans: hex of a hash over policy and Ticket Data."""
    raise NotImplementedError


def seal_ticket(
    profile: Profile, policy: TicketPolicy, tpk: TicketProtectionKey, contents: TicketContents
) -> TicketPayload:
    """Return the TICKET payload over `contents` (RFC 6043 A). Raises InvalidTicketPolicy for a RAND that is too short."""
    raise NotImplementedError


def open_ticket(profile: Profile, ticket: TicketPayload, find_tpk: FindTicketKey) -> TicketContents:
    """Return the contents of a ticket whose MAC is right under its TPK (RFC 6043 A.1).

    Checks D against the owner of the TPK, and IDRi against the owners in mode 3.
    Raises InvalidTicket for an unknown type or TPK, AuthenticationFailure for a wrong MAC.
    """
    raise NotImplementedError


def mode3_ticket_key(
    psk_identity: bytes, psk: Secret, kms: Identity, length: int, owners: tuple[Identity, ...] = ()
) -> TicketProtectionKey:
    """Return the TPK that a user and its KMS share for tickets the user makes (mode 3, RFC 6043 4.1.1; assumed).

    HMAC-SHA-256 of the PSK over a label and the KMS's identity, cut to `length` octets; its name is the PSK's name.
    """
    raise NotImplementedError


def create_ticket(
    profile: Profile,
    wish: Wish,
    initiator: Identity,
    kms: Identity,
    tpk: TicketProtectionKey,
    now: float,
    entropy: Entropy = token_bytes,
) -> Ticket:
    """Return a ticket the initiator makes itself (mode 3: D=0, L=1), doing what a KMS would do."""
    raise NotImplementedError


def build_initiator_data(profile: Profile, ticket: Ticket, verification: Verification) -> bytes:
    """Return Initiator Data: Vi as in V of the TRANSFER_INIT, Vr under MPKr (RFC 6043 6.10)."""
    raise NotImplementedError


def check_initiator_data(ticket: TicketPayload, mpkr: Secret) -> None:
    """Check Vr, as the KMS does with I=1. Raises AuthenticationFailure, InvalidTicket where there is none."""
    raise NotImplementedError


def check_vi(ticket: TicketPayload, verification: Verification) -> None:
    """Check that Vi repeats V of the TRANSFER_INIT, as the responder does with I=1. Raises AuthenticationFailure."""
    raise NotImplementedError
