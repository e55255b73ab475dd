"""An application server on ISC in proxy mode, the base of those that packages bring (TS 23.218 9.1, TS 24.229 5.7.3).

The S-CSCF sends it requests by the filter criteria of a user's service profile, with its own URI as the next Route. The
server looks at each, refuses it or hands it back; it reaches nobody but S-CSCFs. A subclass decides in
:meth:`ApplicationServer.on_request`; everything else is here: mutual TLS, trust, transactions, CANCEL, tracing,
captures, the endpoint ``isc`` in the NRF profile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from nodes import siptls
from nodes.handshakes import Handshakes
from nodes.mwnames import MwNames
from nodes.siptap import observing
from nodes.siptrace import SipTracer
from protos.nrf_nfm_pb2 import Endpoint
from sba import runtime
from sba.errors import RemoteProblem
from sba.nf import NetworkFunction, NodeSettings
from signalling.isc import Refusal, ServedUser, served_user
from signalling.sip.flow import Flow, Hop, same_host
from signalling.sip.grammar import GrammarError, format_host
from signalling.sip.headers import default_port, parse_name_addr
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.proxy import Branch, ProxyCore
from signalling.sip.stack import ServerTxn, SipStack, make_response
from signalling.sip.timers import TimerConfig
from signalling.sip.transport import Reactor
from signalling.sip.uri import SipUri
from signalling.sip.validation import check_request

ISC: Final = "isc"
"""Role of the socket and of its endpoint in the NRF profile."""
_MW: Final = "mw"
_CSCF_TYPE: Final = "SCSCF"
_DRAIN_S: Final = 2.0
_SCHEMES: Final = ("sip", "sips", "tel", "urn")
_DIALOG_FORMING: Final = frozenset({"INVITE", "SUBSCRIBE", "REFER", "NOTIFY"})


class IscSettings(BaseModel):
    """Where an application server speaks SIP to S-CSCFs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address of the ISC socket")
    port: int = Field(default=0, ge=0, le=65535, description="Port of the ISC socket; 0 takes one from the kernel")


class ApplicationServerSettings(NodeSettings):
    """Settings that every application server has; the lab fills in ``isc`` and ``isc_transport``."""

    isc: IscSettings = IscSettings()
    isc_transport: Literal["tls", "tcp"] = Field(
        default="tls", description="Transport of ISC: tls (mutual, trust by certificate) or tcp (trust by address)"
    )


class _RejectError(Exception):
    """A request that goes no further for its form or its sender."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ApplicationServer(NetworkFunction):
    """Base of application servers: override :meth:`on_request`, and :meth:`on_answer` to see what became of it.

    A subclass that overrides ``start_node``, ``drain_node`` or ``close_node`` calls the one of this class.
    """

    nf_types: ClassVar[tuple[str, ...]] = ("IMS_AS",)
    settings_class: ClassVar[type[NodeSettings]] = ApplicationServerSettings
    record_route: ClassVar[bool] = False
    """Stay on the way of the dialog: BYE and re-INVITE pass :meth:`on_dialog_request` too."""

    # What an application server overrides.

    async def on_request(self, request: SipRequest, served: ServedUser) -> Refusal | None:
        """Decide about a request outside a dialog; None hands it back to the S-CSCF.

        ``request`` is a copy that may be altered: what is handed back is altered so. A fault here is answered 500, and
        the filter criterion says what the S-CSCF does then.
        """
        del request, served
        return None

    async def on_dialog_request(self, request: SipRequest) -> Refusal | None:
        """Decide about a request inside a dialog; asked with ``record_route`` alone."""
        del request
        return None

    async def on_answer(self, request: SipRequest, response: SipResponse) -> None:
        """See each answer (101 to 699) to a request that was handed back, on its way to the caller."""

    # Life.

    async def start_node(self) -> None:
        """Open the ISC socket."""
        settings = self.settings
        transport = settings.isc_transport.upper()
        interfaces = {ISC: "ISC"}
        self._tracer = SipTracer(
            self.telemetry, node=self.environment.instance, interfaces=interfaces, believes=self._believes
        )
        self._stack = SipStack(
            cast("Reactor", self.clock),
            timers=TimerConfig.core(),
            observer=observing(self._tracer, self.tap, interfaces),
            server_name=self.environment.node.fqdn,
        )
        self._stack.request_hooks.append(self._tracer.request_hook)
        self._stack.failure_hooks.append(self._tracer.failure_hook)
        self._proxy = ProxyCore(self._stack)
        self._serving: dict[ServerTxn, asyncio.Future[None]] = {}
        self._cancelled: set[ServerTxn] = set()
        self._cscfs: frozenset[tuple[str, int]] = frozenset()
        tls = None
        if transport == "TLS":
            tls = siptls.server(self.identity, mutual=True, watch=Handshakes(self.telemetry).watch("ISC"))
            self._neighbours = MwNames(self.sbi.discovery, ("SCSCF", "ICSCF"), self.telemetry.log)
            if self.environment.lab.networks:
                await self._neighbours.start()
            tls_client = siptls.client(self.identity.ca_path, self.identity, self._neighbours.of)
            self._stack.set_client_tls(ISC, tls_client, self._neighbours.before_dialling)
        isc = settings.isc
        listener = await self._stack.listen(transport, isc.host, isc.port, role=ISC, tls=tls)
        self._port = listener.address[1]
        self._names = frozenset({isc.host.lower(), self.environment.node.fqdn.lower()})
        self._peers = siptls.TlsPeers(self._stack, ISC, self.identity, self.telemetry.log)
        self._peers.start()
        self._tracer.start(self.clock)
        self._stack.handler = self

    async def drain_node(self) -> None:
        """Let requests in progress come to their answer."""
        if hasattr(self, "_serving") and self._serving:
            await asyncio.wait(list(self._serving.values()), timeout=_DRAIN_S)

    async def close_node(self) -> None:
        """Close the ISC socket."""
        if hasattr(self, "_neighbours"):
            self._neighbours.stop()
        if hasattr(self, "_peers"):
            self._peers.stop()
            await self._stack.stop()
            self._tracer.close()

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the ISC socket."""
        tls = self.settings.isc_transport == "tls"
        endpoint = Endpoint(role=ISC, transport=self.settings.isc_transport.upper(), host=self.settings.isc.host)
        endpoint.port = self._port
        endpoint.tls_name = self.environment.node.fqdn if tls else ""
        return [endpoint]

    # The transaction user above the stack (signalling.RequestHandler).

    def request_received(self, txn: ServerTxn) -> None:
        """Serve a request in a task of its own."""
        task = runtime.spawn(self._serve(txn))
        self._serving[txn] = task
        task.add_done_callback(lambda done: self._served(txn, done))

    def cancel_received(self, txn: ServerTxn, cancel: SipRequest) -> None:
        """Pass a CANCEL on; before the request was handed back it ends here with 487 (RFC 3261 9.2)."""
        if txn in self._serving:
            self._cancelled.add(txn)
        if not self._proxy.cancel(txn, cancel):
            txn.respond(make_response(txn.request, 487))

    def ack_received(self, request: SipRequest, flow: Flow, txn: ServerTxn | None) -> None:
        """Pass the ACK of a 2xx on, which comes this way with ``record_route`` alone."""
        del txn
        runtime.spawn(self._pass_ack(request, flow))

    def flow_closed(self, flow: Flow) -> None:
        """Forget who was at the other end."""
        self._peers.closed(flow)

    async def _serve(self, txn: ServerTxn) -> None:
        request = txn.request
        with self._tracer.serving(request):
            fault = check_request(request, role="proxy", methods=(), extensions=(), schemes=_SCHEMES)
            if fault is not None:
                txn.respond(fault)
                return
            try:
                onward, hop = await self._onward(request, txn.flow)
                refusal = await self._decide(onward)
            except _RejectError as rejected:
                refusal = Refusal(rejected.status, rejected.reason)
                self.telemetry.log("isc.rejected", level="warning", call_id=request.call_id, reason=rejected.reason)
            except GrammarError:
                refusal = Refusal(400, "Malformed")
            if txn in self._cancelled:
                return
            if refusal is not None:
                txn.respond(make_response(request, refusal.status, refusal.reason, headers=refusal.headers))
                return

            async def answered(_branch: Branch, response: SipResponse) -> SipResponse:
                await self.on_answer(request, response)
                return response

            self._proxy.forward(
                txn, onward, [hop], role=ISC, on_response=answered, record_route=self._record_route(onward)
            )

    async def _decide(self, request: SipRequest) -> Refusal | None:
        if request.to_tag is not None:
            return await self.on_dialog_request(request)
        served = served_user(request)
        if served is None:
            raise _RejectError(400, "No Served User")
        return await self.on_request(request, served)

    async def _onward(self, request: SipRequest, flow: Flow) -> tuple[SipRequest, Hop]:
        """Take the own Route off a request and return where it goes: to an S-CSCF, as it came from one.

        Raises _RejectError for a sender that is none, and for a Route that leads elsewhere.
        """
        await self._learn_cscfs()
        if not self._is_cscf(flow):
            raise _RejectError(403, "Not Through An S-CSCF")
        onward = request.copy()
        own = _top_route(onward)
        if own is None or not self._is_own(own):
            raise _RejectError(403, "Route Does Not Name This Server")
        onward.headers.remove_first_value("Route")
        if request.to_tag is not None and not self.record_route:
            raise _RejectError(481, "No Such Dialog Here")
        way = _top_route(onward)
        if way is None:
            raise _RejectError(403, "No Way Back")
        port = way.port or default_port(way.transport or self.settings.isc_transport.upper())
        if (way.host.lower(), port) not in self._cscfs:
            raise _RejectError(403, "Route Does Not Lead Back")
        return onward, Hop(self.settings.isc_transport.upper(), way.host, port)

    async def _pass_ack(self, request: SipRequest, flow: Flow) -> None:
        with self._tracer.serving(request):
            try:
                onward, hop = await self._onward(request, flow)
            except (_RejectError, GrammarError):
                self.telemetry.log("isc.ack-dropped", level="warning", call_id=request.call_id)
                return
            self._proxy.forward_ack(onward, hop, role=ISC)

    def _record_route(self, request: SipRequest) -> tuple[str, ...]:
        if not self.record_route or request.to_tag is not None or request.method not in _DIALOG_FORMING:
            return ()
        host = format_host(self.settings.isc.host)
        return (f"<sip:{host}:{self._port};transport={self.settings.isc_transport};lr>",)

    def _is_own(self, uri: SipUri) -> bool:
        port = uri.port or default_port(uri.transport or self.settings.isc_transport.upper())
        return uri.host.lower() in self._names and port == self._port

    def _served(self, txn: ServerTxn, done: asyncio.Future[None]) -> None:
        """Clean up; a fault of this node is answered 500 and told, never swallowed."""
        self._serving.pop(txn, None)
        self._cancelled.discard(txn)
        if done.cancelled() or (fault := done.exception()) is None:
            return
        self.telemetry.log(
            "isc.fault",
            level="error",
            method=txn.request.method,
            call_id=txn.request.call_id,
            fault=f"{type(fault).__name__}: {fault}",
        )
        txn.respond(make_response(txn.request, 500))

    # Trust.

    async def _learn_cscfs(self) -> None:
        """Ask the NRF where S-CSCFs are; without it those known before stay."""
        try:
            found = await self.sbi.discover(_CSCF_TYPE)
        except RemoteProblem:
            return
        self._cscfs = frozenset(
            (endpoint.host.lower(), endpoint.port)
            for profile in found
            for endpoint in profile.endpoints
            if endpoint.role == _MW
        )

    def _is_cscf(self, flow: Flow) -> bool:
        """Tell whether an S-CSCF is at the other end: by its certificate, over TCP by its address (testbed rule)."""
        if flow.transport != "TLS":
            return any(same_host(flow.remote[0], host) for host, _ in self._cscfs)
        try:
            peer = self._peers.of(flow)
        except siptls.RevokedError:
            return False
        return peer is not None and _CSCF_TYPE in peer.nf_types

    def _believes(self, flow: Flow) -> bool:
        """Tell whether a neighbour may say which trace a request belongs to."""
        return self._is_cscf(flow)


def _top_route(request: SipRequest) -> SipUri | None:
    value = request.headers.first_value("Route")
    return None if value is None else parse_name_addr(value).sip_uri


__all__ = ["ApplicationServer", "ApplicationServerSettings", "IscSettings"]
