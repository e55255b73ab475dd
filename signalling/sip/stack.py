"""A SIP stack on Twisted: transactions over UDP, TCP and TLS (RFC 3261 17-18, 3581, 5626, 6026).

The transaction user implements :class:`RequestHandler`; requests leave by :meth:`SipStack.send` or
:meth:`SipStack.request`.
"""

from __future__ import annotations

import asyncio
import contextvars
import secrets
from collections import Counter
from collections.abc import Callable, Sequence

from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from signalling.sip.admission import Admission
from signalling.sip.connection import Clock, StreamConnection
from signalling.sip.flow import (
    Flow,
    Hop,
    Listener,
    MessageObserver,
    RequestHandler,
    SilentObserver,
    TransactionFailure,
    response_destination,
)
from signalling.sip.grammar import GrammarError, format_host
from signalling.sip.headers import BRANCH_COOKIE, NameAddr, Via
from signalling.sip.keepalive import Keepalive
from signalling.sip.limits import StackLimits
from signalling.sip.model import SipParseError, SipRequest, SipResponse
from signalling.sip.path import ClientPaths
from signalling.sip.responses import make_response, new_tag, tag_for
from signalling.sip.timers import TimerConfig
from signalling.sip.transaction import State, client_key, server_transaction
from signalling.sip.transport import BeforeTls, ClientTls, ContextFactory, Reactor, TransportLayer
from signalling.sip.txn import ClientTxn, MergeKey, OnFailure, OnResponse, ServerKey, ServerTxn

__all__ = [
    "ClientTxn",
    "Flow",
    "Hop",
    "Keepalive",
    "Listener",
    "MessageObserver",
    "RequestHandler",
    "ServerTxn",
    "SipStack",
    "TransactionFailure",
    "make_response",
    "new_tag",
    "tag_for",
]

RequestHook = Callable[[SipRequest, Hop, str], None]
"""Called with (request, hop, role) before a request is written; it may add headers, e.g. ``traceparent``."""
FailureHook = Callable[[SipRequest, TransactionFailure], None]
"""Called when a client transaction ends without a final response, before its user is told."""
DialogKey = tuple[str, str, str, int]
_RETRY_AFTER = ("Retry-After", "2")


def new_branch() -> str:
    """Return a branch: the cookie and 96 random bits (RFC 3261 8.1.1.7)."""
    return BRANCH_COOKIE + secrets.token_hex(12)


class SipStack:
    """One SIP entity: ports, connections, client and server transactions.

    ``handler`` may be set after construction. Nothing a peer sends raises out of the stack: an exception of the
    handler is logged and answered 500.
    """

    def __init__(
        self,
        reactor: Reactor,
        *,
        timers: TimerConfig,
        handler: RequestHandler | None = None,
        observer: MessageObserver | None = None,
        limits: StackLimits | None = None,
        server_name: str = "imslab",
    ) -> None:
        self.clock: Clock = reactor
        self.timers = timers
        self.handler = handler
        self.observer: MessageObserver = observer or SilentObserver()
        self.server_name = server_name
        self.request_hooks: list[RequestHook] = []
        self.failure_hooks: list[FailureHook] = []
        self._log = Logger(namespace="signalling.sip")
        self._limits = limits or StackLimits()
        self._transport = TransportLayer(reactor, self, self._limits)
        self._admission = Admission(reactor, self._limits)
        self._paths = ClientPaths(self._transport, self.observer)
        self._role_timers: dict[str, TimerConfig] = {}
        self._clients: dict[tuple[str, str], ClientTxn] = {}
        self._servers: dict[ServerKey, ServerTxn] = {}
        self._alike: Counter[MergeKey] = Counter()
        self._owed: Counter[str] = Counter()
        self._answered: dict[DialogKey, ServerTxn] = {}
        self._context = contextvars.copy_context()
        self._stopped = False

    # ports

    async def listen(
        self,
        transport: str,
        host: str,
        port: int,
        *,
        role: str,
        tls: ContextFactory | None = None,
        timers: TimerConfig | None = None,
    ) -> Listener:
        """Open a port of a role; port 0 lets the kernel choose. CannotListenError when it is taken."""
        profile = timers or self.timers
        self._role_timers[role] = profile
        return self._transport.listen(transport.upper(), host, port, role, tls, profile)

    def set_client_tls(self, role: str, settings: ClientTls, before: BeforeTls | None = None) -> None:
        """Give the TLS settings a role dials with: Twisted settings, or a callable (name) -> settings.

        ``before`` (name or address, go on) is called before each new connection, which is dialled when it calls back.
        """
        self._transport.set_client_tls(role, settings, before)

    def set_timers(self, role: str, timers: TimerConfig) -> None:
        """Give the timers of a role that has no listener."""
        self._role_timers[role] = timers

    def local_address(self, role: str, transport: str, host: str = "") -> tuple[str, int] | None:
        """Return the listening address of a role and transport, in the address family of ``host``."""
        listener = self._transport.listener_for(role, transport.upper(), host)
        return None if listener is None else listener.address

    def peer_certificate(self, flow: Flow) -> bytes | None:
        """Return the certificate (DER) the peer of a TLS flow showed."""
        connection = self._transport.connection(flow)
        return None if connection is None else connection.peer_certificate()

    def is_open(self, flow: Flow) -> bool:
        """Say whether a flow can still carry a message; a UDP flow always can."""
        return not flow.reliable or self._transport.connection(flow) is not None

    def close_flow(self, flow: Flow) -> None:
        """Close the connection of a flow."""
        connection = self._transport.connection(flow)
        if connection is not None:
            connection.close()

    def cut_flow(self, flow: Flow) -> None:
        """Cut the connection of a flow at once; what is unsent is lost."""
        connection = self._transport.connection(flow)
        if connection is not None:
            connection.abort()

    def flows(self, role: str) -> list[Flow]:
        """Return the flows of a role's open connections, whoever opened them."""
        return self._transport.flows(role)

    def keep_alive(self, flow: Flow, failed: Callable[[], None], *, advised: float | None = None) -> Keepalive:
        """Ping a flow this side opened; ``advised``: seconds from ``keep`` or Flow-Timer (RFC 5626 4.4, RFC 6223)."""
        return Keepalive(self._transport, flow, failed, advised=advised)

    @property
    def transaction_count(self) -> int:
        """Server and client transactions held."""
        return len(self._clients) + len(self._servers)

    async def stop(self) -> None:
        """Close all ports and connections and forget all transactions."""
        self._stopped = True
        for server in list(self._servers.values()):
            server.close()
        self._servers.clear()
        self._alike.clear()
        self._owed.clear()
        for client in list(self._clients.values()):
            client.fail("transport", "the stack stopped")
        pending = self._transport.stop()
        loop = asyncio.get_running_loop() if pending else None
        for one in pending:
            if loop is not None:
                await one.asFuture(loop)

    # requests out

    def send(
        self, request: SipRequest, hop: Hop, *, role: str, on_response: OnResponse, on_failure: OnFailure
    ) -> ClientTxn:
        """Send a request with an own Via on top (the given one stays as it is) and run its client transaction.

        ``on_response`` gets every response, 100 and forked 2xx included, own Via on top. ``on_failure`` is never called
        before this method returned.
        """
        outgoing = self._with_via(request, hop, role)
        for hook in self.request_hooks:
            hook(outgoing, hop, role)
        txn = ClientTxn(self, outgoing, hop, role, on_response, self._with_hooks(outgoing, on_failure))
        self._clients[client_key(outgoing)] = txn
        self._paths.open(txn, self.timers_of(role))
        return txn

    async def request(
        self,
        request: SipRequest,
        hop: Hop,
        *,
        role: str,
        on_provisional: Callable[[SipResponse], None] | None = None,
    ) -> SipResponse:
        """Send a request and return the first final response; raises TransactionFailure.

        A coroutine of the asyncio loop under the reactor. Cancelled, it cancels an INVITE.
        """
        answer: asyncio.Future[SipResponse] = asyncio.get_running_loop().create_future()

        def responded(response: SipResponse) -> None:
            if response.status < 200:
                if on_provisional is not None:
                    on_provisional(response)
            elif not answer.done():
                answer.set_result(response)

        def failed(failure: TransactionFailure) -> None:
            if not answer.done():
                answer.set_exception(failure)

        txn = self.send(request, hop, role=role, on_response=responded, on_failure=failed)
        try:
            return await answer
        except asyncio.CancelledError:
            txn.cancel()
            raise

    def send_ack(self, request: SipRequest, hop: Hop, role: str) -> None:
        """Send the ACK of a 2xx (own or forwarded): a new branch, no transaction (RFC 3261 13.2.2.4)."""
        outgoing = self._with_via(request, hop, role)
        for hook in self.request_hooks:
            hook(outgoing, hop, role)
        self._paths.send_once(outgoing, hop, role)

    def send_response_stateless(self, response: SipResponse, flow: Flow) -> None:
        """Send a response without a transaction, by its top Via over the flow of the request."""
        self._write(response, flow, "stateless", again=False)

    def timers_of(self, role: str) -> TimerConfig:
        """Return the timers of a role."""
        return self._role_timers.get(role, self.timers)

    def _with_hooks(self, request: SipRequest, on_failure: OnFailure) -> OnFailure:
        def failed(failure: TransactionFailure) -> None:
            for hook in self.failure_hooks:
                hook(request, failure)
            on_failure(failure)

        return failed

    def _with_via(self, request: SipRequest, hop: Hop, role: str) -> SipRequest:
        outgoing = request.copy()
        host, port = self._paths.sent_by(hop, role)
        via = Via(hop.transport, host, port, {"branch": new_branch(), "rport": None})
        outgoing.headers.prepend("Via", str(via))
        return outgoing

    def write_request(self, txn: ClientTxn, request: SipRequest, *, again: bool) -> bool:
        """Put a request of a client transaction on its path."""
        return self._paths.write(txn, request, again=again)

    def start_cancel(self, txn: ClientTxn, cancel: SipRequest) -> None:
        """Run a CANCEL over the path of its INVITE."""
        hop = txn.hop if txn.flow is None else Hop(txn.flow.transport, txn.hop.host, txn.hop.port, txn.flow)
        unheard = self._with_hooks(cancel, lambda _failure: None)
        cancelling = ClientTxn(self, cancel, hop, txn.role, lambda _response: None, unheard)
        self._clients[client_key(cancel)] = cancelling
        self._paths.open(cancelling, self.timers_of(txn.role))

    def forget_client(self, txn: ClientTxn) -> None:
        """Drop a client transaction."""
        self._clients.pop((txn.branch, txn.request.method), None)
        self._paths.forget(txn)

    # messages in

    def message_arrived(self, message: SipRequest | SipResponse, data: bytes, flow: Flow) -> None:
        """Take a well-formed message from the transport."""
        if self._stopped:
            return
        work = self._response_arrived if isinstance(message, SipResponse) else self._request_arrived
        self._guarded(work, message, data, flow)

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        """Run with a clean context; an exception must not end the connection of other calls."""
        maybeDeferred(self._context.copy().run, work, *arguments).addErrback(self._log_failure)

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("error while handling a SIP message", failure)

    def _response_arrived(self, response: SipResponse, data: bytes, flow: Flow) -> None:
        txn = self._clients.get(client_key(response))
        if txn is None or response.top_via.sent_by != txn.request.top_via.sent_by:
            self.observer.message_dropped("response without transaction", data, flow)
            return
        exact = txn.role in self._limits.trusted_roles
        if txn.flow is None or not txn.flow.is_answered_by(flow, exact=exact):
            self.observer.message_dropped("response from elsewhere", data, flow)
            return
        if txn.state in (State.COMPLETED, State.TERMINATED):
            self.observer.retransmission("received", data, response, flow, txn.key)
        else:
            self.observer.message_received(data, response, flow, txn.key)
        txn.receive(response)

    def _request_arrived(self, request: SipRequest, data: bytes, flow: Flow) -> None:
        complete_via(request, flow)
        key = server_key(request)
        if request.method == "ACK":
            self._ack_arrived(request, data, flow, key)
            return
        if request.method == "CANCEL" and self._is_foreign_cancel(request, flow, key):
            self.observer.message_dropped("CANCEL of another request", data, flow)
            if self._admission.may_answer(flow):
                self.send_response_stateless(make_response(request, 481), flow)
            return
        txn = self._servers.get(key)
        if txn is not None:
            self.observer.retransmission("received", data, request, flow, txn.key)
            txn.request_again()
            return
        refusal = self._admission.refusal(request, flow)
        if refusal is not None:
            self.observer.message_dropped(refusal, data, flow)
            if self._admission.may_answer(flow):
                self.send_response_stateless(make_response(request, 503, headers=[_RETRY_AFTER]), flow)
            return
        engine = server_transaction(request, self.timers_of(flow.role), reliable=flow.reliable)
        txn = ServerTxn(self, key, flow, engine)
        self._servers[key] = txn
        self._alike[txn.merge_key] += 1
        self._admission.opened(flow)
        if flow.reliable:
            self._owed[flow.id] += 1
        self.observer.message_received(data, request, flow, txn.key)
        txn.begin()
        if request.method == "CANCEL":
            self._cancel_arrived(txn)
        else:
            self._dispatch(txn)

    def _dispatch(self, txn: ServerTxn) -> None:
        if self.handler is None:
            txn.respond(make_response(txn.request, 503))
            return
        maybeDeferred(self.handler.request_received, txn).addErrback(self._handler_failed, txn)

    def _handler_failed(self, failure: Failure, txn: ServerTxn) -> None:
        self._log_failure(failure)
        txn.respond(make_response(txn.request, 500))

    def _is_foreign_cancel(self, cancel: SipRequest, flow: Flow, key: ServerKey) -> bool:
        """Say whether a CANCEL finds an INVITE by its Via alone and is not from who sent that.

        It leaves no transaction behind, so that the CANCEL of the caller is still new.
        """
        invite = self._servers.get(_cancelled_key(key))
        if invite is None:
            return False
        return (flow.id, flow.role) != (invite.flow.id, invite.flow.role) or not cancels(cancel, invite.request)

    def _cancel_arrived(self, cancel: ServerTxn) -> None:
        invite = self._servers.get(_cancelled_key(cancel.server_key))
        if invite is None:
            cancel.respond(make_response(cancel.request, 481))
            return
        tag = invite.last_response.to_tag if invite.last_response is not None else None
        cancel.respond(make_response(cancel.request, 200, to_tag=tag or tag_for(invite.request)))
        if invite.pending and self.handler is not None:
            self._guarded(self.handler.cancel_received, invite, cancel.request)

    def _ack_arrived(self, ack: SipRequest, data: bytes, flow: Flow, key: ServerKey) -> None:
        txn = self._servers.get(key)
        if txn is not None and txn.state is not State.ACCEPTED:
            again = txn.state is State.CONFIRMED
            if again:
                self.observer.retransmission("received", data, ack, flow, txn.key)
            else:
                self.observer.message_received(data, ack, flow, txn.key)
            txn.acknowledge(ack)
            return
        txn = self._answered.get(_dialog_key(ack, ack.to_tag), txn)
        self.observer.message_received(data, ack, flow, "stateless" if txn is None else txn.key)
        if txn is not None:
            txn.success_acknowledged(ack.to_tag or "")
        if self.handler is not None:
            self._guarded(self.handler.ack_received, ack, flow, txn)

    def is_merged(self, txn: ServerTxn) -> bool:
        """Say whether the same request came over another path before: a UAS answers 482 (RFC 3261 8.2.2.2)."""
        return txn.request.to_tag is None and self._alike[txn.merge_key] > 1

    # responses out

    def write_response(self, txn: ServerTxn, response: SipResponse, *, again: bool) -> bool:
        """Send a response of a server transaction."""
        return self._write(response, txn.flow, txn.key, again=again)

    def answered(self, txn: ServerTxn, response: SipResponse, *, first: bool) -> None:
        """Count a final response; find the transaction again by the ACK of a 2xx."""
        if first:
            self._admission.answered(txn.flow)
            self._settled(txn.flow)
        if txn.request.method == "INVITE" and response.status < 300:
            self._answered[_dialog_key(txn.request, response.to_tag)] = txn

    def forget_server(self, txn: ServerTxn) -> None:
        """Drop a server transaction."""
        if self._servers.pop(txn.server_key, None) is not None:
            self._alike[txn.merge_key] -= 1
            if not self._alike[txn.merge_key]:
                del self._alike[txn.merge_key]
        self._admission.closed(txn.flow, pending=txn.pending)
        if txn.pending:
            self._settled(txn.flow)
        if txn.request.method == "INVITE":
            for key in [key for key in self._answer_keys(txn) if self._answered.get(key) is txn]:
                del self._answered[key]

    def owes(self, flow: Flow) -> bool:
        """Say whether a request that came over a connection waits for its final response."""
        return self._owed[flow.id] > 0

    def _settled(self, flow: Flow) -> None:
        """Count a final response; it is written after this call, so a connection that ends closes after that."""
        if not flow.reliable:
            return
        self._owed[flow.id] -= 1
        if self._owed[flow.id] > 0:
            return
        del self._owed[flow.id]
        connection = self._transport.connection(flow)
        if connection is not None and connection.is_ending:
            self.clock.callLater(0, connection.close)

    def _answer_keys(self, txn: ServerTxn) -> Sequence[DialogKey]:
        return [_dialog_key(txn.request, tag) for tag in txn.success_tags]

    def _write(self, response: SipResponse, flow: Flow, key: str, *, again: bool) -> bool:
        data = response.to_bytes()
        if flow.reliable:
            connection = self._transport.connection(flow)
            if connection is None:
                return self._write_on_new_connection(response, data, flow, key, again=again)
            connection.write(data)
            self._observe_sent(data, response, flow, key, again=again)
            return True
        port = self._transport.udp_port_at(flow.local)
        remote = response_destination(response, flow.transport)
        if port is None or not port.send(data, remote):
            return False
        self._observe_sent(data, response, port.flow_to(remote), key, again=again)
        return True

    def _write_on_new_connection(
        self, response: SipResponse, data: bytes, flow: Flow, key: str, *, again: bool
    ) -> bool:
        host, port = response_destination(response, flow.transport)
        if not port:
            return False

        def ready(connection: StreamConnection | None, detail: str) -> None:
            found = self._paths.written(connection, data)
            if found is None:
                self.observer.message_dropped(f"response undeliverable: {detail}", data, flow)
            else:
                self._observe_sent(data, response, found, key, again=again)

        self._transport.connect(Hop(flow.transport, host, port), flow.role, ready)
        return True

    def _observe_sent(self, data: bytes, response: SipResponse, flow: Flow, key: str, *, again: bool) -> None:
        if again:
            self.observer.retransmission("sent", data, response, flow, key)
        else:
            self.observer.message_sent(data, response, flow, key)

    # faults and losses

    def fault_arrived(self, fault: SipParseError, data: bytes, flow: Flow) -> None:
        """Answer a malformed request, drop a malformed response."""
        self.observer.message_dropped(f"malformed: {fault}", data, flow)
        request = fault.partial
        if self._stopped or not isinstance(request, SipRequest) or request.method == "ACK":
            return
        if not self._admission.may_answer(flow):
            return
        self._guarded(self._answer_fault, request, fault, flow)

    def _answer_fault(self, request: SipRequest, fault: SipParseError, flow: Flow) -> None:
        try:
            complete_via(request, flow)
        except GrammarError:
            if not flow.reliable:
                return
        response = make_response(
            request, fault.status, headers=[("Warning", f'399 {self.server_name} "{_warning(fault.reason)}"')]
        )
        connection = self._transport.connection(flow)
        if connection is not None:
            data = response.to_bytes()
            connection.write(data)
            self.observer.message_sent(data, response, flow, "stateless")
        else:
            self._write(response, flow, "stateless", again=False)

    def octets_dropped(self, reason: str, data: bytes, flow: Flow | None) -> None:
        """Pass on what the transport discarded."""
        self.observer.message_dropped(reason, data, flow)

    def connection_lost(self, flow: Flow) -> None:
        """Fail the client transactions of a connection and tell the handler."""
        if self._stopped:
            return
        self._paths.lost(flow)
        if self.handler is not None:
            self._guarded(self.handler.flow_closed, flow)


def _warning(text: str) -> str:
    return "".join(mark if " " <= mark <= "~" and mark not in '"\\' else "?" for mark in text)[:100]


def complete_via(request: SipRequest, flow: Flow) -> None:
    """Write ``received`` and ``rport`` into the top Via as the server must (RFC 3261 18.2.1, RFC 3581 4).

    Values the client wrote itself are overwritten. Raises GrammarError when there is no usable Via.
    """
    via = request.top_via
    host, port = flow.remote
    params = dict(via.params)
    foreign = via.host.lower() != host.lower()
    if "rport" in params:
        params["rport"] = str(port)
    if foreign or "rport" in params or "received" in params:
        params["received"] = host
    if params != via.params:
        request.headers.replace_first_value(
            "Via", str(Via(via.transport, via.host, via.port, params, via.protocol, via.version))
        )


def server_key(request: SipRequest) -> ServerKey:
    """Return what finds the server transaction of a request, the method last (RFC 3261 17.2.3).

    A branch without the cookie, or with nothing after it, is matched by the rules for RFC 2543 clients.
    """
    via = request.top_via
    method = "INVITE" if request.method == "ACK" else request.method
    branch = via.branch or ""
    if branch.startswith(BRANCH_COOKIE) and len(branch) > len(BRANCH_COOKIE):
        host, port = via.sent_by
        return branch, format_host(host), str(port), method
    number = request.cseq[0]
    return request.uri, request.call_id, request.from_tag or "", str(number), str(via), method


def _cancelled_key(key: ServerKey) -> ServerKey:
    return (*key[:-1], "INVITE")


def cancels(cancel: SipRequest, invite: SipRequest) -> bool:
    """Say whether a CANCEL repeats Request-URI, Call-ID, CSeq number, From and To of the INVITE (RFC 3261 9.1).

    A stranger who has seen the branch alone does not cancel.
    """
    try:
        return (
            cancel.uri == invite.uri
            and cancel.call_id == invite.call_id
            and cancel.cseq[0] == invite.cseq[0]
            and _same_party(cancel.from_, invite.from_)
            and _same_party(cancel.to, invite.to)
        )
    except GrammarError:
        return False


def _same_party(one: NameAddr, other: NameAddr) -> bool:
    return one.params.get("tag") == other.params.get("tag") and str(one.uri) == str(other.uri)


def _dialog_key(request: SipRequest, to_tag: str | None) -> DialogKey:
    return request.call_id, request.from_tag or "", to_tag or "", request.cseq[0]
