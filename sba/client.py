"""The consumer side of every N-service: discovery, token, channel, deadline, retry and fail-over in one call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from protos import nrf_disc_pb2, nrf_oauth2_pb2
from sba.config import NodeEnvironment
from sba.contracts import MethodContract, method_contract, service_contract
from sba.discovery import Discovery, NfProfile, Query
from sba.errors import ProblemError, RemoteProblem
from sba.identity import NodeIdentity
from sba.networks import address_of, local_host
from sba.rpctap import SBA, RpcWatch
from sba.spans import RpcSpans
from sba.tap import Tap
from sba.telemetry import Telemetry, format_traceparent
from sba.tokens import TokenCache, TokenKey

T = TypeVar("T")

_NRF = "NRF"
_STREAM_SETUP_S = 5.0
_ATTEMPTS = 3
_BACKOFF_S = 0.1
_CONNECT_S = 0.8
"""How long a connection may take to stand, TLS included; a producer that stays silent leaves time for another one."""
_NEVER_SENT = ("failed to connect", "connections to all backends failing", "connection refused")
_ROTATE_CHECK_S = 5.0
_DRAIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Target:
    """One instance to call."""

    instance_id: str
    host: str
    port: int
    fqdn: str


def serialize(message: Message) -> bytes:
    """Return the wire form of a message."""
    return message.SerializeToString()


def _conclude(span: trace.Span, code: str) -> None:
    """End the span of an RPC with its gRPC status."""
    if span.is_recording():
        span.set_attribute("rpc.response.status_code", code)
        if code != "OK":
            span.set_attribute("error.type", code)
            span.set_status(Status(StatusCode.ERROR, code))
    span.end()


@cache
def _nrf_method(service: str, method: str) -> MethodDescriptor:
    module = nrf_oauth2_pb2 if service == "NnrfAccessToken" else nrf_disc_pb2
    descriptor: ServiceDescriptor = module.DESCRIPTOR.services_by_name[service]
    return descriptor.methods_by_name[method]


class SbiClient:
    """Calls other NFs by what they offer, never by address."""

    def __init__(
        self,
        environment: NodeEnvironment,
        identity: NodeIdentity,
        telemetry: Telemetry,
        *,
        nf_types: tuple[str, ...] | None = None,
        tap: Tap | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tap = tap or Tap()
        self._environment = environment
        self._identity = identity
        self._telemetry = telemetry
        self._nf_types = nf_types or identity.nf_types
        self._clock = clock
        nrf = environment.lab.nrf
        self._nrf = Target(nrf.instance_id, nrf.host, nrf.port, nrf.fqdn)
        self._channels: dict[Target, grpc.aio.Channel] = {}
        self._calls: dict[tuple[Target, str], Any] = {}
        self._credentials: grpc.ChannelCredentials | None = None
        self._certificate_stamp: tuple[int, int] | None = None
        self._certificate_checked = float("-inf")
        self._revoked = identity.revoked.serial_numbers
        self._retired: list[asyncio.Task[None]] = []
        self._spans: dict[tuple[Target, str], RpcSpans] = {}
        self._scopes: dict[tuple[str, str], str] = {}
        self.tokens = TokenCache(self._request_token, clock=clock)
        self.discovery = Discovery(self._ask_nrf, clock=clock)

    @classmethod
    def open(cls, environment: NodeEnvironment) -> SbiClient:
        """Return a client for a program that offers nothing itself, e.g. the command line of the lab."""
        identity = NodeIdentity(environment)
        return cls(environment, identity, Telemetry.for_node(environment, identity))

    async def call(
        self,
        method: MethodDescriptor,
        request: Message,
        *,
        timeout: float = 2.0,  # noqa: ASYNC109 - a deadline that travels, not a cancellation
        instance: str | None = None,
        home_domain: str | None = None,
        access_network: str | None = None,
        tls_name: str = "",
        nf_type: str = "",
    ) -> Any:
        """Call a unary method and return its response message.

        ``timeout`` is the deadline of the whole call in seconds, retries included. ``instance`` (an NF instance
        id) pins the producer. ``tls_name`` is a DNS name that its certificate has to show, where the role matters and
        not only that the NRF named it; empty: the FQDN of its profile. ``nf_type`` is that of the producer where the
        contract names none because every NF offers the service. Only methods marked idempotent are repeated
        after they may have reached a producer. Raises :class:`RemoteProblem`.
        """
        self._follow_certificates()
        contract = method_contract(method)
        if nf_type:
            contract = replace(contract, nf_type=nf_type)
        deadline = self._clock() + timeout
        query = Query(contract.nf_type, contract.service_name, home_domain or "", access_network or "", instance or "")
        problem: RemoteProblem | None = None
        fresh = False
        renewed = False
        for attempt in range(_ATTEMPTS):
            targets = await self._targets(contract, query, deadline - self._clock(), fresh=fresh, tls_name=tls_name)
            if not targets:
                break
            for target in targets:
                remaining = deadline - self._clock()
                if remaining <= 0:
                    raise problem or self._timed_out(contract, target)
                try:
                    response = await self._once(contract, request, target, remaining)
                except RemoteProblem as failed:
                    problem = failed
                    if failed.code is grpc.StatusCode.UNAUTHENTICATED and contract.needs_token and not renewed:
                        renewed = True  # the producer refused before its handler ran: one new token is safe
                        self.tokens.forget(self._token_key(contract))
                        break
                    if not self._may_repeat(contract, failed):
                        raise
                    self.discovery.suspect(target.instance_id)
                else:
                    self.discovery.trust(target.instance_id)
                    return response
            else:
                fresh = True
                pause = _BACKOFF_S * 2**attempt
                if deadline - self._clock() <= pause:
                    break
                await asyncio.sleep(pause)
        if problem is None:
            raise RemoteProblem(
                grpc.StatusCode.UNAVAILABLE,
                ProblemError(504, "TARGET_NF_NOT_REACHABLE", f"no instance offers {contract.service_name}").details(),
                method=contract.path,
            )
        raise problem

    async def stream(
        self,
        method: MethodDescriptor,
        request: Message,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that travels
        instance: str | None = None,
        home_domain: str | None = None,
        access_network: str | None = None,
        nf_type: str = "",
    ) -> AsyncIterator[Any]:
        """Call a server-streaming method and yield its responses; closing the iterator cancels the call.

        ``nf_type`` is that of the producer where the contract names none because every NF offers the service.

        Not repeated: the caller decides what a broken stream means. Raises :class:`RemoteProblem`.
        """
        self._follow_certificates()
        contract = method_contract(method)
        if nf_type:
            contract = replace(contract, nf_type=nf_type)
        query = Query(contract.nf_type, contract.service_name, home_domain or "", access_network or "", instance or "")
        targets = await self._targets(contract, query, timeout or _STREAM_SETUP_S)
        if not targets:
            raise RemoteProblem(grpc.StatusCode.UNAVAILABLE, message="no instance", method=contract.path)
        target = targets[0]
        span = self._start_span(contract, target)
        code = "OK"
        try:
            metadata = await self._metadata(contract, span, timeout or _STREAM_SETUP_S)
            stub = self._stub(contract, target)
            watch = await self._watch(contract, target, metadata)
            watch.request(request.SerializeToString() if self._tap.wants(SBA) else b"")
            call = stub(request, timeout=timeout, metadata=metadata)
            try:
                async for response in call:
                    if response is None:  # what gRPC gives where the response could not be parsed
                        code = grpc.StatusCode.INTERNAL.name
                        raise self._malformed(contract, target)
                    if self._tap.wants(SBA):
                        watch.response(response.SerializeToString())
                    yield response
                watch.end()
            except grpc.aio.AioRpcError as error:
                watch.end(error.code(), error.details() or "")
                problem = RemoteProblem.from_rpc_error(error, instance=target.instance_id, method=contract.path)
                if problem.code is grpc.StatusCode.UNAUTHENTICATED:
                    self.tokens.forget(self._token_key(contract))
                if problem.code is grpc.StatusCode.UNAVAILABLE:
                    self.discovery.suspect(target.instance_id)
                code = problem.code.name
                raise problem from error
            finally:
                call.cancel()
        finally:
            _conclude(span, code)

    async def discover(
        self,
        nf_type: str,
        service_name: str | None = None,
        home_domain: str | None = None,
        access_network: str | None = None,
    ) -> list[NfProfile]:
        """Return the profiles of an NF type, best first; empty when there is none.

        Raises :class:`RemoteProblem` when the NRF cannot be asked and there is no earlier answer.
        """
        query = Query(nf_type, service_name or "", home_domain or "", access_network or "")
        return await self.discovery.find(query)

    async def close(self) -> None:
        """Close every channel."""
        for task in self._retired:
            task.cancel()
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        self._calls.clear()

    # One attempt at one instance.

    async def _once(self, contract: MethodContract, request: Message, target: Target, remaining: float) -> Any:
        span = self._start_span(contract, target)
        started, code = time.perf_counter(), "CANCELLED"
        try:
            metadata = await self._metadata(contract, span, remaining)
            watch = await self._watch(contract, target, metadata) if self._tap.wants(SBA) else None
            call = self._stub(contract, target)(request, timeout=remaining, metadata=metadata)
            if watch is not None:
                call = self._watched(watch, request, call)
            response = await call
            if response is None:  # it could not be parsed
                raise self._malformed(contract, target)
        except grpc.aio.AioRpcError as error:
            problem = RemoteProblem.from_rpc_error(error, instance=target.instance_id, method=contract.path)
            code = problem.code.name
            raise problem from error
        except RemoteProblem as problem:
            code = problem.code.name
            raise
        else:
            code = "OK"
            return response
        finally:
            _conclude(span, code)
            self._telemetry.count_rpc(contract.path[1:], code, time.perf_counter() - started, server=False)

    async def _watch(self, contract: MethodContract, target: Target, metadata: tuple[tuple[str, str], ...]) -> RpcWatch:
        host = await address_of(target.host) or target.host  # the NRF may be known by a name
        own = local_host(self._environment.node.sbi.host, host)
        ends = (own, 0), (host, target.port)  # gRPC does not tell which port it took
        return RpcWatch(self._tap, contract, metadata, *ends, authority=target.fqdn, outgoing=True)

    @staticmethod
    async def _watched(watch: RpcWatch, request: Message, call: Awaitable[Message]) -> Message:
        watch.request(request.SerializeToString())
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            watch.end(error.code(), error.details() or "")
            raise
        watch.response(b"" if response is None else response.SerializeToString())
        watch.end()
        return response

    def _start_span(self, contract: MethodContract, target: Target) -> trace.Span:
        spans = self._spans.get((target, contract.path))
        if spans is None:
            where: dict[str, AttributeValue] = {"server.address": target.fqdn, "server.port": target.port}
            spans = self._telemetry.rpc_spans(contract.service, contract.name, SpanKind.CLIENT, where)
            self._spans[(target, contract.path)] = spans
        return spans.start(current=True)

    async def _metadata(
        self, contract: MethodContract, span: trace.Span, remaining: float
    ) -> tuple[tuple[str, str], ...]:
        traceparent = ("traceparent", format_traceparent(span.get_span_context()))
        if not contract.needs_token:
            return (traceparent,)
        key = self._token_key(contract)
        token = self.tokens.held(key)
        if token is None:
            token = await self._within(remaining, self.tokens.get(key), contract)
        return (("authorization", token.header), traceparent)

    @staticmethod
    def _may_repeat(contract: MethodContract, problem: RemoteProblem) -> bool:
        if problem.code is not grpc.StatusCode.UNAVAILABLE or problem.method != contract.path:
            return False
        if contract.idempotent:
            return True
        # The connection never stood, so no producer can have seen the request.
        return any(text in problem.message.lower() for text in _NEVER_SENT) and problem.problem is None

    @staticmethod
    def _timed_out(contract: MethodContract, target: Target) -> RemoteProblem:
        return RemoteProblem(
            grpc.StatusCode.DEADLINE_EXCEEDED, message="deadline", instance=target.instance_id, method=contract.path
        )

    @staticmethod
    def _malformed(contract: MethodContract, target: Target) -> RemoteProblem:
        return RemoteProblem(
            grpc.StatusCode.INTERNAL, message="malformed response", instance=target.instance_id, method=contract.path
        )

    # Whom to call.

    async def _targets(
        self, contract: MethodContract, query: Query, remaining: float, *, fresh: bool = False, tls_name: str = ""
    ) -> list[Target]:
        if contract.nf_type == _NRF:
            return [self._nrf]
        profiles = None if fresh else self.discovery.known(query)
        if profiles is None:
            profiles = await self._within(remaining, self.discovery.find(query, fresh=fresh), contract)
        return [Target(p.nf_instance_id, p.host, p.port, tls_name or p.fqdn) for p in profiles]

    @staticmethod
    async def _within(remaining: float, question: Awaitable[T], contract: MethodContract) -> T:
        """Wait for an answer of the NRF, but no longer than the call it is for may take."""
        try:
            async with asyncio.timeout(max(remaining, 0.0)):
                return await question
        except TimeoutError as error:
            raise RemoteProblem(
                grpc.StatusCode.DEADLINE_EXCEEDED, message="the NRF did not answer in time", method=contract.path
            ) from error

    def _stub(self, contract: MethodContract, target: Target) -> Any:
        stub = self._calls.get((target, contract.path))
        if stub is None:
            channel = self._channel(target)
            make = channel.unary_stream if contract.server_streaming else channel.unary_unary
            stub = make(contract.path, request_serializer=serialize, response_deserializer=contract.parse_response)
            self._calls[(target, contract.path)] = stub
        return stub

    def _channel(self, target: Target) -> grpc.aio.Channel:
        channel = self._channels.get(target)
        if channel is None:
            if self._credentials is None:
                self._credentials = self._identity.channel_credentials()
            policy = self._environment.lab.sbi_policy
            host = f"[{target.host}]" if ":" in target.host else target.host
            channel = grpc.aio.secure_channel(
                f"{host}:{target.port}",
                self._credentials,
                options=(
                    ("grpc.ssl_target_name_override", target.fqdn),
                    ("grpc.default_authority", target.fqdn),
                    ("grpc.max_receive_message_length", policy.max_message),
                    ("grpc.max_metadata_size", policy.max_metadata),
                    ("grpc.initial_reconnect_backoff_ms", 100),
                    ("grpc.min_reconnect_backoff_ms", int(_CONNECT_S * 1000)),  # the least time an attempt has
                    ("grpc.max_reconnect_backoff_ms", 1000),
                    ("grpc.enable_retries", 0),
                    ("grpc.enable_http_proxy", 0),
                    ("grpc.use_local_subchannel_pool", 1),
                ),
            )
            self._channels[target] = channel
        return channel

    def _follow_certificates(self) -> None:
        """Open new channels once the node's certificate was reissued; old ones end by themselves (P.1.2-10).

        Once certificates were revoked, ask the NRF anew as well: it does not name their holders any more.
        """
        if self._clock() - self._certificate_checked <= _ROTATE_CHECK_S:
            return
        self._certificate_checked = self._clock()
        stamp = self._identity.stamp()
        self._identity.revoked.refresh()
        revoked = self._identity.revoked.serial_numbers
        if revoked != self._revoked:
            self._revoked = revoked
            self.discovery.forget()
            self._reopen()
        elif self._certificate_stamp is not None and stamp != self._certificate_stamp:
            self._reopen()
        self._certificate_stamp = stamp

    def _reopen(self) -> None:
        old = list(self._channels.values())
        self._channels.clear()
        self._calls.clear()
        self._credentials = None
        self._retired.append(asyncio.ensure_future(_retire(old)))

    # Tokens and discovery, over the same client.

    def _token_key(self, contract: MethodContract) -> TokenKey:
        """Name the token for a method: type-level, so that one serves every instance of the producer."""
        nf_type = next((name for name in self._nf_types if contract.permits((name,))), self._nf_types[0])
        scopes = self._scopes.get((contract.service, nf_type))
        if scopes is None:
            siblings = service_contract(contract.descriptor.containing_service)
            scopes = " ".join(siblings.scopes_for(nf_type)) or contract.scope
            self._scopes[(contract.service, nf_type)] = scopes
        return nf_type, contract.nf_type, "", scopes

    async def _request_token(self, key: TokenKey) -> tuple[str, int]:
        nf_type, target_nf_type, target_instance, scopes = key
        request = nrf_oauth2_pb2.AccessTokenRequest(
            grant_type="client_credentials",
            nf_instance_id=self._identity.instance_id,
            scope=scopes,
            nf_type=nf_type,
            target_nf_type=target_nf_type,
            target_nf_instance_id=target_instance,
        )
        response = await self.call(_nrf_method("NnrfAccessToken", "Get"), request)
        return response.access_token, response.expires_in

    async def _ask_nrf(self, query: Query) -> nrf_disc_pb2.DiscoveryResponse:
        request = nrf_disc_pb2.DiscoveryRequest(
            target_nf_type=query.nf_type,
            requester_nf_type=self._nf_types[0] if self._nf_types else "",
            service_names=[query.service_name] if query.service_name else [],
            target_nf_instance_id=query.instance_id,
            home_domain=query.home_domain,
            access_network=query.access_network,
        )
        response = await self.call(_nrf_method("NnrfNfDiscovery", "Discover"), request)
        return cast("nrf_disc_pb2.DiscoveryResponse", response)


async def _retire(channels: list[grpc.aio.Channel]) -> None:
    for channel in channels:
        await channel.close(_DRAIN_S)
