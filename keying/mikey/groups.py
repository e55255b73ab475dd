"""User groups: who may resolve a ticket that names a group or a wildcard (RFC 6043 9, 12.5).

The KMS maps an individual to the groups of the ticket; group syntax of TS 33.328 6.2.3.2 was not seen, so a group is an
identity with a list of members (assumed), each an identity or a wildcard over a domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from keying.mikey.identity import Identity, matches

MAX_NESTING = 4
"""Groups within groups that are followed."""


@dataclass(frozen=True, slots=True)
class Match:
    """How a responder got into a ticket: `responder` is its own identity, `authorised` the ticket's IDRr."""

    responder: Identity
    authorised: Identity

    @property
    def direct(self) -> bool:
        """True where the ticket names the responder itself, False for a group or wildcard."""
        return self.authorised.same(self.responder)


class Groups:
    """Groups by identity. `members` maps a group URI to the URIs of its members, wildcards and groups among them."""

    def __init__(self, members: Mapping[str, Iterable[str]] | None = None) -> None:
        self._members = {
            Identity.uri(group).normalised(): tuple(Identity.uri(each) for each in them)
            for group, them in (members or {}).items()
        }

    def contains(self, authorised: Identity, user: Identity) -> bool:
        """Return whether `user` is `authorised`, falls under its wildcard or is a member of the group it names."""
        return self._contains(authorised, user, MAX_NESTING)

    def _contains(self, authorised: Identity, user: Identity, depth: int) -> bool:
        if matches(authorised, user):
            return True
        if depth == 0:
            return False
        members = self._members.get(authorised.normalised(), ())
        return any(self._contains(member, user, depth - 1) for member in members)

    def match(self, authorised: Sequence[Identity], users: Sequence[Identity]) -> Match | None:
        """Return how one of `users` matches one of the ticket's `authorised` identities, or None.

        An identity that the ticket names comes before wildcards and groups, the earlier of `users` before the later.
        """
        persons = [user for user in users if not user.wildcard]
        found = [Match(user, entry) for user in persons for entry in authorised if self.contains(entry, user)]
        return next((each for each in found if each.direct), found[0] if found else None)


NO_GROUPS = Groups()
