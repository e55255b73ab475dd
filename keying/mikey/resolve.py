"""Ticket Resolve of the responder: RESOLVE_INIT out, RESOLVE_RESP in, the keys of a ticket (RFC 6043 4.2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_bytes

from keying.mikey.errors import InvalidIdentity, InvalidTicketPolicy, MalformedMessage
from keying.mikey.groups import NO_GROUPS, Groups
from keying.mikey.identity import Identity, identity
from keying.mikey.kdf import Constant, fork
from keying.mikey.kmsexchange import RESOLVE, KmsExchange, PskCredential
from keying.mikey.payloads import KeyData, TicketPayload, TicketPolicy
from keying.mikey.pk import PkCredential
from keying.mikey.policy import check_valid, has, responders_of
from keying.mikey.profile import Profile
from keying.mikey.protection import Entropy, check_rand, rand_of, split_keys
from keying.mikey.registry import IdRole, RandRole, TicketFlag
from keying.mikey.ticket import FindTicketKey, open_ticket, protection_keys
from keying.secret import Secret


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


def fork_keys(
    policy: TicketPolicy, mpkr: Secret, keys: Sequence[KeyData], responder: Identity, rand_kms: bytes
) -> tuple[Secret, tuple[KeyData, ...]]:
    """Return MPKr' and the keys with every TGK forked; TEK and GTGK stay as they are (RFC 6043 5.1.1).

    Raises Unspecified where RANDRkms is shorter than the longest forked key (RFC 6043 12.1).
    """
    tgks = [key.key for key in keys if key.key_type.is_tgk]
    check_rand(len(rand_kms), mpkr, *tgks)
    forked = tuple(
        KeyData(
            key.key_type,
            fork(policy.prf, key.key, Constant.FORK_TGK, responder.data, rand_kms),
            key.salt,
            key.spi,
            key.interval,
        )
        if key.key_type.is_tgk
        else key
        for key in keys
    )
    return fork(policy.prf, mpkr, Constant.FORK_MPKR, responder.data, rand_kms), forked


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
        self._ticket = ticket
        self._exchange = KmsExchange(
            profile,
            credential,
            RESOLVE,
            ticket,
            own=responder,
            kms=kms,
            rand_octets=profile.resolve_rand_octets,
            now=now,
            entropy=entropy,
        )
        self.message = self._exchange.message

    def receive(self, octets: bytes, now: float) -> Resolution:
        """Return the resolution of a RESOLVE_RESP. Raises PeerError for an Error message, other MikeyErrors else."""
        message, keys = self._exchange.receive(octets, now)
        responder = identity(message.payloads, IdRole.RESPONDER)
        rand_kms = rand_of(message, RandRole.KMS)
        if not has(self._ticket.policy, TicketFlag.I):
            (mpki,), rest = split_keys(keys, 1)
            return Resolution(mpki, None, rest, responder, rand_kms or b"")
        if responder is None or not rand_kms:
            raise MalformedMessage("RESOLVE_RESP", "IDRr and RANDRkms are missing though keys are forked")
        mpks, rest = split_keys(keys, 2)
        check_rand(len(rand_kms), mpks[1].key, *(key.key for key in rest if key.key_type.is_tgk))
        return Resolution(mpks[0], mpks[1], rest, responder, rand_kms)


def resolve_locally(
    profile: Profile,
    ticket: TicketPayload,
    find_tpk: FindTicketKey,
    own: Sequence[Identity],
    now: float,
    *,
    groups: Groups = NO_GROUPS,
) -> Resolution:
    """Return the resolution of a ticket whose TPK the responder has (modes 2 and 4; E=0, so never forked).

    Raises InvalidTicketPolicy where the ticket has to be resolved at a KMS (E=1), InvalidTicket and InvalidIdentity as
    a KMS would.
    """
    if has(ticket.policy, TicketFlag.E):
        raise InvalidTicketPolicy("E", "the ticket has to be resolved at a KMS")
    contents = open_ticket(profile, ticket, find_tpk)
    check_valid(ticket.policy, now)
    if groups.match(responders_of(ticket.policy), own) is None:
        raise InvalidIdentity("IDRr", "the ticket is for others")
    mpki, _ = protection_keys(ticket.policy, contents)
    return Resolution(mpki, None, contents.keys, None)
