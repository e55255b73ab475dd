"""The Iq service: every request of an IMS-ALG, at most once, by the owner of the context alone (TS 23.334)."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from google.protobuf.empty_pb2 import Empty

from media.relay import Protection, Relay, RelayError
from nodes.imsagw.answers import SIDES, context_audit, statistics, termination_info
from nodes.imsagw.config import ImsAgwSettings
from nodes.imsagw.context import Context
from nodes.imsagw.errors import iq_error, of_relay
from nodes.imsagw.gateway import Changed, MediaGateway
from nodes.imsagw.notifications import NotificationLog
from nodes.imsagw.replay import TransactionCache
from nodes.imsagw.stream_spec import MODES, PROTECTIONS, with_inactivity
from protos import iq_pb2
from sba.access import CallContext

_REALMS = ("access", "core")


class IqService:
    """Implements `ims.iq.v1.Iq`. `clock` gives seconds, `agw_id` is this NF instance."""

    service = iq_pb2.DESCRIPTOR.services_by_name["Iq"]

    def __init__(
        self,
        gateway: MediaGateway,
        notifications: NotificationLog,
        settings: ImsAgwSettings,
        *,
        agw_id: str,
        clock: Callable[[], float],
    ) -> None:
        self._gateway = gateway
        self._notifications = notifications
        self._settings = settings
        self._agw_id = agw_id
        self._clock = clock
        lifetime = settings.tx_lifetime_s
        self._reserved: TransactionCache[iq_pb2.ReserveResponse] = TransactionCache(clock, lifetime)
        self._configured: TransactionCache[iq_pb2.ConfigureResponse] = TransactionCache(clock, lifetime)
        self._released: TransactionCache[iq_pb2.ReleaseResponse] = TransactionCache(clock, lifetime)
        self._switched: TransactionCache[Empty] = TransactionCache(clock, lifetime)
        self.heard: dict[str, float] = {}
        """When each IMS-ALG was last heard, in seconds of the clock."""

    @property
    def _relay(self) -> Relay:
        return self._gateway.relay

    def _hear(self, context: CallContext, correlation: str = "") -> str:
        """Note that an IMS-ALG is alive and return its NF instance id."""
        owner = context.peer.instance_id
        self.heard[owner] = self._clock()
        self._notifications.know(owner)
        if correlation:
            context.span.set_attribute("sip.call_id", correlation)
        return owner

    def _find(self, context_id: str, owner: str, call: CallContext) -> Context:
        found = self._gateway.context(context_id, owner)
        call.span.set_attribute("sip.call_id", found.correlation)
        return found

    async def ReserveAndConfigure(  # noqa: N802 - the contract's name
        self, request: iq_pb2.ReserveRequest, context: CallContext
    ) -> iq_pb2.ReserveResponse:
        """Reserve and Configure AGW Connection Point (TS 23.334 8.2): local and remote ends."""
        return await self.Reserve(request, context)

    async def Reserve(  # noqa: N802 - the contract's name
        self, request: iq_pb2.ReserveRequest, context: CallContext
    ) -> iq_pb2.ReserveResponse:
        """Reserve AGW Connection Point (TS 23.334 8.3), both sides in one request (IQ-3)."""
        owner = self._hear(context, request.correlation)

        async def run() -> iq_pb2.ReserveResponse:
            made, changed = await self._gateway.reserve(request, owner)
            return iq_pb2.ReserveResponse(
                context_id=made.context_id, epoch=self._gateway.epoch, terminations=_infos(changed)
            )

        return await self._reserved.once(owner, request.tx_id, request, run)

    async def Configure(  # noqa: N802 - the contract's name
        self, request: iq_pb2.ConfigureRequest, context: CallContext
    ) -> iq_pb2.ConfigureResponse:
        """Configure AGW Connection Point (TS 23.334 8.4)."""
        owner = self._hear(context)

        async def run() -> iq_pb2.ConfigureResponse:
            self._find(request.context_id, owner, context)
            changed = await self._gateway.configure(request, owner)
            return iq_pb2.ConfigureResponse(terminations=_infos(changed))

        return await self._configured.once(owner, request.tx_id, request, run)

    async def Release(  # noqa: N802 - the contract's name
        self, request: iq_pb2.ReleaseRequest, context: CallContext
    ) -> iq_pb2.ReleaseResponse:
        """Release a termination or the whole context; the answer holds the final counters."""
        owner = self._hear(context)

        async def run() -> iq_pb2.ReleaseResponse:
            found = self._find(request.context_id, owner, context)
            counters = await self._gateway.release(found, request.termination_id)
            rows = statistics(found, counters, request.termination_id)
            self._gateway.forget(found, request.termination_id)
            return iq_pb2.ReleaseResponse(statistics=rows)

        return await self._released.once(owner, request.tx_id, request, run)

    async def SetThroughConnection(  # noqa: N802 - the contract's name
        self, request: iq_pb2.ThroughConnectionRequest, context: CallContext
    ) -> Empty:
        """Open or close gates of streams (IQ-13)."""
        owner = self._hear(context)

        async def run() -> Empty:
            found = self._find(request.context_id, owner, context)
            wanted = []
            for change in request.changes:
                mode = MODES.get(change.mode)
                if mode is None:
                    raise iq_error("442", "mode is missing", stream=change.stream_id)
                termination = self._gateway.termination(found, change.termination_id)
                record = self._gateway.record(termination, change.stream_id)
                wanted.append((termination, change.stream_id, replace(record.config, mode=mode)))
            for termination, stream_id, config in wanted:
                await self._gateway.change_side(found, termination, stream_id, config)
            return Empty()

        return await self._switched.once(owner, request.tx_id, request, run)

    async def ConfigureMonitor(  # noqa: N802 - the contract's name
        self, request: iq_pb2.MonitorRequest, context: CallContext
    ) -> Empty:
        """Change which silence of a live stream is reported (IQ-19)."""
        found = self._find(request.context_id, self._hear(context), context)
        termination = self._gateway.termination(found, request.termination_id)
        record = self._gateway.record(termination, request.stream_id)
        config = with_inactivity(record.config, request.inactivity)
        await self._gateway.change_side(found, termination, request.stream_id, config)
        return Empty()

    async def Audit(  # noqa: N802 - the contract's name
        self, request: iq_pb2.AuditRequest, context: CallContext
    ) -> iq_pb2.AuditResponse:
        """Contexts with counters and without keys, capabilities, epoch. An IMS-ALG sees its own, the operator all."""
        await self._gateway.until_usable()
        operator = "LAB" in context.peer.nf_types
        owner = context.peer.instance_id if operator else self._hear(context)
        visible = [each for each in self._gateway.contexts.values() if operator or each.owner == owner]
        if request.context_id:
            visible = [each for each in visible if each.context_id == request.context_id]
            if not visible:
                raise iq_error("411", "unknown context")
        response = iq_pb2.AuditResponse(
            epoch=self._gateway.epoch,
            suites=self._suites,
            transports=[iq_pb2.Transport.Name(transport) for transport in self._transports],
            streams_in_use=self._gateway.streams_in_use,
            streams_max=self._settings.streams_max,
        )
        names = [each.relay_id(stream) for each in visible for stream in each.stream_ids]
        try:
            counters = await self._relay.statistics(names) if names else []
        except RelayError as error:
            raise of_relay(error) from error
        for each in visible:
            mine = [counter for counter in counters if counter.stream_id.startswith(f"{each.context_id}/")]
            response.contexts.append(context_audit(each, mine))
        return response

    @property
    def _suites(self) -> tuple[str, ...]:
        return self._settings.suites if self._settings.srtp == "on" else ()

    @property
    def _transports(self) -> list[iq_pb2.Transport]:
        srtp = self._settings.srtp == "on"
        return [number for number, kind in PROTECTIONS.items() if srtp or kind is not Protection.SRTP]

    async def ActivateRealmMonitor(  # noqa: N802 - the contract's name
        self, request: iq_pb2.RealmMonitorRequest, context: CallContext
    ) -> iq_pb2.RealmMonitorResponse:
        """Realm Availability Activate (TS 23.334): changes come as notifications, the present list at once."""
        del request
        self._hear(context)
        return iq_pb2.RealmMonitorResponse(realms=_REALMS)

    async def Associate(  # noqa: N802 - the contract's name
        self, request: iq_pb2.AssociateRequest, context: CallContext
    ) -> iq_pb2.AssociateResponse:
        """Begin, or begin again, the control association of an IMS-ALG. Its contexts stay: it finds them by Audit."""
        self._hear(context)
        if request.profile_version not in ("", "1"):
            raise iq_error("449", f"profile version {request.profile_version[:20]!r} is not supported")
        return iq_pb2.AssociateResponse(
            agw_id=self._agw_id, epoch=self._gateway.epoch, suites=self._suites, srtp=self._settings.srtp == "on"
        )

    async def Heartbeat(  # noqa: N802 - the contract's name
        self, request: iq_pb2.HeartbeatRequest, context: CallContext
    ) -> iq_pb2.HeartbeatResponse:
        """Tell epoch and load, in percent."""
        del request
        self._hear(context)
        load = 100 * self._gateway.streams_in_use // self._settings.streams_max
        return iq_pb2.HeartbeatResponse(epoch=self._gateway.epoch, load=min(100, load))

    async def Events(  # noqa: N802 - the contract's name
        self, request: iq_pb2.EventsRequest, context: CallContext
    ) -> AsyncIterator[iq_pb2.Notification]:
        """Deliver the IMS-ALG's notifications after `last_event_id`, for as long as it listens."""
        owner = self._hear(context)
        async for notification in self._notifications.follow(owner, request.last_event_id):
            yield notification


def _infos(changed: Changed) -> list[iq_pb2.TerminationInfo]:
    return [termination_info(termination, records, with_keys=True) for termination, records in changed]


__all__ = ["SIDES", "IqService"]
