"""Ticket Request of the initiator: REQUEST_INIT out, REQUEST_RESP in, a ticket (RFC 6043 4.2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_bytes

from keying.mikey.identity import Identity
from keying.mikey.pk import PkCredential
from keying.mikey.policy import Wish
from keying.mikey.profile import Profile
from keying.mikey.ticket import Entropy, Ticket
from keying.secret import Secret


@dataclass(frozen=True, slots=True)
class PskCredential:
    """A pre-shared key with a KMS and its name (IDRpsk): in IMS the B-TID and Ks_NAF (assumed, TS 33.328 6.2.3)."""

    identity: bytes
    key: Secret


class TicketRequest:
    """One Ticket Request exchange; `message` is to be sent as it stands."""

    def __init__(
        self,
        profile: Profile,
        credential: PskCredential | PkCredential,
        *,
        initiator: Identity,
        kms: Identity,
        wish: Wish,
        now: float,
        entropy: Entropy = token_bytes,
    ) -> None:
        self.message: bytes = b""
        raise NotImplementedError

    def receive(self, octets: bytes, now: float) -> Ticket:
        """Return the ticket of a REQUEST_RESP.

        Raises PeerError for an Error message (`numbers`), AuthenticationFailure, InvalidTicketPolicy where the granted
        policy is not acceptable (K=1), and any other MikeyError; the request may then be made anew.
        """
        raise NotImplementedError
