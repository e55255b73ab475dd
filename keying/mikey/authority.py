"""The KMS's side of Ticket Request and Ticket Resolve: octets and keys in, octets out; no store, no network.

No state is made before a sender is authenticated (RFC 6043 12.3): ``read_*`` only reads, ``authenticate`` checks the MAC
and then the replay cache, and only its result can grant, answer or resolve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_bytes

from keying.mikey.errors import MikeyError
from keying.mikey.groups import NO_GROUPS, Groups
from keying.mikey.identity import Identity
from keying.mikey.payloads import KeyData, TicketPayload, TicketPolicy
from keying.mikey.pk import KmsKeyPair, Trust
from keying.mikey.policy import Limits
from keying.mikey.profile import Profile
from keying.mikey.replay import ReplayCache
from keying.mikey.resolve import Resolution
from keying.mikey.ticket import Entropy, FindTicketKey, TicketProtectionKey
from keying.secret import Secret


@dataclass(frozen=True, slots=True)
class Granted:
    """A ticket that was granted: the REQUEST_RESP to send, and what was granted, for the KMS's records."""

    response: bytes
    ticket: TicketPayload
    keys: tuple[KeyData, ...]

    @property
    def altered(self) -> bool:
        """The K flag: the policy is not the one asked for."""
        raise NotImplementedError


class Authority:
    """A KMS's engine. `identity` is its IDRkms.

    `modifier_secret` makes RANDRkms of a ticket, IDRr and endpoint always the same without any store (RFC 6043 5.3);
    without it, or where no endpoint is given, each resolution has a fresh one.
    """

    def __init__(
        self,
        profile: Profile,
        identity: Identity,
        *,
        replay: ReplayCache | None = None,
        modifier_secret: Secret | None = None,
        pk: KmsKeyPair | None = None,
        trust: Trust | None = None,
        entropy: Entropy = token_bytes,
    ) -> None:
        raise NotImplementedError

    def read_request(self, octets: bytes, now: float) -> PendingRequest:
        """Return a REQUEST_INIT that is well formed and timely, not authenticated. Raises MikeyError."""
        raise NotImplementedError

    def read_resolve(self, octets: bytes, now: float) -> PendingResolve:
        """Return a RESOLVE_INIT that is well formed and timely, not authenticated. Raises MikeyError."""
        raise NotImplementedError

    def error(self, octets: bytes, error: MikeyError, now: float) -> bytes | None:
        """Return the unauthenticated Error message for a request that could not be read; None to stay silent."""
        raise NotImplementedError

    def resolve_ticket(
        self,
        ticket: TicketPayload,
        responders: Sequence[Identity],
        find_tpk: FindTicketKey,
        now: float,
        *,
        groups: Groups = NO_GROUPS,
        endpoint: bytes | None = None,
    ) -> Resolution:
        """Resolve a ticket for a responder that has been authenticated: also for another KMS's (RFC 6043 10).

        `responders` are all of its public identities, the one in IDRr first. `endpoint` names the device (e.g. its
        B-TID): with it the modifier is the same each time. Checks type, TPK, MAC, owner, validity, IDRr or group, and
        Initiator Data (I=1). Raises InvalidTicket, InvalidTicketPolicy, InvalidIdentity, AuthenticationFailure.
        """
        raise NotImplementedError


class PendingRequest:
    """A REQUEST_INIT before it is authenticated: what it says must not be believed yet."""

    psk_identity: bytes | None
    """IDRpsk; None in the PK variant and where it is left out."""
    initiator: Identity | None
    kms: Identity | None
    policy: TicketPolicy

    def authenticate(self, psk: Secret | None, now: float, *, initiator: Identity | None = None) -> AuthenticRequest:
        """Verify with the PSK (None: by certificate), then remember the message against replay.

        `initiator` is who the credential belongs to, needed where the message has no IDRi.
        Raises AuthenticationFailure, Replayed, InvalidCertificate.
        """
        raise NotImplementedError

    def error(self, error: MikeyError, now: float) -> bytes | None:
        """Return the unauthenticated Error message for `error`; None to stay silent."""
        raise NotImplementedError


class AuthenticRequest:
    """A REQUEST_INIT whose sender is known to hold the credential. Whether IDRi is the sender's is for the KMS to say."""

    initiator: Identity
    policy: TicketPolicy
    certified: tuple[Identity, ...]
    """Identities in the sender's certificate (PK variant)."""

    def grant(
        self,
        tpk: TicketProtectionKey,
        now: float,
        *,
        limits: Limits | None = None,
    ) -> Granted:
        """Grant the policy within `limits`, make keys and ticket and answer. Raises InvalidTicket(Policy)."""
        raise NotImplementedError

    def error(self, error: MikeyError, now: float) -> bytes | None:
        """Return the authenticated Error message for `error`; None to stay silent."""
        raise NotImplementedError


class PendingResolve:
    """A RESOLVE_INIT before it is authenticated."""

    psk_identity: bytes | None
    responder: Identity | None
    kms: Identity | None
    ticket: TicketPayload
    issuer: Identity | None
    """IDRkms of the ticket's policy: the KMS that can resolve it, unverified."""

    def authenticate(self, psk: Secret | None, now: float, *, responder: Identity | None = None) -> AuthenticResolve:
        """Verify with the PSK (None: by certificate), then remember the message against replay."""
        raise NotImplementedError

    def error(self, error: MikeyError, now: float) -> bytes | None:
        """Return the unauthenticated Error message for `error`; None to stay silent."""
        raise NotImplementedError


class AuthenticResolve:
    """A RESOLVE_INIT whose sender is known to hold the credential."""

    responder: Identity
    ticket: TicketPayload
    issuer: Identity | None
    certified: tuple[Identity, ...]

    def answer(self, resolution: Resolution, now: float) -> bytes:
        """Return RESOLVE_RESP for the resolution, whether of this KMS or relayed from another, unchanged."""
        raise NotImplementedError

    def error(self, error: MikeyError, now: float) -> bytes | None:
        """Return the authenticated Error message for `error`; None to stay silent."""
        raise NotImplementedError
