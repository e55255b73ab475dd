"""Addresses a node learns when it runs.

``@NETWORK`` in its entry of ``lab.json`` is its own address there; one that listens on every address (``0.0.0.0``) has
that which leads to its peer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any

from sba.errors import ConfigurationError

MARK = "@"
"""First character of a host that is known when the node starts."""
_DISCARD_PORT = 9
_LOOKUP_S = 0.5


def own_address(name: str, subnet: str) -> str:
    """Return the address this machine has in the network ``name``; raises :class:`ConfigurationError` without one.

    The kernel is asked for the source address it would take towards the subnet; nothing is sent.
    """
    network = IPv4Network(subnet)
    address = address_towards(str(network.network_address + 1))
    if not address or IPv4Address(address) not in network:
        raise ConfigurationError(f"this machine has no address in the network {name} ({subnet})")
    return address


def address_towards(peer: str) -> str:
    """Return the address this machine has towards the IP address ``peer``; empty where no way leads there."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, _DISCARD_PORT))
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def is_ip_literal(host: str) -> bool:
    """Tell whether a host is an address and not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_unspecified(host: str) -> bool:
    """Tell whether a host is no host, but every address of the one that listens there (``0.0.0.0``, ``::``)."""
    return is_ip_literal(host) and ip_address(host).is_unspecified


def local_host(host: str, peer: str) -> str:
    """Return ``host``; where that is every address of this machine, the one that leads to ``peer``, if any does."""
    return (address_towards(peer) if is_ip_literal(peer) else "") or host if is_unspecified(host) else host


async def address_of(host: str) -> str:
    """Return an IPv4 address behind a name, an address as it is; empty where none is found in half a second."""
    if is_ip_literal(host):
        return host
    lookup = asyncio.get_running_loop().getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    try:
        async with asyncio.timeout(_LOOKUP_S):
            found = await lookup
    except OSError:  # TimeoutError is one
        return ""
    return str(found[0][4][0])


def placed(value: Any, networks: Mapping[str, str]) -> Any:
    """Return ``value`` (as of JSON) with every text ``@NETWORK`` replaced by the own address in that network.

    A text that names no network of ``networks`` (subnets by name) stays as it is: patterns of the KMS look alike.
    Raises :class:`ConfigurationError` for a network in which this machine has no address.
    """
    if isinstance(value, str):
        name = value.removeprefix(MARK)
        return own_address(name, networks[name]) if value.startswith(MARK) and name in networks else value
    if isinstance(value, Mapping):
        return {key: placed(item, networks) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [placed(item, networks) for item in value]
    return value
