"""The BSF process: wiring of Ub, Zh, Zn and the store of bootstraps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Status, StatusCode

from nodes.bsf.bootstraps import Bootstraps
from nodes.bsf.challenges import ChallengeBook
from nodes.bsf.config import BsfSettings, UbSettings
from nodes.bsf.service import GbaService
from nodes.bsf.ub import Outcome, Ub
from nodes.bsf.zh import Zh
from nodes.https import HttpsServer
from protos.nrf_nfm_pb2 import Endpoint
from sba import runtime
from sba.access import RateLimit
from sba.errors import ConfigurationError
from sba.nf import NetworkFunction
from signalling.aka.gba import bsf_of

_PURGE_S = 60.0
"""Seconds between two removals of what has expired."""


class Bsf(NetworkFunction):
    """Bootstrapping server of a home domain."""

    nf_types = ("BSF",)
    settings_class = BsfSettings
    settings: BsfSettings

    _server: HttpsServer | None = None
    _purging: asyncio.Future[None] | None = None

    async def open_node(self) -> None:
        """Read what an earlier life bootstrapped. Raises ``ConfigurationError`` when the certificate lacks the name."""
        settings = self.settings
        domains = tuple(domain.lower() for domain in settings.home_domains or (self.environment.domain,))
        self.fqdn = (settings.fqdn or bsf_of(domains[0])).lower()
        if self.fqdn not in {name.lower() for name in self.identity.own.dns_names}:
            raise ConfigurationError(f"the certificate of {self.environment.instance} does not name {self.fqdn}")
        self._bootstraps = Bootstraps(
            self.store, await self.store.key_value("bootstrap"), time.time, kept_per_user=settings.kept_per_user
        )
        spoiled = await self._bootstraps.load()
        if spoiled:
            self.telemetry.log("bsf.records-spoiled", level="error", count=spoiled)
        meter = self.telemetry.meter
        self._requests = meter.create_counter(
            "imslab.bsf.ub.requests", "{request}", "Requests on Ub by step and outcome"
        )
        self._keys = meter.create_counter("imslab.bsf.zn.requests", "{request}", "Requests of NAFs by outcome")
        meter.create_observable_gauge("imslab.bsf.bootstraps", [self._observe], "{bootstrap}", "Bootstraps kept")
        self._service = GbaService(
            self._bootstraps,
            home_domains=domains,
            nafs=settings.allowed_nafs,
            protocols=settings.ua_protocols,
            record=self._given,
        )
        ub = Ub(
            fqdn=self.fqdn,
            home_domains=domains,
            lifetime_s=settings.lifetime_s,
            challenges=ChallengeBook(
                time.monotonic, lifetime_s=settings.challenge_s, per_user=settings.vectors_per_user
            ),
            bootstraps=self._bootstraps,
            hss=Zh(self.sbi),
            admits=RateLimit(settings.requests_per_second, settings.burst).take,
            record=self._decided,
            now=time.time,
        )
        self._spots: list[tuple[UbSettings, int]] = []
        self._server = HttpsServer(ub.answer, self.identity, self.telemetry, tap=self.tap)
        self.telemetry.log("bsf.opened", fqdn=self.fqdn, bootstraps=len(self._bootstraps))

    async def start_node(self) -> None:
        """Open Ub."""
        assert self._server is not None
        for spot in (self.settings.ub, *self.settings.ub_other):
            self._spots.append((spot, await self._server.start(spot.host, spot.port)))
        self._purging = runtime.spawn(self._purge())

    async def drain_node(self) -> None:
        """Let requests on Ub end."""
        if self._server is not None:
            await self._server.stop()

    async def close_node(self) -> None:
        """Stop looking after what expires."""
        if self._purging is not None:
            self._purging.cancel()

    def servicers(self) -> Sequence[object]:
        """Nbsf_GBA."""
        return (self._service,)

    def endpoints(self) -> Sequence[Endpoint]:
        """The Ub port of this BSF in each access network."""
        return [
            Endpoint(
                role="ub",
                transport="HTTPS",
                host=spot.host,
                port=port,
                tls_name=self.fqdn,
                access_network=spot.access_network,
            )
            for spot, port in self._spots
        ]

    async def _purge(self) -> None:
        while True:
            await asyncio.sleep(_PURGE_S)
            try:
                await self._bootstraps.purge()
            except Exception as fault:  # noqa: BLE001 - a failed write must not end the upkeep; the next turn tries again
                self.telemetry.log("bsf.purge-failed", level="error", fault=type(fault).__name__)

    def _observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        return (Observation(len(self._bootstraps)),)

    def _decided(self, outcome: Outcome) -> None:
        """Note a decision on Ub: counter, span, and a line for refusals that an operator wants to see."""
        labels = {
            "imslab.bsf.step": outcome.step,
            "imslab.result": outcome.outcome,
            "imslab.refusal.reason": outcome.reason,
        }
        self._requests.add(1, {name: value for name, value in labels.items() if value})
        self._span("ub." + outcome.step, outcome.outcome, outcome.reason, impi=outcome.impi)
        if outcome.outcome == "bootstrapped":
            self.telemetry.log("bsf.bootstrapped", impi=outcome.impi)
        elif outcome.outcome == "refused":
            self.telemetry.log(
                "bsf.refused", level="warning", step=outcome.step, reason=outcome.reason, impi=outcome.impi
            )

    def _given(self, outcome: str, reason: str, naf: str, impi: str) -> None:
        """Note a decision on Zn; who got which user's key is always on record."""
        labels = {"imslab.result": outcome, "imslab.refusal.reason": reason}
        self._keys.add(1, {name: value for name, value in labels.items() if value})
        self._span("zn.key", outcome, reason, naf=naf, impi=impi)
        level = "info" if outcome == "given" else "warning"
        self.telemetry.log("bsf.key", level=level, outcome=outcome, reason=reason, naf=naf, impi=impi)

    def _span(self, operation: str, outcome: str, reason: str, **facts: str) -> None:
        span = self.telemetry.tracer.start_span("bsf.decision")
        if span.is_recording():
            found = {"operation": operation, "outcome": outcome, "reason": reason, **facts}
            span.set_attributes({f"imslab.bsf.{name}": value for name, value in found.items() if value})
            if outcome == "refused":
                span.set_status(Status(StatusCode.ERROR, reason))
        span.end()
