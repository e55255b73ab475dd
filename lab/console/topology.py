"""The nodes of a lab and what runs between them, from the resolved lab: who is connected with whom by which interface.

Pure over ``lab.json``. Links follow from what nodes are: kind, access network and home domains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lab.control import Json, Params

MTLS = "gRPC, mTLS"
HTTPS = "HTTPS"
_QUIET_KINDS = frozenset({"nrf", "lab"})


@dataclass(frozen=True)
class Place:
    """Where a node stands: its kind, the name it shares with its other instances, its access network and domains.

    ``isc_transport`` is that of an application server towards S-CSCFs, empty for other nodes.
    """

    instance: str
    nf: str
    kind: str
    access_network: str
    home_domains: tuple[str, ...]
    transport: str
    isc_transport: str = ""


@dataclass(frozen=True)
class Link:
    """Two nodes and the interface between them; a ``quiet`` one is drawn on request only."""

    a: str
    b: str
    interface: str
    transport: str
    quiet: bool = False

    def document(self) -> Params:
        """Return the JSON form."""
        return {
            "a": self.a,
            "b": self.b,
            "interface": self.interface,
            "transport": self.transport,
            "quiet": self.quiet,
        }


def places(lab: Mapping[str, Json]) -> dict[str, Place]:
    """Return the nodes of a resolved lab by instance."""
    nodes, users = lab.get("nodes"), lab.get("users")
    assert isinstance(nodes, dict)
    found = {}
    for name, entry in nodes.items():
        assert isinstance(entry, dict)
        user = users.get(name) if isinstance(users, dict) else None
        found[name] = _place(name, entry, user if isinstance(user, dict) else {})
    return found


def _place(name: str, entry: Params, user: Params) -> Place:
    settings = _dict(entry.get("settings"))
    kind = str(entry.get("kind", ""))
    domains = _list(settings.get("home_domains"))
    home = str(settings.get("domain") or "")
    return Place(
        instance=name,
        nf=str(entry.get("nf") or name),
        kind=kind,
        access_network=str(settings.get("access_network") or user.get("access") or ""),
        home_domains=tuple(map(str, domains)) if kind != "ue" else tuple(filter(None, (home,))),
        transport=_transport(kind, settings),
        isc_transport=_core_transport(settings.get("isc_transport")) if settings.get("isc") else "",
    )


def _transport(kind: str, settings: Params) -> str:
    if kind == "ue":
        return {"aka-tls": "SIP, TLS", "aka-udp": "SIP, UDP, IPsec"}.get(str(settings.get("profile", "")), "SIP, UDP")
    if kind == "cscf":
        return _core_transport(settings.get("mw_transport"))
    return ""


def _core_transport(setting: Json) -> str:
    return "SIP, mTLS" if setting in (None, "tls") else "SIP, TCP"


def _dict(value: Json) -> Params:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else []


def links(nodes: Mapping[str, Place], serving_pcscf: Mapping[str, str] | None = None) -> list[Link]:
    """Return the links between ``nodes``; ``serving_pcscf`` gives the P-CSCF a user is registered through, if known."""
    by_kind: dict[str, list[Place]] = {}
    for place in nodes.values():
        by_kind.setdefault(place.kind, []).append(place)
    found = [*_access_links(by_kind, serving_pcscf or {}), *_home_links(by_kind), *_server_links(nodes)]
    joined = {name for link in found for name in (link.a, link.b)}
    for nrf in by_kind.get("nrf", ()):
        for place in nodes.values():
            if place.kind not in _QUIET_KINDS:
                alone = place.instance not in joined
                found.append(Link(place.instance, nrf.instance, "Nnrf", MTLS, quiet=not alone))
    for operator in by_kind.get("lab", ()):
        others = [place.instance for place in nodes.values() if place is not operator]
        found += [Link(other, operator.instance, "OTLP", MTLS, quiet=True) for other in others]
        ues = [ue.instance for ue in by_kind.get("ue", ())]
        found += [Link(operator.instance, ue, "UE control", MTLS, quiet=True) for ue in ues]
    return found


def _access_links(by_kind: Mapping[str, list[Place]], serving: Mapping[str, str]) -> Iterator[Link]:
    for ue in by_kind.get("ue", ()):
        near = [pcscf for pcscf in by_kind.get("pcscf", ()) if pcscf.access_network == ue.access_network]
        known = [pcscf for pcscf in near if pcscf.instance == serving.get(ue.instance)]
        for pcscf in known or near:
            yield Link(ue.instance, pcscf.instance, "Gm", ue.transport)
        for bsf in _same_home(ue, by_kind.get("bsf", ())):
            yield Link(ue.instance, bsf.instance, "Ub", HTTPS)
        for kms in _same_home(ue, by_kind.get("kms", ())):
            yield Link(ue.instance, kms.instance, "Ua", HTTPS)
    for pcscf in by_kind.get("pcscf", ()):
        for gateway in by_kind.get("imsagw", ()):
            if gateway.access_network == pcscf.access_network:
                yield Link(pcscf.instance, gateway.instance, "Iq", MTLS)
        for cscf in by_kind.get("cscf", ()):
            yield Link(pcscf.instance, cscf.instance, "Mw", cscf.transport)


def _home_links(by_kind: Mapping[str, list[Place]]) -> Iterator[Link]:
    cscfs = by_kind.get("cscf", [])
    for index, cscf in enumerate(cscfs):
        for other in cscfs[index + 1 :]:
            yield Link(cscf.instance, other.instance, "Mw", cscf.transport)
        for hss in _same_home(cscf, by_kind.get("hss", ())):
            yield Link(cscf.instance, hss.instance, "N70", MTLS)
    for bsf in by_kind.get("bsf", ()):
        for hss in _same_home(bsf, by_kind.get("hss", ())):
            yield Link(bsf.instance, hss.instance, "Zh", MTLS)
    servers = by_kind.get("kms", [])
    for index, kms in enumerate(servers):
        for bsf in _same_home(kms, by_kind.get("bsf", ())):
            yield Link(kms.instance, bsf.instance, "Zn", MTLS)
        for other in servers[index + 1 :]:
            if other.nf != kms.nf:
                yield Link(kms.instance, other.instance, "Zk", MTLS)


def _server_links(nodes: Mapping[str, Place]) -> Iterator[Link]:
    """Any S-CSCF may ask an application server: which one does stands in the filter criteria of its users."""
    for cscf in nodes.values():
        for server in nodes.values():
            if cscf.kind == "cscf" and server.isc_transport:
                yield Link(cscf.instance, server.instance, "ISC", server.isc_transport)


def _same_home(one: Place, others: Sequence[Place]) -> Iterator[Place]:
    return (other for other in others if set(one.home_domains) & set(other.home_domains))
