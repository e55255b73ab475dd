"""The NRF as a node: wiring of registry, authorization server and services."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from twisted.internet.task import LoopingCall

from nodes.nrf.authority import SigningKeys
from nodes.nrf.config import NrfSettings
from nodes.nrf.registry import Registry
from nodes.nrf.service import AccessToken, NfDiscovery, NfManagement
from sba import runtime
from sba.nf import NetworkFunction, NodeSettings

_SWEEP_S = 1.0


class Nrf(NetworkFunction):
    """NF repository function."""

    nf_types: ClassVar[tuple[str, ...]] = ("NRF",)
    settings_class: ClassVar[type[NodeSettings]] = NrfSettings
    settings: NrfSettings

    async def open_node(self) -> None:
        """Read registry and keys from the store."""
        settings = self.settings
        self.registry = Registry(
            await self.store.key_value("profiles"),
            clock=time.monotonic,
            silence=settings.missed_heartbeats,
            forget_s=settings.forget_after_s,
            is_revoked=self._is_revoked,
        )
        await self.registry.load()
        keys = await self.store.key_value("signing_keys")
        self.signing_keys = SigningKeys(self.store, keys, overlap_s=settings.key_overlap_s, clock=time.time)
        await self.signing_keys.load()
        self._servicers = (
            NfManagement(self.registry, settings, self.telemetry, self.environment.domain),
            NfDiscovery(self.registry, settings),
            AccessToken(
                self.registry,
                self.signing_keys,
                issuer=self.identity.instance_id,
                lifetime_s=self.environment.lab.sbi_policy.token_lifetime_s,
                telemetry=self.telemetry,
            ),
        )
        self._sweep = LoopingCall(lambda: runtime.deferred(self._tidy()))

    async def start_node(self) -> None:
        """Begin to look for silent NFs and old keys."""
        await runtime.future(runtime.deferred(self._tidy()))
        self._sweep.start(_SWEEP_S, now=False)

    async def close_node(self) -> None:
        """Stop looking."""
        if self._sweep.running:
            self._sweep.stop()

    def servicers(self) -> Sequence[object]:
        """Return NFManagement, NFDiscovery and AccessToken."""
        return self._servicers

    async def register(self) -> int:
        """Put the NRF's own profile into its registry."""
        self._announced = self.profile()
        await self.registry.put(self._announced, self.identity.own.serial_number)
        self.registered.set()
        return int(self.settings.heartbeat_s)

    async def deregister(self) -> None:
        """Take the NRF's own profile out of its registry."""
        await self.registry.remove(self.identity.instance_id)

    async def beat(self) -> float:
        """Keep the NRF's own profile alive."""
        await self.registry.beat(self.identity.instance_id, self._status, self.load())
        return float(self.settings.heartbeat_s)

    async def fetch_key_set(self) -> str:
        """Return the keys without a call to itself."""
        return self.signing_keys.jwks()

    def _is_revoked(self, serial_number: int) -> bool:
        self.identity.revoked.refresh()  # discovery is rare, and its answer is believed for long
        return serial_number in self.identity.revoked

    async def _tidy(self) -> None:
        for instance_id in await self.registry.expire():
            self.telemetry.log("nf-silent", level="warning", instance_id=instance_id)
        age = time.time() - self.signing_keys.current.created
        if age > self.settings.key_rotation_s:
            key_id = await self.signing_keys.rotate()
            self.telemetry.log("signing-key-rotated", kid=key_id)
        await self.signing_keys.prune()
