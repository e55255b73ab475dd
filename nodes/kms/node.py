"""The KMS process: wiring of its HTTPS endpoint, its services and its store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from keying.mikey.authority import Authority
from keying.mikey.identity import Identity
from keying.mikey.profile import Profile
from keying.mikey.profile_values import ProfileError, read_profile
from keying.secret import Secret
from nodes.https import HttpLimits, HttpsServer
from nodes.kms.config import HttpAddress, KmsSettings
from nodes.kms.credentials import BootstrappedCredentials, CredentialSource, WithStatic, read_static
from nodes.kms.endpoint import KmsEndpoint
from nodes.kms.exchanges import Exchanges
from nodes.kms.http import MAX_BODY
from nodes.kms.limits import buckets
from nodes.kms.peers import PeerKmss
from nodes.kms.policy import KMS_LABEL, read_book
from nodes.kms.recent import RecentMessages
from nodes.kms.service import Control, ResolveForPeers
from nodes.kms.store import KmsStore
from nodes.kms.ticket_keys import TicketKeyRing
from nodes.kms.watch import Watch
from protos.nrf_nfm_pb2 import Endpoint
from sba import runtime
from sba.errors import ConfigurationError
from sba.load import share
from sba.nf import NetworkFunction
from sba.store import Store

ROLE: Final = "kms"
"""Role of the HTTPS endpoint in the profile at the NRF."""
_LASTING_SECRETS: Final = ("modifier", "endpoint")
_SECRET_OCTETS: Final = 32
_SECRET_PLACE: Final = b"kms lasting secret "
_HANDLER_MARGIN_S: Final = 5.0
"""Beside the deadlines of BSF and other KMSs, before a request is given up, s."""


class Kms(NetworkFunction):
    """Key management service of one or more home domains."""

    nf_types = ("KMS",)
    settings_class = KmsSettings
    settings: KmsSettings

    _https: HttpsServer | None = None
    _upkeep: asyncio.Future[None] | None = None

    async def open_node(self) -> None:
        """Load keys and rules, and put the exchanges together.

        Raises ``ConfigurationError`` for a name that the certificate does not show, an unknown value of the MIKEY
        profile or a static key file that does not open, ``StoreError`` for a ticket key that does not open.
        """
        self._home_domains = self.settings.home_domains or (self.environment.domain,)
        self._identity = (self.settings.identity or KMS_LABEL + self._home_domains[0]).lower()
        if self._identity not in self.identity.own.dns_names:
            raise ConfigurationError(f"the certificate of {self.environment.instance} does not show {self._identity}")
        try:
            profile = read_profile(self.settings.mikey_profile)
        except ProfileError as error:
            raise ConfigurationError(f"mikey_profile: {error}") from error
        self._kms_store = KmsStore(self.store)
        self._keys = TicketKeyRing(
            self._kms_store,
            rotation_s=self.settings.ticket_key_rotation_s,
            ticket_life_s=self._ticket_life_s(profile),
            id_octets=profile.tpk_id_octets,
        )
        await self._keys.load(time.time())
        await self._put_together(profile)

    def _ticket_life_s(self, profile: Profile) -> float:
        return self.settings.max_start_ahead_s + self.settings.max_ticket_validity_s + profile.clock_skew_s

    async def _put_together(self, profile: Profile) -> None:
        modifier, endpoint = await lasting_secrets(self.store)
        settings, clock = self.settings, time.monotonic
        book = read_book(settings, self._home_domains)
        kms = Identity(profile.kms_identity_type, self._identity.encode())
        self._watch = Watch(self.telemetry, lambda: len(self._keys))
        self._exchanges = exchanges = Exchanges(
            Authority(
                profile,
                kms,
                replay=RecentMessages(skew_s=profile.clock_skew_s),
                modifier_secret=modifier,
            ),
            book,
            self._keys,
            self._kms_store,
            self._credential_source(),
            PeerKmss(self.sbi, self._identity, settings.peer_timeout_s),
            users=buckets(settings.user_rate, clock),
            endpoint_key=endpoint,
            refusals=buckets(settings.audit_refusals, clock),
        )
        addresses = buckets(settings.address_rate, clock)
        self._endpoint = KmsEndpoint(exchanges, profile, self._identity, addresses, self._watch)
        handler_s = settings.bsf_timeout_s * 2 + settings.peer_timeout_s + _HANDLER_MARGIN_S
        limits = HttpLimits(body=MAX_BODY, handler_s=handler_s)
        self._spots: list[tuple[HttpAddress, int]] = []
        self._https = HttpsServer(self._endpoint.handle, self.identity, self.telemetry, limits=limits, tap=self.tap)
        peers = buckets(settings.peer_rate, clock)
        self._servicers = (
            ResolveForPeers(exchanges, book, kms, peers, self._watch),
            Control(self._kms_store, self._keys, self.telemetry, key_export=self.environment.lab.key_export),
        )

    def _credential_source(self) -> CredentialSource:
        settings = self.settings
        source = BootstrappedCredentials(
            self.sbi,
            self._identity,
            self._home_domains,
            cache_s=settings.naf_credential_cache_s,
            timeout_s=settings.bsf_timeout_s,
        )
        if not settings.static_psk_file:
            return source
        static = read_static(Path(settings.static_psk_file), self.store.unseal)
        self.telemetry.log(
            "kms-static-keys", level="warning", users=len(static), warning="NON-SECURE: users share keys from a file"
        )
        return WithStatic(static, source)

    def load(self) -> int:
        """Requests in progress, or the processor where that is the narrower."""
        waiting = share(self._endpoint.in_progress, self.settings.nominal_exchanges)
        return max(waiting, self.processor.percent())

    def work_left(self) -> tuple[int, str]:
        """Requests of UEs that wait for their answer."""
        return self._endpoint.in_progress, "requests"

    def servicers(self) -> Sequence[object]:
        """Nkms_Resolve and Nkms_Control."""
        return self._servicers

    async def start_node(self) -> None:
        """Open the endpoint for UEs."""
        assert self._https is not None
        for spot in (self.settings.http, *self.settings.http_other):
            port = await self._https.start(spot.host, spot.port)
            self._spots.append((spot, port))
        http, port = self._spots[0]
        self._upkeep = runtime.spawn(self._keep_up())
        self.telemetry.log("kms-open", identity=self._identity, https=f"{http.host}:{port}")

    def endpoints(self) -> Sequence[Endpoint]:
        """The HTTPS endpoint in each access network, under the name of the KMS."""
        return [
            Endpoint(
                role=ROLE,
                transport="HTTPS",
                host=spot.host,
                port=port,
                tls_name=self._identity,
                access_network=spot.access_network,
            )
            for spot, port in self._spots
        ]

    async def drain_node(self) -> None:
        """Take no more requests of UEs and end those in progress."""
        if self._https is not None:
            await self._https.stop()

    async def close_node(self) -> None:
        """Stop the upkeep."""
        if self._upkeep is not None:
            self._upkeep.cancel()

    async def _keep_up(self) -> None:
        """Replace the ticket key in time and remove what has expired."""
        while True:
            await asyncio.sleep(min(self.settings.prune_interval_s, self.settings.ticket_key_rotation_s))
            try:
                if await self._keys.turn(time.time()):
                    self.telemetry.log("kms-ticket-key-rotated", tpk_id=self._keys.current.key_id.hex(), by="age")
                self._watch.pruned(await self._kms_store.prune(time.time(), self.settings.audit_records))
            except Exception as fault:  # noqa: BLE001 - a failed write must not end the upkeep; the next turn tries again
                self.telemetry.log("kms-upkeep-failed", level="error", fault=f"{type(fault).__name__}: {fault}")


async def lasting_secrets(store: Store) -> tuple[Secret, Secret]:
    """The secrets that make modifiers and names of endpoints, the same in every life and every instance of this KMS."""
    table = await store.key_value("kms_secret")
    found: list[Secret] = []
    for name in _LASTING_SECRETS:
        place = _SECRET_PLACE + name.encode()
        record = await table.get(name)
        if record is None:  # of several instances that start at once the store believes one
            fresh = Secret.random(_SECRET_OCTETS)
            record = await table.put_first(name, {"sealed": store.seal(fresh.reveal(), place).hex()})
        found.append(Secret(store.unseal(bytes.fromhex(str(record["sealed"])), place)))
    return found[0], found[1]
