"""Ticket Request of the initiator: REQUEST_INIT out, REQUEST_RESP in, a ticket (RFC 6043 4.2.1)."""

from __future__ import annotations

from secrets import token_bytes

from keying.mikey.errors import InvalidTicket, InvalidTicketPolicy
from keying.mikey.identity import Identity
from keying.mikey.kdf import SUITES
from keying.mikey.kmsexchange import REQUEST, KmsExchange, PskCredential
from keying.mikey.payloads import TicketPayload, TicketPolicyPayload
from keying.mikey.pk import PkCredential
from keying.mikey.policy import Wish, check_acceptable, has, wished_policy
from keying.mikey.profile import Profile
from keying.mikey.protection import Entropy, one
from keying.mikey.registry import TicketFlag
from keying.mikey.ticket import Ticket, hold

__all__ = ["PskCredential", "TicketRequest"]


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
        self._profile = profile
        self._wish = wish
        self._asked = wished_policy(profile, wish, initiator, kms, now, prf=SUITES[profile.suite].prf)
        self._exchange = KmsExchange(
            profile,
            credential,
            REQUEST,
            TicketPolicyPayload(self._asked),
            own=initiator,
            kms=kms,
            rand_octets=profile.request_rand_octets,
            now=now,
            entropy=entropy,
        )
        self.message = self._exchange.message

    def receive(self, octets: bytes, now: float) -> Ticket:
        """Return the ticket of a REQUEST_RESP.

        Raises PeerError for an Error message (`numbers`), AuthenticationFailure, InvalidTicketPolicy where the granted
        policy is not acceptable (K=1), and any other MikeyError; the request may then be made anew.
        """
        message, keys = self._exchange.receive(octets, now)
        payload = one(message, TicketPayload, "TICKET")
        if payload.initiator_data:
            raise InvalidTicket("Initiator Data", "is not the KMS's to write")
        check_acceptable(self._profile, self._wish, self._asked, payload.policy, now)
        ticket = hold(payload, keys)
        self._check_keys(ticket)
        return ticket

    def _check_keys(self, ticket: Ticket) -> None:
        """Check the keys against those asked for: with K the KMS may have changed their lengths and SPIs."""
        altered = has(ticket.policy, TicketFlag.K)
        for place, wanted in enumerate(self._wish.keys):
            key = ticket.keys[place] if place < len(ticket.keys) else None
            if key is None or key.key_type is not wanted.key_type:
                raise InvalidTicketPolicy("KEMAC", "not the keys that were asked for")
            if not altered and (len(key.key) != wanted.length or wanted.spi not in {b"", key.spi}):
                raise InvalidTicketPolicy("K", "the keys were altered and K says they were not")
