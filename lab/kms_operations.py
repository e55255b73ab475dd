"""What the supervisor does for ``imslab ticket`` and ``imslab kms``: tickets of software UEs, audit and keys."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

from opentelemetry.trace import Span

from keying.mikey.codec import decode, encode_ticket
from keying.mikey.errors import MikeyError
from keying.mikey.payloads import TicketPayload
from keying.mikey.registry import DataType
from lab.control import ControlError, Json, Operation, Params, Progress
from lab.labfile import LabFile, UserRow
from lab.operator import Operator
from lab.refusals import refusal
from protos import kms_control_pb2, ue_control_pb2
from sba.errors import RemoteProblem
from sba.telemetry import format_traceparent

MIKEY_VERSION = 1
"""First octet of every MIKEY message; a TICKET payload begins with the high octet of its type, 0."""
Users = Callable[[str], UserRow]
"""Finds the user of a name who has a software UE; raises ``ControlError``."""


class TicketDesk:
    """Tickets and key management services, by the operator's hand."""

    def __init__(self, operator: Operator, lab: LabFile, software_ue: Users) -> None:
        self._operator = operator
        self._lab = lab
        self._software_ue = software_ue

    def operations(self) -> Mapping[str, Operation]:
        """Return the operations of the control socket by name."""
        return {
            "ticket-request": self._request,
            "ticket-list": self._list,
            "ticket-resolve": self._resolve,
            "kms-audit": self._audit,
            "kms-rotate": self._rotate,
        }

    async def _request(self, params: Params, progress: Progress) -> Json:
        del progress
        user = self._software_ue(str(params.get("user", "")))
        validity = params.get("validity_s")
        order = ue_control_pb2.TicketOrder(
            responders=[self._identity(name) for name in _texts(params, "responders")],
            reusable=params.get("reusable") is True,
            no_forking=params.get("no_forking") is True,
            validity_s=int(validity) if isinstance(validity, (int, float)) else 0,
            mode_3=params.get("mode_3") is True,
            options=_options(params),
        )
        with self._operator.telemetry.tracer.start_as_current_span("imslab ticket request") as span:
            order.traceparent = _traceparent(span)
            try:
                info = await self._operator.request_ticket(user.name, order)
            except RemoteProblem as problem:
                raise refusal(user.name, problem, {"responders": "responder", "validity_s": "--validity"}) from None
        return ticket_document(info)

    async def _list(self, params: Params, progress: Progress) -> Json:
        del progress
        user = self._software_ue(str(params.get("user", "")))
        try:
            found = await self._operator.tickets(user.name)
        except RemoteProblem as problem:
            raise refusal(user.name, problem) from None
        return {"user": user.name, "tickets": [ticket_document(info) for info in found.tickets]}

    async def _resolve(self, params: Params, progress: Progress) -> Json:
        del progress
        user = self._software_ue(str(params.get("user", "")))
        order = ue_control_pb2.ResolveOrder(ticket=ticket_in(str(params.get("ticket", ""))), options=_options(params))
        with self._operator.telemetry.tracer.start_as_current_span("imslab ticket resolve") as span:
            order.traceparent = _traceparent(span)
            try:
                info = await self._operator.resolve_ticket(user.name, order)
            except RemoteProblem as problem:
                raise refusal(user.name, problem) from None
        return {
            "kms": info.kms,
            "responder": info.responder,
            "forked": info.forked,
            "key_spis": list(info.key_spis),
            "RESOLVE_INIT": _base64(info.resolve_init),
            "RESOLVE_RESP": _base64(info.resolve_resp),
            "trace_id": info.trace_id,
        }

    async def _audit(self, params: Params, progress: Progress) -> Json:
        del progress
        limit = params.get("limit")
        wanted = str(params.get("user", ""))
        identity = self._identity(wanted) if wanted else ""
        entries: list[Json] = []
        for kms in self._chosen(params):
            try:
                answer = await self._operator.kms_audit(kms, identity, int(limit) if isinstance(limit, int) else 0)
            except RemoteProblem as problem:
                raise _of_kms(kms, problem) from None
            entries += [audit_document(kms, entry) for entry in answer.entries]
        return {"entries": entries}

    async def _rotate(self, params: Params, progress: Progress) -> Json:
        del progress
        rotated: dict[str, Json] = {}
        for kms in self._chosen(params):
            try:
                rotated[kms] = await self._operator.rotate_ticket_key(kms)
            except RemoteProblem as problem:
                raise _of_kms(kms, problem) from None
        return {"tpk_id": rotated}

    def _chosen(self, params: Params) -> list[str]:
        wanted, there_are = str(params.get("kms") or ""), list(self._lab.kms)
        if wanted and wanted not in there_are:
            known = f"there are {', '.join(there_are)}" if there_are else "this lab has none"
            raise ControlError(f"no KMS is called {wanted}; {known}", "usage")
        if not there_are:
            raise ControlError("this lab has no KMS (home_domains in its description)", "usage")
        return [wanted] if wanted else there_are

    def _identity(self, name: str) -> str:
        user = self._lab.users.get(name)
        if user is None and not name.startswith(("sip:", "sips:", "tel:")):
            raise ControlError(f"no user is called {name}; there are {', '.join(self._lab.users)}", "usage")
        return name if user is None else user.impu


def ticket_in(text: str) -> bytes:
    """Return the TICKET payload that ``text`` holds in base64: alone or, with Initiator Data, in a TRANSFER_INIT.

    Raises ``ControlError`` of kind usage.
    """
    try:
        octets = base64.b64decode(text, validate=True)
        if octets[:2] != bytes((MIKEY_VERSION, DataType.TRANSFER_INIT)):
            return octets
        payloads = decode(octets).payloads
    except (binascii.Error, MikeyError) as error:
        raise ControlError(f"this is no ticket: {error}", "usage") from None
    found = next((payload for payload in payloads if isinstance(payload, TicketPayload)), None)
    if found is None:
        raise ControlError("the TRANSFER_INIT has no ticket", "usage")
    return encode_ticket(found)


def _traceparent(span: Span) -> str:
    return format_traceparent(span.get_span_context())


def _of_kms(kms: str, problem: RemoteProblem) -> ControlError:
    return ControlError(f"{kms}: {problem}", "failed")


def ticket_document(info: ue_control_pb2.TicketInfo) -> dict[str, Json]:
    """Return the JSON form of a ticket: octets in base64, times in seconds since the epoch."""
    return {
        "ticket_id": info.ticket_id,
        "kms": info.kms,
        "initiator": info.initiator,
        "responders": list(info.responders),
        "ticket_type": info.ticket_type,
        "subtype": info.subtype,
        "version": info.version,
        "flags": info.flags,
        "not_before": info.not_before,
        "not_after": info.not_after,
        "key_spis": list(info.key_spis),
        "uses": info.uses,
        "ticket": _base64(info.ticket),
        "REQUEST_INIT": _base64(info.request_init),
        "REQUEST_RESP": _base64(info.request_resp),
        "trace_id": info.trace_id,
    }


def audit_document(kms: str, entry: kms_control_pb2.AuditEntry) -> dict[str, Json]:
    """Return the JSON form of an audit record of ``kms``."""
    return {
        "kms": kms,
        "at": entry.at,
        "operation": entry.operation,
        "outcome": entry.outcome,
        "reason": entry.reason,
        "user": entry.user,
        "responders": list(entry.responders),
        "ticket_id": entry.ticket_id,
        "not_before": entry.not_before,
        "not_after": entry.not_after,
        "tpk_id": entry.tpk_id,
        "peer_kms": entry.peer_kms,
    }


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _texts(params: Params, key: str) -> list[str]:
    value = params.get(key)
    return [str(item) for item in value] if isinstance(value, list) else []


def _options(params: Params) -> dict[str, str]:
    value = params.get("options")
    return {key: str(item) for key, item in value.items()} if isinstance(value, dict) else {}
