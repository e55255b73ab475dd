"""The P-CSCF process: wiring of the SIP stack, the procedures and Iq."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, cast

from opentelemetry.context import Context

from keying.secret import Secret
from nodes import extensions, siptls
from nodes.handshakes import Handshakes
from nodes.hepexport import HepExport
from nodes.mwnames import MwNames
from nodes.pcscf.bindings import Bindings, Registration
from nodes.pcscf.config import PcscfSettings
from nodes.pcscf.control_link import ControlLink
from nodes.pcscf.decisions import DecisionRecorder
from nodes.pcscf.dialogs import EdgeDialog
from nodes.pcscf.edge import GM, GM_PROTECTED, MW, UE_ROLES, Edge
from nodes.pcscf.flowtoken import FlowAddress, FlowTokens
from nodes.pcscf.forwarding import Forwarding, take_hop
from nodes.pcscf.iq import IqClient, IqTimes
from nodes.pcscf.media_plan import Side
from nodes.pcscf.meter import EdgeMeter
from nodes.pcscf.ratelimit import SourceRate
from nodes.pcscf.register import EdgePorts, RegisterEdge
from nodes.pcscf.rejection import RejectionError
from nodes.pcscf.release import DEREGISTERED, Releaser
from nodes.pcscf.routing import OwnAddresses, OwnUri, domain_of, hop_of
from nodes.pcscf.satable import NON_SECURE, SaTable
from nodes.pcscf.session import Session, Sessions
from nodes.pcscf.session_edge import SessionEdge
from nodes.pcscf.session_media import SessionMedia
from nodes.pcscf.ue_requests import UeRequests
from nodes.siptap import observing, trace_finder
from nodes.siptrace import SipTracer
from protos.nrf_nfm_pb2 import Endpoint
from sba import runtime
from sba.config import NodeEnvironment
from sba.errors import RemoteProblem
from sba.identity import cscf_name
from sba.load import share
from sba.nf import NetworkFunction
from sba.telemetry import within
from signalling.sip.flow import Flow, Hop
from signalling.sip.grammar import GrammarError
from signalling.sip.limits import StackLimits
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.stack import ServerTxn, SipStack, make_response
from signalling.sip.timers import TimerConfig
from signalling.sip.transport import Reactor
from signalling.sip.uri import UriError, parse_sip_uri

CORE_TYPES: Final = frozenset({"SCSCF", "ICSCF", "PCSCF", "IMS_AS", "ECSCF"})
"""NF types believed on Mw: they make up the trust domain (RFC 3325 3)."""
KEY_OCTETS: Final = 20
SWEEP_S: Final = 1.0
HAND_OVER_S: Final = 0.2
"""Pause between two looks for UEs that a retiring node can let go, s."""
_KEY_PLACE: Final = b"pcscf flow tokens"


class Pcscf(NetworkFunction):
    """P-CSCF with IMS-ALG of one access network."""

    nf_types = ("PCSCF",)
    settings_class = PcscfSettings
    settings: PcscfSettings

    @classmethod
    def prepare(cls, environment: NodeEnvironment) -> None:
        """Enable the media security of packages that the lab has."""
        extensions.crypto_suites(environment)
        extensions.security_modes(environment)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open_node(self) -> None:
        """Read registrations, sessions and keys of an earlier life."""
        self._tasks: set[asyncio.Future[None]] = set()
        self._handing_over: asyncio.Future[None] | None = None
        settings = self.settings
        node = self.environment.instance
        network = settings.visited_network or self.environment.domain
        tracer = SipTracer(
            self.telemetry,
            node=node,
            interfaces={GM: "Gm", GM_PROTECTED: "Gm", MW: "Mw"},
            believes=lambda flow: flow.role == MW and self._trusted(flow),
        )
        self._hep = self._hep_export(tracer)
        core = _timers(TimerConfig.core(), settings.t1_core_s)
        limits = StackLimits(connections=settings.connections, silent_connections=settings.silent_connections)
        stack = SipStack(
            cast("Reactor", self.clock),
            timers=core,
            observer=observing(tracer, self.tap, {GM: "Gm", GM_PROTECTED: "Gm", MW: "Mw"}, *self._hep),
            limits=limits,
            server_name=self.environment.node.fqdn,
        )
        stack.request_hooks.append(self._trace_outgoing)
        stack.failure_hooks.append(tracer.failure_hook)
        self._core_peers = siptls.TlsPeers(stack, MW, self.identity, self.telemetry.log)
        bindings = Bindings(await self.store.key_value("registration"), time.time)
        times = IqTimes(settings.iq_setup_deadline_s, settings.iq_deadline_s, settings.media_inactivity_s)
        iq = IqClient(self.sbi, alg_id=self.identity.instance_id, access_network=settings.access_network, times=times)
        tokens = FlowTokens(await self._token_key())
        sessions = Sessions(await self.store.key_value("session"))
        recorder = DecisionRecorder(self.telemetry.tracer, node)
        meter = EdgeMeter(self.telemetry, sessions, bindings)
        recorder.on_refused = meter.refused
        self._handshakes = Handshakes(self.telemetry)
        self.edge = Edge(
            node, self.environment.domain, network, settings, stack, bindings, sessions, tokens, iq, recorder,
            tracer, time.time, self._core_entry,
        )  # fmt: skip
        modes = extensions.security_modes(self.environment)
        self.edge.sealed = frozenset(mode.attribute for mode in modes.values())
        self.edge.media_addresses = {Side.ACCESS: settings.gm[0].host, Side.CORE: settings.mw[0].host}
        self._sas = SaTable(time.time)
        self._register = RegisterEdge(
            settings, bindings, tokens, self._sas, network=network, now=time.time, policy=self.edge.media_policy
        )
        self._releaser = Releaser(self.edge)
        self._ue = UeRequests(self.edge)
        self._session_edge = SessionEdge(self.edge, self._releaser, self._ue, meter)
        self._link = ControlLink(self.edge, self._releaser, self.telemetry.log)
        self._rate = SourceRate(settings.registrations_per_second, settings.registration_burst, self.clock.seconds)
        found = await bindings.load()
        for registration in bindings:
            if registration.association is not None:
                self._sas.put(registration.association)
        calls = await sessions.load(self._restored)
        self.telemetry.log("pcscf.restored", registrations=found, sessions=calls)

    async def start_node(self) -> None:
        """Open Mw, then Gm, then take requests."""
        settings, stack = self.settings, self.edge.stack
        addresses: list[tuple[str, int]] = []
        self._names = MwNames(self.sbi.discovery, CORE_TYPES, self.telemetry.log)
        if self.environment.lab.networks:
            await self._names.start()
        tls_client = siptls.client(self.identity.ca_path, self.identity, self._names.of)
        stack.set_client_tls(MW, tls_client, self._names.before_dialling)
        access = _timers(TimerConfig.access(), settings.t1_access_s)
        for index, spot in enumerate(settings.mw):
            context = (
                siptls.server(self.identity, mutual=True, watch=self._handshakes.watch("Mw"))
                if spot.transport == "TLS"
                else None
            )
            listener = await stack.listen(spot.transport, spot.host, spot.port, role=MW, tls=context)
            addresses.append(listener.address)
            if index == 0:
                self.edge.mw = OwnUri(spot.transport, *listener.address)
        self.gm: list[OwnUri] = []
        for spot in settings.gm:
            context = (
                siptls.server(self.identity, mutual=False, watch=self._handshakes.watch("Gm"))
                if spot.transport == "TLS"
                else None
            )
            listener = await stack.listen(spot.transport, spot.host, spot.port, role=GM, tls=context, timers=access)
            self.gm.append(OwnUri(spot.transport, *listener.address))
            addresses.append(listener.address)
        addresses += await self._open_protected(access)
        self.edge.own = OwnAddresses(addresses, (self.environment.node.fqdn,))
        self._register.path_uri = self.edge.mw.uri().removesuffix(";lr")
        if not self.edge.mw_encrypted:
            self.telemetry.log("pcscf.mw-in-clear", level="warning", flag=NON_SECURE)
        stack.handler = self
        self.edge.tracer.start(self.clock)
        self._link.start()
        self._sweeping = runtime.spawn(self._sweep())

    async def _open_protected(self, timers: TimerConfig) -> list[tuple[str, int]]:
        """Protected server port for ipsec-3gpp, where UDP is spoken; without ESP, and said so."""
        spot = next((spot for spot in self.settings.gm if spot.transport == "UDP"), None)
        if not self.settings.ipsec_enabled or spot is None:
            return []
        stack = self.edge.stack
        server = await stack.listen("UDP", spot.host, self.settings.ipsec_port_s, role=GM_PROTECTED, timers=timers)
        client = self.settings.ipsec_port_c or server.address[1]
        self._register.ports = EdgePorts(client=client, server=server.address[1])
        self.telemetry.log("pcscf.ipsec-backend", level="warning", backend=self.settings.ipsec_backend, flag=NON_SECURE)
        return [server.address]

    def _hep_export(self, tracer: SipTracer) -> tuple[HepExport, ...]:
        if self.settings.hep is None:
            return ()
        export = HepExport(self.settings.hep, self.environment.instance, trace_finder(tracer))
        export.start()
        return (export,)

    async def drain_node(self) -> None:
        """Let requests in progress come to their answer; sessions go on without this node."""
        if getattr(self, "_tasks", None):
            await asyncio.wait(list(self._tasks), timeout=0.5)

    async def close_node(self) -> None:
        """Close all ports; registrations and sessions stay in the store."""
        if not hasattr(self, "edge"):
            return
        self._link.stop()
        if hasattr(self, "_names"):
            self._names.stop()
        if self._handing_over is not None:
            self._handing_over.cancel()
        if hasattr(self, "_sweeping"):
            self._sweeping.cancel()
        for task in list(self._tasks):
            task.cancel()
        await self.edge.stack.stop()
        self.edge.tracer.close()
        for export in self._hep:
            export.stop()

    def endpoints(self) -> Sequence[Endpoint]:
        """Gm and Mw."""
        if not hasattr(self, "gm"):
            return ()
        fqdn = self.environment.node.fqdn
        mw = self.edge.mw
        own = self.settings.access_network
        found = [Endpoint(role=MW, transport=mw.transport, host=mw.host, port=mw.port, tls_name=fqdn)]
        found += [
            Endpoint(role=GM, transport=at.transport, host=at.host, port=at.port, tls_name=fqdn, access_network=own)
            for at in self.gm
        ]
        return found

    async def retire_node(self) -> None:
        """Let UEs without a call go to another P-CSCF: their connections end, which they answer by registering."""
        self._handing_over = runtime.spawn(self._hand_over())

    async def rejoin_node(self) -> None:
        """Keep the UEs that are still here."""
        if self._handing_over is not None:
            self._handing_over.cancel()
            self._handing_over = None

    async def _hand_over(self) -> None:
        while True:
            for registration in self._idle():
                flow = self.edge.flows.open(registration.flow)
                if flow is not None:
                    self.edge.stack.close_flow(flow)
            await asyncio.sleep(HAND_OVER_S)

    def _idle(self) -> list[Registration]:
        """Registrations over connections that stand, without a session."""
        bindings, sessions = self.edge.bindings, self.edge.sessions
        busy = {session.registration for session in sessions}
        return [one for one in bindings if one.id not in busy and self.edge.flows.open(one.flow) is not None]

    def work_left(self) -> tuple[int, str]:
        """Sessions, and UEs that have not gone to another P-CSCF yet."""
        return len(self.edge.sessions) + len(self._idle()), "calls and registrations"

    def load(self) -> int:
        """Sessions, or the processor where that is the narrower."""
        sessions = len(self.edge.sessions) if hasattr(self, "edge") else 0
        return max(share(sessions, self.settings.nominal_sessions), self.processor.percent())

    def attributes(self) -> dict[str, str]:
        """The SA backend shows as what it is."""
        return {"ipsec": f"{self.settings.ipsec_backend} {NON_SECURE}"} if self.settings.ipsec_enabled else {}

    # -- RequestHandler -----------------------------------------------------------------------------------------------

    def request_received(self, txn: ServerTxn) -> None:
        """Serve a request in a task of its own."""
        self._spawn(self._serve(txn), txn)

    def cancel_received(self, txn: ServerTxn, cancel: SipRequest) -> None:
        """Pass a CANCEL on."""
        self._session_edge.cancelled(txn, cancel)

    def ack_received(self, request: SipRequest, flow: Flow, txn: ServerTxn | None) -> None:
        """Pass the ACK of a 2xx on."""
        del txn
        from_core = flow.role == MW
        if from_core and not self._trusted(flow):
            return
        self._spawn(self._acknowledged(request, flow, from_core=from_core))

    def flow_closed(self, flow: Flow) -> None:
        """A connection is gone."""
        self._core_peers.closed(flow)
        self.edge.flows.closed(flow)

    # -- serving ------------------------------------------------------------------------------------------------------

    async def _acknowledged(self, request: SipRequest, flow: Flow, *, from_core: bool) -> None:
        with self.edge.tracer.serving(request):
            await self._session_edge.acknowledged(request, flow, from_core=from_core)

    async def _serve(self, txn: ServerTxn) -> None:
        request = txn.request
        with self.edge.tracer.serving(request):
            try:
                if txn.flow.role in UE_ROLES:
                    await self._from_ue(txn)
                else:
                    await self._from_core(txn)
            except RejectionError as refusal:
                self._refuse(txn, refusal)
            except GrammarError as error:
                self._refuse(txn, RejectionError(400, f"Bad Request: {error}"[:100]))

    async def _from_ue(self, txn: ServerTxn) -> None:
        request = txn.request
        if request.method == "REGISTER":
            await self._registering(txn)
        elif self._for_this_node(request):
            txn.respond(make_response(request, 200, headers=[("Accept", "application/sdp")]))
        else:
            await self._session_edge.from_ue(txn)

    async def _from_core(self, txn: ServerTxn) -> None:
        if not self._trusted(txn.flow):
            raise RejectionError(403, "Forbidden")
        if txn.request.method == "REGISTER":
            raise RejectionError(405, "Method Not Allowed", [("Allow", "INVITE, ACK, CANCEL, BYE, PRACK, UPDATE")])
        if self._for_this_node(txn.request):
            txn.respond(make_response(txn.request, 200, headers=[("Accept", "application/sdp")]))
            return
        await self._session_edge.from_core(txn)

    def _for_this_node(self, request: SipRequest) -> bool:
        """OPTIONS to this node itself: is it there?"""
        if request.method != "OPTIONS" or request.headers.values("Route"):
            return False
        try:
            uri = parse_sip_uri(request.uri)
        except UriError:
            return False
        return uri.user is None and self.edge.own.mine(uri)

    def _refuse(self, txn: ServerTxn, refusal: RejectionError) -> None:
        request = txn.request
        if refusal.status == 0:
            return  # dropped silently (PC-14)
        self.telemetry.log(
            "request.refused",
            method=request.method,
            call_id=request.call_id,
            status=refusal.status,
            reason=refusal.reason,
        )
        txn.respond(make_response(request, refusal.status, refusal.reason, headers=refusal.headers))

    async def _registering(self, txn: ServerTxn) -> None:
        if not self._rate.allow(txn.flow.remote[0]):
            raise RejectionError(503, "Service Unavailable", [("Retry-After", "5")])
        self.edge.flows.seen(txn.flow)
        if self.retiring and not self._stays(txn):
            raise RejectionError(503, "Service Unavailable")  # without Retry-After: another P-CSCF (24.229 5.1.1.2.1)
        request = txn.request.copy()
        take_hop(request)
        try:
            attempt = self._register.accept(request, txn.flow, under_sa=txn.flow.role == GM_PROTECTED)
        except RejectionError as refusal:
            if refusal.status in (421, 494):
                self.edge.recorder.registration_refused(request.call_id, refusal.reason, refusal.status)
            raise
        attempt.traced = self.edge.tracer.carries_trace(txn.request)
        hop = await self._core_entry(domain_of(request.uri))

        async def transform(response: SipResponse) -> SipResponse:
            try:
                outcome = await self._register.answered(attempt, response)
            except RejectionError as refusal:
                return make_response(txn.request, refusal.status, refusal.reason, headers=refusal.headers)
            if outcome.agreement is not None:
                self.edge.recorder.agreement(
                    request.call_id, attempt.impu, outcome.agreement, claimed=str(attempt.verify)
                )
            for registration in outcome.removed:
                await self._forget(registration)
            return response

        forwarding = Forwarding(self.edge.stack, txn, transform=transform)
        forwarding.start(request, hop, MW)
        await forwarding.done

    def _stays(self, txn: ServerTxn) -> bool:
        """Whether a node that retires takes a REGISTER: of a UE with a call here, or one that ends a registration."""
        if txn.request.headers.get("Expires") == "0":
            return True
        here = self.edge.bindings.on_flow(FlowAddress.of(txn.flow))
        return any(self.edge.sessions.of_registration(one.id) for one in here)

    async def _forget(self, registration: Registration) -> None:
        """A registration ended: its sessions end with it (DR-6)."""
        for session in self.edge.sessions.of_registration(registration.id):
            await self._releaser.release(session, DEREGISTERED)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._core_peers.sweep()
            self._register.procedures.expire()
            self._sas.expire()
            for registration in self.edge.bindings.expired():
                await self.edge.bindings.remove(registration)
                self.telemetry.log("registration.expired", impu=registration.impu)
                await self._forget(registration)

    # -- ways ---------------------------------------------------------------------------------------------------------

    async def _core_entry(self, domain: str) -> Hop:
        """The I-CSCF of a home domain: from the settings, else from the NRF; over TLS it has to show the domain's name.

        So nobody else of the lab takes its place, whatever the NRF was told of addresses.
        """
        configured = self.settings.core_routes.get(domain)
        if configured is not None:
            return hop_of(parse_sip_uri(configured), self.edge.mw.transport)
        try:
            profiles = await self.sbi.discover("ICSCF", home_domain=domain)
        except RemoteProblem as problem:
            raise RejectionError(503, "Service Unavailable", [("Retry-After", "2")]) from problem
        points = [point for profile in profiles for point in profile.endpoints if point.role == MW]
        points.sort(key=lambda point: point.transport != self.edge.mw.transport)
        if not points:
            raise RejectionError(404 if profiles else 504, "Not Found" if profiles else "No Core")
        point = points[0]
        name = cscf_name(domain) if point.transport == "TLS" else None
        hop = Hop(point.transport, point.host, point.port, tls_name=name)
        self.edge.entries.add(hop)
        return hop

    def _trusted(self, flow: Flow) -> bool:
        """Whether the other end of a flow on Mw belongs to the trust domain (T7)."""
        if flow.transport != "TLS":
            trusted = self.settings.trusted_core_addresses
            return not self.edge.mw_encrypted and (not trusted or flow.remote[0] in trusted)
        try:
            peer = self._core_peers.of(flow)
        except siptls.RevokedError:
            return False
        return peer is not None and bool(set(peer.nf_types) & CORE_TYPES)

    def _trace_outgoing(self, request: SipRequest, hop: Hop, role: str) -> None:
        """Trace what is sent; a UE that does not take part in tracing gets no `traceparent`."""
        inject = role == MW
        if not inject:
            address = FlowAddress.of(hop.flow) if hop.flow is not None else None
            if address is not None:
                inject = any(one.traced for one in self.edge.bindings.on_flow(address))
            else:
                at = (hop.host, hop.port)
                inject = any(one.traced for one in self.edge.bindings if one.flow.remote == at)
        self.edge.tracer.outgoing(request, inject=inject)

    # -- state --------------------------------------------------------------------------------------------------------

    async def _token_key(self) -> Secret:
        table = await self.store.key_value("key")
        record = await table.get("flow")
        if record is not None:
            return Secret(self.store.unseal(bytes.fromhex(record["sealed"]), _KEY_PLACE))
        key = Secret.random(KEY_OCTETS)
        await table.put("flow", {"sealed": self.store.seal(key.reveal(), _KEY_PLACE).hex()})
        return key

    def _restored(self, identifier: str, stored: Mapping[str, Any]) -> Session:
        """A session of an earlier life. Raises KeyError, TypeError, ValueError for foreign data."""
        edge = self.edge
        registration = edge.bindings.get(stored["registration"])
        edge.tracer.restore(stored["call_id"], stored.get("trace", ""))
        media = SessionMedia(
            edge.iq, edge.recorder, call_id=stored["call_id"], node=edge.node, fallback=edge.media_addresses
        )
        media.restore(stored["media"])
        flow = FlowAddress.read(stored["flow"])
        encrypted = registration.encrypted if registration else flow.transport == "TLS"
        return Session(
            id=identifier,
            call_id=stored["call_id"],
            caller=Side(stored["caller"]),
            registration=stored["registration"],
            flow=flow,
            role=stored["role"],
            record_route=tuple(stored["record_route"]),
            media=media,
            policy=edge.alg_policy(registration, encrypted=encrypted, emergency=stored["emergency"], flow=flow),
            owner=stored.get("owner", ""),
            icid=stored["icid"],
            emergency=stored["emergency"],
            traced=stored["traced"],
            trace=stored.get("trace", ""),
            dialogs={tag: EdgeDialog.from_dict(dialog) for tag, dialog in stored["dialogs"].items()},
        )

    def _spawn(self, work: Awaitable[None], txn: ServerTxn | None = None) -> None:
        task = runtime.spawn(work)
        self._tasks.add(task)
        context = self.edge.tracer.context_of(txn.request) if txn is not None else None
        task.add_done_callback(lambda done: self._done(done, txn, context))

    def _done(self, task: asyncio.Future[None], txn: ServerTxn | None, context: Context | None) -> None:
        """A fault of this node is told and answered 500, never swallowed."""
        self._tasks.discard(task)
        if task.cancelled() or (fault := task.exception()) is None:
            return
        where = traceback.extract_tb(fault.__traceback__)[-1]
        with within(context):
            self.telemetry.log(
                "pcscf.fault", level="error", fault=type(fault).__name__, where=f"{where.name}:{where.lineno}"
            )
        if txn is not None:
            txn.respond(make_response(txn.request, 500))


def _timers(profile: TimerConfig, t1: float) -> TimerConfig:
    return profile if profile.t1 == t1 else profile.scaled(t1)


__all__ = ["Pcscf"]
