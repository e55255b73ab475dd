"""The IMS-AGW process: wiring of relay, contexts, services and notifications."""

import asyncio
import contextlib
import time

from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import set_span_in_context

from media.relay import (
    KeyExpired,
    Latched,
    MediaInactive,
    PythonRelay,
    Refuge,
    Relay,
    RelayError,
    RelayEvent,
    RelayProcess,
    SrtpFailures,
    TappedPacket,
    Workers,
)
from nodes import extensions
from nodes.imsagw.associations import Associations
from nodes.imsagw.capture import MediaCaptureService
from nodes.imsagw.config import ImsAgwSettings
from nodes.imsagw.context import Context, Termination
from nodes.imsagw.gateway import MediaGateway
from nodes.imsagw.hanging import hanging_contexts
from nodes.imsagw.memory import EPOCH, ForeignNoteError, read_context, write_context
from nodes.imsagw.meter import MediaMeter
from nodes.imsagw.notifications import NotificationLog
from nodes.imsagw.revival import Revival, revive
from nodes.imsagw.service import IqService
from protos.iq_pb2 import LatchedAddress, Notification, RekeyNeeded
from protos.iq_pb2 import MediaInactivity as InactivityNotice
from protos.iq_pb2 import SrtpFailure as FailureNotice
from protos.nrf_nfm_pb2 import Endpoint
from sba.config import NodeEnvironment
from sba.errors import ConfigurationError
from sba.load import share
from sba.nf import NetworkFunction
from sba.telemetry import within

_WATCH_S = 5.0
_AGAIN_S = 0.25
"""Pause before a packet loop that did not start is started once more, s."""
_GIVE_UP_S = 5.0
"""Time after which the calls of a packet loop that cannot be replaced are given up, s."""
_KEYS_GONE = "the packet loop died with the keys"


class ImsAgw(NetworkFunction):
    """IMS access gateway of one access network."""

    nf_types = ("IMS_AGW",)
    settings_class = ImsAgwSettings
    settings: ImsAgwSettings

    @classmethod
    def prepare(cls, environment: NodeEnvironment) -> None:
        """Enable the crypto suites of packages that the lab has."""
        extensions.crypto_suites(environment)

    async def open_node(self) -> None:
        """Start the packet loop. Raises ConfigurationError when it refuses, e.g. for an untested SRTP library."""
        self._meter = MediaMeter(self.telemetry)
        associations = Associations(self.telemetry.tracer, self.environment.instance, self._meter)
        self._notifications = NotificationLog()
        self._watching: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Future[None]] = set()
        self._restarting: asyncio.Future[None] | None = None
        self._telling: asyncio.Future[None] | None = None
        """The NRF is being told that there is no packet loop."""
        self._restarts = 0
        self._refuge = self._find_refuge()
        adopted = await self._adopt_relay()
        try:
            relay = adopted or await self._start_relay()
        except RelayError as error:
            raise ConfigurationError(f"the packet loop does not start: {error}") from error
        self.gateway = MediaGateway(relay, self.settings, associations, time.monotonic, changed=self._changed)
        gateway = self.gateway
        self._meter.watch(
            counts=lambda: gateway.relay.counts() if gateway.usable.is_set() else {},
            streams=lambda: gateway.streams_in_use,
            room=self.settings.streams_max,
            contexts=lambda: len(gateway.contexts),
            commands=lambda: gateway.relay.pending,
            restarts=lambda: self._restarts,
        )
        if adopted is not None:
            await self._restore(adopted)
        self._remember(EPOCH, self.gateway.epoch)
        self._capture = MediaCaptureService(self.gateway, self.settings, self.environment.instance)
        self._iq = IqService(
            self.gateway,
            self._notifications,
            self.settings,
            agw_id=self.identity.instance_id,
            clock=time.monotonic,
        )

    async def start_node(self) -> None:
        """Begin to watch for contexts nobody owns any more."""
        self._watching = asyncio.ensure_future(self._watch())

    async def retire_node(self) -> None:
        """Take no new calls and tell every IMS-ALG; those that are here go on."""
        self.gateway.draining = True
        self._notifications.add_for_all(Notification(going_down="graceful"))

    async def rejoin_node(self) -> None:
        """Take calls again."""
        self.gateway.draining = False

    async def drain_node(self) -> None:
        """Take no new calls and tell every IMS-ALG."""
        self.gateway.draining = True
        with contextlib.suppress(RelayError):  # being restarted
            await self.gateway.relay.drain()
        self._notifications.add_for_all(Notification(going_down="graceful"))

    async def close_node(self) -> None:
        """End the media of every context."""
        for task in (self._watching, self._restarting, self._telling):
            if task is not None:
                task.cancel()
        if self._restarting is not None:
            await asyncio.wait([self._restarting])  # it ends the packet loop that it was starting
        self.gateway.usable.set()
        for context in list(self.gateway.contexts.values()):
            await self._end(context, "going down")
        await self.gateway.relay.close()

    def servicers(self) -> list[object]:
        """Iq for the IMS-ALGs, captures for the operator."""
        return [self._iq, self._capture]

    def endpoints(self) -> list[Endpoint]:
        """Media addresses of both sides, for those who name the node behind one; ports are the kernel's."""
        settings = self.settings
        return [
            Endpoint(role="mb", transport="RTP", host=settings.core_ip),
            Endpoint(role="mb", transport="RTP", host=settings.access_ip, access_network=settings.access_network),
        ]

    def attributes(self) -> dict[str, str]:
        """Whether SRTP is carried, where the packets are handled, and by which loop."""
        relay = self.gateway.relay
        loop = relay.loop + (f", pid {relay.pid}" if isinstance(relay, RelayProcess) else "")
        if not self.gateway.usable.is_set():
            loop = "died, another one is being started"
        times = f"; died and was started again, {self._restarts} in all" if self._restarts else ""
        where = {"relay": self.settings.relay, "packet_loop": loop + times}
        return {"srtp": self.settings.srtp, "epoch": self.gateway.epoch, **where}

    def work_left(self) -> tuple[int, str]:
        """Calls whose media is here."""
        return len(self.gateway.contexts), "calls"

    def load(self) -> int:
        """Streams in use, or the processor where that is the narrower."""
        streams = share(self.gateway.streams_in_use, self.settings.streams_max)
        return max(streams, self.processor.percent())

    async def _start_relay(self) -> Relay:
        settings = self.settings
        if settings.relay == "in-process":
            relay: Relay = PythonRelay(port_range=settings.port_range)
        else:
            child = await RelayProcess.start(
                port_range=settings.port_range,
                refuge=self._refuge,
                suites=extensions.crypto_suites(self.environment),
                path=self.environment.lab.package_path,
                workers=Workers(settings.relay_workers, settings.relay_cpus, settings.relay_priority),
            )
            child.on_death = self._relay_died
            self.telemetry.log("packet-loop", pid=child.pid)
            relay = child
        relay.set_listeners(self._relay_event, self._relay_packet)
        return relay

    def _find_refuge(self) -> Refuge | None:
        """Where a packet loop waits for the next life of this node; None where there is no such place."""
        if not self.settings.relay_patience_s or self.settings.relay == "in-process":
            return None
        folder = self.environment.node_dir
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            self.telemetry.log("packet-loop-without-refuge", level="warning", error=str(error))
            return None
        return Refuge(folder / "packets.sock", self.settings.relay_patience_s)

    async def _adopt_relay(self) -> RelayProcess | None:
        """Find the packet loop of an earlier life that was killed: it carries the packets of its calls still."""
        if self._refuge is None:
            return None
        try:
            relay = await RelayProcess.adopt(self._refuge)
        except RelayError:
            return None
        relay.on_death = self._relay_died
        relay.set_listeners(self._relay_event, self._relay_packet)
        return relay

    async def _restore(self, relay: RelayProcess) -> None:
        notes = dict(await relay.remembered())
        epoch = notes.pop(EPOCH, "")
        contexts, now = [], time.monotonic()
        for context_id, note in notes.items():
            try:
                contexts.append(read_context(context_id, note, now))
            except ForeignNoteError as error:
                self.telemetry.log("foreign-note", level="error", fault=str(error))
        count = await self.gateway.restore(contexts, epoch)
        self.telemetry.log("packet-loop-adopted", level="warning", pid=relay.pid, contexts=count)
        for context in self.gateway.contexts.values():
            self._ask_for_keys(context)

    def _remember(self, key: str, note: str | None) -> None:
        """Leave a note with the packet loop; one that is gone has nobody to leave it for."""

        async def leave() -> None:
            with contextlib.suppress(RelayError):
                await self.gateway.relay.remember(key, note)

        if self._refuge is not None:
            task = asyncio.ensure_future(leave())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _relay_packet(self, packet: TappedPacket) -> None:
        self._capture.packet(packet)

    def _changed(self, context: Context) -> None:
        self._capture.changed(context)
        kept = self.gateway.contexts.get(context.context_id) is context
        if not kept or not context.keyless:
            self._notifications.settle(context.owner, context.context_id)
        self._remember(context.context_id, write_context(context) if kept else None)

    def _relay_died(self) -> None:
        """Start another packet loop and give it the streams of the one that died; requests wait meanwhile."""
        if not self.gateway.usable.is_set():
            return  # it is looked after
        self._meter.refresh()  # the dead process's last counters are still to be read
        self.gateway.interrupted()
        self.telemetry.log("packet-loop-died", level="error", contexts=len(self.gateway.contexts))
        self._telling = asyncio.ensure_future(self.refresh_registration())
        self._restarting = asyncio.ensure_future(self._restart_relay(time.monotonic()))

    async def _restart_relay(self, died: float) -> None:
        while True:
            relay: Relay | None = None
            try:
                relay = await self._start_relay()
                revival = await revive(relay, self.gateway.contexts.values())
            except asyncio.CancelledError:
                if relay is not None:
                    await relay.close()
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is: without a packet loop no request is answered
                told = str(error) if isinstance(error, RelayError) else type(error).__name__
                self.telemetry.log("packet-loop-refused", level="error", error=told)
                if relay is not None:
                    await relay.close()  # it would keep the ports
                if self.gateway.contexts and time.monotonic() - died > _GIVE_UP_S:
                    self._give_up()
                await asyncio.sleep(_AGAIN_S)
            else:
                break
        self._restarts += 1
        self._revived(relay, revival, time.monotonic() - died)
        if isinstance(relay, RelayProcess) and not relay.alive:  # it died when that was not listened to yet
            self._relay_died()
            return
        if self._telling is not None:
            await self._telling
        await self.refresh_registration()

    def _revived(self, relay: Relay, revival: Revival, seconds: float) -> None:
        """Go on with what there is, and tell the IMS-ALGs what there is not."""
        self.gateway.resumed(relay)
        for context, reason in revival.lost:
            self._lose(context, reason)
        for context in revival.kept:
            self._remember(context.context_id, write_context(context))
            self._ask_for_keys(context)
        self._remember(EPOCH, self.gateway.epoch)
        self._capture.restarted()
        self.telemetry.log(
            "packet-loop-restarted",
            level="warning",
            contexts=len(revival.kept),
            streams=revival.streams,
            to_be_keyed=len(revival.keyless),
            lost=len(revival.lost),
            milliseconds=round(1000 * seconds),
        )

    def _ask_for_keys(self, context: Context) -> None:
        """Tell the IMS-ALG which streams of a context are dark until they are keyed again."""
        for termination, streams in context.keyless:
            self._notifications.add(
                context.owner,
                Notification(
                    context_id=context.context_id,
                    termination_id=termination.termination_id,
                    rekey_needed=RekeyNeeded(cause=_KEYS_GONE, stream_ids=streams),
                ),
            )

    def _lose(self, context: Context, reason: str) -> None:
        """Give up one context that the new packet loop could not take."""
        with within(_trace_of(next(iter(context.terminations.values()), None))):
            self.telemetry.log("context-lost", level="error", call_id=context.correlation, reason=reason)
        self.gateway.drop(context)
        self._notifications.add(context.owner, Notification(context_id=context.context_id, bearer_released="failure"))

    def _give_up(self) -> None:
        """Void every context and tell their owners with a new epoch: there is no packet loop (IQ-4)."""
        lost = self.gateway.lost()
        self.telemetry.log("contexts-lost", level="error", contexts=len(lost))
        for context in lost:
            self._notifications.settle(context.owner, context.context_id)
            self._notifications.add(
                context.owner, Notification(context_id=context.context_id, bearer_released="failure")
            )
        self._notifications.add_for_all(Notification(restored=self.gateway.epoch))

    def _relay_event(self, event: RelayEvent) -> None:
        context_id, _, stream_id = event.stream_id.rpartition("/")
        context = self.gateway.contexts.get(context_id)
        termination = context.termination(event.side) if context is not None else None
        if context is None or termination is None:
            return
        notification = Notification(
            context_id=context_id, termination_id=termination.termination_id, stream_id=int(stream_id)
        )
        match event:
            case Latched():
                termination.streams[int(stream_id)].latched = event.address
                notification.latched_address.CopyFrom(LatchedAddress(ip=event.address[0], port=event.address[1]))
            case MediaInactive():
                notification.media_inactivity.CopyFrom(
                    InactivityNotice(direction=event.direction.name, seconds=event.seconds)
                )
            case SrtpFailures():
                notification.srtp_failure.CopyFrom(
                    FailureNotice(auth_failures=event.auth_failures, replays=event.replays)
                )
            case KeyExpired():
                notification.key_expired = "near" if event.near else "expired"
        if not isinstance(event, Latched):
            fields = {"call_id": context.correlation, "side": event.side.value, "stream": int(stream_id)}
            with within(_trace_of(termination, int(stream_id))):
                self.telemetry.log(notification.WhichOneof("event") or "media-event", level="warning", **fields)
        self._notifications.add(context.owner, notification)

    async def _watch(self) -> None:
        """Free contexts whose IMS-ALG and whose media are both silent (hanging terminations, H.248.36)."""
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                counters = await self.gateway.relay.statistics()
            except RelayError:  # being restarted
                continue
            self.gateway.note(counters)
            now = time.monotonic()
            for context in hanging_contexts(
                self.gateway.contexts.values(), counters, self._iq.heard, now, self.settings.hanging_after_s
            ):
                with within(_trace_of(next(iter(context.terminations.values()), None))):
                    self.telemetry.log("hanging-context-freed", level="warning", call_id=context.correlation)
                self._notifications.add(
                    context.owner, Notification(context_id=context.context_id, bearer_released="hanging")
                )
                await self._end(context, "hanging")

    async def _end(self, context: Context, why: str) -> None:
        try:
            await self.gateway.release(context)
        except Exception as error:  # noqa: BLE001 - the next context must be ended too
            self.telemetry.log("release-failed", level="warning", why=why, error=str(error))
        self.gateway.forget(context)


def _trace_of(termination: Termination | None, stream_id: int = 0) -> TraceContext | None:
    """The trace of a stream, or of any stream of a termination; None where there is none."""
    records = list(termination.streams.values()) if termination is not None else []
    spans = [record.span for record in records if record.stream_id == (stream_id or record.stream_id)]
    span = next((span for span in spans if span is not None), None)
    return None if span is None else set_span_in_context(span, TraceContext())
