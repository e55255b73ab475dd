"""What the supervisor does for ``imslab ticket`` and ``imslab kms``: tickets of software UEs, audit and keys."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from opentelemetry.trace import Span, format_trace_id

from keying.mikey.codec import decode, decode_ticket, encode_ticket
from keying.mikey.errors import MikeyError
from keying.mikey.payloads import TicketPayload
from keying.mikey.policy import has
from keying.mikey.registry import DataType, TicketFlag
from lab.control import ControlError, Json, Operation, Params, Progress, options_of
from lab.labfile import LabFile, UserRow
from lab.operator import Operator
from lab.refusals import refusal, silent_node, ticket_refusal
from lab.ticket_words import alterations
from protos import kms_control_pb2, ue_control_pb2
from sba.errors import RemoteProblem
from sba.telemetry import format_traceparent

MIKEY_VERSION = 1
"""First octet of every MIKEY message; a TICKET payload begins with the high octet of its type, 0."""
_Answer = TypeVar("_Answer")
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
        validity, mode_3 = params.get("validity_s"), params.get("mode_3") is True
        if mode_3 and not (user.kms in self._lab.nodes and self._lab.nodes[user.kms].user_made_tickets):
            said = f"the KMS {user.kms} resolves no" if user.kms else "this lab has no KMS for"
            raise ControlError(
                f"{said} tickets that users make; set kms.user_made_tickets: true in the lab description", "usage"
            )
        order = ue_control_pb2.TicketOrder(
            responders=[self._identity(name) for name in _texts(params, "responders")],
            reusable=params.get("reusable") is True,
            no_forking=params.get("no_forking") is True,
            validity_s=int(validity) if isinstance(validity, (int, float)) else 0,
            mode_3=mode_3,
            options=options_of(params),
        )
        with self._operator.telemetry.tracer.start_as_current_span("imslab ticket request") as span:
            order.traceparent = _traceparent(span)
            try:
                info = await self._operator.request_ticket(user.name, order)
            except RemoteProblem as problem:
                names = {"responders": "responder", "validity_s": "--validity"}
                raise ticket_refusal(user.name, problem, _trace_id(span), names) from None
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
        ticket = ticket_in(str(params.get("ticket", "")))
        options = options_of(params)
        if not options:  # switches are for negative tests, which ask for what cannot be
            check_resolvable(ticket, user.name)
        order = ue_control_pb2.ResolveOrder(ticket=ticket, options=options)
        with self._operator.telemetry.tracer.start_as_current_span("imslab ticket resolve") as span:
            order.traceparent = _traceparent(span)
            try:
                info = await self._operator.resolve_ticket(user.name, order)
            except RemoteProblem as problem:
                raise ticket_refusal(user.name, problem, _trace_id(span)) from None
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
        wanted, limit = str(params.get("user", "")), params.get("limit")
        identity, most = self._identity(wanted) if wanted else "", int(limit) if isinstance(limit, int) else 0

        async def ask(instance: str) -> Sequence[kms_control_pb2.AuditEntry]:
            return (await self._operator.kms_audit(instance, identity, most)).entries

        found, failed = await _of_each(self._chosen(params), ask)
        told = [audit_document(kms, entry, self._lab.names) for kms, each in found.items() for entry in each]
        entries = sorted(told, key=_moment, reverse=True)
        return {"entries": [*entries[: most or None]], "failed": {**failed}}

    async def _rotate(self, params: Params, progress: Progress) -> Json:
        del progress
        rotated, failed = await _of_each(self._chosen(params), self._operator.rotate_ticket_key)
        return {"tpk_id": {**rotated}, "failed": {**failed}}

    def _chosen(self, params: Params) -> dict[str, list[str]]:
        """The instances of each KMS to ask, by its name: they have one store and one key, so one of them is asked."""
        instances: dict[str, list[str]] = {}
        for instance in self._lab.kms:
            instances.setdefault(self._lab.nodes[instance].nf or instance, []).append(instance)
        wanted = str(params.get("kms") or "")
        named = self._lab.names.get(wanted, wanted)
        if named in self._lab.kms and named not in instances and wanted != named:
            named = self._lab.nodes[named].nf  # an identity is that of all instances
        if not instances:
            raise ControlError("this lab has no KMS (home_domains in its description)", "usage")
        if not named:
            return instances
        if named not in self._lab.kms:
            raise ControlError(f"no KMS is called {named}; there are {', '.join(self._lab.kms)}", "usage")
        return {named: instances.get(named, [named])}

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


def _trace_id(span: Span) -> str:
    return format_trace_id(span.get_span_context().trace_id)


def _moment(entry: Mapping[str, Json]) -> float:
    at = entry["at"]
    return float(at) if isinstance(at, (int, float)) else 0.0


async def _of_each(
    instances: Mapping[str, Sequence[str]], ask: Callable[[str], Awaitable[_Answer]]
) -> tuple[dict[str, _Answer], dict[str, str]]:
    """Ask one instance of every KMS at the same time, the next where one is silent; return answers and faults."""
    found: dict[str, _Answer] = {}
    failed: dict[str, str] = {}

    async def one(kms: str) -> None:
        for instance in instances[kms]:
            try:
                found[kms] = await ask(instance)
            except RemoteProblem as problem:
                failed.setdefault(kms, silent_node(instance, problem))
            else:
                failed.pop(kms, None)
                return

    await asyncio.gather(*map(one, instances))
    return {kms: found[kms] for kms in instances if kms in found}, failed


def check_resolvable(octets: bytes, user: str) -> None:
    """Refuse a ticket with key forking that stands alone: no KMS can tell who sent it (RFC 6043 4.2.3, A).

    Raises ``ControlError`` of kind usage; what cannot be read is left to the UE.
    """
    try:
        ticket = decode_ticket(octets)
    except MikeyError:
        return
    if has(ticket.policy, TicketFlag.I) and not ticket.initiator_data:
        raise ControlError(
            "a ticket with key forking (flag I) resolves only inside a TRANSFER_INIT, with the Initiator Data that"
            f" prove who sent it. Call {user} with --security e2e-kms --with-keys --exchange FILE and resolve that"
            " FILE, or request a ticket with --no-forking, which resolves alone",
            "usage",
        )


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
        "altered": [*_altered(info)],
        "not_before": info.not_before,
        "not_after": info.not_after,
        "key_spis": list(info.key_spis),
        "uses": info.uses,
        "ticket": _base64(info.ticket),
        "REQUEST_INIT": _base64(info.request_init),
        "REQUEST_RESP": _base64(info.request_resp),
        "trace_id": info.trace_id,
    }


def _altered(info: ue_control_pb2.TicketInfo) -> list[str]:
    try:
        return alterations(info.request_init, info.request_resp, decode_ticket(info.ticket).policy)
    except MikeyError:
        return []


def audit_document(kms: str, entry: kms_control_pb2.AuditEntry, names: Mapping[str, str]) -> dict[str, Json]:
    """Return the JSON form of an audit record of ``kms``; ``names`` gives the instance behind a KMS's identity."""
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
        "peer_kms": names.get(entry.peer_kms, entry.peer_kms),
    }


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _texts(params: Params, key: str) -> list[str]:
    value = params.get(key)
    return [str(item) for item in value] if isinstance(value, list) else []
