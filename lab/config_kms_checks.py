"""What does not fit together in a lab description about key management services, with what would be right."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from keying.mikey.identity import normalise
from keying.mikey.profile_values import ProfileError, read_profile, read_value
from lab.config_problems import Fault, Location

if TYPE_CHECKING:
    from lab.config import LabConfig

_URIS = ("sip:", "sips:", "tel:")


def kms_faults(config: LabConfig, domains: Collection[str]) -> Iterator[Fault]:
    """Yield every fault about KMSs, users' policies and rights, groups and the MIKEY profile.

    A BSF without a KMS is none: it bootstraps users, and no NAF of the lab asks it for keys.
    """
    for index, home in enumerate(config.home_domains):
        if home.kms is not None and home.bsf is None and not config.kms.static_psk:
            found = f"{home.kms} has no bsf to take its users' keys from"
            yield ("home_domains", index, "kms"), found, "a bsf beside it, or kms.static_psk: true"
    parties = _Parties({user.name for user in config.users if user.name is not None}, domains)
    most = config.kms.max_validity_s
    for index, user in enumerate(config.users):
        policy, rights, where = user.kms_policy, user.kms_rights, ("users", index)
        yield from parties.faults(policy.peers, (*where, "kms_policy", "peers"), keys=True)
        yield from parties.faults(policy.also, (*where, "kms_policy", "also"))
        if rights is None:
            continue
        yield from parties.faults(rights.request_for, (*where, "kms_rights", "request_for"))
        yield from parties.faults(rights.resolve_from, (*where, "kms_rights", "resolve_from"))
        if rights.max_validity_s is not None and rights.max_validity_s > most:
            found = f"{rights.max_validity_s} is more than the KMS grants anybody"
            yield (*where, "kms_rights", "max_validity_s"), found, f"at most {most}, or more in kms.max_validity_s"
    yield from _group_faults(config, parties)
    yield from _profile_faults(config.kms.profile)


class _Parties:
    """Who can be named: users of the lab, URIs, and patterns over its home domains."""

    def __init__(self, users: Collection[str], domains: Collection[str]) -> None:
        self._users = users
        self._domains = domains

    def faults(self, parties: Iterable[str], where: Location, *, keys: bool = False) -> Iterator[Fault]:
        """Yield a fault for every party that is nobody; `keys`: they are the keys of a table, not a list."""
        for position, party in enumerate(parties):
            place = (*where, party if keys else position)
            domain = party.rpartition("@")[2]
            if "*" in party and "@" in party and "*" not in domain and domain not in self._domains:
                yield place, f"{party} names no home domain", f"*@ and one of {listed(self._domains)}"
            elif not party.startswith(("@", "*", *_URIS)) and party not in self._users:
                yield place, f"{party} is no user", f"a URI, @lab, @home or one of {listed(self._users)}"


def _group_faults(config: LabConfig, parties: _Parties) -> Iterator[Fault]:
    domains = {home.name for home in config.home_domains}
    with_kms = {home.name for home in config.home_domains if home.kms is not None}
    owners = {normalise(user.impu): user.name for user in config.users}
    seen: set[str] = set()
    for index, group in enumerate(config.kms.groups):
        place: Location = ("kms", "groups", index)
        name, domain = normalise(group.uri), group.uri.rpartition("@")[2]
        if domain not in domains:
            yield (*place, "uri"), f"{group.uri} is of no home domain", f"a group of {listed(domains)}"
        elif domain not in with_kms:
            yield (*place, "uri"), f"{domain} has no kms to keep the group", f"a group of {listed(with_kms)}"
        if name in seen:
            yield (*place, "uri"), f"{group.uri} is listed twice", "each group once, with all its members"
        seen.add(name)
        if name in owners:
            yield (*place, "uri"), f"{group.uri} is the identity of {owners[name]}", "a URI that is no user's"
        if not group.members:
            yield (*place, "members"), f"{group.uri} has no members", "one or more users, URIs, *@domain, @home or @lab"
        yield from parties.faults(group.members, (*place, "members"))
        yield from parties.faults(group.requesters, (*place, "requesters"))


def _profile_faults(values: Mapping[str, object]) -> Iterator[Fault]:
    sound: dict[str, object] = {}
    for name, value in values.items():
        try:
            read_value(name, value)
        except ProfileError as error:
            yield ("kms", "profile", name), error.found, error.right
        else:
            sound[name] = value
    try:
        read_profile(sound)
    except ProfileError as error:
        yield ("kms", "profile", error.name), error.found, error.right


def listed(names: Iterable[str]) -> str:
    """Return names for people, in order."""
    return ", ".join(sorted(filter(None, names))) or "(none is described)"
