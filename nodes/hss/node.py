"""The HSS process: wiring of its services."""

from __future__ import annotations

from pathlib import Path

from nodes.hss.config import HssSettings
from nodes.hss.gba import GbaUeAuthentication
from nodes.hss.provision import ProvisioningError, read_provisioning
from nodes.hss.service import Assignments, SubscriberDataManagement, UeAuthentication, UeContextManagement
from nodes.hss.subscribers import SubscriberDirectory
from nodes.hss.vectors import AuthenticationCentre
from protos.nrf_nfm_pb2 import NfProfile
from sba.errors import ConfigurationError
from sba.nf import NetworkFunction


class Hss(NetworkFunction):
    """Home subscriber server of one or more home domains."""

    nf_types = ("HSS",)
    settings_class = HssSettings
    settings: HssSettings

    async def open_node(self) -> None:
        """Read the subscribers and what an earlier life left.

        Raises ``ConfigurationError`` when the subscriber file cannot be read or opened.
        """
        self._directory = self._read_subscribers()
        self._centre = AuthenticationCentre(await self.store.key_value("sequence"), self.settings.sqn_block)
        self._assignments = Assignments(await self.store.key_value("assignment"))
        await self._assignments.load()
        self.telemetry.log("hss.subscribers", count=len(self._directory), domains=list(self._directory.domains))

    def _read_subscribers(self) -> SubscriberDirectory:
        try:
            sealed = Path(self.settings.provisioning_file).read_bytes()
            return SubscriberDirectory(read_provisioning(sealed, self.store))
        except (OSError, ProvisioningError) as error:
            raise ConfigurationError(f"the subscriber file cannot be used: {error}") from error

    def profile(self) -> NfProfile:
        """The NRF profile, with the home domains of the subscribers."""
        profile = super().profile()
        del profile.home_domains[:]
        profile.home_domains.extend(self._directory.domains or self.settings.home_domains or (self.environment.domain,))
        return profile

    def servicers(self) -> list[object]:
        """The N-services of the HSS."""
        return [
            UeAuthentication(self._directory, self._centre, self.settings.max_vectors),
            UeContextManagement(self._directory, self._assignments),
            SubscriberDataManagement(self._directory),
            GbaUeAuthentication(self._directory, self._centre),
        ]
