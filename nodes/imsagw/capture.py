"""MediaCapture: packets of chosen calls as they are on the gateway's sockets, for the lab's operator."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

from keying.sdes import CryptoAttribute
from media.relay import Protection, RelayError, TappedPacket
from nodes.imsagw.config import ImsAgwSettings
from nodes.imsagw.context import Context, StreamRecord
from nodes.imsagw.gateway import MediaGateway
from protos import capture_pb2
from sba.access import CallContext
from sba.errors import ProblemError

_QUEUE = 20000
"""Items that may wait for a slow reader; more are left out."""


class _Reader:
    """One running capture."""

    def __init__(self, correlation: str, *, with_keys: bool) -> None:
        self.correlation = correlation
        self.with_keys = with_keys
        self.queue: asyncio.Queue[capture_pb2.CaptureItem] = asyncio.Queue(_QUEUE)
        self.told: set[tuple[str, str, str]] = set()
        self.lost = 0

    def wants(self, context: Context) -> bool:
        return self.correlation in ("", context.correlation)

    def put(self, item: capture_pb2.CaptureItem) -> None:
        if self.queue.full():
            self.lost += 1
        else:
            self.queue.put_nowait(item)

    async def items(self) -> AsyncIterator[capture_pb2.CaptureItem]:
        """Yield what was taken, and after a gap how many items are missing; goes on until it is closed."""
        while True:
            yield await self.queue.get()
            if self.lost and self.queue.empty():
                lost, self.lost = self.lost, 0
                yield capture_pb2.CaptureItem(lost=capture_pb2.CaptureLoss(items=lost))


class MediaCaptureService:
    """Implements `ims.capture.v1.MediaCapture`; keys only where the lab's switch allows them."""

    service = capture_pb2.DESCRIPTOR.services_by_name["MediaCapture"]

    def __init__(self, gateway: MediaGateway, settings: ImsAgwSettings, node: str) -> None:
        self._gateway = gateway
        self._settings = settings
        self._node = node
        self._readers: dict[int, _Reader] = {}
        self._numbers = itertools.count()
        self._tapped: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def Capture(  # noqa: N802 - the contract's name
        self, request: capture_pb2.CaptureRequest, context: CallContext
    ) -> AsyncIterator[capture_pb2.CaptureItem]:
        """Yield `started`, then keys if allowed and packets of calls with that correlation, also of those yet to come.

        Raises ProblemError 403 when keys are asked for and the lab does not export any.
        """
        if request.with_keys and not self._settings.key_export:
            raise ProblemError(403, "MODIFICATION_NOT_ALLOWED", "key export is switched off in this lab")
        del context
        reader, number = _Reader(request.correlation, with_keys=request.with_keys), next(self._numbers)
        self._readers[number] = reader
        try:
            for each in list(self._gateway.contexts.values()):
                await self._look_at(each)
            yield capture_pb2.CaptureItem(started=True)
            async for item in reader.items():
                yield item
        finally:
            del self._readers[number]
            self._later()

    def changed(self, context: Context) -> None:
        """Tap streams that came, tell keys that are new. To be called after every change of a context."""
        if self._readers:
            self._spawn(context)

    def restarted(self) -> None:
        """Tap again what was tapped in a packet loop that died."""
        self._tapped.clear()
        for context in self._gateway.contexts.values():
            self.changed(context)

    def packet(self, packet: TappedPacket) -> None:
        """Hand a mirrored packet to those who want it."""
        context = self._gateway.contexts.get(packet.stream_id.partition("/")[0])
        if context is None:
            return
        item = capture_pb2.CapturedPacket(
            timestamp=packet.timestamp,
            source_ip=packet.source[0],
            source_port=packet.source[1],
            destination_ip=packet.destination[0],
            destination_port=packet.destination[1],
            payload=packet.payload,
            comment=self._comment(context, packet),
            dropped=packet.cause is not None,
            correlation=context.correlation,
        )
        for reader in self._readers.values():
            if reader.wants(context):
                reader.put(capture_pb2.CaptureItem(packet=item))

    def _comment(self, context: Context, packet: TappedPacket) -> str:
        termination = context.termination(packet.side)
        stream = int(packet.stream_id.rpartition("/")[2])
        record = termination.streams.get(stream) if termination is not None else None
        protection = record.config.protection.value if record is not None else ""
        cause = f" dropped: {packet.cause.value}" if packet.cause is not None else ""
        return f"{self._node} {packet.side.value} {protection}{cause}"

    def _spawn(self, context: Context) -> None:
        task = asyncio.ensure_future(self._look_at(context))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _later(self) -> None:
        for name in list(self._tapped):
            context = self._gateway.contexts.get(name.partition("/")[0])
            if context is not None:
                self._spawn(context)

    async def _look_at(self, context: Context) -> None:
        wanted = any(reader.wants(context) for reader in self._readers.values())
        names = {context.relay_id(stream) for stream in context.stream_ids}
        for name in names if wanted else names & self._tapped:
            if wanted is (name in self._tapped):
                continue
            (self._tapped.add if wanted else self._tapped.discard)(name)
            try:
                await self._gateway.relay.tap(name, enabled=wanted)
            except RelayError:  # released meanwhile
                self._tapped.discard(name)
        self._tapped = {name for name in self._tapped if name.partition("/")[0] in self._gateway.contexts}
        for reader in self._readers.values():
            if reader.with_keys and reader.wants(context):
                self._tell_keys(reader, context)

    @staticmethod
    def _tell_keys(reader: _Reader, context: Context) -> None:
        for termination in context.terminations.values():
            for record in termination.streams.values():
                for source, destination, line in _directions(record):
                    text = line.encode()
                    mark = (":".join(map(str, source)), ":".join(map(str, destination)), text)
                    if mark in reader.told:
                        continue
                    reader.told.add(mark)
                    key = capture_pb2.CapturedKey(source_ip=source[0], source_port=source[1], crypto=text)
                    key.destination_ip, key.destination_port = destination
                    key.correlation = context.correlation
                    reader.put(capture_pb2.CaptureItem(key=key))


def _directions(record: StreamRecord) -> Iterator[tuple[tuple[str, int], tuple[str, int], CryptoAttribute]]:
    """Yield source, destination and key of each direction of an SRTP stream whose ends are known."""
    if record.config.protection is not Protection.SRTP or record.local is None or record.config.remote is None:
        return
    here, there = (record.local.ip, record.local.port), record.config.remote
    if record.sending is not None:
        yield here, there, record.sending
    if record.receiving is not None:
        yield there, here, record.receiving
