"""The gateway's procedures: reserve, configure, release connection points (TS 23.334 6, IQ-10 to IQ-16)."""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from keying.sdes import KeyReuse
from media.relay import (
    Latching,
    LocalAddress,
    Protection,
    Relay,
    RelayError,
    RelayStatistics,
    RelayUnavailableError,
    Side,
    SideConfig,
    StreamConfig,
)
from nodes.imsagw.answers import SIDES
from nodes.imsagw.associations import Associations
from nodes.imsagw.config import ImsAgwSettings
from nodes.imsagw.context import Context, StreamRecord, Termination
from nodes.imsagw.errors import iq_error, of_relay
from nodes.imsagw.stream_spec import StreamRequest, read_stream
from protos import iq_pb2
from sba.errors import ProblemError

_RESTART_S = 1.5
"""Seconds a request waits for a packet loop that is being started again."""

Changed = list[tuple[Termination, list[StreamRecord]]]
"""Terminations a request named, each with the streams it changed."""


@dataclass(slots=True)
class _Change:
    """One stream of one termination as a request wants it."""

    termination: Termination
    stream_id: int
    request: StreamRequest | None
    """None = removed."""


_UNTOLD = 16
"""SRTCP packets that may have left and not been counted when a packet loop died."""


class MediaGateway:
    """Contexts and the relay behind them. `clock` gives seconds; `changed` is called when a stream came, went or
    re-keyed."""

    def __init__(
        self,
        relay: Relay,
        settings: ImsAgwSettings,
        associations: Associations,
        clock: Callable[[], float],
        *,
        changed: Callable[[Context], None] = lambda _: None,
    ) -> None:
        self.relay = relay
        self.epoch = secrets.token_hex(8)
        self.contexts: dict[str, Context] = {}
        self.draining = False
        self._settings = settings
        self._associations = associations
        self._clock = clock
        self._changed = changed
        self.usable = asyncio.Event()
        """Not set while a packet loop that died is being replaced."""
        self.usable.set()

    @property
    def streams_in_use(self) -> int:
        """Streams of all contexts."""
        return sum(len(context.stream_ids) for context in self.contexts.values())

    def context(self, context_id: str, owner: str) -> Context:
        """Find a context for its owner. Raises ProblemError IQ_411 for others as well: they learn nothing."""
        context = self.contexts.get(context_id)
        if context is None or context.owner != owner:
            raise iq_error("411", "unknown context")
        return context

    async def until_usable(self) -> None:
        """Wait for a packet loop that is being started again. Raises ProblemError IQ_502 when that takes too long."""
        try:
            await asyncio.wait_for(self.usable.wait(), _RESTART_S)
        except TimeoutError:
            raise iq_error("502", "the packet loop is being started again") from None

    async def reserve(self, request: iq_pb2.ReserveRequest, owner: str) -> tuple[Context, Changed]:
        """Make a context, or add terminations to one, both sides in one request (IQ-3). Nothing stays of a failure."""
        await self.until_usable()
        if request.priority > 15:
            raise iq_error("449", "priority lies between 0 and 15")
        if self.draining:
            raise iq_error("502", "the gateway is going down")
        if request.WhichOneof("context") is None:
            raise iq_error("442", "context is missing")
        fresh = not request.context_id
        if fresh:
            now = self._clock()
            context_id = secrets.token_hex(8)
            context = Context(context_id, owner, request.correlation, request.emergency, now, active_at=now)
        else:
            context = self.context(request.context_id, owner)
        self._check_capacity(context, request.terminations)
        known = set(context.terminations)
        try:
            changes = self._read(context, request.terminations)
            if fresh:
                self.contexts[context.context_id] = context
            result = await self._carry_out(context, changes)
        except Exception:
            for termination_id in set(context.terminations) - known:
                del context.terminations[termination_id]
            if fresh:
                self.contexts.pop(context.context_id, None)
            raise
        return context, result

    async def configure(self, request: iq_pb2.ConfigureRequest, owner: str) -> Changed:
        """Change streams of a context; what a StreamSpec leaves out stays as it was."""
        await self.until_usable()
        context = self.context(request.context_id, owner)
        self._check_capacity(context, request.terminations)
        return await self._carry_out(context, self._read(context, request.terminations))

    async def change_side(self, context: Context, termination: Termination, stream_id: int, config: SideConfig) -> None:
        """Give one stream a changed configuration: gate or monitoring."""
        await self.until_usable()
        record = self.record(termination, stream_id)
        record.opens(config)
        try:
            await self.relay.modify(context.relay_id(stream_id), termination.side, config)
        except RelayError as error:
            raise of_relay(error) from error
        record.config = config
        self._changed(context)

    async def release(self, context: Context, termination_id: str = "") -> list[RelayStatistics]:
        """Release a termination, or the whole context, and return the final counters. Raises ProblemError IQ_430."""
        if termination_id and termination_id not in context.terminations:
            raise iq_error("430", "unknown termination")
        await self.until_usable()
        gone = [context.terminations[termination_id]] if termination_id else list(context.terminations.values())
        final: dict[str, RelayStatistics] = {}
        for termination in gone:
            for stream_id in list(termination.streams):
                statistics = await self._remove_stream(context, termination, stream_id)
                before = final.get(statistics.stream_id)
                sides = {**before.sides, **statistics.sides} if before is not None else statistics.sides
                final[statistics.stream_id] = RelayStatistics(statistics.stream_id, sides)
        return list(final.values())

    def forget(self, context: Context, termination_id: str = "") -> None:
        """Take a released termination, or the context, out of the books once its counters are written."""
        for name in [termination_id] if termination_id else list(context.terminations):
            context.terminations.pop(name, None)
        if not context.terminations:
            self.contexts.pop(context.context_id, None)
        self._changed(context)

    def note(self, counters: Iterable[RelayStatistics]) -> None:
        """Keep what would be needed of each stream if the packet loop died: its peer and its SRTP positions."""
        for counter in counters:
            context_id, _, stream_id = counter.stream_id.rpartition("/")
            context = self.contexts.get(context_id)
            for side, told in counter.sides.items():
                termination = context.termination(side) if context is not None else None
                record = termination.streams.get(int(stream_id)) if termination is not None else None
                if record is not None:
                    record.latched = told.latched
                    record.received, record.sent = dict(told.received), dict(told.sent)

    def interrupted(self) -> None:
        """Note that the packet loop died: requests wait for the next one."""
        self.usable.clear()
        last = self.relay.counts()
        for context in self.contexts.values():
            for termination in context.terminations.values():
                for record in termination.streams.values():
                    counted = last.get(context.relay_id(record.stream_id), {}).get(termination.side)
                    record.srtcp_sent += _UNTOLD + (counted.rtcp_out if counted is not None else 0)
                    self._associations.interrupted(record)

    def resumed(self, relay: Relay) -> None:
        """Take requests again: `relay` has the streams."""
        self.relay = relay
        self.usable.set()

    def drop(self, context: Context) -> None:
        """Take a context out of the books whose streams are not there any more."""
        for termination in context.terminations.values():
            for record in termination.streams.values():
                self._associations.close(record, None)
        self.contexts.pop(context.context_id, None)
        self._changed(context)

    def lost(self) -> list[Context]:
        """Note that there is no packet loop any more: every context is void, which a new epoch tells (IQ-4)."""
        contexts = list(self.contexts.values())
        for context in contexts:
            for termination in context.terminations.values():
                for record in termination.streams.values():
                    self._associations.close(record, None)
        self.contexts.clear()
        self.epoch = secrets.token_hex(8)
        return contexts

    async def restore(self, contexts: Iterable[Context], epoch: str) -> int:
        """Take back what an earlier process of this gateway left in the packet loop; returns how many contexts.

        A context whose streams are not all there is void, and streams that belong to none are ended. With the epoch
        the contexts are what their IMS-ALGs believe them to be (IQ-4). Raises RelayError.
        """
        counters = await self.relay.statistics()
        there = {each.stream_id for each in counters}
        for context in contexts:
            names = {context.relay_id(stream) for stream in context.stream_ids}
            if names and names <= there:
                self.contexts[context.context_id] = context
                there -= names
                for termination in context.terminations.values():
                    for record in termination.streams.values():
                        self._associations.open(context, termination, record)
        for stray in there:
            await self.relay.remove(stray)
        if epoch:
            self.epoch = epoch
        self.note(counters)
        return len(self.contexts)

    @staticmethod
    def termination(context: Context, termination_id: str) -> Termination:
        """Find a termination. Raises ProblemError IQ_430."""
        termination = context.terminations.get(termination_id)
        if termination is None:
            raise iq_error("430", "unknown termination")
        return termination

    @staticmethod
    def record(termination: Termination, stream_id: int) -> StreamRecord:
        """Find a stream of a termination. Raises ProblemError IQ_449."""
        record = termination.streams.get(stream_id)
        if record is None:
            raise iq_error("449", "unknown stream", stream=stream_id)
        return record

    def _check_capacity(self, context: Context, terminations: Iterable[iq_pb2.TerminationSpec]) -> None:
        named = {spec.stream_id for each in terminations for spec in each.streams if not spec.removed}
        wanted = len(named.difference(context.stream_ids))
        if not wanted:
            return
        settings = self._settings
        limit = settings.streams_max + (settings.streams_max_emergency if context.emergency else 0)
        if self.streams_in_use + wanted > limit:
            raise iq_error("510", "all streams are in use")

    def _read(self, context: Context, specs: Iterable[iq_pb2.TerminationSpec]) -> list[_Change]:
        """Check a whole request before anything is changed."""
        changes = []
        for spec in specs:
            termination = self._named(context, spec)
            seen: set[int] = set()
            for stream in spec.streams:
                if stream.stream_id in seen:
                    raise iq_error("442", "a stream is named twice", stream=stream.stream_id)
                seen.add(stream.stream_id)
                before = termination.streams.get(stream.stream_id)
                wanted = None if stream.removed else read_stream(stream, termination.side, before, self._settings)
                changes.append(_Change(termination, stream.stream_id, wanted))
        if not changes:
            raise iq_error("442", "no stream is named")
        for change in changes:
            self._take_keys(context, change)
        return changes

    @staticmethod
    def _take_keys(context: Context, change: _Change) -> None:
        request = change.request
        if request is None:
            return
        try:
            context.take_keys(change.stream_id, request.offered, of_peer=False)
            if request.receiving is not None:
                context.take_keys(change.stream_id, (request.receiving,), of_peer=True)
        except KeyReuse as error:
            raise iq_error("449", str(error), stream=change.stream_id) from error

    @staticmethod
    def _named(context: Context, spec: iq_pb2.TerminationSpec) -> Termination:
        if spec.id:
            return MediaGateway.termination(context, spec.id)
        side = SIDES.get(spec.side)
        if side is None:
            raise iq_error("442", "side is missing")
        if spec.realm not in ("", side.value):
            raise iq_error("449", f"realm {spec.realm[:40]!r} is not served here")
        if context.termination(side) is not None:
            raise iq_error("434", f"the context has a termination on the {side} side")
        termination = Termination(secrets.token_hex(4), side, f"{side}-0")
        context.terminations[termination.termination_id] = termination
        return termination

    async def _carry_out(self, context: Context, changes: Sequence[_Change]) -> Changed:
        """Bring the relay to what was asked; a failure takes back the streams that were new."""
        added: list[tuple[Termination, int]] = []
        changed: dict[str, tuple[Termination, list[StreamRecord]]] = {}
        try:
            await self._add_streams(context, changes, added)
            for change in changes:
                termination, streams = change.termination, change.termination.streams
                named = changed.setdefault(termination.termination_id, (termination, []))[1]
                if change.request is None:
                    if change.stream_id in streams:
                        await self._remove_stream(context, termination, change.stream_id)
                    continue
                if (termination, change.stream_id) not in added:
                    await self._modify(context, termination, streams[change.stream_id], change.request)
                named.append(streams[change.stream_id])
        except (RelayError, ProblemError) as error:
            await self._take_back(context, added)
            if isinstance(error, RelayError):
                raise of_relay(error) from error
            raise
        self._changed(context)
        return list(changed.values())

    async def _add_streams(
        self, context: Context, changes: Sequence[_Change], added: list[tuple[Termination, int]]
    ) -> None:
        """Open what is new, both sides of a stream in one command."""
        new: dict[int, list[_Change]] = {}
        for change in changes:
            if change.request is not None and change.stream_id not in change.termination.streams:
                new.setdefault(change.stream_id, []).append(change)
        for stream_id, group in new.items():
            name = context.relay_id(stream_id)
            sides = {each.termination.side: each.request.config for each in group if each.request is not None}
            locals_: dict[Side, LocalAddress] = {}
            if any(stream_id in each.streams for each in context.terminations.values()):
                for side, config in sides.items():
                    locals_[side] = await self.relay.modify(name, side, config)
            else:
                locals_.update(await self.relay.add(StreamConfig(name, sides)))
            for each in group:
                assert each.request is not None
                record = StreamRecord(stream_id, each.request.config, each.request.transport)
                record.opens(each.request.config)
                each.request.apply(record)
                record.local = locals_[each.termination.side]
                each.termination.streams[stream_id] = record
                added.append((each.termination, stream_id))
                self._associations.open(context, each.termination, record)

    async def _modify(
        self, context: Context, termination: Termination, record: StreamRecord, request: StreamRequest
    ) -> None:
        if request.config.protection is Protection.OPAQUE and record.config.protection is not Protection.OPAQUE:
            raise iq_error("449", "a stream does not become opaque", stream=record.stream_id)
        rekeyed = request.sending != record.sending or request.receiving != record.receiving
        record.opens(request.config)
        record.unsure = record.unsure or (rekeyed and request.sending is not None)
        try:
            record.local = await self.relay.modify(context.relay_id(record.stream_id), termination.side, request.config)
        except RelayUnavailableError:
            raise  # it may have sent under the key before it died
        except RelayError:
            record.unsure = False
            raise
        record.unsure = False
        if request.config.remote != record.config.remote or request.config.latching is Latching.OFF:
            record.latched, record.received = None, {}  # until the packet loop tells of them anew
        request.apply(record)
        if record.config.latching.value == "relatch":  # asked for once
            record.config = replace(record.config, latching=type(record.config.latching).LATCH)
        if rekeyed:
            self._associations.rekeyed(record)
        self._associations.describe(record)

    async def _remove_stream(self, context: Context, termination: Termination, stream_id: int) -> RelayStatistics:
        record = termination.streams.pop(stream_id)
        try:
            statistics = await self.relay.remove(context.relay_id(stream_id), termination.side)
        except RelayError as error:
            self._associations.close(record, None)
            raise of_relay(error) from error
        self._associations.close(record, statistics.sides.get(termination.side))
        return statistics

    async def _take_back(self, context: Context, added: Iterable[tuple[Termination, int]]) -> None:
        for termination, stream_id in added:
            record = termination.streams.pop(stream_id)
            self._associations.close(record, None)
            try:
                await self.relay.remove(context.relay_id(stream_id), termination.side)
            except RelayError:  # the packet loop is gone, and the stream with it
                continue
