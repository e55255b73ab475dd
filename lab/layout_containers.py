"""The layout of a lab in containers: which service is on which network, subnets, fixed ports, addresses where fixed.

A service is a network function of the description. Each network is a bridge of the container engine. Addresses of
services that may have several instances are the engine's choice; the others have fixed ones, so that what neighbours
remember of them (a Route, a Path) outlives their container. Every address in ``lab.json`` is written ``@NETWORK``: a
container puts its own in that place when it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import Final

from lab.config import LabConfig
from lab.instances import MOST, instance_names, scalable
from lab.layout import Layout, ResolveError
from sba.networks import MARK

CORE: Final = "core"
SBA: Final = "sba"
MANAGEMENT: Final = "management"
OBSERVATION: Final = "observation"
"""Network between the console and a collector of telemetry."""
OUTSIDE: Final = "outside"
"""The one network that leads to the machine: what is published there is on it, the lab's own nodes are not."""
OPERATOR_SERVICE: Final = "console"
"""The service that holds the operator's identity."""
DATABASE_SERVICE: Final = "postgres"
RESERVED_SERVICES: Final = frozenset(
    {
        OPERATOR_SERVICE,
        DATABASE_SERVICE,
        "init",
        "database",
        "lab",
        "collector",
        "jaeger",
        "prometheus",
        "grafana",
        "superuser",
    }
)
"""Services beside the network functions, and what else has a password: no network function is called so."""
DEFAULT_PREFIX: Final = "10.89"
"""First two octets of every address of the lab."""
PORTS: Final = {
    "sbi": 7443,
    "otlp": 4317,
    "gm": 5060,
    "gm-tls": 5061,
    "mw": 5062,
    "isc": 5063,
    "http": 7444,
    "ub": 7445,
}
"""Ports by name; a container has its addresses to itself, so that they are the same everywhere."""
_SUBNET_BITS: Final = 22
_MOST_NETWORKS: Final = 60
_RESERVED_WORDS: Final = frozenset({CORE, SBA, MANAGEMENT, OBSERVATION, OUTSIDE, "home", "lab"})
"""Names no access network may have: other networks, and words that patterns of a KMS write with the same sign."""


@dataclass(frozen=True)
class Service:
    """A network function as a service of the container engine."""

    name: str
    kind: str
    networks: tuple[str, ...]
    """Networks it is on; its SBI is served on the last."""
    scales: bool = False

    @property
    def instances(self) -> list[str]:
        """Names of the node instances that its containers may be."""
        return instance_names(self.name, MOST) if self.scales else [self.name]


def services(config: LabConfig) -> list[Service]:
    """Return the services of a description. Raises ``ResolveError`` for a description that cannot run in containers."""
    access = tuple(item.name for item in config.access_networks)
    several = scalable(config)
    found = [Service(config.nrf, "nrf", (MANAGEMENT, SBA))]
    found += [Service(name, "hss", (SBA,)) for name in dict.fromkeys(home.hss for home in config.home_domains)]
    found += [Service(name, "cscf", (CORE, SBA)) for name in dict.fromkeys(home.cscf for home in config.home_domains)]
    for home in config.home_domains:
        if home.bsf is not None:
            found.append(Service(home.bsf, "bsf", (*access, SBA)))
        if home.kms is not None:
            found.append(Service(home.kms, "kms", (*access, SBA), home.kms in several))
    for item in config.access_networks:
        found.append(Service(item.gateway, "imsagw", (item.name, CORE, SBA), scales=True))
        found.append(Service(item.pcscf, "pcscf", (item.name, CORE, SBA), scales=True))
    found += [Service(extra.name, extra.kind, (CORE, SBA)) for extra in config.extra_nodes]
    found += [Service(user.name, "ue", (user.access, MANAGEMENT)) for user in config.users if user.software_ue]
    for service in found:
        if service.name in RESERVED_SERVICES:
            raise ResolveError(f"{service.name} is the name of a service that every lab in containers has")
    return found


class ContainerLayout(Layout):
    """Answers what :class:`Layout` answers, for one description in containers.

    Raises ``ResolveError`` for a description that cannot run in containers.
    """

    def __init__(self, config: LabConfig, prefix: str = DEFAULT_PREFIX) -> None:
        super().__init__(prefix)
        if config.mw_transport != "tls":
            raise ResolveError("mw_transport: tcp trusts addresses, and those of containers change: it has to be tls")
        self.services = services(config)
        self._by_instance = {name: service for service in self.services for name in service.instances}
        access = [item.name for item in config.access_networks]
        for name in access:
            if name in _RESERVED_WORDS:
                raise ResolveError(f"an access network of a lab in containers cannot be called {name}")
        names = [*access, CORE, SBA, MANAGEMENT, OBSERVATION, OUTSIDE]
        if len(names) > _MOST_NETWORKS:
            raise ResolveError(f"a lab in containers has at most {_MOST_NETWORKS - 5} access networks")
        try:
            whole = IPv4Network(f"{prefix}.0.0/16")
        except ValueError:
            raise ResolveError(f"{prefix} is not the beginning of an IPv4 address, such as {DEFAULT_PREFIX}") from None
        self.subnets = dict(zip(names, whole.subnets(new_prefix=_SUBNET_BITS), strict=False))
        self.fixed = self._fixed()
        self.addresses.update(
            {f"{name}/{network}": str(address) for name, own in self.fixed.items() for network, address in own.items()}
        )

    def _fixed(self) -> dict[str, dict[str, IPv4Address]]:
        """Fixed addresses by service and network; the first of a subnet is the engine's own."""
        next_free = {name: subnet.network_address + 2 for name, subnet in self.subnets.items()}
        given: dict[str, dict[str, IPv4Address]] = {}
        for service in self.services:
            if service.scales:
                continue
            for network in service.networks:
                address = next_free[network]
                if address in self.dynamic(network):
                    raise ResolveError(f"the network {network} has no address left for {service.name}")
                given.setdefault(service.name, {})[network] = address
                next_free[network] = address + 1
        return given

    def dynamic(self, network: str) -> IPv4Network:
        """Return the part of a network's subnet out of which the engine gives addresses: its last quarter."""
        *_, last = self.subnets[network].subnets(prefixlen_diff=2)
        return last

    def _service(self, instance: str) -> Service | None:
        return self._by_instance.get(instance)

    def address(self, role: str) -> str:
        """Return the placeholder of an address: for UEs of a node at the edge, on the core for an S-CSCF."""
        instance, _, part = role.partition("/")
        if part:
            return f"{MARK}{part}"
        service = self._service(instance)
        return f"{MARK}{service.networks[0]}" if service is not None else f"{MARK}{MANAGEMENT}"

    def sbi(self, instance: str) -> str:
        """Return where an instance serves its SBI: the NRF on both networks of services, the others on the last."""
        service = self._service(instance)
        if service is None:
            return f"{MARK}{SBA}"
        if service.kind == "nrf":
            return "0.0.0.0"  # noqa: S104 - the NRF is on these two networks alone
        return f"{MARK}{service.networks[-1]}"

    def reach(self, instance: str) -> str:
        """Return the name of the service, which the engine's DNS knows."""
        service = self._service(instance)
        return service.name if service is not None else OPERATOR_SERVICE

    def entrances(self, instance: str) -> list[tuple[str, str]]:
        """Return access networks with the placeholder of the address there."""
        service = self._service(instance)
        own = () if service is None else service.networks
        inner = (CORE, SBA, MANAGEMENT)
        return [(network, f"{MARK}{network}") for network in own if network not in inner]

    def networks(self) -> dict[str, str]:
        """Return the subnets by name of network."""
        return {name: str(subnet) for name, subnet in self.subnets.items()}

    @property
    def network(self) -> str:
        """The subnet that holds every address of the lab."""
        return str(ip_network(f"{self.prefix}.0.0/16"))

    def port(self, role: str, name: str, kinds: str = "tcp") -> int:
        """Return the port called ``name``, the same for every role. Raises ``ResolveError`` for a name without one."""
        del kinds
        if name not in PORTS:
            raise ResolveError(f"{role} asks for a port called {name}, which containers do not have")
        return PORTS[name]
