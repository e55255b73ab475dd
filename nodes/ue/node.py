"""The UE process: wiring of card, Gm, registration, user agent and control service."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from keying.modes import SecurityMode
from nodes import extensions
from nodes.https import HttpsClient
from nodes.siptrace import SipTracer
from nodes.ue import kms_wiring
from nodes.ue.agent import UserAgent
from nodes.ue.card import Card, CardError
from nodes.ue.config import RegisterOptions, UeSettings
from nodes.ue.gm import Gm
from nodes.ue.network import DiscoveredNetwork
from nodes.ue.registrar import Registrar, Wish
from nodes.ue.registration import State
from nodes.ue.service import UeControl
from protos.nrf_nfm_pb2 import Endpoint
from sba import runtime
from sba.config import NodeEnvironment
from sba.errors import ConfigurationError, StoreError
from sba.nf import NetworkFunction
from sba.store import KeyValueTable
from signalling.sip.flow import Flow
from signalling.sip.transport import Reactor

_SEQUENCE, _REGISTRATION = "sequence", "registration"


class Ue(NetworkFunction):
    """A software UE with one subscriber."""

    nf_types = ("UE",)
    settings_class = UeSettings
    settings: UeSettings

    async def open_node(self) -> None:
        """Open the card and what an earlier life left. Raises ConfigurationError when the key file cannot be used."""
        self._table: KeyValueTable = await self.store.key_value("ue")
        settings = self.settings
        self._card = self._read_card(await self._table.get(_SEQUENCE) or {})
        self._tracer = SipTracer(
            self.telemetry,
            node=self.environment.instance,
            interfaces=Gm.interfaces(),
            believes=self._believes,
        )
        reactor = runtime.reactor()
        self._gm = Gm(cast("Reactor", reactor), settings, self._tracer, self.identity.ca_path, tap=self.tap)
        urn = uuid.UUID(self.identity.instance_id).urn
        network = DiscoveredNetwork(self.sbi, settings)
        self._registrar = Registrar(
            self._gm, self._card, settings, self.telemetry, reactor, urn, self._remember, network
        )
        name = self.environment.instance
        self._keys = kms_wiring.build(
            settings,
            self._card,
            HttpsClient(self.identity.ca_path, self.telemetry, source=settings.ip, tap=self.tap),
            network,
            self.telemetry,
            self._remember,
            kms_wiring.SealedVault(self.store, await self.store.key_value("tickets")),
            key_export=self.environment.lab.key_export,
        )
        self.agent = UserAgent(
            name,
            settings,
            self._gm,
            self._registrar,
            self.telemetry,
            reactor,
            self._keys,
            self._modes(),
            self.environment.lab.security_modes,
        )
        self._gm.stack.handler = self.agent
        self._control = UeControl(self.agent)

    @classmethod
    def prepare(cls, environment: NodeEnvironment) -> None:
        """Enable the media security of packages that the lab has."""
        extensions.crypto_suites(environment)
        extensions.security_modes(environment)

    def _modes(self) -> dict[str, SecurityMode]:
        """Make the modes of packages that this user has. Raises ConfigurationError for one that the lab does not have.

        A key that a mode needs is on the card.
        """
        known = extensions.security_modes(self.environment)
        made = {}
        for name in self.settings.security_modes:
            if name not in known:
                raise ConfigurationError(f"the lab does not enable the security mode {name}")
            key = self._card.mode_keys.get(name)
            octets = known[name].key_octets
            if octets and (key is None or len(key) != octets):
                raise ConfigurationError(f"the card has no key of {octets} octets for the security mode {name}")
            made[name] = known[name](key if octets else None)
        return made

    def _believes(self, flow: Flow) -> bool:
        return self._gm.is_from_pcscf(flow)

    def _read_card(self, sequence: Mapping[str, int]) -> Card:
        settings = self.settings
        try:
            content = self.store.unseal(Path(settings.key_file).read_bytes())
            return Card.load(content, settings.impi, settings.domain, settings.profile, sequence)
        except (OSError, StoreError, CardError) as error:
            raise ConfigurationError(f"the key file cannot be used: {error}") from error

    async def start_node(self) -> None:
        """Open Gm; register when told so, or when the UE was registered when it died."""
        await self._gm.open()
        self._tracer.start(self.clock)
        if self._keys is not None:
            await self._keys.store.open(time.time())
        if self.settings.profile == "aka-udp":
            self.telemetry.log("ue.non-secure", level="warning", reason="SA backend none: Gm is not protected by ESP")
        before = await self._table.get(_REGISTRATION)
        if self.settings.register_at_start or before is not None:
            mechanisms = tuple(before["mechanisms"]) if before is not None else self.settings.media_security
            expires = int(before["expires"]) if before is not None else self.settings.expires_s
            self.agent.spawn(self._registrar.resume(Wish(mechanisms, expires, RegisterOptions())))

    async def _remember(self) -> None:
        """Store the card's sequence numbers, and whether the UE is registered."""
        await self._table.put(_SEQUENCE, self._card.sequence())
        registrar = self._registrar
        if registrar.wish is None or registrar.registration.state is State.FAILED:
            await self._table.delete(_REGISTRATION)
        elif registrar.registration.state is State.REG:
            kept = {"mechanisms": list(registrar.wish.mechanisms), "expires": registrar.wish.expires}
            await self._table.put(_REGISTRATION, kept)

    async def drain_node(self) -> None:
        """Hang up."""
        await self.agent.close()

    async def close_node(self) -> None:
        """Close Gm; the binding stays at the registrar until it ends by itself."""
        self._registrar.close()
        await self._gm.close()
        self._tracer.close()

    def servicers(self) -> Sequence[object]:
        """The control service."""
        return (self._control,)

    def endpoints(self) -> Sequence[Endpoint]:
        """The Gm port of this UE."""
        return (Endpoint(role="gm", transport="UDP", host=self.settings.ip, port=self._gm.contact_port),)
