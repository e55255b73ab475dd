"""The producer side: one gRPC server per node that admits a request only as its contract allows."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn, Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode

from sba.access import AccessControl, CallContext
from sba.config import SbiPolicy
from sba.contracts import MethodContract, service_contract
from sba.errors import ContractError, PortError, ProblemError, RemoteProblem, StoreUnavailableError
from sba.faults import raised_at
from sba.health import HEALTH_SERVICE, Health
from sba.identity import NodeIdentity, PeerIdentity
from sba.networks import is_ip_literal, local_host
from sba.rpctap import SBA, RpcWatch, peer_address
from sba.tap import Tap
from sba.telemetry import Telemetry, activate, parse_traceparent

UnaryHandler = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]
StreamHandler = Callable[[bytes, grpc.aio.ServicerContext], AsyncIterator[bytes]]


class Servicer(Protocol):
    """An object that implements one service: ``service`` is its descriptor, each RPC an ``async def`` by its name."""

    service: ServiceDescriptor


class SbiServer:
    """Serves the services of one node over mutual TLS."""

    def __init__(
        self,
        identity: NodeIdentity,
        telemetry: Telemetry,
        access: AccessControl,
        policy: SbiPolicy,
        health: Health,
        *,
        tap: Tap | None = None,
    ) -> None:
        self._tap = tap or Tap()
        self._identity = identity
        self._telemetry = telemetry
        self._access = access
        self._policy = policy
        self._health = health
        self._methods: dict[str, grpc.RpcMethodHandler] = {}
        self._server: grpc.aio.Server | None = None
        self._idle: asyncio.Event | None = None
        self._draining = False
        self._in_flight = 0
        self.services: tuple[str, ...] = ()
        self.port = 0
        self._address = ("", 0)

    def add(self, servicers: Iterable[Any]) -> None:
        """Take over servicers.

        Raises :class:`ContractError` for a method without authorization options or without an implementation:
        the node must not start.
        """
        for servicer in servicers:
            contract = service_contract(servicer.service)
            for method in contract.methods.values():
                implementation = getattr(servicer, method.name, None)
                if implementation is None:
                    raise ContractError(f"{type(servicer).__name__} does not implement {method.path}")
                if method.client_streaming:
                    raise ContractError(f"{method.path}: client streaming is not offered")
                self._methods[method.path] = self._wrap(method, implementation)
            self.services += (contract.full_name,)

    async def start(self, host: str, port: int) -> int:
        """Listen with mutual TLS and return the port; raises ``OSError`` when the address cannot be bound."""
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", self._policy.max_message),
                ("grpc.max_send_message_length", self._policy.max_message),
                ("grpc.max_metadata_size", self._policy.max_metadata),
                ("grpc.server_handshake_timeout_ms", int(1000 * self._policy.handshake_s)),
                ("grpc.max_allowed_incoming_connections", self._policy.connections),
                ("grpc.max_concurrent_streams", self._policy.calls_per_connection),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.max_pings_without_data", 0),
            )
        )
        self._health.add_to(self)
        if self._policy.reflection:
            from sba.reflection import reflection_handlers

            self._methods.update(reflection_handlers(self, (*self.services, HEALTH_SERVICE)))
        server.add_generic_rpc_handlers((_Dispatch(self._methods, self._unknown()),))
        address = f"[{host}]:{port}" if ":" in host and is_ip_literal(host) else f"{host}:{port}"
        try:
            self.port = server.add_secure_port(address, self._identity.server_credentials())
            self._address = (host, self.port)
        except RuntimeError as error:
            raise PortError(f"cannot listen on {address}: {_why_not(host, port)}") from error
        await server.start()
        self._server = server
        return self.port

    def stop_taking_work(self) -> None:
        """Refuse new requests from now on; those in progress go on."""
        self._draining = True

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no unary request is in progress; False when ``timeout_s`` seconds did not suffice."""
        self._idle = asyncio.Event()
        if not self._in_flight:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self, grace_s: float = 0.2) -> None:
        """Close the port; what still runs after ``grace_s`` seconds is cancelled."""
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None

    def handler(self, path: str) -> grpc.RpcMethodHandler | None:
        """Return what serves a path (for tests)."""
        return self._methods.get(path)

    def mount(self, method: MethodContract, implementation: Any, *, always: bool = False) -> None:
        """Serve one method outside the node's own services; ``always`` also while draining."""
        self._methods[method.path] = self._wrap(method, implementation, always=always)

    def guard(self, method: MethodContract) -> Callable[[grpc.aio.ServicerContext], Awaitable[None]]:
        """Return the admission of a method whose handler is not built here."""

        async def admit(context: grpc.aio.ServicerContext) -> None:
            try:
                await self._access.admit(method, context, dict(context.invocation_metadata() or ()), INVALID_SPAN)
            except ProblemError as problem:
                await refuse(context, problem)

        return admit

    def _unknown(self) -> grpc.RpcMethodHandler:
        async def unknown(_request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            try:
                self._access.identify(context)
                problem = ProblemError(404, "RESOURCE_URI_STRUCTURE_NOT_FOUND")
            except ProblemError as refused:
                problem = refused
            await refuse(context, problem)

        return grpc.unary_unary_rpc_method_handler(unknown)

    def _wrap(self, method: MethodContract, implementation: Any, *, always: bool = False) -> grpc.RpcMethodHandler:
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, implementation, always=always))
        return grpc.unary_unary_rpc_method_handler(self._unary(method, implementation, always=always))

    def _unary(self, method: MethodContract, implementation: Any, *, always: bool) -> UnaryHandler:
        name = method.path[1:]
        spans = self._telemetry.rpc_spans(method.service, method.name, SpanKind.SERVER)
        count, longest = self._telemetry.count_rpc, self._policy.default_deadline_s

        async def unary(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
            started = time.perf_counter()
            metadata = dict(context.invocation_metadata() or ())
            span = spans.start(parse_traceparent(metadata.get("traceparent")))
            activate(span)  # each RPC runs in a task of its own, so the activation ends with it
            watch = self._watch(method, context) if self._tap.wants(SBA) else None
            self._in_flight += 1
            code = "OK"
            try:
                call, request = await self._admit(method, raw, context, metadata, span, watch, always=always)
                if call.deadline is None:
                    async with asyncio.timeout(longest):
                        response = await implementation(request, call)
                else:
                    response = await implementation(request, call)
                body: bytes = response.SerializeToString()
            except Exception as error:  # noqa: BLE001 - the border of the process: nothing raw may reach the peer
                problem = self._problem(method, error)
                code = problem.code.name
                if watch is not None:
                    watch.end(problem.code, problem.status_message())
                await refuse(context, problem, span)
            else:
                span.set_attribute("rpc.response.status_code", "OK")
                if watch is not None:
                    watch.response(body)
                    watch.end()
                return body
            finally:
                self._done()
                count(name, code, time.perf_counter() - started)
                span.end()

        return unary

    def _stream(self, method: MethodContract, implementation: Any, *, always: bool) -> StreamHandler:
        name = method.path[1:]
        spans = self._telemetry.rpc_spans(method.service, method.name, SpanKind.SERVER)

        async def stream(raw: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            started = time.perf_counter()
            metadata = dict(context.invocation_metadata() or ())
            span = spans.start(parse_traceparent(metadata.get("traceparent")))
            activate(span)
            watch = self._watch(method, context)  # a capture may begin while the stream goes on
            code = "OK"
            try:
                call, request = await self._admit(method, raw, context, metadata, span, watch, always=always)
                async for response in implementation(request, call):
                    body = response.SerializeToString()
                    watch.response(body)
                    yield body
                watch.end()
                span.set_attribute("rpc.response.status_code", "OK")
            except Exception as error:  # noqa: BLE001 - the border of the process: nothing raw may reach the peer
                problem = self._problem(method, error)
                code = problem.code.name
                watch.end(problem.code, problem.status_message())
                await refuse(context, problem, span)
            finally:
                self._telemetry.count_rpc(name, code, time.perf_counter() - started)
                span.end()

        return stream

    async def _admit(
        self,
        method: MethodContract,
        raw: bytes,
        context: grpc.aio.ServicerContext,
        metadata: Mapping[str, str | bytes],
        span: Span,
        watch: RpcWatch | None,
        *,
        always: bool,
    ) -> tuple[CallContext, Message]:
        came = time.time_ns() if watch is not None else 0
        try:
            call = await self._access.admit(method, context, metadata, span)
            if watch is not None:
                watch.peer = _name_of(call.peer)
        finally:
            if watch is not None:
                watch.request(raw, came)
        if self._draining and not always:
            raise ProblemError(503, "NF_CONGESTION", "the node is stopping")
        try:
            return call, method.parse_request(raw)
        except DecodeError as error:
            raise ProblemError(400, "INVALID_MSG_FORMAT") from error

    def _watch(self, method: MethodContract, context: grpc.aio.ServicerContext) -> RpcWatch:
        metadata = tuple(context.invocation_metadata() or ())
        consumer, (host, port) = peer_address(context.peer()), self._address
        return RpcWatch(
            self._tap,
            method,
            metadata,
            consumer,
            (local_host(host, consumer[0]), port),
            authority=self._identity.fqdn,
            outgoing=False,
        )

    def _done(self) -> None:
        self._in_flight -= 1
        if self._idle is not None and not self._in_flight:
            self._idle.set()

    def _problem(self, method: MethodContract, error: Exception) -> ProblemError:
        if isinstance(error, ProblemError):
            return error
        if isinstance(error, TimeoutError):
            return ProblemError(504, "TIMED_OUT_REQUEST")
        if isinstance(error, StoreUnavailableError):
            self._telemetry.log("store-away", level="error", method=method.path, fault=str(error))
            return ProblemError(503, "SYSTEM_FAILURE", "the database of this NF does not answer")
        if isinstance(error, RemoteProblem):
            if error.code is grpc.StatusCode.UNAVAILABLE:
                return ProblemError(504, "TARGET_NF_NOT_REACHABLE", "a producer further on does not answer")
            return ProblemError(500, "INBOUND_SERVER_ERROR", "a producer further on refused")
        kind, where = type(error).__name__, raised_at(error)
        self._telemetry.log("handler-failed", level="error", method=method.path, error=kind, text=str(error), at=where)
        return ProblemError(500, "SYSTEM_FAILURE")


def _why_not(host: str, port: int) -> str:
    """Say why a port cannot be opened, which gRPC does not tell."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return "gRPC refused it"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "another program listens there (ss -ltnp shows which)"
        return error.strerror or str(error)


def _name_of(peer: PeerIdentity) -> str:
    return next(iter(peer.dns_names), "")


async def refuse(context: grpc.aio.ServicerContext, problem: ProblemError, span: Span | None = None) -> NoReturn:
    """End an RPC with the status, ProblemDetails and challenge of a problem."""
    if span is not None:
        span.set_status(Status(StatusCode.ERROR, problem.code.name))
        span.set_attributes({"rpc.response.status_code": problem.code.name, "error.type": problem.code.name})
        if problem.cause:
            span.set_attribute("imslab.cause", problem.cause)
    await context.abort(problem.code, problem.status_message(), problem.trailing_metadata())
    raise AssertionError("abort returned")


class _Dispatch(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a path; unknown paths go to one that authenticates before it says so."""

    def __init__(self, methods: Mapping[str, grpc.RpcMethodHandler], unknown: grpc.RpcMethodHandler) -> None:
        self._methods = methods
        self._unknown = unknown

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._methods.get(handler_call_details.method, self._unknown)
