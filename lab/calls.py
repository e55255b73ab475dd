"""A call placed by the operator: register on demand, call, watch, collect what every node saw of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import grpc
from opentelemetry.trace import SpanKind, format_trace_id

from keying.secret import Secret
from lab import exchange
from lab.control import ControlError, Progress
from lab.labfile import LabFile, UserRow
from lab.ladder import media_ends
from lab.ladder_steps import MediaEnd
from lab.operator import Operator
from lab.packets import CallCapture
from lab.refusals import explain, meaning, refusal
from lab.tracestore import TraceStore
from lab.unseen import unseen
from lab.verdict import Audio, Verdict, join_legs
from media.quality import compare
from media.wav import WavError, parse_wav, read_wav
from protos import iq_pb2, ue_control_pb2
from sba.errors import RemoteProblem
from sba.telemetry import format_traceparent

AUDIT_EVERY_S = 0.5
"""Pause between two looks at the gateways during a call, seconds."""
SPANS_WAIT_S = 2.0
"""How long the spans of the media legs are waited for after a call, seconds."""
_SIDES = {iq_pb2.ACCESS: "access", iq_pb2.CORE: "core"}
_NOT_REGISTERED = "Not Registered"
"""Reason phrase of a CSCF for a user of whom it has no contact."""
_AUDIO = "audio"
_TALKING = ("established", "media")


@dataclass(frozen=True)
class CallOrder:
    """What ``imslab call`` asks for. ``seconds`` is talk time; paths are absolute."""

    caller: str
    callee: str
    security: str = ""
    seconds: float = 5.0
    play: str = ""
    record: str = ""
    pcap: str = ""
    with_keys: bool = False
    exchange: str = ""
    suites: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


class CallDesk:
    """Places calls for the command line."""

    def __init__(self, operator: Operator, store: TraceStore, lab: LabFile) -> None:
        self._operator = operator
        self._store = store
        self._lab = lab
        self._users = lab.users

    def software_ue(self, name: str) -> UserRow:
        """Return the user ``name`` who has a UE here; raises ``ControlError`` of kind usage."""
        user = self._users.get(name)
        if user is None:
            raise ControlError(f"no user is called {name}; there are {', '.join(self._users)}", "usage")
        if not user.software_ue:
            raise ControlError(f"{name} is played by a foreign client, not by a UE of this lab", "usage")
        return user

    def check(self, order: CallOrder) -> tuple[UserRow, str, UserRow | None]:
        """Return caller, target URI and called user of an order; raises ``ControlError`` of kind usage."""
        caller = self.software_ue(order.caller)
        target, callee = self._callee(order.callee)
        if callee is caller:
            raise ControlError(f"{caller.name} cannot call itself", "usage")
        return caller, target, callee

    def _callee(self, name: str) -> tuple[str, UserRow | None]:
        user = self._users.get(name)
        if user is not None:
            return user.impu, user
        for user in self._users.values():
            if name in (user.impu, user.tel):
                return name, user
        if name.startswith(("sip:", "sips:", "tel:")):
            return name, None
        raise ControlError(f"no user is called {name}; there are {', '.join(self._users)}", "usage")

    async def ensure_registered(self, user: UserRow, progress: Progress) -> None:
        """Register ``user``'s UE unless it is; raises ``ControlError`` when the network refuses."""
        try:
            if (await self._operator.ue_status(user.name)).registered:
                return
            await progress({"state": "registering", "user": user.name})
            answer = await self._operator.register(user.name)
        except RemoteProblem as problem:
            raise refusal(user.name, problem) from None
        if not answer.registered:
            raise ControlError(f"{user.name} could not register: SIP {answer.sip_status} {answer.reason}")

    async def place(self, order: CallOrder, progress: Progress) -> Verdict:
        """Place the call and return its verdict. Raises ``ControlError`` when it could not even be tried."""
        caller, target, callee = self.check(order)
        try:
            wav = await asyncio.to_thread(Path(order.play).read_bytes) if order.play else b""
        except OSError as error:
            raise ControlError(f"{order.play} cannot be read: {error.strerror}", "usage") from None
        await self.ensure_registered(caller, progress)
        if callee is not None and callee.software_ue:
            await self.ensure_registered(callee, progress)
        security = order.security or default_security(caller)
        tracer = self._operator.telemetry.tracer
        with tracer.start_as_current_span("imslab call", kind=SpanKind.INTERNAL) as span:
            context = span.get_span_context()
            request = ue_control_pb2.CallRequest(
                target=target,
                security=security,
                seconds=order.seconds,
                play_wav=wav,
                record=bool(order.record),
                suites=order.suites,
                options=order.options,
                with_keys=order.with_keys,
                traceparent=format_traceparent(context),
            )
            call = _CallInProgress(self._operator, self._store, self._lab, progress, caller, callee)
            verdict = await call.run(request, order)
            span.set_attributes({"imslab.result": verdict.result, "imslab.call.trace_id": verdict.trace_id})
        return replace(verdict, trace_id=verdict.trace_id or format_trace_id(context.trace_id))


class _CallInProgress:
    """One call from its INVITE to the last report."""

    def __init__(
        self,
        operator: Operator,
        store: TraceStore,
        lab: LabFile,
        progress: Progress,
        caller: UserRow,
        callee: UserRow | None,
    ) -> None:
        self._operator = operator
        self._store = store
        self._lab = lab
        self._gateways = lab.gateways
        self._progress = progress
        self._caller = caller
        self._callee = callee
        self._last = ue_control_pb2.CallEvent()
        self._audited: dict[tuple[str, str, str], MediaEnd] = {}
        self._auditor: asyncio.Task[None] | None = None

    async def run(self, request: ue_control_pb2.CallRequest, order: CallOrder) -> Verdict:
        capture = CallCapture(self._operator, self._lab, with_keys=order.with_keys) if order.pcap else None
        if capture is not None:
            await capture.start()
        problem: RemoteProblem | None = None
        try:
            async for event in self._operator.call(self._caller.name, request):
                await self._note(event)
        except RemoteProblem as caught:
            problem = caught
        finally:
            if self._auditor is not None:
                self._auditor.cancel()
            if capture is not None:
                await capture.stop()
        if problem is not None and problem.code is grpc.StatusCode.INVALID_ARGUMENT and not self._last.call_id:
            names = {"target": order.callee, "play_wav": order.play, "suites": "suite"}
            raise refusal(self._caller.name, problem, names)
        verdict = await self._conclude(problem, order)
        if order.exchange:
            verdict = await self._write_exchange(Path(order.exchange), verdict)
        if capture is not None:
            path = await capture.write(Path(order.pcap), self._store, verdict)
            verdict = replace(verdict, pcap=str(path))
        return verdict

    async def _note(self, event: ue_control_pb2.CallEvent) -> None:
        if event.call_id and not self._last.call_id and self._auditor is None:
            self._auditor = asyncio.create_task(self._audit(event.call_id))
        if event.legs:
            self._last.ClearField("legs")
        if event.HasField(_AUDIO):
            self._last.ClearField(_AUDIO)
        agreed = self._last.security if self._last.state in _TALKING and event.state not in _TALKING else ""
        self._last.MergeFrom(event)
        self._last.security = agreed or self._last.security  # an ended call has no media, but it had
        await self._progress(
            {
                "state": event.state,
                "call_id": event.call_id,
                "sip_status": event.sip_status,
                "reason": event.reason,
                "setup_ms": event.setup_ms,
                "security": event.security,
            }
        )

    async def _audit(self, call_id: str) -> None:
        while True:
            for gateway in self._gateways:
                with contextlib.suppress(RemoteProblem):
                    audit = await unseen(partial(self._operator.audit, gateway))
                    for leg in audited_legs(gateway, audit, call_id):
                        self._audited[gateway, leg.side, leg.local] = leg
            await asyncio.sleep(AUDIT_EVERY_S)

    async def _conclude(self, problem: RemoteProblem | None, order: CallOrder) -> Verdict:
        last, call_id = self._last, self._last.call_id
        result = last.result or ("failed" if problem is not None or not last.sip_status else "refused")
        reports: list[list[MediaEnd]] = [end_legs(self._caller.name, last)]
        audio: dict[str, Audio] = {}
        recordings: list[str] = []
        far_name = self._callee.name if self._callee else order.callee
        if result == "established":
            if last.HasField(_AUDIO):
                audio[f"{far_name}->{self._caller.name}"] = heard(last.audio)
                recordings += await _record(order.record, self._caller.name, last.audio.wav)
            if self._callee is not None and self._callee.software_ue:
                with contextlib.suppress(RemoteProblem):
                    wanted = bool(order.record or order.play)
                    far = await self._operator.report(self._callee.name, call_id, with_wav=wanted)
                    reports.append(end_legs(self._callee.name, far))
                    if far.HasField(_AUDIO):
                        judged = heard(far.audio)
                        if order.play:
                            judged = await asyncio.to_thread(against_file, judged, Path(order.play), far.audio.wav)
                        audio = {f"{self._caller.name}->{far_name}": judged, **audio}
                        recordings += await _record(order.record, self._callee.name, far.audio.wav)
            reports += [list(self._audited.values()), await self._spans(call_id)]
        reason = last.reason or (explain(self._caller.name, problem) if problem is not None else "")
        return Verdict(
            call_id=call_id,
            trace_id=last.trace_id,
            result=result,
            sip_status=last.sip_status,
            setup_ms=last.setup_ms,
            security=last.security,
            reason=reason,
            meaning=(meaning(reason, self._words()) or self._absent(last)) if result != "established" else "",
            legs=join_legs(*reports, order=self._path()),
            audio=audio,
            recordings=tuple(recordings),
        )

    def _absent(self, last: ue_control_pb2.CallEvent) -> str:
        """Say how a user is reached whom no UE of the lab plays; empty where that is not why nobody answered."""
        if self._callee is None or self._callee.software_ue or last.reason != _NOT_REGISTERED:
            return ""
        name = self._callee.name
        return f"{name} has no software UE: a client of its own has to register (imslab client-config CLIENT {name})"

    def _words(self) -> dict[str, str]:
        return {word: meaning for mode in self._lab.modes.values() for word, meaning in mode.words.items()}

    async def _write_exchange(self, path: Path, verdict: Verdict) -> Verdict:
        """Write the MIKEY messages and keys of the call; a call without them leaves no file."""
        caller, callee = self._last.mikey, ue_control_pb2.MikeyExchange()
        if not caller.transfer_init:
            return verdict
        if self._callee is not None and self._callee.software_ue:
            with contextlib.suppress(RemoteProblem):
                callee = (await self._operator.report(self._callee.name, verdict.call_id, with_keys=True)).mikey
        issuer = self._lab.names.get(caller.issuer, "")
        key: Secret | None = None
        if issuer in self._lab.kms:
            with contextlib.suppress(RemoteProblem):
                key = await self._operator.export_ticket_key(issuer, caller.ticket)
        await asyncio.to_thread(exchange.write, path, exchange.document(caller, callee, key))
        return replace(verdict, exchange=str(path))

    def _path(self) -> list[str]:
        path = [self._caller.name, self._gateway_of(self._caller)]
        if self._callee is not None:
            path += [self._gateway_of(self._callee), self._callee.name]
        return list(dict.fromkeys(path))

    def _gateway_of(self, user: UserRow) -> str:
        """The gateway whose access leg leads to a user's UE: of several in his network the one that served."""
        nodes = self._lab.nodes
        here = [leg for leg in self._audited.values() if leg.side == "access" and leg.node in nodes]
        here = [leg for leg in here if nodes[leg.node].access_network == user.access]
        own = nodes[user.name].host if user.name in nodes else ""
        at_him = [leg.node for leg in here if own and leg.remote.rpartition(":")[0] == own]
        return next(iter([*at_him, *(leg.node for leg in here)]), user.gateway)

    async def _spans(self, call_id: str) -> list[MediaEnd]:
        expected = set(self._audited)
        deadline = time.monotonic() + SPANS_WAIT_S
        while True:
            spans = await asyncio.to_thread(self._store.associations_of_call, call_id)
            ends = [end for end in media_ends(spans) if end.side in ("access", "core")]
            if (
                expected and expected <= {(end.node, end.side, end.local) for end in ends}
            ) or time.monotonic() > deadline:
                return ends
            await asyncio.sleep(0.05)


def default_security(caller: UserRow) -> str:
    """Return what a call without ``--security`` asks for; empty leaves it to a UE that prefers keys of its KMS."""
    if caller.kms_level in ("preferred", "required"):
        return ""
    return "e2ae-sdes" if caller.announces else "none"


def heard(report: ue_control_pb2.AudioReport) -> Audio:
    """Turn a UE's audio report into the verdict's form."""
    return Audio(report.heard, report.snr_db, report.loss, report.jitter_ms)


def against_file(report: Audio, played: Path, wav: bytes) -> Audio:
    """Judge a recording against the file that was played: the called UE knows only the lab's own voices."""
    try:
        found = compare(read_wav(played), parse_wav(wav)[1])
    except (WavError, OSError):
        return report
    return replace(report, heard=report.heard or found.heard, snr_db=found.snr_db)


def end_legs(node: str, event: ue_control_pb2.CallEvent) -> list[MediaEnd]:
    """Return the legs a UE reported of its own end."""
    return [
        MediaEnd(
            node=node,
            side="end",
            protection=leg.protection,
            keying=leg.keying,
            suite=leg.suite,
            stream=str(leg.stream_id or 1),
            local=leg.local,
            remote=leg.remote,
            packets_in=leg.packets_in,
            packets_out=leg.packets_out,
            auth_failures=leg.auth_failures,
            replays=leg.replays,
        )
        for leg in event.legs
    ]


def audited_legs(gateway: str, audit: iq_pb2.AuditResponse, call_id: str) -> list[MediaEnd]:
    """Return the legs of one call in a gateway's audit; one whose port is still being reserved is no leg yet."""
    legs = [
        MediaEnd(
            node=gateway,
            side=_SIDES.get(row.side, ""),
            protection=row.protection,
            keying="SDES" if row.protection == "SRTP" else "",
            suite=row.suite,
            stream=str(row.stream_id or 1),
            local=_own_address(context, row),
            remote=row.latched,
            packets_in=row.packets_in,
            packets_out=row.packets_out,
            auth_failures=row.auth_failures,
            replays=row.replays,
            drops=tuple((drop.cause, drop.packets) for drop in row.drops),
        )
        for context in audit.contexts
        if context.correlation == call_id
        for row in context.statistics
    ]
    return [leg for leg in legs if leg.local]


def _own_address(context: iq_pb2.ContextAudit, row: iq_pb2.StreamStatistics) -> str:
    for termination in context.terminations:
        if termination.termination_id == row.termination_id:
            for stream in termination.streams:
                if stream.stream_id == row.stream_id and stream.port:
                    return f"{stream.ip}:{stream.port}"
    return ""


async def _record(folder: str, name: str, wav: bytes) -> list[str]:
    if not folder or not wav:
        return []
    path = Path(folder) / f"heard-by-{name}.wav"

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav)

    await asyncio.to_thread(write)
    return [str(path)]
