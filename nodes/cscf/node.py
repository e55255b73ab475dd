"""The CSCF process: wiring of registrar, routing and the Mw socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from keying.secret import Secret
from nodes import siptls
from nodes.cscf.call_procedure import CallProcedure
from nodes.cscf.challenge import Challenge
from nodes.cscf.challenges import OpenChallenges
from nodes.cscf.config import CscfSettings
from nodes.cscf.hss import Flag, HssClient
from nodes.cscf.location import LocationService
from nodes.cscf.mw_shell import MwShell, Procedures
from nodes.cscf.neighbours import MW, HomeNetworks
from nodes.cscf.reg_event_server import RegEventServer
from nodes.cscf.register_procedure import RegisterProcedure
from nodes.cscf.registration import Registration
from nodes.cscf.rejection import RejectionError
from nodes.cscf.route_tokens import KEY_OCTETS, RouteTokens
from nodes.cscf.routing import OwnNames
from nodes.cscf.servers import ApplicationServers
from nodes.cscf.trust import UNTRUSTED, Peer, peer_of_address, peer_of_certificate
from nodes.handshakes import Handshakes
from nodes.hepexport import HepExport
from nodes.mwnames import MwNames
from nodes.siptap import observing, trace_finder
from nodes.siptrace import SipTracer
from protos.nrf_nfm_pb2 import Endpoint
from sba import runtime
from sba.metrics import observed
from sba.nf import NetworkFunction
from signalling.aka.nonces import NonceBook
from signalling.sip.flow import Flow
from signalling.sip.stack import SipStack
from signalling.sip.timers import TimerConfig
from signalling.sip.transport import Reactor

DRAIN_S = 2.0
_ROUTE_KEY_PLACE = b"cscf route tokens"


class Cscf(NetworkFunction):
    """I-CSCF and S-CSCF of one or more home domains."""

    nf_types = ("SCSCF", "ICSCF")
    settings_class = CscfSettings
    settings: CscfSettings

    async def open_node(self) -> None:
        """Read the registrations and keys of an earlier life."""
        self._home_domains = tuple(
            domain.lower() for domain in self.settings.home_domains or (self.environment.domain,)
        )
        self._tokens = RouteTokens(await self._route_key())
        self._location = LocationService(
            await self.store.key_value("registration"), self.clock, time.time, self._spawn, self._registration_ended
        )
        found = await self._location.load()
        self.telemetry.meter.create_observable_gauge(
            "imslab.registrations", observed(lambda: len(self._location)), "{registration}", "Registrations kept"
        )
        self.telemetry.log("cscf.registrations", count=found, home_domains=list(self._home_domains))

    async def start_node(self) -> None:
        """Open Mw, then take requests."""
        settings = self.settings
        transport = settings.mw_transport.upper()
        self._tracer = SipTracer(
            self.telemetry, node=self.environment.instance, interfaces={MW: "Mw"}, believes=self._believes
        )
        self._hep = self._hep_export(self._tracer)
        observer = observing(self._tracer, self.tap, {MW: "Mw"}, *self._hep)
        timers = TimerConfig.core() if settings.t1 == TimerConfig.core().t1 else TimerConfig.core().scaled(settings.t1)
        self._stack = SipStack(
            cast("Reactor", self.clock), timers=timers, observer=observer, server_name=self.environment.node.fqdn
        )
        self._stack.request_hooks.append(self._tracer.request_hook)
        self._stack.failure_hooks.append(self._tracer.failure_hook)
        tls = (
            siptls.server(self.identity, mutual=True, watch=Handshakes(self.telemetry).watch("Mw"))
            if transport == "TLS"
            else None
        )
        if tls is not None:
            self._names = MwNames(self.sbi.discovery, settings.trusted_nf_types, self.telemetry.log)
            if self.environment.lab.networks:
                await self._names.start()
            tls_client = siptls.client(self.identity.ca_path, self.identity, self._names.of)
            self._stack.set_client_tls(MW, tls_client, self._names.before_dialling)
        listener = await self._stack.listen(transport, settings.mw.host, settings.mw.port, role=MW, tls=tls)
        self._own = OwnNames(
            frozenset({settings.mw.host.lower(), self.environment.node.fqdn.lower()}), listener.address[1], transport
        )
        self._hss = HssClient(self.sbi, settings.hss_timeout, self._own_uri(""))
        self._challenges = OpenChallenges(self.clock, settings.reg_await_auth)
        self._reg_event = RegEventServer(
            self._stack,
            settings,
            self._location,
            await self.store.key_value("subscription"),
            self._home_domains,
            self._own_uri("reg"),
            self._spawn_kept,
        )
        await self._reg_event.load()
        self._peers = siptls.TlsPeers(self._stack, MW, self.identity, self.telemetry.log)
        self._shell = MwShell(
            self._stack, settings, self._procedures(), self._tracer, runtime.spawn, self.telemetry.log, self._counted()
        )
        self._peers.start()
        self._tracer.start(self.clock)
        self._stack.handler = self._shell

    def _hep_export(self, tracer: SipTracer) -> tuple[HepExport, ...]:
        if self.settings.hep is None:
            return ()
        export = HepExport(self.settings.hep, self.environment.instance, trace_finder(tracer))
        export.start()
        return (export,)

    async def drain_node(self) -> None:
        """Let requests in progress come to their answer."""
        if hasattr(self, "_shell"):
            await self._shell.drain(DRAIN_S)

    async def close_node(self) -> None:
        """Close Mw and stop the timers; registrations stay in the store."""
        if hasattr(self, "_location"):
            self._location.close()
        if hasattr(self, "_challenges"):
            self._challenges.close()
        if hasattr(self, "_reg_event"):
            self._reg_event.close()
        if hasattr(self, "_peers"):
            self._peers.stop()
        if hasattr(self, "_names"):
            self._names.stop()
        if hasattr(self, "_stack"):
            await self._stack.stop()
            self._tracer.close()
            for export in self._hep:
                export.stop()

    def endpoints(self) -> Sequence[Endpoint]:
        """The Mw socket."""
        return [
            Endpoint(
                role=MW,
                transport=self._own.transport,
                host=self.settings.mw.host,
                port=self._own.port,
                tls_name=self.environment.node.fqdn if self._own.transport == "TLS" else "",
            )
        ]

    def _counted(self) -> Callable[[str], None]:
        attempts = self.telemetry.meter.create_counter(
            "imslab.registration.attempts", "{request}", "REGISTER requests by what became of them"
        )
        return lambda result: attempts.add(1, {"imslab.result": result})

    def _procedures(self) -> Procedures:
        settings = self.settings
        register = RegisterProcedure(
            settings,
            self._hss,
            self._location,
            self._challenges,
            NonceBook(self.clock.seconds, lifetime_s=settings.digest_nonce_lifetime),
            self._own_uri,
            self.clock.seconds,
            self.telemetry.log,
        )

        def give_up(challenge: Challenge) -> None:
            self._spawn(register.give_up(challenge))

        self._challenges.on_expiry = give_up
        calls = CallProcedure(
            settings,
            self._home_domains,
            self._hss,
            self._location,
            self._tokens,
            self._own,
            self._own_uri,
            HomeNetworks(self.sbi),
            ApplicationServers(self.sbi),
        )
        return Procedures(register, calls, self._reg_event, self._judge, self._peers.closed, self._home_domains)

    async def _route_key(self) -> Secret:
        table = await self.store.key_value("key")
        record = await table.get("route")
        if record is not None:
            return Secret(self.store.unseal(bytes.fromhex(record["sealed"]), _ROUTE_KEY_PLACE))
        key = Secret.random(KEY_OCTETS)
        await table.put("route", {"sealed": self.store.seal(key.reveal(), _ROUTE_KEY_PLACE).hex()})
        return key

    def _own_uri(self, user: str) -> str:
        host = f"[{self.settings.mw.host}]" if ":" in self.settings.mw.host else self.settings.mw.host
        who = f"{user}@" if user else ""
        return f"sip:{who}{host}:{self._own.port};transport={self._own.transport.lower()};lr"

    def _judge(self, flow: Flow) -> Peer:
        """Who is at the other end of a flow, and may it assert identities? Raises ``RejectionError`` when revoked."""
        if flow.transport != "TLS":
            return peer_of_address(flow.remote[0], self.settings.trusted_peers)
        try:
            peer = self._peers.of(flow)
        except siptls.RevokedError:
            raise RejectionError(403, "Certificate Revoked") from None
        if peer is None:
            return UNTRUSTED
        return peer_of_certificate(peer.nf_types, peer.instance_id, self.settings.trusted_nf_types)

    def _believes(self, flow: Flow) -> bool:
        """Whether a neighbour may say which trace a request belongs to."""
        try:
            return self._judge(flow).trusted
        except RejectionError:
            return False

    async def _registration_ended(self, registration: Registration) -> None:
        """The last binding expired: the HSS hears of it."""
        impu, domain = registration.profile.default_impu, registration.profile.home_domain
        self.telemetry.log("registration.expired", impi=registration.impi, impu=impu)
        try:
            await self._hss.assign(domain, registration.impi, impu, Flag.NOT_REGISTERED)
        except RejectionError as refusal:
            self.telemetry.log("hss.assignment-failed", level="warning", status=refusal.status)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Future[None]:
        """Run work of this node's own; a fault in it is told."""
        task = runtime.spawn(work)
        task.add_done_callback(self._tell_fault)
        return task

    def _spawn_kept(self, work: Awaitable[None]) -> None:
        self._spawn(work)

    def _tell_fault(self, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and (fault := done.exception()) is not None:
            self.telemetry.log("cscf.fault", level="error", fault=type(fault).__name__)
