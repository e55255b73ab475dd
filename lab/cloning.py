"""One more instance of a network function in ``lab.json``: as its first one, at addresses of its own.

What the lab description says is in the first instance's entry already; the description itself, which may hold keys of
cards, is not kept in the state folder.
"""

from __future__ import annotations

import copy
import uuid
from typing import Any

from lab.instances import instance_name
from lab.layout import Layout

Document = dict[str, Any]
"""``lab.json`` as ``json`` reads it."""


def add_instance(lab: Document, nf: str, number: int) -> str:
    """Add instance ``number`` of ``nf`` to ``lab.json`` behind those there are; returns its name.

    Its NF instance id is the one it had when it was there before. Raises ``KeyError`` when there is no first instance
    and ``lab.layout.ResolveError`` when there are no more addresses.
    """
    first, name = lab["nodes"][nf], instance_name(nf, number)
    kept = lab["layout"]
    layout = Layout(kept["prefix"], kept["addresses"], kept["ports"])
    hosts = {layout.address(role): layout.address(_of(role, nf, name)) for role in _roles(layout, nf)}
    ports = {
        (layout.address(role), port): layout.port(_of(role, nf, name), what, _kinds(what))
        for role in _roles(layout, nf)
        for (role_of, what), port in _ports(layout)
        if role_of == role
    }
    entry = _moved(copy.deepcopy(first), hosts, ports)
    ids = lab.setdefault("instance_ids", {})
    entry["instance"], entry["nf"] = name, nf
    entry["nf_instance_id"] = ids.setdefault(name, str(uuid.uuid4()))
    entry["fqdn"] = f"{name}.{lab['domain']}"
    nodes, last = {}, [present for present, node in lab["nodes"].items() if (node.get("nf") or present) == nf][-1]
    for present, node in lab["nodes"].items():
        nodes[present] = node
        if present == last:
            nodes[name] = entry
    lab["nodes"] = nodes
    lab["layout"] = {"prefix": layout.prefix, "addresses": layout.addresses, "ports": layout.ports}
    return name


def remove_instance(lab: Document, name: str) -> None:
    """Take an instance out of ``lab.json``; what it was given is kept for its return. Raises ``KeyError``."""
    lab.setdefault("instance_ids", {})[name] = lab["nodes"].pop(name)["nf_instance_id"]


def _roles(layout: Layout, instance: str) -> list[str]:
    return [role for role in layout.addresses if role == instance or role.startswith(f"{instance}/")]


def _of(role: str, nf: str, name: str) -> str:
    return name + role.removeprefix(nf)


def _ports(layout: Layout) -> list[tuple[tuple[str, str], int]]:
    found = []
    for key, port in layout.ports.items():
        role, _, what = key.rpartition(":")
        found.append(((role, what), port))
    return found


def _kinds(what: str) -> str:
    """SIP ports are taken for both transports, as ``lab.resolve`` takes them."""
    return "tcp+udp" if what in ("gm", "gm-tls", "mw") else "tcp"


def _moved(value: Any, hosts: dict[str, str], ports: dict[tuple[str, int], int]) -> Any:
    """Put new addresses in the place of old ones, wherever they stand in an entry."""
    if isinstance(value, dict):
        moved = {key: _moved(item, hosts, ports) for key, item in value.items()}
        at = (value.get("host"), value.get("port"))
        if at in ports:
            moved["port"] = ports[at]
        return moved
    if isinstance(value, list):
        return [_moved(item, hosts, ports) for item in value]
    return hosts.get(value, value) if isinstance(value, str) else value
