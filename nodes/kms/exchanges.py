"""Ticket Request and Ticket Resolve as the KMS carries them out (RFC 6043 4.2.1.4, 4.2.3.4; TS 33.328 6.2.3.5).

The order is the RFC's: read, time, key, MAC, replay, and only then identity, policy, ticket. Nothing is written before
the sender is authenticated, and nothing leaves before what it rests on is written.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from keying.mikey.authority import AuthenticRequest, AuthenticResolve, Authority, PendingRequest, PendingResolve
from keying.mikey.errors import InvalidIdentity, InvalidTicket, MikeyError, Replayed
from keying.mikey.identity import Identity
from keying.mikey.kdf import suite_of
from keying.mikey.payloads import TicketPayload, TicketPolicy
from keying.mikey.policy import has, initiator_of, responders_of, validity
from keying.mikey.registry import TicketFlag
from keying.mikey.resolve import Resolution
from keying.mikey.ticket import TicketProtectionKey, mode3_ticket_key, ticket_id, ticket_key_id
from keying.secret import Secret
from nodes.kms import policy as rules
from nodes.kms.credentials import CredentialSource, CredentialsUnavailable, UnknownCredential, UserCredential
from nodes.kms.peers import PeerKmss, PeerUnavailable
from nodes.kms.policy import PolicyBook
from nodes.kms.store import AuditRecord, KmsStore
from nodes.kms.ticket_keys import TicketKeyRing
from sba.access import RateLimit

REQUEST: Final = "request"
RESOLVE: Final = "resolve"
RELAY: Final = "relay"
GRANTED: Final = "granted"
REFUSED: Final = "refused"


@dataclass(slots=True)
class Decision:
    """What was decided, as far as it is known: fills the audit record, the span and the metrics."""

    operation: str
    outcome: str = REFUSED
    reason: str = ""
    user: str = ""
    responders: tuple[str, ...] = ()
    ticket_id: str = ""
    not_before: float = 0.0
    not_after: float = 0.0
    tpk_id: str = ""
    peer_kms: str = ""


class Refusal(Exception):  # noqa: N818 - what it is, not that it is an error
    """A request that is refused. `octets`: the MIKEY Error message that goes back, if any; `reason`: one word."""

    def __init__(self, status: int, reason: str, *, octets: bytes | None = None, retry_after_s: int = 0) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.octets = octets
        self.retry_after_s = retry_after_s


class Exchanges:
    """The exchanges of one KMS. `now` gives seconds since the epoch."""

    def __init__(
        self,
        authority: Authority,
        book: PolicyBook,
        keys: TicketKeyRing,
        store: KmsStore,
        credentials: CredentialSource,
        peers: PeerKmss,
        *,
        users: RateLimit,
        endpoint_key: Secret,
        refusals: RateLimit,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._authority = authority
        self._book = book
        self._keys = keys
        self._store = store
        self._credentials = credentials
        self._peers = peers
        self._users = users
        self._endpoint_key = endpoint_key
        self._refusals = refusals
        self._now = now

    async def request(self, octets: bytes, decision: Decision) -> bytes:
        """Answer a REQUEST_INIT with a REQUEST_RESP. Raises :class:`Refusal`."""
        now = self._now()
        try:
            pending = self._authority.read_request(octets, now)
        except MikeyError as error:
            raise self._unread(octets, error, now) from error
        decision.responders = _names(responders_of(pending.policy))
        user = await self._user_of(pending, now)
        try:
            message = pending.authenticate(user.key, now, initiator=user.identities[0])
        except MikeyError as error:
            raise refusal(error, pending.error(error, now)) from error
        decision.user = user.identities[0].text
        try:
            await self._admit(user, octets, now)
            granted = await self._grant(message, user, decision, now)
        except MikeyError as error:
            raise await self._refused(message, error, decision, now) from error
        await self._audit(decision, now)
        return granted

    async def _grant(self, message: AuthenticRequest, user: UserCredential, decision: Decision, now: float) -> bytes:
        rules.check_own(message.initiator, user.identities, "IDRi")
        decision.user = rules.text(message.initiator)
        party = rules.party_policy(self._book, user.identities)
        rules.check_responders(self._book, party, user.identities, responders_of(message.policy))
        rules.check_times(self._book.settings, validity(message.policy), now)
        tpk = await self._keys.sealing(now)
        granted = message.grant(tpk, now, limits=rules.limits_of(self._book.settings, party))
        self._note_ticket(decision, granted.ticket, tpk.key_id)
        decision.responders = _names(responders_of(granted.ticket.policy), self._book.settings.max_responders, 256)
        decision.outcome, decision.reason = GRANTED, "altered" if granted.altered else ""
        return granted.response

    async def resolve(self, octets: bytes, decision: Decision) -> bytes:
        """Answer a RESOLVE_INIT with a RESOLVE_RESP, of this KMS's ticket or of another's. Raises :class:`Refusal`."""
        now = self._now()
        try:
            pending = self._authority.read_resolve(octets, now)
        except MikeyError as error:
            raise self._unread(octets, error, now) from error
        decision.responders = _names(responders_of(pending.ticket.policy))
        user = await self._user_of(pending, now)
        try:
            message = pending.authenticate(user.key, now, responder=user.identities[0])
        except MikeyError as error:
            raise refusal(error, pending.error(error, now)) from error
        decision.user = user.identities[0].text
        try:
            await self._admit(user, octets, now)
            resolution = await self._resolution(message, user, decision, now)
            answer = message.answer(resolution, self._now())
        except MikeyError as error:
            raise await self._refused(message, error, decision, now) from error
        except PeerUnavailable as error:
            decision.reason = f"peer-kms-unavailable: {error.reason}"
            await self._audit(decision, now)
            raise Refusal(504 if error.late else 503, "peer-kms-unavailable", retry_after_s=1) from error
        decision.outcome = GRANTED
        await self._audit(decision, now)
        return answer

    async def _resolution(
        self, message: AuthenticResolve, user: UserCredential, decision: Decision, now: float
    ) -> Resolution:
        rules.check_own(message.responder, user.identities, "IDRr")
        decision.user = rules.text(message.responder)
        ticket = message.ticket
        self._note_ticket(decision, ticket)
        rules.check_initiator(rules.party_policy(self._book, user.identities), initiator_of(ticket.policy))
        responders = rules.own_first(message.responder, user.identities)
        endpoint = hmac.digest(self._endpoint_key.reveal(), user.impi.encode(), "sha256")
        issuer = message.issuer
        if issuer is None or issuer.same(self._authority.identity):
            return await self.own_ticket(ticket, responders, endpoint, decision, now)
        kms = issuer.text.lower()
        decision.operation, decision.peer_kms = RELAY, kms
        rules.check_peer(self._book, kms)
        domain = rules.peer_domain(self._book, kms)
        return await self._peers.resolve(kms, domain, ticket, responders, endpoint)

    async def own_ticket(
        self, ticket: TicketPayload, responders: Sequence[Identity], endpoint: bytes, decision: Decision, now: float
    ) -> Resolution:
        """Resolve a ticket of this KMS for a responder that is authenticated, here or by another KMS.

        Raises MikeyError, and :class:`Refusal` when the key of a ticket that a user made cannot be asked for.
        """
        self._note_ticket(decision, ticket)
        find = await self._finder(ticket, now)
        resolution = self._authority.resolve_ticket(
            ticket, responders, find, now, groups=self._book.membership, endpoint=endpoint or None
        )
        decision.tpk_id = ticket_key_id(ticket).hex()
        await self._check_single_use(ticket, decision, now)
        return resolution

    async def _finder(self, ticket: TicketPayload, now: float) -> Callable[[bytes], TicketProtectionKey | None]:
        """Find ticket protection keys: the KMS's own and, in mode 3, the one of the user who made this ticket."""
        made = None if has(ticket.policy, TicketFlag.D) else await self._user_made(ticket, now)
        if made is None:
            await self._keys.know(ticket_key_id(ticket), now)  # another instance of this KMS may have made it

        def find(key_id: bytes) -> TicketProtectionKey | None:
            if made is not None and made.key_id == key_id:
                return made
            key = self._keys.find(key_id)
            return None if key is None else TicketProtectionKey(key_id, key)

        return find

    async def _user_made(self, ticket: TicketPayload, now: float) -> TicketProtectionKey:
        """The key of a ticket that a user made, whose wish is held against policy now (mode 3)."""
        if not self._book.settings.user_made_tickets:
            raise InvalidTicket("TICKET", "tickets that users make are not taken")
        key_id = ticket_key_id(ticket)
        try:
            maker = await self._credentials.find(key_id, now)
        except UnknownCredential as error:
            raise InvalidTicket("IDRpsk", "unknown ticket protection key") from error
        except CredentialsUnavailable as error:
            raise Refusal(503, "bsf-unavailable", retry_after_s=1) from error
        party = rules.party_policy(self._book, maker.identities)
        rules.check_responders(self._book, party, maker.identities, responders_of(ticket.policy))
        rules.check_life(rules.limits_of(self._book.settings, party), validity(ticket.policy), now)
        octets = suite_of(ticket.policy.prf).key_bits // 8
        return mode3_ticket_key(key_id, maker.key, self._authority.identity, octets, maker.identities)

    async def _check_single_use(self, ticket: TicketPayload, decision: Decision, now: float) -> None:
        """A ticket without J resolves for one TRANSFER_INIT, told apart by Initiator Data (RFC 6043 6.10, 8.4)."""
        if not self._book.settings.enforce_single_use or has(ticket.policy, TicketFlag.J) or not ticket.initiator_data:
            return
        end = validity(ticket.policy).end
        keep_until = (now + self._book.settings.max_ticket_validity_s) if end is None else end
        digest = hashlib.sha256(ticket.initiator_data).digest()
        if not await self._store.first_use(
            decision.ticket_id, digest, keep_until + self._authority.profile.clock_skew_s
        ):
            raise InvalidTicket("TICKET", "a ticket for one use was used for another call")

    async def _user_of(self, pending: PendingRequest | PendingResolve, now: float) -> UserCredential:
        if pending.psk_identity is None:
            error = InvalidIdentity("IDRpsk", "the key has to be named")
            raise refusal(error, pending.error(error, now))
        try:
            return await self._credentials.find(pending.psk_identity, now)
        except UnknownCredential as unknown:
            raise Refusal(401, "unknown-credential") from unknown
        except CredentialsUnavailable as unavailable:
            raise Refusal(503, f"bsf-unavailable: {unavailable.reason}", retry_after_s=1) from unavailable

    async def _admit(self, user: UserCredential, octets: bytes, now: float) -> None:
        """What comes right after the MAC: the share of the user, and that no earlier life saw the message either.

        T lies at most a skew ahead, so the message leaves the window two skews from now (RFC 3830 5.4).
        """
        if not self._users.take(user.impi):
            raise Refusal(429, "rate", retry_after_s=self._users.retry_after_s())
        digest = hashlib.sha256(octets).digest()
        if not await self._store.first_sight(digest, now + 2 * self._authority.profile.clock_skew_s + 1):
            raise Replayed("T", "the message was seen before")

    async def _refused(
        self, message: AuthenticRequest | AuthenticResolve, error: MikeyError, decision: Decision, now: float
    ) -> Refusal:
        decision.reason = str(error)
        await self._audit(decision, now)
        return refusal(error, message.error(error, now))

    def _unread(self, octets: bytes, error: MikeyError, now: float) -> Refusal:
        return refusal(error, self._authority.error(octets, error, now))

    def _note_ticket(self, decision: Decision, ticket: TicketPayload, tpk_id: bytes = b"") -> None:
        decision.ticket_id = ticket_id(ticket)
        decision.not_before, decision.not_after = _times(ticket.policy)
        decision.tpk_id = tpk_id.hex()

    async def audit(self, decision: Decision) -> None:
        """Write what was decided."""
        await self._audit(decision, self._now())

    async def _audit(self, decision: Decision, now: float) -> None:
        asker = decision.peer_kms if decision.operation == RESOLVE and decision.peer_kms else decision.user
        if decision.outcome != GRANTED and not self._refusals.take(asker):
            return  # somebody who is refused all day must not fill the disk
        longest = now + self._book.settings.max_start_ahead_s + self._book.settings.max_ticket_validity_s
        ends = min(max(now, decision.not_after), longest)
        await self._store.record(
            AuditRecord(
                at=now,
                operation=decision.operation,
                outcome=decision.outcome,
                forget_at=ends + self._book.settings.audit_retention_s,
                reason=decision.reason[:512],
                party=decision.user,
                responders=decision.responders,
                ticket_id=decision.ticket_id,
                not_before=decision.not_before,
                not_after=decision.not_after,
                tpk_id=decision.tpk_id,
                peer_kms=decision.peer_kms,
            )
        )


STATUS: Final = {"MalformedMessage": 400, "UnsupportedDataType": 400, "InvalidTimestamp": 400, "Replayed": 400}
"""HTTP status by kind of MIKEY error; 403 for the rest (A.3, assumed)."""


def refusal(error: MikeyError, octets: bytes | None) -> Refusal:
    """The refusal for a MIKEY error."""
    reason = error.number.name if error.number is not None else type(error).__name__
    return Refusal(STATUS.get(type(error).__name__, 403), reason, octets=octets)


def _names(identities: Sequence[Identity], most: int = 8, longest: int = 128) -> tuple[str, ...]:
    """Identities for span, log and audit; of a request that nobody has granted only a few, and cut."""
    return tuple(identity.text[:longest] for identity in identities[:most])


def _times(policy: TicketPolicy) -> tuple[float, float]:
    found = validity(policy)
    return found.start or 0.0, found.end or 0.0
