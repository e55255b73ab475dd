"""The control link to the IMS-AGWs: association, heartbeat, epochs, events, re-adoption (IQ-4, 7.4, T9)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from nodes.pcscf.config import InactivityPolicy
from nodes.pcscf.edge import Edge
from nodes.pcscf.iq import AgwContext, follow
from nodes.pcscf.rekeying import Rekeying
from nodes.pcscf.release import MEDIA_LOST, MEDIA_SECURITY, MEDIA_SILENT, Releaser
from nodes.pcscf.session import Session
from protos import iq_pb2
from sba import runtime
from sba.errors import RemoteProblem

FIRST_TRY_S: Final = 0.5

Log = Callable[..., None]


class ControlLink:
    """Keeps in touch with every IMS-AGW of the access network and carries out what their notifications mean."""

    def __init__(self, edge: Edge, releaser: Releaser, log: Log) -> None:
        self._edge = edge
        self._releaser = releaser
        self._log = log
        self._rekeying = Rekeying(edge, releaser, log)
        self._lost: dict[str, int] = {}
        self._followers: dict[str, asyncio.Future[None]] = {}
        self._beating: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin; never raises, an IMS-AGW may come later."""
        self._beating = self._run(self._beat())

    def _run(self, work: Awaitable[None]) -> asyncio.Future[None]:
        task = runtime.spawn(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[None]) -> None:
        """A fault in the control link is told; without it calls would never be released."""
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._log("iq.fault", level="error", fault=type(fault).__name__)

    def stop(self) -> None:
        """Let go."""
        for task in (self._beating, *self._followers.values()):
            if task is not None:
                task.cancel()
        self._followers.clear()
        self._rekeying.stop()

    async def _beat(self) -> None:
        pause = FIRST_TRY_S
        while True:
            try:
                gateways = await self._edge.iq.known()
            except RemoteProblem:
                gateways = []
            # one that takes no new calls, or fell silent, is not named any more but still has sessions of ours
            contexts = (session.media.context for session in self._edge.sessions)
            gateways += sorted({context.agw for context in contexts if context is not None} - set(gateways))
            await asyncio.gather(*(self._touch(gateway) for gateway in gateways))
            pause = self._edge.settings.iq_heartbeat_s if gateways else FIRST_TRY_S
            await asyncio.sleep(pause)

    async def _touch(self, gateway: str) -> None:
        known = gateway in self._followers
        try:
            epoch = await (self._edge.iq.heartbeat(gateway) if known else self._edge.iq.associate(gateway))
        except RemoteProblem:
            self._lost[gateway] = self._lost.get(gateway, 0) + 1
            if self._lost[gateway] == self._edge.settings.iq_heartbeats_lost:
                self._edge.iq.shunned.add(gateway)
                self._log("iq.gateway-silent", level="warning", gateway=gateway)
            return
        self._lost.pop(gateway, None)
        self._edge.iq.shunned.discard(gateway)
        if not known:
            self._followers[gateway] = self._run(self._follow(gateway))
            await self._adopt(gateway, epoch)
        elif self._edge.iq.epochs.get(gateway, epoch) != epoch:
            await self._restarted(gateway, epoch)
        self._edge.iq.epochs[gateway] = epoch
        await self._reclaim(gateway)

    async def _reclaim(self, gateway: str) -> None:
        """Give back what was reserved for calls that never heard of it."""
        contexts = (session.media.context for session in self._edge.sessions)
        kept = {context.context_id for context in contexts if context is not None and context.agw == gateway}
        try:
            count = await self._edge.iq.reclaim(gateway, kept)
        except RemoteProblem:
            return  # with the next heartbeat
        if count:
            self._log("iq.reclaimed", level="warning", gateway=gateway, contexts=count)

    async def _adopt(self, gateway: str, epoch: str) -> None:
        """After a start of this node: contexts of known sessions stay, orphans go, sessions without context end."""
        try:
            audit = await self._edge.iq.audit(gateway)
        except RemoteProblem:
            return
        held = {context.context_id for context in audit.contexts if context.owner in ("", self._edge.iq.alg_id)}
        adopted = 0
        for session in self._edge.sessions:
            context = session.media.context
            if context is None or context.agw != gateway:
                continue
            if context.context_id in held:
                held.discard(context.context_id)
                context.epoch = audit.epoch
                adopted += 1
            else:
                await self._releaser.release(session, MEDIA_LOST)
        mine = [context for context in audit.contexts if context.owner == self._edge.iq.alg_id]
        for orphan in mine:
            if orphan.context_id in held:
                await self._edge.iq.release(AgwContext(gateway, orphan.context_id, epoch), normal=False)
        self._log("iq.associated", gateway=gateway, adopted=adopted, contexts=len(audit.contexts))

    async def _restarted(self, gateway: str, epoch: str) -> None:
        """A new epoch voids all contexts: the sessions end (IQ-4)."""
        self._log("iq.gateway-restarted", level="warning", gateway=gateway)
        self._edge.iq.epochs[gateway] = epoch
        for session in self._edge.sessions:
            context = session.media.context
            if context is not None and context.agw == gateway and context.epoch != epoch:
                await self._releaser.release(session, MEDIA_LOST)

    async def _follow(self, gateway: str) -> None:
        async for note in follow(self._edge.iq, gateway):
            kind = note.WhichOneof("event") or ""
            if kind == "restored":
                await self._restarted(gateway, note.restored)
            elif kind in ("going_down", "realm_down"):
                self._edge.iq.shunned.add(gateway)
            elif kind == "realm_up":
                self._edge.iq.shunned.discard(gateway)
            elif kind == "overload":
                (self._edge.iq.shunned.add if note.overload else self._edge.iq.shunned.discard)(gateway)
            else:
                session = self._edge.sessions.of_context(gateway, note.context_id)
                if session is not None:
                    # a fault in one call is told, and the others are still watched over
                    await asyncio.wait([self._run(self._session_event(session, note, kind))])

    async def _session_event(self, session: Session, note: iq_pb2.Notification, kind: str) -> None:
        settings = self._edge.settings
        level = "debug" if kind == "latched_address" else "info"
        self._log("iq.event", level=level, kind=kind, call_id=session.call_id, stream=note.stream_id)
        if kind == "bearer_released":
            await self._releaser.release(session, MEDIA_LOST)
        elif kind == "rekey_needed":
            self._rekeying.begin(session)
        elif kind == "media_inactivity":
            patient = session.emergency or settings.media_inactivity_policy is InactivityPolicy.LOG  # EM-11
            if not patient:
                await self._releaser.release(session, MEDIA_SILENT)
        elif kind == "key_expired" and not session.emergency:
            await self._releaser.release(session, MEDIA_SECURITY)
        elif kind == "srtp_failure" and not session.emergency:
            limit = settings.srtp_failures_release
            if limit and note.srtp_failure.auth_failures >= limit:
                await self._releaser.release(session, MEDIA_SECURITY)
