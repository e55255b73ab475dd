"""Who may have a ticket for whom, and who may resolve it (TS 33.328 6.2.3.2, 6.2.3.5; RFC 6043 4.2.1.4, 4.2.3.4, 12.5).

Pure functions. Everything is denied that no rule allows; a refusal is the MIKEY error that goes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keying.mikey.errors import InvalidIdentity, InvalidTicket, InvalidTicketPolicy
from keying.mikey.groups import Groups
from keying.mikey.identity import Identity, normalise
from keying.mikey.policy import Limits, Validity
from nodes.kms.config import Group, KmsSettings, PartyPolicy, PeerKms
from nodes.kms.patterns import covered, covers, expand, host_of

KMS_LABEL = "kms."
"""First label of a KMS's identity; what follows is its home domain (assumed)."""


@dataclass(frozen=True, slots=True)
class PolicyBook:
    """The rules of a KMS, with the words for domains replaced and every identity in its normal form."""

    home_domains: tuple[str, ...]
    lab_domains: tuple[str, ...]
    default: PartyPolicy
    users: Mapping[str, PartyPolicy]
    groups: Mapping[str, Group]
    membership: Groups
    peers: Mapping[str, PeerKms]
    settings: KmsSettings


def read_book(settings: KmsSettings, home_domains: Sequence[str]) -> PolicyBook:
    """Make the rules out of the settings."""
    home = tuple(domain.lower() for domain in home_domains)
    lab = tuple(dict.fromkeys((*home, *(domain.lower() for domain in settings.lab_domains))))
    words = {"@home": home, "@lab": lab}

    def party(policy: PartyPolicy) -> PartyPolicy:
        return policy.model_copy(
            update={
                "request_for": expand(policy.request_for, words),
                "resolve_from": expand(policy.resolve_from, words),
            }
        )

    groups = {
        normalise(name): group.model_copy(
            update={
                "members": expand(group.members, words),
                "requesters": expand(group.requesters, words),
                "policy": None if group.policy is None else party(group.policy),
            }
        )
        for name, group in settings.groups.items()
    }
    return PolicyBook(
        home_domains=home,
        lab_domains=lab,
        default=party(settings.default_policy),
        users={normalise(name): party(policy) for name, policy in settings.users.items()},
        groups=groups,
        membership=Groups({name: group.members for name, group in groups.items()}),
        peers={name.lower(): peer for name, peer in settings.peers.items()},
        settings=settings,
    )


def text(identity: Identity) -> str:
    """The identity as patterns and entries are compared with it."""
    return normalise(identity.text)


def party_policy(book: PolicyBook, identities: Sequence[Identity]) -> PartyPolicy:
    """What a user may do: his own entry, else that of the first group he is in, else the default (6.2.3.2, assumed)."""
    for identity in identities:
        entry = book.users.get(text(identity))
        if entry is not None:
            return entry
    for name, group in book.groups.items():
        if group.policy is not None and in_group(book, name, identities):
            return group.policy
    return book.default


def in_group(book: PolicyBook, name: str, identities: Sequence[Identity]) -> bool:
    """One of the identities is a member of the group."""
    group = Identity.uri(name)
    return any(book.membership.contains(group, identity) for identity in identities if not identity.same(group))


def check_own(claimed: Identity, identities: Sequence[Identity], where: str) -> None:
    """The identity in IDRi or IDRr is one of the authenticated user's (6.2.3.5-1). Raises InvalidIdentity."""
    if claimed.wildcard or not any(claimed.same(identity) for identity in identities):
        raise InvalidIdentity(where, "not an identity of the authenticated user")


def own_first(claimed: Identity, identities: Sequence[Identity]) -> tuple[Identity, ...]:
    """The user's identities with the claimed one in front, in the octets that were sent: they enter the fork label."""
    return (claimed, *(identity for identity in identities if not identity.same(claimed)))


def check_responders(
    book: PolicyBook, policy: PartyPolicy, initiator: Sequence[Identity], responders: Sequence[Identity]
) -> None:
    """The initiator may name these responders in a ticket (RFC 6043 4.2.1.4). Raises InvalidTicketPolicy."""
    if not responders:
        raise InvalidTicketPolicy("IDRr", "a ticket names its responders")
    if len(responders) > book.settings.max_responders:
        raise InvalidTicketPolicy("IDRr", f"a ticket names at most {book.settings.max_responders} responders")
    for responder in responders:
        name = text(responder)
        if not covered(policy.request_for, name):
            raise InvalidTicketPolicy("IDRr", "policy allows no ticket for this responder")
        if "*" in name and not policy.wildcards:
            raise InvalidTicketPolicy("IDRr", "policy allows no ticket for all users of a domain")
        group = book.groups.get(name)
        if group is not None and not _may_name(book, name, group, initiator):
            raise InvalidTicketPolicy("IDRr", "policy allows this user no ticket for this group")


def _may_name(book: PolicyBook, name: str, group: Group, initiator: Sequence[Identity]) -> bool:
    if group.requesters:
        return any(covered(group.requesters, text(identity)) for identity in initiator)
    return in_group(book, name, initiator)


def check_initiator(policy: PartyPolicy, initiator: Identity | None) -> None:
    """The responder may resolve tickets of this initiator (6.2.3.2, assumed). Raises InvalidTicketPolicy."""
    if initiator is None or not covered(policy.resolve_from, text(initiator)):
        raise InvalidTicketPolicy("IDRi", "policy lets this user resolve no ticket of this initiator")


def check_times(settings: KmsSettings, validity: Validity, now: float) -> None:
    """The ticket begins soon enough and has not ended before it begins. Raises InvalidTicketPolicy."""
    start, end = validity.start, validity.end
    if start is not None and start > now + settings.max_start_ahead_s:
        raise InvalidTicketPolicy("TRs", "the ticket would begin too far ahead")
    if end is not None and (end <= now or (start is not None and end <= start)):
        raise InvalidTicketPolicy("TRe", "the ticket would have ended before it begins")


def limits_of(settings: KmsSettings, policy: PartyPolicy) -> Limits:
    """What is cut from the wish of an initiator with this policy (RFC 6043 6.10, K)."""
    validity_s = settings.max_ticket_validity_s
    if policy.max_validity_s:
        validity_s = min(validity_s, policy.max_validity_s)
    return Limits(
        max_validity_s=validity_s,
        reusable=policy.reusable,
        forking_required=policy.forking_required,
        max_keys=settings.max_keys,
    )


def peer_domain(book: PolicyBook, kms: str) -> str:
    """Home domain of another KMS by its identity; empty when its name has no such form."""
    peer = book.peers.get(kms.lower())
    if peer is not None and peer.domain:
        return peer.domain.lower()
    return kms.lower().removeprefix(KMS_LABEL) if kms.lower().startswith(KMS_LABEL) else ""


def check_peer(book: PolicyBook, kms: str) -> None:
    """Tickets are exchanged with this KMS of another domain (6.2.3.8, assumed). Raises InvalidTicket."""
    rule, domain = book.settings.foreign_kms, peer_domain(book, kms)
    listed = kms.lower() in book.peers
    allowed = (listed and rule != "none") or (domain in book.lab_domains and rule == "any")
    if not allowed or not domain or domain in book.home_domains:
        raise InvalidTicket("IDRkms", "no tickets are exchanged with this KMS")


def foreign_responders(book: PolicyBook, kms: str, responders: Sequence[Identity]) -> tuple[Identity, ...]:
    """Those responders that this KMS of another domain may speak for: users of its own domain (6.2.3.8, assumed).

    The first is the one in IDRr. Raises InvalidIdentity when it is not among them.
    """
    peer = book.peers.get(kms.lower())
    patterns = peer.responders if peer is not None else ()
    domain = peer_domain(book, kms)

    def allowed(identity: Identity) -> bool:
        name = text(identity)
        if "*" in name or host_of(name) in book.home_domains:
            return False
        return covered(patterns, name) if patterns else bool(domain) and covers(f"sip:*@{domain}", name)

    if not responders or not allowed(responders[0]):
        raise InvalidIdentity("IDRr", "not a user of the KMS that asks")
    return tuple(identity for identity in responders if allowed(identity))


def check_life(limits: Limits, validity: Validity, now: float) -> None:
    """A ticket that a user made ends no later than one of the KMS would (mode 3). Raises InvalidTicketPolicy."""
    assert limits.max_validity_s is not None
    if validity.end is None or validity.end > now + limits.max_validity_s:
        raise InvalidTicketPolicy("TRe", "the ticket lives longer than policy allows")
