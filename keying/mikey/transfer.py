"""Ticket Transfer: TRANSFER_INIT and TRANSFER_RESP of initiator and responder (RFC 6043 4.2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes

from keying.mikey.errors import MikeyError
from keying.mikey.groups import NO_GROUPS, Groups
from keying.mikey.identity import Identity
from keying.mikey.payloads import CryptoSession, GeneralExtension, KeyData, SecurityPolicy, TicketPayload
from keying.mikey.profile import Profile
from keying.mikey.replay import ReplayCache
from keying.mikey.resolve import Resolution
from keying.mikey.sessions import SessionKeys
from keying.mikey.ticket import Entropy, Ticket
from keying.mikey.update import Association


@dataclass(frozen=True, slots=True)
class Established:
    """A bundle that both sides have keys for: with a fork, one of several.

    `initiator` and `responder` are the identities to show to people: authenticated by the KMS through the ticket.
    """

    keys: SessionKeys
    initiator: Identity
    responder: Identity
    association: Association


class TransferInitiator:
    """The initiator's side of one Ticket Transfer; `message` is to be sent as it stands."""

    def __init__(
        self,
        profile: Profile,
        ticket: Ticket,
        *,
        own: Identity,
        peer: Identity,
        sessions: Sequence[CryptoSession],
        policies: Sequence[SecurityPolicy] = (),
        extensions: Sequence[GeneralExtension] = (),
        keys: Sequence[KeyData] = (),
        now: float,
        entropy: Entropy = token_bytes,
    ) -> None:
        self.message: bytes = b""
        self.csb_id: int = 0
        raise NotImplementedError

    def receive(self, octets: bytes, now: float) -> Established:
        """Return what a TRANSFER_RESP establishes; callable once for each branch that answers.

        Raises PeerError for an Error message, AuthenticationFailure and other MikeyErrors; other forks stay usable.
        """
        raise NotImplementedError

    def established(self) -> Established:
        """Return the keys of a transfer without response (F=0). Raises InvalidTicketPolicy with F=1."""
        raise NotImplementedError


class TransferResponder:
    """The responder's side of one Ticket Transfer.

    The constructor makes every check that needs no key (RFC 6043 4.2.2.2) and raises MikeyError before any KMS is
    asked: time, ticket type, validity, flags, own identity among the responders, security policies, RAND lengths.
    `suites` are the SRTP suites that are acceptable, best first; `prot_types` other protocols that are.
    `groups` are groups this responder knows itself to be in.
    """

    def __init__(
        self,
        profile: Profile,
        octets: bytes,
        *,
        own: Sequence[Identity],
        now: float,
        suites: Sequence[str] = ("AES_CM_128_HMAC_SHA1_80",),
        prot_types: Sequence[int] = (),
        groups: Groups = NO_GROUPS,
        replay: ReplayCache | None = None,
        entropy: Entropy = token_bytes,
    ) -> None:
        self.ticket: TicketPayload
        self.csb_id: int = 0
        raise NotImplementedError

    @property
    def initiator(self) -> Identity:
        """Who claims to send: IDRi of the message, else of the ticket policy; verified by :meth:`accept`."""
        raise NotImplementedError

    @property
    def called(self) -> Identity:
        """The responder the initiator meant (IDRr of the message), else the own identity that the ticket names."""
        raise NotImplementedError

    @property
    def sessions(self) -> tuple[CryptoSession, ...]:
        """The crypto sessions offered."""
        raise NotImplementedError

    @property
    def extensions(self) -> tuple[GeneralExtension, ...]:
        """The general extensions, unverified before :meth:`accept`."""
        raise NotImplementedError

    def accept(
        self,
        resolution: Resolution,
        now: float,
        *,
        ssrcs: Mapping[int, int] | None = None,
        chosen: Mapping[int, int] | None = None,
        policies: Sequence[SecurityPolicy] = (),
        sessions: Sequence[CryptoSession] = (),
        keys: Sequence[KeyData] = (),
        extensions: Sequence[GeneralExtension] = (),
    ) -> Accepted:
        """Verify the message with the resolved keys and return the response and the session keys.

        `ssrcs` by CS ID: those of the own streams (needed where the initiator left Session Data out). `chosen` by CS
        ID: the policy number to use, else the first acceptable one. `policies` are new SPs, `sessions` further crypto
        sessions, `keys` session keys of the responder (M=1).
        Raises AuthenticationFailure, Replayed and other MikeyErrors: no key is left usable then.
        """
        raise NotImplementedError

    def error(self, error: MikeyError, now: float) -> bytes | None:
        """Return the Error message for `error` (authenticated once the ticket is resolved), None to stay silent."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Accepted(Established):
    """What :meth:`TransferResponder.accept` returns: `response` is TRANSFER_RESP, None with F=0."""

    response: bytes | None


def reject(octets: bytes, error: MikeyError, now: float) -> bytes | None:
    """Return the unauthenticated Error message for a TRANSFER_INIT that could not be taken in, None to stay silent."""
    raise NotImplementedError
