"""Ticket Resolve of the responder: RESOLVE_INIT out, RESOLVE_RESP in, the keys of a ticket (RFC 6043 4.2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_bytes

from keying.mikey.identity import Identity
from keying.mikey.payloads import KeyData, TicketPayload
from keying.mikey.pk import PkCredential
from keying.mikey.profile import Profile
from keying.mikey.request import PskCredential
from keying.mikey.ticket import Entropy, FindTicketKey


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a ticket says to one responder: MPKi, with forking MPKr' and TGK', and the modifier (IDRr, RANDRkms).

    `keys` are TGKs (forked with I=1), TEKs and GTGKs. `responder` and `rand_kms` are None and empty without forking.
    """

    mpki: KeyData
    forked_mpkr: KeyData | None
    keys: tuple[KeyData, ...]
    responder: Identity | None
    rand_kms: bytes = b""


class TicketResolve:
    """One Ticket Resolve exchange; `message` is to be sent as it stands."""

    def __init__(
        self,
        profile: Profile,
        credential: PskCredential | PkCredential,
        ticket: TicketPayload,
        *,
        responder: Identity,
        kms: Identity,
        now: float,
        entropy: Entropy = token_bytes,
    ) -> None:
        self.message: bytes = b""
        raise NotImplementedError

    def receive(self, octets: bytes, now: float) -> Resolution:
        """Return the resolution of a RESOLVE_RESP. Raises PeerError for an Error message, other MikeyErrors else."""
        raise NotImplementedError


def resolve_locally(
    profile: Profile, ticket: TicketPayload, find_tpk: FindTicketKey, own: Sequence[Identity], now: float
) -> Resolution:
    """Return the resolution of a ticket whose TPK the responder has (modes 2 and 4; E=0, so never forked).

    Raises InvalidTicketPolicy where the ticket has to be resolved at a KMS (E=1).
    """
    raise NotImplementedError
