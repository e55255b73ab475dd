"""The resolved lab (``lab.json``) as the lab's own programs read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keying.modes import ModeFacts
from lab.security_modes import all_modes, facts_from_json

_ROLE_NAMES = {"kms": "identity", "bsf": "fqdn"}
"""The setting that holds the name of a node in its home domain, by kind."""
_HOME_KINDS = frozenset({"hss", "cscf", "kms", "bsf"})
_HTTPS = {"kms": "http", "bsf": "ub"}
"""The setting that holds the address for UEs, by kind."""


LEARNED = "addresses.json"
"""File beside ``lab.json``: addresses of nodes that nobody knew before they started (:mod:`lab.external`)."""


class LabFileError(Exception):
    """There is no usable ``lab.json``."""


@dataclass(frozen=True)
class NodeRow:
    """A node: where it serves its SBI and which addresses are its own."""

    instance: str
    kind: str
    instance_id: str
    fqdn: str
    host: str
    port: int
    access_network: str
    role_name: str = ""
    """The name it goes by in its home domain: the identity of a KMS, the name of a BSF; empty for others."""
    https: str = ""
    """Where UEs reach a KMS or BSF, ``host:port``; empty for others."""
    home: str = ""
    """The home domain it serves, the first of several; empty for nodes of no home network."""
    nf: str = ""
    """Its name in the lab description, which several instances share."""
    user_made_tickets: bool = False
    """Whether a KMS resolves tickets that users made (mode 3)."""


@dataclass(frozen=True)
class UserRow:
    """A user: identities, access network, and whether a UE of the lab plays it."""

    name: str
    impu: str
    impi: str
    tel: str
    domain: str
    access: str
    profile: str
    announces: tuple[str, ...]
    software_ue: bool
    gateway: str
    pcscf_host: str
    pcscf_port: int
    pcscf_tls_port: int
    kms_level: str = "off"
    kms: str = ""
    """Instance of the KMS of the home domain; empty without one."""
    bsf: str = ""
    """Instance of the BSF of the home domain; empty without one."""


@dataclass(frozen=True)
class LabFile:
    """A resolved lab. ``names`` gives the node behind an address or a fully qualified name."""

    name: str
    domain: str
    network: str
    otlp_host: str
    otlp_port: int
    otlp_bind: str
    """Address at which telemetry is received: the host of the endpoint, in a container all it has."""
    otlp_forward: str
    """Where received telemetry is passed on to, ``host:port``; empty: nowhere."""
    nrf_host: str
    containers: bool
    """Whether the nodes run in containers, whose engine starts and ends them and has their logs."""
    networks: dict[str, str]
    """Subnets by name where the nodes are on networks apart."""
    key_export: bool
    modes: dict[str, ModeFacts]
    """Security modes by name, those of packages included."""
    nodes: dict[str, NodeRow]
    users: dict[str, UserRow]
    names: dict[str, str]

    @property
    def gateways(self) -> tuple[str, ...]:
        """Instances of the IMS access gateways."""
        return tuple(row.instance for row in self.nodes.values() if row.kind == "imsagw")

    @property
    def kms(self) -> tuple[str, ...]:
        """Instances of the key management services."""
        return tuple(row.instance for row in self.nodes.values() if row.kind == "kms")

    @property
    def homes(self) -> dict[str, str]:
        """The home domain of each node of a home network, by instance."""
        return {row.instance: row.home for row in self.nodes.values() if row.home}

    def refresh(self, path: Path) -> None:
        """Take over what changed in the file since: instances that came and went. Raises ``LabFileError``."""
        fresh = LabFile.read(path)
        for own, new in ((self.nodes, fresh.nodes), (self.users, fresh.users), (self.names, fresh.names)):
            own.clear()
            own.update(new)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> LabFile:
        """Read ``lab.json``; raises ``LabFileError`` when it is missing or not what ``imslab up`` wrote."""
        try:
            content = json.loads(path.read_text("utf-8"))
            host, _, port = content["otlp"]["endpoint"].rpartition(":")
            nodes = {name: _node(entry) for name, entry in content["nodes"].items()}
            # of several instances the first stands for all
            gateways = {row.access_network: row.instance for row in [*nodes.values()][::-1] if row.kind == "imsagw"}
            containers = content.get("containers") is True
            return cls(
                name=content["name"],
                domain=content["domain"],
                network=content["network"],
                otlp_host=host,
                otlp_port=int(port),
                otlp_bind="0.0.0.0" if containers else host,  # noqa: S104 - mutual TLS, and its networks are the lab's
                otlp_forward=str(content.get("otlp_forward", "")),
                nrf_host=content["nrf"]["host"],
                containers=containers,
                networks={str(name): str(subnet) for name, subnet in content.get("networks", {}).items()},
                key_export=content["key_export"] is True,
                modes=all_modes(facts_from_json(content.get("mode_facts", []))),
                nodes=nodes,
                users={name: _user(name, entry, gateways) for name, entry in content["users"].items()},
                names=dict(_names(content["layout"]["addresses"], nodes)) | _learned(path.parent / LEARNED),
            )
        except OSError:
            raise LabFileError(f"no lab was started in {path.parent}; start one with: imslab up") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LabFileError(f"{path} is not a resolved lab ({type(error).__name__}: {error})") from None


def _node(entry: dict[str, Any]) -> NodeRow:
    kind, settings = str(entry["kind"]), entry["settings"]
    https = settings.get(_HTTPS.get(kind, ""))
    return NodeRow(
        instance=str(entry["instance"]),
        kind=kind,
        instance_id=str(entry["nf_instance_id"]),
        fqdn=str(entry["fqdn"]),
        host=str(entry["sbi"]["host"]),
        port=int(entry["sbi"]["port"]),
        access_network=str(settings.get("access_network", "")),
        role_name=str(settings.get(_ROLE_NAMES.get(kind, ""), "")),
        https=f"{_told(https['host'], entry)}:{int(https['port'])}" if https else "",
        home=next(iter(settings.get("home_domains") or ()), "") if kind in _HOME_KINDS else "",
        nf=str(entry.get("nf", "")),
        user_made_tickets=settings.get("user_made_tickets") is True,
    )


def _told(host: str, entry: dict[str, Any]) -> str:
    """The host as users are told it: one that a container learns when it starts goes by the name of its service."""
    return str(entry.get("nf") or entry["instance"]) if host.startswith("@") else host


def _user(name: str, entry: dict[str, str], gateways: dict[str, str]) -> UserRow:
    pcscf = entry["pcscf"]
    assert isinstance(pcscf, dict)
    return UserRow(
        name=name,
        impu=entry["impu"],
        impi=entry["impi"],
        tel=entry["tel"],
        domain=entry["domain"],
        access=entry["access"],
        profile=entry["profile"],
        announces=tuple(entry["announces"]),
        software_ue=bool(entry["software_ue"]),
        gateway=gateways.get(entry["access"], ""),
        pcscf_host=pcscf["host"],
        pcscf_port=int(pcscf["port"]),
        pcscf_tls_port=int(pcscf["tls_port"]),
        kms_level=entry.get("kms_level", "off"),
        kms=entry.get("kms", ""),
        bsf=entry.get("bsf", ""),
    )


def _names(addresses: dict[str, str], nodes: dict[str, NodeRow]) -> Iterator[tuple[str, str]]:
    for role, address in addresses.items():
        yield address, role.partition("/")[0]
    for row in reversed(nodes.values()):
        yield row.fqdn, row.instance
        if row.role_name:
            yield row.role_name, row.instance


def _learned(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text("utf-8"))
        return {str(address): str(name) for name, addresses in content.items() for address in addresses}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
