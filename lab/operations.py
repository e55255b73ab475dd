"""What the supervisor does for the command line: one coroutine an operation of the control socket."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, TypeVar

from lab.calls import CallDesk, CallOrder
from lab.capture_operations import CaptureDesk
from lab.console.service import Console
from lab.control import ControlError, ControlServer, Json, Operation, Params, Progress, options_of
from lab.kms_operations import TicketDesk
from lab.metricstore import MetricStore
from lab.operator import Operator
from lab.otlp import OtlpReceiver, ReceiverCredentials
from lab.otlp_forward import OtlpForward
from lab.refusals import refusal
from lab.scale import Scaler
from lab.senders import Senders
from lab.supervisor_metrics import count_lab
from lab.tracestore import TraceStore
from sba.errors import RemoteProblem

if TYPE_CHECKING:
    from lab.supervisor import Supervisor

_T = TypeVar("_T")


class Operations:
    """The operator, the trace store, the OTLP receiver and the control socket of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        folder, lab = supervisor.folder, supervisor.lab
        self.store = TraceStore(folder.traces)
        self.operator = Operator(folder.lab_json, lab.nodes)
        self._desk = CallDesk(self.operator, self.store, lab)
        self.metrics = MetricStore()
        self._forward = OtlpForward(lab.otlp_forward, supervisor.tell) if lab.otlp_forward else None
        self._receiver = OtlpReceiver(
            self.store,
            Senders(lab.nodes.values(), self.operator.identity.revoked, supervisor.tell),
            self.metrics,
            self._forward.offer if self._forward is not None else None,
        )
        operations: dict[str, Operation] = {}
        settings = supervisor.console_settings()
        self.console = Console(
            supervisor, self.operator, self._desk, self.store, operations, settings, supervisor.tell, self.metrics
        )
        self._control = ControlServer(folder.socket, operations)
        operations.update(
            {
                "ping": self._ping,
                "status": self._status,
                "watch": self._watch,
                "register": self._register,
                "deregister": self._deregister,
                "call": self._call,
                "ue": self._ue,
                "behave": self._behave,
                "modify": self._modify,
                "hang-up": self._hang_up,
                "settle": self._settle,
                "metrics": self._metrics,
                "restart": self._restart,
                "down": self._down,
                "console": self.console.operation,
                "scale": Scaler(supervisor, self.operator).operation,
                **CaptureDesk(self.operator, lab).operations(),
                **TicketDesk(self.operator, lab, self._desk.software_ue).operations(),
            }
        )

    async def open(self) -> None:
        """Begin to receive telemetry and to answer the command line."""
        lab, own = self._supervisor.lab, self.operator.identity
        credentials = ReceiverCredentials(
            *(path.read_bytes() for path in (own.key_path, own.certificate_path, own.ca_path))
        )
        if self._forward is not None:
            self._forward.start()
        count_lab(self.operator.telemetry.meter, self._supervisor.fleet, self._forward)
        await self._receiver.start(lab.otlp_bind, lab.otlp_port, credentials)
        await self._control.start()
        await self.console.start()

    async def close(self) -> None:
        """Stop answering, take the last telemetry and close the store."""
        await self.console.stop()
        await self._control.stop()
        await self.operator.close()
        await self._receiver.stop()
        if self._forward is not None:
            await self._forward.stop()
        self.store.close()

    async def _ping(self, params: Params, progress: Progress) -> Json:
        del params, progress
        return {"serving": self._supervisor.started.is_set() and not self._supervisor.failed}

    async def _status(self, params: Params, progress: Progress) -> Json:
        del params, progress
        registered, streams, loops = await asyncio.gather(
            self._registered(), self._media_streams(), self._packet_loops()
        )
        return {
            "nodes": self._nodes(),
            "registrations": registered,
            "media_streams": streams,
            "packet_loops": loops,
            "telemetry": dict(self.store.counts()),
            "start_s": self._start_s(),
            "console": self.console.url,
        }

    def _serving(self, kind: str) -> list[str]:
        nodes = self._supervisor.fleet.nodes.values()
        return [node.instance for node in nodes if node.order.kind == kind and node.state.value == "serving"]

    async def _registered(self) -> list[Json]:
        """The users whose UE holds a registration, sorted."""

        async def one(user: str) -> str:
            try:
                return user if (await self.operator.ue_status(user)).registered else ""
            except RemoteProblem:
                return ""

        found = await asyncio.gather(*(one(user) for user in self._serving("ue")))
        return [*sorted(filter(None, found))]

    async def _media_streams(self) -> int:
        """Streams that the gateways carry at this moment."""

        async def one(gateway: str) -> int:
            try:
                return (await self.operator.audit(gateway)).streams_in_use
            except RemoteProblem:
                return 0

        return sum(await asyncio.gather(*(one(gateway) for gateway in self._serving("imsagw"))))

    async def _packet_loops(self) -> Params:
        """Which packet loop each gateway runs, and why, as it told the NRF."""
        try:
            profiles = await self.operator.profiles()
        except RemoteProblem:
            return {}
        found = {profile.instance_name: profile.attributes.get("packet_loop", "") for profile in profiles}
        return {name: loop for name, loop in sorted(found.items()) if loop}

    def _nodes(self) -> list[Json]:
        return [plain(row) for row in self._supervisor.status()]

    def _start_s(self) -> float:
        return round(self._supervisor.start_seconds, 3)

    async def _watch(self, params: Params, progress: Progress) -> Json:
        del params
        with self._supervisor.watching() as queue:
            for row in self._nodes():
                await progress({"node": row})
            started = asyncio.ensure_future(self._supervisor.started.wait())
            try:
                while not started.done():
                    change = asyncio.ensure_future(queue.get())
                    await asyncio.wait({change, started}, return_when=asyncio.FIRST_COMPLETED)
                    if change.done():
                        node = change.result()
                        row = {"instance": node.instance, "state": node.state.value, "reason": node.reason}
                        since = round(time.monotonic() - node.since, 1)
                        await progress({"node": {**row, "waits_for": node.waits_for, "since_s": since}})
                    else:
                        change.cancel()
            finally:
                started.cancel()
        failed: list[Json] = [node.instance for node in self._supervisor.failed]
        return {"nodes": self._nodes(), "failed": failed, "start_s": self._start_s()}

    async def _register(self, params: Params, progress: Progress) -> Json:
        del progress
        user = self._desk.software_ue(_text(params, "user"))
        answer = await _asked(
            user.name,
            self.operator.register(
                user.name,
                media_security=_text(params, "media_security"),
                expires=int(_number(params, "expires")),
                options=options_of(params),
            ),
        )
        return {
            "user": user.name,
            "registered": answer.registered,
            "sip_status": answer.sip_status,
            "reason": answer.reason,
            "associated_uris": list(answer.associated_uris),
            "media_mechanisms": list(answer.media_mechanisms),
            "expires": answer.expires,
            "trace_id": answer.trace_id,
        }

    async def _deregister(self, params: Params, progress: Progress) -> Json:
        del progress
        user = self._desk.software_ue(_text(params, "user"))
        answer = await _asked(user.name, self.operator.deregister(user.name))
        return {
            "user": user.name,
            "registered": answer.registered,
            "sip_status": answer.sip_status,
            "reason": answer.reason,
            "trace_id": answer.trace_id,
        }

    async def _call(self, params: Params, progress: Progress) -> Json:
        suites = params.get("suites")
        order = CallOrder(
            caller=_text(params, "from"),
            callee=_text(params, "to"),
            security=_text(params, "security"),
            seconds=_number(params, "seconds"),
            play=_text(params, "play"),
            record=_text(params, "record"),
            pcap=_text(params, "pcap"),
            with_keys=params.get("with_keys") is True,
            exchange=_text(params, "exchange"),
            suites=tuple(map(str, suites)) if isinstance(suites, list) else (),
            options=options_of(params),
        )
        if (order.with_keys or order.exchange) and not self._supervisor.lab.key_export:
            raise ControlError("this lab never exports keys (key_export: never in its description)", "usage")
        verdict = await self._desk.place(order, self.console.noting(order, progress))
        return verdict.document()

    async def _ue(self, params: Params, progress: Progress) -> Json:
        del progress
        user = self._desk.software_ue(_text(params, "user"))
        status = await _asked(user.name, self.operator.ue_status(user.name))
        return {
            "user": user.name,
            "impu": status.impu,
            "registered": status.registered,
            "media_mechanisms": list(status.media_mechanisms),
            "associated_uris": list(status.associated_uris),
            "expires_in_s": round(status.expires_in_s, 1),
            "transport": status.transport,
            "pcscf": status.pcscf,
            "calls": [{"call_id": call.call_id, "state": call.state} for call in status.calls],
        }

    async def _behave(self, params: Params, progress: Progress) -> Json:
        del progress
        user = self._desk.software_ue(_text(params, "user"))
        return dict(await _asked(user.name, self.operator.behave(user.name, options_of(params))))

    async def _modify(self, params: Params, progress: Progress) -> Json:
        del progress
        user = self._desk.software_ue(_text(params, "user"))
        call_id, action = _text(params, "call_id"), _text(params, "action")
        answer = await _asked(user.name, self.operator.modify(user.name, call_id, action, options_of(params)))
        return {"sip_status": answer.sip_status, "reason": answer.reason}

    async def _hang_up(self, params: Params, progress: Progress) -> Json:
        del progress
        user = self._desk.software_ue(_text(params, "user"))
        return {"sip_status": await _asked(user.name, self.operator.hang_up(user.name, _text(params, "call_id")))}

    async def _settle(self, params: Params, progress: Progress) -> Json:
        del params, progress
        from lab.supervisor import TELEMETRY_GRACE_S

        await asyncio.to_thread(self.operator.telemetry.flush)
        await asyncio.sleep(TELEMETRY_GRACE_S)
        return dict(self.store.counts())

    async def _metrics(self, params: Params, progress: Progress) -> Json:
        del progress
        points = self.store.metrics(_text(params, "node") or None)
        return [plain(dataclasses.asdict(point)) for point in points]

    async def _restart(self, params: Params, progress: Progress) -> Json:
        del progress
        try:
            await self._supervisor.fleet.restart(_text(params, "node"))
        except KeyError:
            raise ControlError(f"no node is called {_text(params, 'node')}", "usage") from None
        return {}

    async def _down(self, params: Params, progress: Progress) -> Json:
        del params, progress
        if self._supervisor.lab.containers:
            raise ControlError("the container engine ends the nodes of this lab: docker compose down", "usage")
        asyncio.get_running_loop().call_later(0.02, self._supervisor.stop)
        return {}


async def _asked(user: str, answer: Awaitable[_T]) -> _T:
    try:
        return await answer
    except RemoteProblem as problem:
        raise refusal(user, problem) from None


def plain(value: object) -> Json:
    """Return ``value`` as JSON knows it; what it does not know becomes text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value)


def _text(params: Params, key: str) -> str:
    value = params.get(key, "")
    return value if isinstance(value, str) else ""


def _number(params: Params, key: str) -> float:
    value = params.get(key, 0)
    return float(value) if isinstance(value, (int, float)) else 0.0
