"""What Wireshark has to be told of a lab, as a folder of settings: ports are the lab's own, pcapng has none.

The folder is a Wireshark personal configuration (``WIRESHARK_CONFIG_DIR``), or a profile where it is copied into
``profiles/``: protocols by port, names of nodes by address, the contracts for the dissection of gRPC messages.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.control import Json
from protos.nrf_nfm_pb2 import NfProfile
from sba.networks import is_ip_literal, is_unspecified

PREFERENCES = """# imslab capture: settings for the lab whose ports stand in decode_as_entries
tcp.try_heuristic_first: TRUE
udp.try_heuristic_first: FALSE
tcp.check_checksum: FALSE
rtp.heuristic_rtp: TRUE
protobuf.preload_protos: TRUE
nameres.network_name: TRUE
nameres.hosts_file_handling: TRUE
gui.column.format:
\t"No.", "%m",
\t"Time", "%t",
\t"Node", "%Cus:frame.interface_name:0:R",
\t"Source", "%s",
\t"Destination", "%d",
\t"Protocol", "%p",
\t"Length", "%L",
\t"Info", "%i",
\t"Comment", "%Cus:frame.comment:0:R"
"""
"""Wireshark preferences of the folder."""
HEURISTICS = "rtp_udp,1\nrtcp_udp,1\nsip_udp,1\nsip_tcp,1\n"
"""Media whose SDP came before the capture began are found by their look."""
NOT_DISSECTED = "mikey\n"
"""Wireshark knows no MIKEY-TICKET (RFC 6043): it calls such messages malformed, and gives up on the SDP around them."""
SIP, HTTP2, HTTP = "SIP", "HTTP2", "HTTP"
_EXTENDED = ("File", "Message", "Field", "Enum", "EnumValue", "Service", "Method", "Oneof")
_GOOGLE = {
    "empty": 'syntax = "proto3";\npackage google.protobuf;\nmessage Empty {}\n',
    "descriptor": 'syntax = "proto2";\npackage google.protobuf;\n'
    + "".join(f"message {name}Options {{ extensions 1000 to max; }}\n" for name in _EXTENDED),
}
"""What the contracts import of Google's, as far as a dissector needs it."""
_WEB_ROLES = ("kms", "ub", "bsf", "http", "ua")
_TABLES = {"tcp": "tcp.port", "udp": "udp.port"}

Port = tuple[str, int, str]
"""``tcp`` or ``udp``, number, protocol."""


@dataclass
class LabPorts:
    """Ports by protocol and nodes by address."""

    ports: dict[tuple[str, int], str] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_names(cls, names: Mapping[str, str]) -> LabPorts:
        """Begin with the nodes behind addresses; other names than addresses are left out."""
        return cls(hosts={address: node for address, node in names.items() if is_ip_literal(address)})

    def add(self, kind: str, port: int, protocol: str) -> None:
        """Note what is spoken at a port; what was noted first stays."""
        if port:
            self.ports.setdefault((kind, port), protocol)

    def learn(self, profile: NfProfile) -> None:
        """Take over what a node registered of itself."""
        self.add("tcp", profile.port, HTTP2)
        for host in hosts_of(profile):
            self.hosts.setdefault(host, profile.instance_name)
        for endpoint in profile.endpoints:
            web = endpoint.role.startswith(_WEB_ROLES)
            kind = "udp" if endpoint.transport.upper() == "UDP" else "tcp"
            self.add(kind, endpoint.port, HTTP if web else SIP)

    def document(self) -> dict[str, Json]:
        """Return this as JSON knows it."""
        ports: list[Json] = [[kind, port, protocol] for (kind, port), protocol in sorted(self.ports.items())]
        return {"ports": ports, "hosts": dict(sorted(self.hosts.items()))}


def hosts_of(profile: NfProfile) -> list[str]:
    """Return the addresses that a node registered."""
    hosts = dict.fromkeys([profile.host, *(endpoint.host for endpoint in profile.endpoints)])
    return [host for host in hosts if is_ip_literal(host) and not is_unspecified(host)]


def _read(document: Mapping[str, Json]) -> tuple[list[Port], dict[str, str]]:
    ports, hosts = document.get("ports"), document.get("hosts")
    found = [
        (str(item[0]), int(str(item[1])), str(item[2]))
        for item in (ports if isinstance(ports, list) else [])
        if isinstance(item, list)
    ]
    return found, {str(host): str(name) for host, name in (hosts.items() if isinstance(hosts, dict) else ())}


def write_folder(folder: Path, document: Mapping[str, Json]) -> None:
    """Write the settings of a lab into ``folder``; other files in it stay. Raises ``OSError``."""
    ports, hosts = _read(document)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "decode_as_entries", _entries(ports))
    _write(folder / "preferences", [PREFERENCES.rstrip("\n")])
    _write(folder / "heuristic_protos", [HEURISTICS.rstrip("\n")])
    _write(folder / "disabled_protos", [NOT_DISSECTED.rstrip("\n")])
    _write(folder / "hosts", [f"{host} {name}" for host, name in hosts.items()])
    contracts = _copy_contracts(folder / "protos")
    _write(folder / "protobuf_search_paths", [f'"{path}","TRUE"' for path in contracts])


def _entries(ports: Iterable[Port]) -> Iterator[str]:
    yield "decode_as_entry: media_type,application/mikey,(none),Line-based text data"
    for kind, port, protocol in ports:
        yield f"decode_as_entry: {_TABLES[kind]},{port},(none),{protocol}"


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _copy_contracts(folder: Path) -> list[Path]:
    """Copy the contracts, with those of Google that they import; returns the folders to search."""
    import protos
    from sba.contracts import all_contracts

    root = folder.absolute()
    target = root / "protos"
    target.mkdir(parents=True, exist_ok=True)
    for source in Path(protos.__path__[0]).glob("*.proto"):
        shutil.copyfile(source, target / source.name)
    for contract in all_contracts():
        for method in contract.methods.values():
            name = method.descriptor.containing_service.file.name
            found = None if name.startswith("protos/") else _beside_module(name)
            if found is not None:
                place = root / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found, place)
    for name, text in _GOOGLE.items():
        place = root / "google" / "protobuf" / f"{name}.proto"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return [root]


def _beside_module(name: str) -> Path | None:
    """The file of a contract that another distribution brings, where it stands beside its generated module."""
    import sys

    for entry in sys.path:
        path = Path(entry or ".") / name
        if path.is_file():
            return path
    return None


def command_line(folder: Path, file: Path | None) -> str:
    """Return how Wireshark is started with these settings."""
    import shlex

    what = shlex.quote(str(file)) if file is not None else "-k -i -"
    return f"WIRESHARK_CONFIG_DIR={shlex.quote(str(folder.absolute()))} wireshark {what}"
