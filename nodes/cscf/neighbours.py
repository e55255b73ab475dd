"""Other home networks, as the NRF knows them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from nodes.cscf.rejection import RejectionError
from protos.nrf_nfm_pb2 import NfProfile
from sba.errors import RemoteProblem
from sba.identity import cscf_name
from signalling.sip.flow import Hop

MW = "mw"
"""Role of Mw sockets and of their endpoints in NRF profiles."""


class Discoverer(Protocol):
    """The part of the framework's client that is used here."""

    async def discover(
        self, nf_type: str, service_name: str | None = None, home_domain: str | None = None
    ) -> Sequence[NfProfile]:
        """Profiles of an NF type, best first. Raises ``RemoteProblem``."""


class HomeNetworks:
    """Entries of other home domains, found through the NRF."""

    def __init__(self, sbi: Discoverer) -> None:
        self._sbi = sbi

    async def home_network(self, domain: str) -> Hop | None:
        """The Mw address of the I-CSCF of a domain; None when there is none. Raises ``RejectionError`` 503.

        Over TLS it has to show the domain's name: nobody else of the lab takes its place, whatever the NRF was told.
        """
        for profile in await self._find("ICSCF", domain):
            for endpoint in profile.endpoints:
                if endpoint.role == MW:
                    name = cscf_name(domain) if endpoint.transport == "TLS" else None
                    return Hop(endpoint.transport, endpoint.host, endpoint.port, tls_name=name)
        return None

    async def domains(self) -> Collection[str]:
        """Every home domain that an HSS announces. Raises ``RejectionError`` 503."""
        return {domain for profile in await self._find("HSS", None) for domain in profile.home_domains}

    async def _find(self, nf_type: str, domain: str | None) -> Sequence[NfProfile]:
        try:
            return await self._sbi.discover(nf_type, home_domain=domain)
        except RemoteProblem:
            raise RejectionError(503, "Network Repository Not Available", [("Retry-After", "5")]) from None
