"""MIKEY messages spoilt on purpose, for negative tests (T5): what ``tamper_mikey`` and ``tamper`` in config.py name.

Nothing here runs unless a switch of the control service says so.
"""

from __future__ import annotations

import base64
import dataclasses

from keying.mikey.codec import decode, encode
from keying.mikey.identity import Identity
from keying.mikey.ntp import from_unix
from keying.mikey.payloads import IdRoled, Payload, TicketPayload, TicketPolicy, TimestampRole
from keying.mikey.registry import IdRole, TsRole
from signalling.sdp import SessionDescription
from signalling.sdp.keymgmt import ATTRIBUTE, MIKEY, place

HOUR = 3600.0
CUT = 10
"""Octets a truncated message lacks."""
NOBODY = Identity.uri("sip:nobody@nowhere.invalid")
SPOILT_TICKETS = frozenset({"wrong-ticket", "wrong-responder", "expired"})


def spoil(message: bytes, how: str) -> bytes:
    """Return a message spoilt on its way: flip-mac or truncate."""
    if how == "flip-mac":
        return message[:-1] + bytes([message[-1] ^ 1])
    return message[:-CUT] if how == "truncate" else message


def spoil_ticket_data(payload: TicketPayload) -> TicketPayload:
    """Return a ticket with one bit of its Ticket Data flipped."""
    data = bytearray(payload.ticket_data)
    data[len(data) // 2] ^= 1
    return dataclasses.replace(payload, ticket_data=bytes(data))


def spoil_carried_ticket(message: bytes, how: str, now: float) -> bytes:
    """Return a TRANSFER_INIT with another ticket than its sender was given: wrong-ticket, wrong-responder or expired.

    Its MAC is that of the good message: whoever gets it finds the ticket first.
    """
    if how not in SPOILT_TICKETS:
        return message
    read = decode(message)
    payloads: list[Payload] = [
        _spoilt(each, how, now) if isinstance(each, TicketPayload) else each for each in read.payloads
    ]
    return encode(dataclasses.replace(read, payloads=tuple(payloads)))


def _spoilt(ticket: TicketPayload, how: str, now: float) -> TicketPayload:
    if how == "wrong-ticket":
        return spoil_ticket_data(ticket)
    if how == "wrong-responder":
        responder = NOBODY.payload(IdRole.RESPONDER)
        changed = [responder if _is_responder(each) else each for each in ticket.policy.payloads]
    else:
        changed = [_ended(each, now) for each in ticket.policy.payloads if not _is_start(each)]
    return dataclasses.replace(ticket, policy=_with(ticket.policy, changed))


def _with(policy: TicketPolicy, payloads: list[Payload]) -> TicketPolicy:
    return dataclasses.replace(policy, payloads=tuple(payloads))


def _is_responder(payload: Payload) -> bool:
    return isinstance(payload, IdRoled) and payload.role is IdRole.RESPONDER


def _is_start(payload: Payload) -> bool:
    return isinstance(payload, TimestampRole) and payload.role is TsRole.START


def _ended(payload: Payload, now: float) -> Payload:
    if isinstance(payload, TimestampRole) and payload.role is TsRole.END:
        return TimestampRole(payload.role, payload.ts_type, from_unix(now - HOUR, payload.ts_type).value)
    return payload


def sending_time(now: float, how: str) -> float:
    """Return when a message claims to be sent."""
    return now - HOUR if how == "old-timestamp" else now


def further_protocols(how: str) -> tuple[str, ...]:
    """Return protocols that the message says were offered and SDP does not have."""
    return ("keyp1",) if how == "strip-sdp-ids" else ()


def place_spoilt(sdp: SessionDescription, level: int | None, message: bytes, how: str, offered: bytes = b"") -> None:
    """Write a message into SDP, spoilt in the way `how` says; unspoilt for every other word."""
    section = sdp if level is None else sdp.media[level]
    if how == "strip":
        return
    if how == "garbage":
        section.add(ATTRIBUTE, f"{MIKEY} *{base64.b64encode(message).decode()}*")
        return
    if how == "with-crypto":
        for media in sdp.media:
            media.add("crypto", "1 AES_CM_128_HMAC_SHA1_80 inline:" + base64.b64encode(bytes(30)).decode())
    place(sdp, level, offered if how == "reflect" and offered else spoil(message, how))
