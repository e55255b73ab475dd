"""Iq client: the IMS-AGW's part of a session (TS 23.334 procedures over gRPC; IQ-1..IQ-5)."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc

from keying.sdes import CryptoAttribute, InlineKey
from keying.secret import Secret
from keying.suites import find_suite
from nodes.pcscf.media_plan import Address, LocalStream, MediaWork, Refusal, Side, StreamWork
from protos import iq_pb2
from sba.errors import RemoteProblem
from sba.spans import wire_text

NF_TYPE: Final = "IMS_AGW"
SERVICE: Final = "nimsagw-iq"
PROFILE_VERSION: Final = "1"
_RESTARTING_S: Final = 0.25
"""Pause between two requests to a gateway that is being started again, s."""
_METHODS = iq_pb2.DESCRIPTOR.services_by_name["Iq"].methods_by_name

_SIDES: Final = {Side.ACCESS: iq_pb2.ACCESS, Side.CORE: iq_pb2.CORE}
_MEDIA: Final = {
    "audio": iq_pb2.AUDIO,
    "video": iq_pb2.VIDEO,
    "text": iq_pb2.TEXT,
    "message": iq_pb2.MESSAGE,
    "image": iq_pb2.IMAGE,
    "application": iq_pb2.APPLICATION,
}
_STATUS: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.UNIMPLEMENTED: 488,
    grpc.StatusCode.INVALID_ARGUMENT: 488,
    grpc.StatusCode.NOT_FOUND: 500,
    grpc.StatusCode.FAILED_PRECONDITION: 500,
}
"""gRPC status -> SIP status (PS-12, assumed); anything else is 500."""
_TRY_ELSEWHERE: Final = frozenset({
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
})  # fmt: skip
_SILENT: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_OUTCOME_UNKNOWN: Final = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE})
"""The request may have been carried out although no answer came."""
_TOKENS: Final = {"crypto_suite": "no-common-suite", "crypto_key": "bad-key"}
"""Parameter the IMS-AGW names as invalid -> why the session is refused (SEC-1)."""


class IqError(Exception):
    """The IMS-AGW did not do what was asked; `refusal` is what the SIP side is told."""

    def __init__(self, refusal: Refusal, *, gone: bool = False) -> None:
        super().__init__(f"{refusal.status} {refusal.text}")
        self.refusal = refusal
        self.gone = gone
        """The context does not exist any more."""


class Sbi(Protocol):
    """What is needed of the service based interface."""

    async def call(
        self,
        method: Any,
        request: Any,
        *,
        timeout: float = 2.0,  # noqa: ASYNC109 - a deadline that travels
        instance: str | None = None,
    ) -> Any:
        """One unary call."""

    def stream(self, method: Any, request: Any, *, instance: str | None = None) -> AsyncIterator[Any]:
        """One streaming call."""

    async def discover(
        self,
        nf_type: str,
        service_name: str | None = None,
        home_domain: str | None = None,
        access_network: str | None = None,
    ) -> list[Any]:
        """Profiles, best first."""


@dataclass(slots=True)
class AgwContext:
    """A context at an IMS-AGW; what is needed to use it after a restart."""

    agw: str
    """NF instance id of the IMS-AGW."""
    context_id: str
    epoch: str
    terminations: dict[Side, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON form for the store."""
        return {
            "agw": self.agw,
            "context_id": self.context_id,
            "epoch": self.epoch,
            "terminations": {str(side): name for side, name in self.terminations.items()},
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> AgwContext:
        """The inverse of `to_dict`."""
        terminations = {Side(side): name for side, name in stored["terminations"].items()}
        return cls(stored["agw"], stored["context_id"], stored["epoch"], terminations)


@dataclass(frozen=True, slots=True)
class IqTimes:
    """Deadlines in seconds (IQ-2)."""

    setup_s: float = 2.0
    other_s: float = 1.0
    inactivity_s: int = 0
    """Media inactivity the IMS-AGW is asked to report; 0: none."""


LocalMap = dict[tuple[Side, int], LocalStream]


class IqClient:
    """Asks IMS-AGWs of one access network for contexts and follows their epochs."""

    def __init__(self, sbi: Sbi, *, alg_id: str, access_network: str, times: IqTimes | None = None) -> None:
        self._sbi = sbi
        self.alg_id = alg_id
        self._network = access_network
        self._times = times or IqTimes()
        self._epoch = secrets.token_hex(8)
        self._count = 0
        self.epochs: dict[str, str] = {}
        """IMS-AGW -> epoch last heard."""
        self.shunned: set[str] = set()
        """IMS-AGWs that get no new calls: silent, overloaded or going down."""
        self._doubtful: dict[str, set[str]] = {}
        """IMS-AGW -> calls for which it may hold a context that nobody heard of."""
        self._unreleased: dict[str, set[str]] = {}
        """IMS-AGW -> contexts whose release it did not answer."""
        self._reserving: Counter[str] = Counter()

    def tx_id(self) -> str:
        """A transaction id unique for this IMS-ALG (IQ-1)."""
        self._count += 1
        return f"{self._epoch}-{self._count}"

    async def gateways(self) -> list[str]:
        """NF instance ids of this access network's IMS-AGWs in the order in which to try them for a new call.

        They take turns by free capacity; those that are shunned come last. Raises RemoteProblem.
        """
        profiles = await self._sbi.discover(NF_TYPE, SERVICE, access_network=self._network)
        found = [str(profile.nf_instance_id) for profile in profiles]
        return sorted(found, key=lambda name: name in self.shunned)

    async def known(self) -> list[str]:
        """The same gateways without taking a turn, to keep in touch with them. Raises RemoteProblem."""
        profiles = await self._sbi.discover(NF_TYPE, access_network=self._network)
        return [str(profile.nf_instance_id) for profile in profiles]

    # -- contexts -----------------------------------------------------------------------------------------------------

    async def reserve(self, work: MediaWork, *, call_id: str, emergency: bool = False) -> tuple[AgwContext, LocalMap]:
        """Make a context with both terminations in one round trip (IQ-3), on another IMS-AGW if the first cannot.

        Raises IqError.
        """
        try:
            gateways = await self.gateways()
        except RemoteProblem as problem:
            raise _error(problem) from problem
        if not gateways:
            raise IqError(Refusal(503, text="no IMS-AGW serves this access network"))
        failed: RemoteProblem | None = None
        self._reserving[call_id] += 1
        try:
            for gateway in gateways:
                try:
                    return await self._reserve_at(gateway, work, call_id=call_id, emergency=emergency)
                except RemoteProblem as problem:
                    failed = problem
                    if problem.code in _SILENT and len(gateways) > 1:
                        self.shunned.add(gateway)  # until it answers a heartbeat
                    if problem.code in _OUTCOME_UNKNOWN:
                        self._doubtful.setdefault(gateway, set()).add(call_id)
                    if problem.code not in _TRY_ELSEWHERE:
                        break
        finally:
            self._reserving -= Counter([call_id])
        assert failed is not None
        raise _error(failed) from failed

    async def reclaim(self, gateway: str, kept: Container[str]) -> int:
        """Release what a gateway reserved without its answer arriving; returns how many contexts (IQ-2).

        `kept` are the contexts of sessions; a call that reserves at this moment waits for the next time. Raises
        RemoteProblem.
        """
        calls = {call_id for call_id in self._doubtful.get(gateway, ()) if not self._reserving[call_id]}
        unreleased = self._unreleased.pop(gateway, set())
        if not calls and not unreleased:
            return 0
        try:
            audit = await self.audit(gateway)
        except RemoteProblem:
            self._unreleased.setdefault(gateway, set()).update(unreleased)
            raise
        lost = [
            one.context_id
            for one in audit.contexts
            if one.owner == self.alg_id
            and (one.correlation in calls or one.context_id in unreleased)
            and one.context_id not in kept
        ]
        for context_id in lost:
            await self.release(AgwContext(gateway, context_id, audit.epoch), normal=False)
        if calls:
            self._doubtful[gateway] -= calls
        return len(lost)

    async def _reserve_at(
        self, gateway: str, work: MediaWork, *, call_id: str, emergency: bool
    ) -> tuple[AgwContext, LocalMap]:
        correlation = wire_text(call_id)
        request = iq_pb2.ReserveRequest(tx_id=self.tx_id(), new=True, emergency=emergency, correlation=correlation)
        request.priority = 15 if emergency else 0
        for side, streams in ((Side.ACCESS, work.access), (Side.CORE, work.core)):
            termination = request.terminations.add(new=True, side=_SIDES[side])
            termination.streams.extend(self._spec(side, stream) for stream in streams)
        response = await self._once_more(gateway, "ReserveAndConfigure", request)
        context = AgwContext(gateway, response.context_id, response.epoch)
        self.epochs.setdefault(gateway, response.epoch)
        locals_: LocalMap = {}
        for info in response.terminations:
            side = _side(info.side)
            context.terminations[side] = info.termination_id
            locals_.update(_locals(side, info.streams))
        return context, locals_

    async def configure(self, context: AgwContext, work: MediaWork, *, setup: bool = True) -> LocalMap:
        """Change streams of a context; returns what changed on this side. Raises IqError."""
        if not work:
            return {}
        request = iq_pb2.ConfigureRequest(tx_id=self.tx_id(), context_id=context.context_id)
        for side, streams in ((Side.ACCESS, work.access), (Side.CORE, work.core)):
            if streams and side in context.terminations:
                termination = request.terminations.add(id=context.terminations[side], side=_SIDES[side])
                termination.streams.extend(self._spec(side, stream) for stream in streams)
        try:
            response = await self._patiently(context.agw, "Configure", request, setup=setup)
        except RemoteProblem as problem:
            raise _error(problem) from problem
        locals_: LocalMap = {}
        for info in response.terminations:
            locals_.update(_locals(_side(info.side), info.streams))
        return locals_

    async def release(self, context: AgwContext, *, normal: bool = True) -> list[iq_pb2.StreamStatistics]:
        """Release a context; returns its final statistics, empty when the IMS-AGW is gone or knows it no more."""
        cause = iq_pb2.NORMAL if normal else iq_pb2.FAILURE
        request = iq_pb2.ReleaseRequest(tx_id=self.tx_id(), context_id=context.context_id, cause=cause)
        try:
            response = await self._sbi.call(
                _METHODS["Release"], request, timeout=self._times.other_s, instance=context.agw
            )
        except RemoteProblem as problem:
            if problem.code in _SILENT:  # it may come back with the context
                self._unreleased.setdefault(context.agw, set()).add(context.context_id)
            return []
        return list(response.statistics)

    async def audit(self, gateway: str) -> iq_pb2.AuditResponse:
        """Everything a gateway holds, without keys. Raises RemoteProblem."""
        answer: iq_pb2.AuditResponse = await self._sbi.call(
            _METHODS["Audit"], iq_pb2.AuditRequest(root=True), timeout=self._times.other_s, instance=gateway
        )
        return answer

    async def _patiently(self, gateway: str, name: str, request: Any, *, setup: bool) -> Any:
        """Call about a context that is there: a gateway that was killed is back with it within moments (T9)."""
        until = asyncio.get_running_loop().time() + 2 * self._times.setup_s
        while True:
            try:
                return await self._once_more(gateway, name, request, setup=setup)
            except RemoteProblem as problem:
                if problem.code is not grpc.StatusCode.UNAVAILABLE or asyncio.get_running_loop().time() >= until:
                    raise
            await asyncio.sleep(_RESTARTING_S)

    async def _once_more(self, gateway: str, name: str, request: Any, *, setup: bool = True) -> Any:
        """Call; after a deadline Audit asks whether the gateway lives, then the same tx_id goes again (IQ-1, IQ-2)."""
        timeout = self._times.setup_s if setup else self._times.other_s
        try:
            return await self._sbi.call(_METHODS[name], request, timeout=timeout, instance=gateway)
        except RemoteProblem as problem:
            if problem.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        await self.audit(gateway)
        return await self._sbi.call(_METHODS[name], request, timeout=timeout, instance=gateway)

    # -- the control link ---------------------------------------------------------------------------------------------

    async def associate(self, gateway: str) -> str:
        """Tell a gateway of this IMS-ALG; returns its epoch. Raises RemoteProblem."""
        request = iq_pb2.AssociateRequest(alg_id=self.alg_id, epoch=self._epoch, profile_version=PROFILE_VERSION)
        response = await self._sbi.call(_METHODS["Associate"], request, timeout=self._times.other_s, instance=gateway)
        return str(response.epoch)

    async def heartbeat(self, gateway: str) -> str:
        """One heartbeat; returns the epoch. Raises RemoteProblem."""
        response = await self._sbi.call(
            _METHODS["Heartbeat"],
            iq_pb2.HeartbeatRequest(alg_id=self.alg_id),
            timeout=self._times.other_s,
            instance=gateway,
        )
        return str(response.epoch)

    async def events(self, gateway: str, last_event_id: int) -> AsyncIterator[iq_pb2.Notification]:
        """Notifications of a gateway. Raises RemoteProblem when the stream breaks."""
        request = iq_pb2.EventsRequest(alg_id=self.alg_id, last_event_id=last_event_id)
        async for notification in self._sbi.stream(_METHODS["Events"], request, instance=gateway):
            yield notification

    # -- translation --------------------------------------------------------------------------------------------------

    def _spec(self, side: Side, work: StreamWork) -> iq_pb2.StreamSpec:
        spec = iq_pb2.StreamSpec(
            stream_id=work.index + 1,
            media=_MEDIA.get(work.media, iq_pb2.APPLICATION),
            transport=work.transport,
            removed=work.removed,
        )
        if work.removed:
            return spec
        if work.mode:
            spec.MergeFrom(iq_pb2.StreamSpec(mode=work.mode, rtcp=iq_pb2.RtcpSpec(enabled=True, mux=work.mux)))
        if work.remote is not None:
            spec.remote.CopyFrom(remote_spec(work.remote))
        if side is Side.ACCESS and (work.fresh or work.moved):
            spec.latching = iq_pb2.LATCH if work.fresh else iq_pb2.RELATCH
        if work.remote_crypto is not None:
            spec.sdes_remote.append(crypto_to_proto(work.remote_crypto))
        if work.local_suites:
            spec.sdes_local_request.CopyFrom(
                iq_pb2.SdesLocalRequest(tag=work.local_tag, suites=work.local_suites, rekey=work.rekey)
            )
        spec.sdes_local_selected = work.selected_tag
        if side is Side.ACCESS and work.mode and self._times.inactivity_s:
            listening = work.mode in ("SENDRECV", "RECVONLY")
            seconds = self._times.inactivity_s if listening else 0
            spec.inactivity.CopyFrom(iq_pb2.Inactivity(seconds=seconds, direction=iq_pb2.IN))
        return spec


def remote_spec(address: Address) -> iq_pb2.RemoteSpec:
    """A far end; a UE that names another host than its own is heard and answered at its own, once it has spoken."""
    if address.source_ip:
        same_family = (":" in address.source_ip) == (":" in address.ip)
        ip = address.source_ip if same_family else address.ip
        return iq_pb2.RemoteSpec(ip=ip, port=address.port, rtcp_port=address.rtcp_port, await_media=True)
    return iq_pb2.RemoteSpec(ip=address.ip, port=address.port, rtcp_ip=address.rtcp_ip, rtcp_port=address.rtcp_port)


def _side(value: int) -> Side:
    return Side.ACCESS if value == iq_pb2.ACCESS else Side.CORE


def _locals(side: Side, streams: Iterable[iq_pb2.LocalInfo]) -> LocalMap:
    return {
        (side, info.stream_id - 1): LocalStream(
            Address(info.ip, info.port, info.rtcp_port), tuple(crypto_from_proto(line) for line in info.sdes_local)
        )
        for info in streams
    }


def crypto_to_proto(line: CryptoAttribute) -> iq_pb2.CryptoAttr:
    """An a=crypto line as it travels on Iq; the only place where its key leaves this process."""
    key = line.keys[0]
    return iq_pb2.CryptoAttr(
        tag=line.tag,
        suite=line.suite.name,
        key_salt=key.key_salt.reveal(),
        lifetime=key.lifetime or 0,
        mki=key.mki or 0,
        mki_length=key.mki_length,
        session_params=line.session_params,
    )


def crypto_from_proto(line: iq_pb2.CryptoAttr) -> CryptoAttribute:
    """A line the IMS-AGW made. Raises IqError for a suite or key length that does not fit."""
    suite = find_suite(line.suite)
    if suite is None or len(line.key_salt) != suite.key_salt_length:
        raise IqError(Refusal(500, text="the IMS-AGW gave a key that does not fit its suite"))
    key = InlineKey(Secret(line.key_salt), line.lifetime or None, line.mki or None, line.mki_length)
    return CryptoAttribute(line.tag, suite, (key,), tuple(line.session_params))


def _error(problem: RemoteProblem) -> IqError:
    status = _STATUS.get(problem.code, 500)
    named = problem.cause or problem.code.name
    invalid = problem.problem.invalid_params if problem.problem is not None else ()
    token = next((_TOKENS[one.param] for one in invalid if one.param in _TOKENS), "") if status == 488 else ""
    gone = problem.code is grpc.StatusCode.NOT_FOUND
    return IqError(Refusal(status, token, f"Iq: {named}"), gone=gone)


async def follow(client: IqClient, gateway: str, last: int = 0) -> AsyncIterator[iq_pb2.Notification]:
    """Notifications of a gateway without end; reconnects with back-off, never raises for a broken link."""
    pause = 0.2
    while True:
        try:
            async for notification in client.events(gateway, last):
                last = max(last, notification.event_id)
                pause = 0.2
                yield notification
        except RemoteProblem:
            pass
        await asyncio.sleep(pause)
        pause = min(pause * 2, 5.0)
