"""Settings of key management services and bootstrapping servers, and what a UE is told about its own."""

from __future__ import annotations

from collections.abc import Iterable

from lab.config import HomeDomain, LabConfig, User
from lab.config_kms import KmsGroup, KmsRights
from lab.control import Json
from lab.layout import Layout

Settings = dict[str, Json]


def kms_name(domain: str) -> str:
    """Return the identity of a domain's KMS: IDRkms, NAF name and a DNS name of its certificate."""
    return f"kms.{domain}"


def bsf_name(domain: str) -> str:
    """Return the name of a domain's BSF: the host of B-TIDs and a DNS name of its certificate."""
    return f"bsf.{domain}"


def cscf_name(domain: str) -> str:
    """Return the name that the certificate of a domain's I- and S-CSCF shows to its HSS."""
    return f"scscf.{domain}"


def names_of(config: LabConfig, instance: str) -> list[str]:
    """Return the DNS names a node has beside its own, from what it is in its home domain."""
    names = [kms_name(home.name) for home in config.home_domains if home.kms == instance]
    names += [cscf_name(home.name) for home in config.home_domains if home.cscf == instance]
    return names + [bsf_name(home.name) for home in config.home_domains if home.bsf == instance]


def kms_settings(home: HomeDomain, config: LabConfig, layout: Layout, psk_file: str) -> Settings:
    """Return the settings of the KMS of ``home``; ``psk_file`` counts where the lab has static keys."""
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
        "http": {"host": layout.address(home.kms), "port": layout.port(home.kms, "http")},
        "lab_domains": [other.name for other in config.home_domains],
        "users": users,
        "groups": groups,
        "foreign_kms": config.kms.foreign_kms,
        "max_ticket_validity_s": config.kms.max_validity_s,
    }
    if config.kms.static_psk:
        settings["static_psk_file"] = psk_file
    return settings


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
        "ub": {"host": layout.address(home.bsf), "port": layout.port(home.bsf, "ub")},
    }


def ue_settings(user: User, config: LabConfig, layout: Layout) -> Settings:
    """Return what the UE of ``user`` is told of the KMS and the BSF of its home domain."""
    home = next(item for item in config.home_domains if item.name == user.domain)
    settings: Settings = {}
    if home.kms is not None:
        settings["kms"] = {
            "host": layout.address(home.kms),
            "port": layout.port(home.kms, "http"),
            "tls_name": kms_name(home.name),
            "identity": kms_name(home.name),
        }
        wanted, identities = user.kms_policy, _identities(config)
        settings["kms_policy"] = {
            **wanted.model_dump(),
            "also": _parties(wanted.also, config),
            "peers": {identities.get(party, party): level for party, level in wanted.peers.items()},
        }
    if home.bsf is not None:
        settings["bsf"] = {
            "host": layout.address(home.bsf),
            "port": layout.port(home.bsf, "ub"),
            "tls_name": bsf_name(home.name),
        }
    return settings
