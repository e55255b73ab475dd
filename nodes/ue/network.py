"""Where the servers of a UE are: pinned by the operator, else found in the NRF.

The NRF stands in for what tells a real phone its P-CSCF (PCO of the bearer, DHCP, DNS: TS 23.228 5.1.1, TS 24.229
9.2.1) and for the DNS that leads it to BSF and KMS (TS 33.220 4.5.2, TS 33.328 Annex A; assumed). It orders the
instances by priority, capacity and load, so that phones spread; the UE goes on to the next when one does not answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from nodes.https import HttpsAddress
from nodes.ue.config import PcscfAddress, UeSettings
from protos.nrf_nfm_pb2 import Endpoint, NfProfile
from sba.client import SbiClient
from sba.errors import RemoteProblem

GM: Final = "gm"
KMS: Final = "kms"
UB: Final = "ub"


class NotFound(Exception):  # noqa: N818 - says what the server is
    """No server of a kind is known here; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Pcscf:
    """A P-CSCF this UE may register at; `tls_name` is the DNS name that its certificate has to show."""

    transport: str
    host: str
    port: int
    tls_name: str = ""
    name: str = ""
    """Its instance name, empty for a pinned one."""
    instance_id: str = ""

    @classmethod
    def pinned(cls, address: PcscfAddress) -> Pcscf:
        """The one the operator wrote down."""
        return cls(address.transport, address.host, address.port, address.tls_name)


@dataclass(frozen=True, slots=True)
class Server:
    """One instance of a KMS or BSF."""

    address: HttpsAddress
    instance_id: str = ""


class Network(Protocol):
    """Finds servers; each list is in the order in which to try. Raises :class:`NotFound`."""

    async def pcscfs(self) -> list[Pcscf]:
        """P-CSCFs of this UE's access network."""

    async def kms(self) -> list[Server]:
        """Instances of the KMS of the home domain."""

    async def bsf(self) -> list[Server]:
        """Instances of the BSF of the home domain."""

    def failed(self, instance_id: str) -> None:
        """Note that an instance did not answer: the others are tried first for a while."""

    def answered(self, instance_id: str) -> None:
        """Take that back."""


class PinnedNetwork:
    """What the operator wrote down, and nothing else."""

    def __init__(
        self, *, pcscf: PcscfAddress | None = None, kms: HttpsAddress | None = None, bsf: HttpsAddress | None = None
    ) -> None:
        self._pcscf = pcscf
        self._kms = kms
        self._bsf = bsf

    @classmethod
    def of(cls, settings: UeSettings) -> PinnedNetwork:
        """Read the addresses that the settings hold."""
        kms, bsf = (known.address if known is not None else None for known in (settings.kms, settings.bsf))
        return cls(pcscf=settings.pcscf, kms=kms, bsf=bsf)

    async def pcscfs(self) -> list[Pcscf]:
        """The one."""
        if self._pcscf is None:
            raise NotFound("no P-CSCF is configured")
        return [Pcscf.pinned(self._pcscf)]

    async def kms(self) -> list[Server]:
        """The one."""
        if self._kms is None:
            raise NotFound("no KMS is configured")
        return [Server(self._kms)]

    async def bsf(self) -> list[Server]:
        """The one."""
        if self._bsf is None:
            raise NotFound("no BSF is configured")
        return [Server(self._bsf)]

    def failed(self, instance_id: str) -> None:
        """There is no other."""

    def answered(self, instance_id: str) -> None:
        """There was no other."""


class DiscoveredNetwork:
    """What the NRF names, but for what the settings pin."""

    def __init__(self, sbi: SbiClient, settings: UeSettings) -> None:
        self._sbi = sbi
        self._settings = settings
        self._pinned = PinnedNetwork.of(settings)

    async def pcscfs(self) -> list[Pcscf]:
        """P-CSCFs of the access network that speak this UE's transport."""
        settings = self._settings
        if settings.pcscf is not None:
            return await self._pinned.pcscfs()
        found = []
        where = settings.access_network or "this network"
        profiles = await self._profiles("PCSCF", access_network=settings.access_network)
        if not profiles:
            raise NotFound(f"no P-CSCF of {where} is registered with the NRF (is it running?)")
        for profile in profiles:
            point = self._point(profile, GM, settings.transport)
            if point is not None:
                found.append(
                    Pcscf(
                        point.transport,
                        point.host,
                        point.port,
                        point.tls_name,
                        profile.instance_name,
                        profile.nf_instance_id,
                    )
                )
        if not found:
            raise NotFound(f"no P-CSCF of {where} speaks {settings.transport}")
        return found

    async def kms(self) -> list[Server]:
        """Instances of the KMS; its certificate has to show the name that the UE knows, whatever the NRF says."""
        known = self._settings.kms
        if known is None or known.host:
            return await self._pinned.kms()
        return await self._home("KMS", KMS, known.name)

    async def bsf(self) -> list[Server]:
        """Instances of the BSF; its certificate has to show the name that the UE knows."""
        known = self._settings.bsf
        if known is None or known.host:
            return await self._pinned.bsf()
        return await self._home("BSF", UB, known.name)

    def failed(self, instance_id: str) -> None:
        """Put an instance behind the others for a while."""
        if instance_id:
            self._sbi.discovery.suspect(instance_id)

    def answered(self, instance_id: str) -> None:
        """Take :meth:`failed` back."""
        if instance_id:
            self._sbi.discovery.trust(instance_id)

    async def _home(self, nf_type: str, role: str, name: str) -> list[Server]:
        profiles = await self._profiles(nf_type, home_domain=self._settings.domain)
        found = []
        for profile in profiles:
            point = self._point(profile, role, "HTTPS")
            if point is not None:
                address = HttpsAddress(host=point.host, port=point.port, tls_name=name or point.tls_name)
                found.append(Server(address, profile.nf_instance_id))
        if not found:
            raise NotFound(f"no {nf_type} of {self._settings.domain} can be reached from here")
        return found

    async def _profiles(self, nf_type: str, *, home_domain: str = "", access_network: str = "") -> Sequence[NfProfile]:
        try:
            return await self._sbi.discover(nf_type, None, home_domain or None, access_network or None)
        except RemoteProblem as problem:
            raise NotFound(f"the NRF names no {nf_type}: {problem}") from problem

    def _point(self, profile: NfProfile, role: str, transport: str) -> Endpoint | None:
        """The address of a profile for this UE: the one of its own access network before one for all."""
        own = self._settings.access_network
        fitting = [
            point
            for point in profile.endpoints
            if point.role == role and point.transport == transport and point.access_network in ("", own)
        ]
        return _first(sorted(fitting, key=lambda point: point.access_network != own))


def _first(points: Iterable[Endpoint]) -> Endpoint | None:
    return next((point for point in points if point.host and point.port), None)


__all__ = ["DiscoveredNetwork", "Network", "NotFound", "Pcscf", "PinnedNetwork", "Server"]
