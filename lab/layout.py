"""Addresses and ports of a lab on one machine: a loopback subnet of its own, ports from the kernel, kept for later.

Containers have a layout of their own (:mod:`lab.layout_containers`) that answers the same questions.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

_SUBNET_TRIES = 64


class ResolveError(RuntimeError):
    """The lab cannot be laid out with what this machine has."""


@dataclass
class Layout:
    """Gives out addresses of one loopback subnet and ports of the kernel; what was given before is given again."""

    prefix: str
    addresses: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def address(self, role: str) -> str:
        """Return the address of ``role``, e.g. ``pcscf-a/core``."""
        if role not in self.addresses:
            used = set(self.addresses.values())
            free = (f"{self.prefix}.{last}" for last in range(2, 254))
            try:
                self.addresses[role] = next(address for address in free if address not in used)
            except StopIteration:
                raise ResolveError("the lab has more nodes and users than its subnet has addresses") from None
        return self.addresses[role]

    def sbi(self, instance: str) -> str:
        """Return where ``instance`` serves its service-based interface."""
        return self.address(instance)

    def reach(self, instance: str) -> str:
        """Return the host under which others reach ``instance`` that do not ask the NRF for it."""
        return self.address(instance)

    def entrances(self, instance: str) -> list[tuple[str, str]]:
        """Return where ``instance`` waits for UEs: access networks with its address there; an empty name is any."""
        return [("", self.address(instance))]

    def networks(self) -> dict[str, str]:
        """Return the networks by name with their subnets; on loopback there is nothing to tell apart."""
        return {}

    @property
    def network(self) -> str:
        """The subnet that holds every address of the lab."""
        return f"{self.prefix}.0/24"

    def port(self, role: str, name: str, kinds: str = "tcp") -> int:
        """Return the port called ``name`` of ``role``, free for each of ``kinds`` (``tcp``, ``udp``)."""
        key = f"{role}:{name}"
        if key not in self.ports:
            taken = {port for other, port in self.ports.items() if other.startswith(f"{role}:")}
            self.ports[key] = free_port(self.address(role), kinds.split("+"), taken)
        return self.ports[key]


def free_port(host: str, kinds: Sequence[str], taken: set[int]) -> int:
    """Ask the kernel for a port on ``host`` that is free for every kind; raises ``ResolveError``."""
    for _ in range(_SUBNET_TRIES):
        opened: list[socket.socket] = []
        try:
            port = 0
            for kind in kinds:
                bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
                opened.append(bound)
                bound.bind((host, port))
                port = bound.getsockname()[1]
            if port not in taken:
                return port
        except OSError:
            continue
        finally:
            for bound in opened:
                bound.close()
    raise ResolveError(f"the kernel gives no port on {host}")


def choose_subnet() -> str:
    """Choose a loopback /24 nobody seems to use; raises ``ResolveError`` where loopback has one address only."""
    for _ in range(_SUBNET_TRIES):
        prefix = f"127.{16 + secrets.randbelow(224)}.{secrets.randbelow(256)}"
        try:
            free_port(f"{prefix}.2", ["tcp", "udp"], set())
        except ResolveError:
            continue
        return prefix
    raise ResolveError("no loopback subnet can be used here (127.0.0.0/8 is needed)")
