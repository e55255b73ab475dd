"""Settings of key management services and bootstrapping servers, and what a UE is told about its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from keying.mikey.groups import Groups
from keying.mikey.identity import Identity
from lab.config import HomeDomain, LabConfig, User
from lab.config_kms import KmsGroup, KmsRights
from lab.control import Json
from lab.layout import Layout
from sba.identity import access_name, cscf_name, hss_name

Settings = dict[str, Json]


def kms_name(domain: str) -> str:
    """Return the identity of a domain's KMS: IDRkms, NAF name and a DNS name of its certificate."""
    return f"kms.{domain}"


def bsf_name(domain: str) -> str:
    """Return the name of a domain's BSF: the host of B-TIDs and a DNS name of its certificate."""
    return f"bsf.{domain}"


def names_of(config: LabConfig, nf: str) -> list[str]:
    """Return the DNS names an NF has beside its own, from what it is in a home domain or access network."""
    names = [kms_name(home.name) for home in config.home_domains if home.kms == nf]
    names += [cscf_name(home.name) for home in config.home_domains if home.cscf == nf]
    names += [hss_name(home.name) for home in config.home_domains if home.hss == nf]
    domain = config.home_domains[0].name
    names += [
        access_name(access.name, domain) for access in config.access_networks if nf in (access.pcscf, access.gateway)
    ]
    return names + [bsf_name(home.name) for home in config.home_domains if home.bsf == nf]


def kms_settings(home: HomeDomain, instance: str, config: LabConfig, layout: Layout, psk_file: str) -> Settings:
    """Return the settings of one instance of the KMS of ``home``; ``psk_file`` counts where the lab has static keys."""
    assert home.kms is not None
    users: Settings = {
        user.impu: _rights(user.kms_rights, config)
        for user in config.users
        if user.domain == home.name and user.kms_rights is not None
    }
    groups: Settings = {
        group.uri: _group(group, config) for group in config.kms.groups if group.uri.endswith(f"@{home.name}")
    }
    settings: Settings = {
        "home_domains": [home.name],
        "identity": kms_name(home.name),
        **_entrances("http", instance, layout),
        "lab_domains": [other.name for other in config.home_domains],
        "users": users,
        "groups": groups,
        "foreign_kms": config.kms.foreign_kms,
        "max_ticket_validity_s": config.kms.max_validity_s,
        "peers": {
            kms_name(other.name): {"responders": responders_of(other, config)}
            for other in config.home_domains
            if other.kms is not None and other is not home
        },
        "user_made_tickets": config.kms.user_made_tickets,
        **_profile(config),
    }
    if config.kms.static_psk:
        settings["static_psk_file"] = psk_file
    return settings


def _entrances(name: str, instance: str, layout: Layout) -> Settings:
    """Where UEs reach ``instance``: one address, others under ``<name>_other`` where several networks lead to it."""
    port = layout.port(instance, name)
    spots: list[Json] = [
        {"host": host, "port": port, **({"access_network": network} if network else {})}
        for network, host in layout.entrances(instance)
    ]
    return {name: spots[0], **({f"{name}_other": spots[1:]} if len(spots) > 1 else {})}


def responders_of(home: HomeDomain, config: LabConfig) -> list[Json]:
    """Return for whom the KMS of ``home`` speaks towards others: the users of the domain, by SIP URI and by number.

    The lab knows whose each number is; elsewhere that takes the data of number portability.
    """
    numbers: list[Json] = [f"tel:{user.tel}" for user in config.users if user.domain == home.name and user.tel]
    return [f"sip:*@{home.name}", *numbers]


def _profile(config: LabConfig) -> Settings:
    # what was read from YAML and checked holds nothing but numbers, texts, booleans and lists of them
    values: dict[str, Json] = json.loads(json.dumps(config.kms.profile))
    return {"mikey_profile": values} if values else {}


def groups_of(user: User, config: LabConfig) -> list[Json]:
    """Return the groups that ``user`` is in, himself, by a pattern over his domain or by a group within the group.

    Each group is looked at as the KMS of its domain does, which knows its own groups alone.
    """
    own = [Identity.uri(uri) for uri in (user.impu, f"tel:{user.tel}" if user.tel else "") if uri]
    found: list[Json] = []
    for home in config.home_domains:
        words = {"@home": [home.name], "@lab": [each.name for each in config.home_domains]}
        kept = [group for group in config.kms.groups if group.uri.endswith(f"@{home.name}")]
        members = {
            group.uri: [name for party in _parties(group.members, config) for name in _spelt_out(str(party), words)]
            for group in kept
        }
        groups = Groups(members)
        found += [
            group.uri for group in kept if any(groups.contains(Identity.uri(group.uri), identity) for identity in own)
        ]
    return found


def _spelt_out(party: str, words: Mapping[str, Iterable[str]]) -> list[str]:
    if party in words:
        return [f"sip:*@{domain}" for domain in words[party]]
    return [f"sip:{party}"] if party.startswith("*@") else [party]


def _rights(rights: KmsRights, config: LabConfig) -> Settings:
    settings: Settings = {
        "request_for": _parties(rights.request_for, config),
        "resolve_from": _parties(rights.resolve_from, config),
        "reusable": rights.reusable,
    }
    if rights.max_validity_s is not None:
        settings["max_validity_s"] = rights.max_validity_s
    return settings


def _group(group: KmsGroup, config: LabConfig) -> Settings:
    return {"members": _parties(group.members, config), "requesters": _parties(group.requesters, config)}


def _parties(parties: Iterable[str], config: LabConfig) -> list[Json]:
    """Put public identities in the place of users' names."""
    identities = _identities(config)
    return [identities.get(party, party) for party in parties]


def _identities(config: LabConfig) -> dict[str, str]:
    return {user.name: user.impu for user in config.users}


def bsf_settings(home: HomeDomain, layout: Layout) -> Settings:
    """Return the settings of the BSF of ``home``.

    Keys go to the KMS of the domain by its name alone: every node of the lab, also of another home domain, has a name
    within the domain of the lab.
    """
    assert home.bsf is not None
    nafs: list[Json] = [] if home.kms is None else [kms_name(home.name)]
    return {
        "allowed_nafs": nafs,
        "home_domains": [home.name],
        "fqdn": bsf_name(home.name),
        **_entrances("ub", home.bsf, layout),
    }


def ue_settings(user: User, config: LabConfig) -> Settings:
    """Return what the UE of ``user`` is told of the KMS and the BSF of its home domain: names, whose hosts it finds."""
    home = next(item for item in config.home_domains if item.name == user.domain)
    settings: Settings = {}
    if home.kms is not None:
        settings["kms"] = {"tls_name": kms_name(home.name), "identity": kms_name(home.name)}
        wanted, identities = user.kms_policy, _identities(config)
        settings["kms_policy"] = {
            **wanted.model_dump(),
            "also": _parties(wanted.also, config),
            "groups": groups_of(user, config),
            "peers": {identities.get(party, party): level for party, level in wanted.peers.items()},
        }
        settings |= _profile(config)
    if home.bsf is not None:
        settings["bsf"] = {"tls_name": bsf_name(home.name)}
    return settings
