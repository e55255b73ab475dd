"""What happens in the lab, made into events, and the samples of calls in progress.

The trace store says what came, from its own threads; here it is gathered and handled on the loop. Without a page that
watches nothing is asked or made; gateways are asked while calls are in progress, watched or not, since the plots of a
call are looked at when it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from lab import callfind, callstore
from lab.callfold import CallRecord
from lab.callsamples import Sample
from lab.console import documents
from lab.console.events import EventStream
from lab.console.labview import Host, LabView
from lab.kms_operations import audit_document
from lab.operator import Operator
from lab.spans import Span
from lab.tracestore import TraceStore
from lab.unseen import unseen
from protos import iq_pb2
from sba.errors import RemoteProblem

GATHER_S: Final = 0.25
"""How long changes are gathered before they become events: a call is told at most so often, s."""
ROLL_CALL_S: Final = 2.0
"""How long an instance may be gone before that is told, s."""
SAMPLE_S: Final = 1.0
"""Time between two looks at the gateways during calls, s; longer where a look takes long."""
SHARE: Final = 0.1
"""Share of the time that looking at gateways may take."""
SELDOM_S: Final = 10.0
"""Longest time between two looks, however long they take, s."""
MOST_SAMPLED: Final = 64
"""Calls sampled at a time, the newest."""
LOST_S: Final = 10.0
"""A call that no gateway has had for so long is over, whoever failed to say so, s."""
SILENT_S: Final = 60.0
"""The same while a gateway does not answer, s."""
MOST_TOLD: Final = 500
"""Changed calls in one gathering that are told one by one; beyond, pages look anew."""
_SIDES = {iq_pb2.ACCESS: "access", iq_pb2.CORE: "core"}
_TICKETS_ASKED: Final = 20


class Feed:
    """Watches the lab for the event stream."""

    def __init__(
        self,
        host: Host,
        view: LabView,
        operator: Operator,
        store: TraceStore,
        reader: TraceStore,
        events: EventStream,
    ) -> None:
        self._host, self._view, self._operator = host, view, operator
        self._store, self._reader, self._events = store, reader, events
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[str] = set()
        self._users: set[str] = set()
        self._servers: set[str] = set()
        self._news = asyncio.Event()
        self._calling = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._told_tickets: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self.audits: dict[str, iq_pb2.AuditResponse] = {}
        """What the gateways said last, while calls are in progress."""

    def start(self) -> None:
        """Begin to watch."""
        self._loop = asyncio.get_running_loop()
        self._store.on_news(self._came)
        for work in (self._tell_nodes, self._tell_news, self._sample):
            self._tasks.append(asyncio.create_task(_kept(work)))
        self._calling.set()  # calls of an earlier run may be open in the store

    async def stop(self) -> None:
        """End watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._loop = None

    # from the threads of the store

    def _came(self, call_ids: Sequence[str], spans: Sequence[Span]) -> None:
        loop = self._loop
        if loop is None:
            return
        users: set[str] = set()
        servers: set[str] = set()
        if self._events.watched:
            for span in spans:
                if span.name == "SIP REGISTER" and span.kind == "CLIENT":
                    users.add(span.node)
                elif span.name == "kms.decision":
                    servers.add(span.node)
        if call_ids or users or servers:
            with contextlib.suppress(RuntimeError):  # the loop is gone: so is whoever listens
                loop.call_soon_threadsafe(self._note, call_ids, users, servers)

    def _note(self, call_ids: Iterable[str], users: set[str], servers: set[str]) -> None:
        self._calling.set()
        if self._events.watched:
            self._calls.update(call_ids)
            self._users |= users
            self._servers |= servers
            self._news.set()
        else:
            self._events.missed()

    # nodes

    async def _tell_nodes(self) -> None:
        known = set(self._view.places())
        with self._host.watching() as queue:
            while True:
                try:
                    async with asyncio.timeout(ROLL_CALL_S):
                        node = await queue.get()
                except TimeoutError:
                    node = None
                there = set(self._view.places())
                if there != known:  # an instance came or went
                    known = there
                    self._events.send("lab", {})
                if node is not None and node.instance in there:
                    self._events.send("node", self._view.node(node.instance, log_line=False))

    # calls, registrations, tickets

    async def _tell_news(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            calls, self._calls = self._calls, set()
            users, self._users = self._users, set()
            servers, self._servers = self._servers, set()
            if not self._events.watched:
                self._events.missed()
                continue
            await self._tell_calls(calls)
            if users:
                self._view.forget_statuses()
            for user in users & set(self._host.lab.users):
                status = await self._view.ask_ue(user)
                self._events.send("registration", self._view.registration(user, status))
            for kms in servers & set(self._host.lab.kms):
                await self._tell_tickets(kms)

    async def _tell_calls(self, call_ids: set[str]) -> None:
        if not call_ids:
            return
        if len(call_ids) > MOST_TOLD:
            self._events.send("lab", {})
            call_ids = set(list(call_ids)[:MOST_TOLD])

        def read() -> tuple[list[CallRecord], int, int]:
            with self._reader.reading() as db:
                found = [call for call_id in call_ids if (call := callstore.load(db, call_id)) is not None]
                return found, callstore.count(db), len(callfind.live(db))

        calls, total, live = await asyncio.to_thread(read)
        for call in sorted(calls, key=lambda each: each.began_ns):
            self._events.send("call", documents.summary(call, self._view.names))
        self._events.send("counts", {"calls": total, "live": live})

    async def _tell_tickets(self, kms: str) -> None:
        try:
            audit = await unseen(lambda: self._operator.kms_audit(kms, "", _TICKETS_ASKED))
        except (RemoteProblem, KeyError):
            return
        newest = self._told_tickets.get(kms)
        fresh = [entry for entry in audit.entries if newest is None or entry.at > newest]
        for entry in sorted(fresh[:1] if newest is None else fresh, key=lambda each: each.at):
            self._told_tickets[kms] = max(self._told_tickets.get(kms, 0.0), entry.at)
            self._events.send("ticket", in_ms(audit_document(kms, entry, self._host.lab.names)))

    # samples

    async def _sample(self) -> None:
        while True:
            await self._calling.wait()
            self._calling.clear()
            live = await asyncio.to_thread(self._live)
            if not live:
                self.audits, self._seen = {}, {}
                continue
            began = time.monotonic()
            self.audits = await self._view.audits()
            took = time.monotonic() - began
            await self._keep(live)
            self._calling.set()
            await asyncio.sleep(min(max(SAMPLE_S, took / SHARE), SELDOM_S))

    def _live(self) -> list[CallRecord]:
        with self._reader.reading() as db:
            return callfind.live(db, MOST_SAMPLED)

    async def _keep(self, live: Sequence[CallRecord]) -> None:
        wanted = {call.call_id for call in live}
        at_ms = round(time.time() * 1000, 1)
        samples = [
            each
            for gateway, audit in self.audits.items()
            for each in samples_of(gateway, audit, at_ms)
            if each.call_id in wanted
        ]
        if samples:
            await asyncio.to_thread(self._store.add_samples, samples)
            for call_id in wanted if self._events.watched else ():
                own = [documents.sample(each) for each in samples if each.call_id == call_id]
                if own:
                    self._events.send("sample", {"call_id": call_id, "samples": own})
        await self._end_lost(live, {each.call_id for each in samples})

    async def _end_lost(self, live: Sequence[CallRecord], present: set[str]) -> None:
        """End calls that no gateway knows any more: their BYE was never seen."""
        now = time.monotonic()
        complete = len(self.audits) == len(self._host.lab.gateways) > 0
        held = {context.correlation for audit in self.audits.values() for context in audit.contexts} | present
        for call in live:
            last = self._seen.setdefault(call.call_id, now)
            if call.call_id in held:
                self._seen[call.call_id] = now
            elif now - last > (LOST_S if complete else SILENT_S):
                self._seen.pop(call.call_id)
                await asyncio.to_thread(self._store.change_call, call.call_id, _lose)
        self._seen = {call.call_id: self._seen[call.call_id] for call in live if call.call_id in self._seen}


def _lose(call: CallRecord) -> None:
    call.lost_ns = call.lost_ns or time.time_ns()


def samples_of(gateway: str, audit: iq_pb2.AuditResponse, at_ms: float) -> list[Sample]:
    """Return what a gateway counted of every stream at a moment."""
    return [
        Sample(
            call_id=context.correlation,
            at_ms=at_ms,
            node=gateway,
            stream=str(row.stream_id or 1),
            side=_SIDES.get(row.side, ""),
            packets_in=row.packets_in,
            packets_out=row.packets_out,
            lost=row.lost,
            jitter_ms=row.jitter_ms,
            drops={drop.cause: drop.packets for drop in row.drops if drop.packets},
        )
        for context in audit.contexts
        for row in context.statistics
        if context.correlation
    ]


def in_ms(ticket: dict[str, Any]) -> dict[str, Any]:
    """Return a record of a KMS's audit with its times in milliseconds, ``None`` where unbounded."""
    times = {
        key: round(float(ticket[key]) * 1000, 3) if ticket[key] else None for key in ("at", "not_before", "not_after")
    }
    return {**ticket, **times}


async def _kept(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``work`` again and again; what ends it is told in the supervisor's log and ends nothing else."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - the lab goes on without the console
            traceback.print_exc(file=sys.stdout)
            await asyncio.sleep(SAMPLE_S)
