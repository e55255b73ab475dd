"""Addresses a node learns when it starts: ``@NETWORK`` in its entry of ``lab.json`` is its own address there."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from sba.errors import ConfigurationError

MARK = "@"
"""First character of a host that is known when the node starts."""
_DISCARD_PORT = 9


def own_address(name: str, subnet: str) -> str:
    """Return the address this machine has in the network ``name``; raises :class:`ConfigurationError` without one.

    The kernel is asked for the source address it would take towards the subnet; nothing is sent.
    """
    network = IPv4Network(subnet)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(network.network_address + 1), _DISCARD_PORT))
            address = str(probe.getsockname()[0])
        except OSError:
            address = ""
    if not address or IPv4Address(address) not in network:
        raise ConfigurationError(f"this machine has no address in the network {name} ({subnet})")
    return address


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
