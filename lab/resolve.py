"""From the lab description to ``lab.json``: addresses, ports, instance ids, certificates and sealed subscriber keys.

Each lab lives in a loopback subnet of its own (127.x.y.0/24) and takes its ports from the kernel; a lab that comes up
again in the same state folder keeps subnet, ports, ids, certificates and keys. The ``settings`` of each node are those
of ``nodes/<kind>/config.py``. Subscriber keys are made at random for each lab; they leave this module sealed only.
A network function with several instances has an entry for each; what its users and peers need of it they discover.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keying.suites import DEFAULT_SUITES
from lab.config import AccessNetwork, LabConfig, User
from lab.control import Json
from lab.database import entries as database_entries
from lab.instances import MOST, counts, instance_names, kept
from lab.layout import Layout, ResolveError, choose_subnet
from lab.resolve_kms import bsf_settings, kms_name, kms_settings, names_of, ue_settings
from lab.security_modes import enabled_modes, facts_to_json
from lab.state import StateFolder
from lab.subscribers import provision
from lab.with_packages import package_path
from sba.errors import ConfigurationError
from sba.identity import read_identity
from sba.pki import LabCa, write_private

OPERATOR = "lab"
"""Instance name of the operator: the supervisor's own NF identity (NF type LAB)."""
NF_TYPES = {
    "nrf": ("NRF",),
    "hss": ("HSS",),
    "cscf": ("SCSCF", "ICSCF"),
    "pcscf": ("PCSCF",),
    "imsagw": ("IMS_AGW",),
    "kms": ("KMS",),
    "bsf": ("BSF",),
    "ue": ("UE",),
    "lab": ("LAB",),
}
"""NF types in the certificate of each node kind; the first is the audience type."""
AS = "IMS_AS"
"""NF type of application servers, which S-CSCFs believe on ISC (RFC 3325 2.3)."""


def nf_types(kind: str) -> tuple[str, ...]:
    """Return the NF types in the certificate of a node; those of a kind from elsewhere are what its class states.

    Raises ``ResolveError`` when the kind is not installed or has no NF type.
    """
    if kind in NF_TYPES:
        return NF_TYPES[kind]
    from sba.run import node_class

    try:
        stated = node_class(kind).nf_types
    except (ConfigurationError, ImportError, AttributeError) as error:
        raise ResolveError(f"extra node of kind {kind}: {error}") from error
    if not stated:
        raise ResolveError(f"extra node of kind {kind}: its class states no NF type")
    return stated


@dataclass(frozen=True)
class ResolvedNode:
    """A node of the resolved lab."""

    kind: str
    instance: str
    addresses: tuple[str, ...]
    settings: dict[str, Json]
    sbi_port: int
    nf: str = ""
    """Its name in the description; empty: the instance's own."""
    nf_set: str = ""
    """The set whose members share its store; empty: none."""

    def entry(self, instance_id: str, domain: str) -> dict[str, Json]:
        """Return the node's part of ``lab.json``."""
        return {
            "kind": self.kind,
            "instance": self.instance,
            "nf_instance_id": instance_id,
            "fqdn": f"{self.instance}.{domain}",
            "nf": self.nf or self.instance,
            "nf_set": self.nf_set,
            "sbi": {"host": self.addresses[0], "port": self.sbi_port},
            "settings": self.settings,
        }


def _nodes(
    config: LabConfig, layout: Layout, folder: StateFolder, instances: Mapping[str, int]
) -> Iterable[ResolvedNode]:
    yield _node("nrf", config.nrf, layout, {})
    for hss in dict.fromkeys(home.hss for home in config.home_domains):
        served: list[Json] = [home.name for home in config.home_domains if home.hss == hss]
        sealed = str(folder.secrets / f"{hss}.sealed")
        yield _node("hss", hss, layout, {"home_domains": served, "provisioning_file": sealed})
    for cscf in dict.fromkeys(home.cscf for home in config.home_domains):
        yield _cscf(cscf, config, layout)
    for home in config.home_domains:
        if home.bsf is not None:
            yield _node("bsf", home.bsf, layout, bsf_settings(home, layout))
        if home.kms is not None:
            psk_file = str(folder.secrets / f"{home.kms}.sealed")
            for instance in instance_names(home.kms, instances[home.kms]):
                settings = kms_settings(home, instance, config, layout, psk_file)
                node = _node("kms", instance, layout, settings)
                yield replace(node, nf=home.kms, nf_set=kms_name(home.name))
    for access in config.access_networks:
        for instance in instance_names(access.gateway, instances[access.gateway]):
            yield _gateway(instance, access, layout, config)
        for instance in instance_names(access.pcscf, instances[access.pcscf]):
            yield _pcscf(instance, access, layout, config)
    for user in config.users:
        if user.software_ue:
            yield _ue(user, layout, config, folder)
    for extra in config.extra_nodes:
        isc = isc_settings(extra.kind, extra.name, config, layout)
        yield _node(extra.kind, extra.name, layout, {**isc, **extra.settings})


def _node(
    kind: str, instance: str, layout: Layout, settings: dict[str, Json], more: Sequence[str] = ()
) -> ResolvedNode:
    addresses = tuple(dict.fromkeys((layout.sbi(instance), layout.address(instance), *more)))
    return ResolvedNode(kind, instance, addresses, settings, layout.port(instance, "sbi"))


def isc_settings(kind: str, instance: str, config: LabConfig, layout: Layout) -> dict[str, Json]:
    """Return the settings for the ISC socket of an application server; none for a node that has no such socket.

    Raises ``ResolveError`` like :func:`nf_types`.
    """
    if AS not in nf_types(kind):
        return {}
    from sba.run import node_class

    if "isc" not in node_class(kind).settings_class.model_fields:
        return {}
    isc: dict[str, Json] = {"host": layout.address(instance), "port": layout.port(instance, "isc", "tcp+udp")}
    return {"isc": isc, "isc_transport": config.mw_transport}


def _cscf(instance: str, config: LabConfig, layout: Layout) -> ResolvedNode:
    served: list[Json] = [home.name for home in config.home_domains if home.cscf == instance]
    trusted: list[Json] = []
    if config.mw_transport == "tcp":  # believed by address, so every instance that may come has its address now
        edges = [name for access in config.access_networks for name in instance_names(access.pcscf, MOST)]
        trusted = [layout.address(f"{name}/core") for name in edges]
        trusted += [layout.address(home.cscf) for home in config.home_domains]
        trusted += [layout.address(extra.name) for extra in config.extra_nodes if AS in nf_types(extra.kind)]
    settings: dict[str, Json] = {
        "home_domains": served,
        "mw": {"host": layout.address(instance), "port": layout.port(instance, "mw", "tcp+udp")},
        "mw_transport": config.mw_transport,
        "digest_algorithms": list(config.digest_algorithms),
        "trusted_peers": trusted,
        "hep": config.hep.settings() if config.hep is not None else None,
    }
    return _node("cscf", instance, layout, settings)


def _gateway(instance: str, access: AccessNetwork, layout: Layout, config: LabConfig) -> ResolvedNode:
    core = layout.address(f"{instance}/core")
    settings: dict[str, Json] = {
        "access_ip": layout.address(instance),
        "core_ip": core,
        "access_network": access.name,
        "key_export": config.key_export == "per-call",
        "relay_workers": access.packet_workers.count,
        "relay_cpus": list(access.packet_workers.cpus),
        "relay_priority": access.packet_workers.priority,
    }
    if config.extensions.crypto_suites:
        settings["suites"] = [*DEFAULT_SUITES, *config.extensions.crypto_suites]
    return replace(_node("imsagw", instance, layout, settings, [core]), nf=access.gateway)


def _pcscf(instance: str, access: AccessNetwork, layout: Layout, config: LabConfig) -> ResolvedNode:
    host, core = layout.address(instance), layout.address(f"{instance}/core")
    clear = layout.port(instance, "gm", "tcp+udp")
    gm: list[Json] = [
        {"transport": "UDP", "host": host, "port": clear},
        {"transport": "TCP", "host": host, "port": clear},
        {"transport": "TLS", "host": host, "port": layout.port(instance, "gm-tls", "tcp+udp")},
    ]
    mw: list[Json] = [
        {
            "transport": config.mw_transport.upper(),
            "host": core,
            "port": layout.port(f"{instance}/core", "mw", "tcp+udp"),
        }
    ]
    trusted: list[Json] = [layout.address(home.cscf) for home in config.home_domains]
    settings: dict[str, Json] = {
        "gm": gm,
        "mw": mw,
        "access_network": access.name,
        "home_domains": [home.name for home in config.home_domains],
        "e2ae": access.media_security,
        "max_sessions": access.max_sessions,
        "max_streams": access.max_streams,
        "trusted_core_addresses": trusted if config.mw_transport == "tcp" else [],
    }
    if config.hep is not None:
        settings["hep"] = config.hep.settings()
    if access.suites:
        settings["suites"] = list(access.suites)
    if config.extensions.crypto_suites:
        settings["accepted_suites"] = [*DEFAULT_SUITES, *config.extensions.crypto_suites]
    if access.announce_on_clear_gm:
        settings["announce_on_clear_gm"] = True
    return replace(_node("pcscf", instance, layout, settings, [core]), nf=access.pcscf)


def _ue(user: User, layout: Layout, config: LabConfig, folder: StateFolder) -> ResolvedNode:
    settings: dict[str, Json] = {
        "impi": user.impi,
        "impu": user.impu,
        "domain": user.domain,
        "profile": user.profile,
        "ip": layout.address(user.name),
        "access_network": user.access,
        "media_security": list(user.announces),
        "security_level": user.level,
        "key_file": str(folder.secrets / f"{user.name}.sealed"),
    }
    if user.suites:
        settings["suites"] = list(user.suites)
    if modes := config.extensions.modes_of(user.name):
        settings["security_modes"] = list(modes)
    settings |= ue_settings(user, config)
    return _node("ue", user.name, layout, settings)


def resolve(
    config: LabConfig,
    folder: StateFolder,
    *,
    layout: Layout | None = None,
    instances: Mapping[str, int] | None = None,
) -> dict[str, Json]:
    """Lay the lab out in ``folder``: write certificates, sealed keys and ``lab.json``, and return its content.

    ``layout`` gives addresses and ports; without one the lab is on loopback, where it was before. ``instances`` says
    how many there are of each network function that may have several; without it as ``imslab scale`` left it, else as
    the description has it. What an instance was called and held is its own again when it comes back.

    Raises ``ResolveError`` when the machine gives no addresses or the kind of an extra node is not installed,
    ``OSError`` when the folder cannot be written and ``sba.errors.ConfigurationError`` when the folder holds a damaged
    certificate authority.
    """
    folder.create()
    before = _read(folder.lab_json)
    layout = layout or _layout(before)
    ids = _ids(before)
    domain = config.home_domains[0].name
    count = counts(config, kept(folder.instances) if instances is None else instances)
    nodes = list(_nodes(config, layout, folder, count))
    operator = ResolvedNode("lab", OPERATOR, (layout.address(OPERATOR),), {}, layout.port(OPERATOR, "sbi"))
    entries: dict[str, Json] = {}
    for node in (*nodes, operator):
        instance_id = ids.setdefault(node.instance, str(uuid.uuid4()))
        entries[node.instance] = node.entry(instance_id, domain)
    names = {
        node.instance: [f"{node.instance}.{domain}", *names_of(config, node.nf or node.instance)] for node in nodes
    }
    names[OPERATOR] = [f"{OPERATOR}.{domain}"]
    _issue_certificates(folder, (*nodes, operator), ids, names)
    modes = enabled_modes(config)
    provision(config, folder, ids)
    nrf = next(node for node in nodes if node.kind == "nrf")
    lab: dict[str, Json] = {
        "name": config.name,
        "domain": domain,
        "plmn": {"mcc": config.plmn.mcc, "mnc": config.plmn.mnc},
        "pki_dir": str(folder.pki),
        "state_dir": str(folder.nodes),
        "sealing_key_file": str(folder.sealing_key),
        "key_export": config.key_export == "per-call",
        "nrf": {
            "host": layout.reach(nrf.instance),
            "port": nrf.sbi_port,
            "fqdn": f"{nrf.instance}.{domain}",
            "instance_id": ids[nrf.instance],
        },
        "otlp_forward": config.otlp_forward or "",
        "otlp": {
            "endpoint": f"{layout.reach(OPERATOR)}:{layout.port(OPERATOR, 'otlp')}",
            "tls_name": f"{OPERATOR}.{domain}",
            "sampling": config.trace_sampling,
        },
        "console": config.console,
        "package_path": list(package_path(folder)),
        "security_modes": list(modes),
        "mode_facts": facts_to_json(modes),
        "crypto_suites": list(config.extensions.crypto_suites),
        "nodes": entries,
        "instance_ids": dict(ids),
        "network": layout.network,
        "networks": {**layout.networks()},
        "layout": {"prefix": layout.prefix, "addresses": dict(layout.addresses), "ports": dict(layout.ports)},
        "users": {user.name: _user_entry(user, layout, config) for user in config.users},
    }
    lab |= database_entries(config, folder, entries)
    write_private(folder.lab_json, json.dumps(lab, indent=1).encode())
    return lab


def _user_entry(user: User, layout: Layout, config: LabConfig) -> dict[str, Json]:
    access = next(item for item in config.access_networks if item.name == user.access)
    home = next(item for item in config.home_domains if item.name == user.domain)
    return {
        "impu": user.impu,
        "impi": user.impi,
        "tel": f"tel:{user.tel}" if user.tel else "",
        "domain": user.domain,
        "access": user.access,
        "profile": user.profile,
        "announces": list(user.announces),
        "kms_level": user.kms_policy.level if home.kms is not None else "off",
        "kms": home.kms or "",
        "bsf": home.bsf or "",
        "software_ue": user.software_ue,
        "address": layout.reach(user.name),
        "pcscf": {
            "host": layout.reach(access.pcscf),
            "port": layout.port(access.pcscf, "gm", "tcp+udp"),
            "tls_port": layout.port(access.pcscf, "gm-tls", "tcp+udp"),
        },
    }


def _layout(before: dict[str, dict[str, dict[str, str]]]) -> Layout:
    kept = before.get("layout")
    if kept is None:
        return Layout(choose_subnet())
    ports = {name: int(port) for name, port in kept["ports"].items()}
    return Layout(str(kept["prefix"]), dict(kept["addresses"]), ports)


def _ids(before: dict[str, dict[str, dict[str, str]]]) -> dict[str, str]:
    """The NF instance ids given so far, also to instances that are not there at present."""
    ids = {name: str(instance_id) for name, instance_id in before.get("instance_ids", {}).items()}
    return ids | {name: entry["nf_instance_id"] for name, entry in before.get("nodes", {}).items()}


def _read(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _issue_certificates(
    folder: StateFolder, nodes: Sequence[ResolvedNode], ids: Mapping[str, str], names: Mapping[str, Sequence[str]]
) -> None:
    authority = LabCa.open(folder.pki) if (folder.pki / "ca.crt").exists() else LabCa.create(folder.pki)
    for node in nodes:
        wanted = names[node.instance]
        addresses = [address for address in node.addresses if not address.startswith("@")]  # known when it starts
        try:
            present = read_identity(authority.present(node.instance))
            if (
                present.instance_id == ids[node.instance]
                and set(addresses) <= set(present.addresses)
                and set(wanted) <= set(present.dns_names)
            ):
                continue
        except ConfigurationError:
            pass
        authority.issue(node.instance, nf_types(node.kind), ids[node.instance], dns=wanted, ips=addresses)
