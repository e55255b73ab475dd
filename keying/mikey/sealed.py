"""Which MIKEY messages show no key to whoever reads them, so that a hop may pass them on and a trace may keep them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from keying.mikey.codec import decode, decode_initiator_data, decode_ticket_data
from keying.mikey.errors import MikeyError
from keying.mikey.payloads import Kemac, KeyData, Payload, TicketPayload, TicketPolicyPayload
from keying.mikey.registry import DataType, EncrAlg

SEALED_TYPES: Final = frozenset({DataType.TRANSFER_INIT, DataType.TRANSFER_RESP, DataType.ERROR})
"""MIKEY messages that carry no key, or one under a key that no signalling hop has (RFC 6043 4.2.2, 12)."""
MAX_TICKETS = 4
"""Tickets that are looked into, one in another."""


def shows_no_key(octets: bytes) -> bool:
    """Tell whether a message is of a sealed type, can be read to its end, and has no key in it that is not encrypted.

    Ticket Data is looked into as well. False for everything that cannot be read.
    """
    try:
        message = decode(octets)
        return message.header.data_type in SEALED_TYPES and _encrypted(message.payloads, MAX_TICKETS)
    except MikeyError:
        return False


def is_encrypted(octets: bytes) -> bool:
    """Tell whether a message of any type can be read to its end and has no key in it that is not encrypted.

    That is less than :func:`shows_no_key`: the key it is encrypted under may be known to whoever else reads it.
    """
    try:
        return _encrypted(decode(octets).payloads, MAX_TICKETS)
    except MikeyError:
        return False


def _encrypted(payloads: Iterable[Payload], tickets: int) -> bool:
    return all(_is_encrypted(payload, tickets) for payload in payloads)


def _is_encrypted(payload: Payload, tickets: int) -> bool:
    if isinstance(payload, KeyData):
        return False
    if isinstance(payload, Kemac):
        return payload.encr_alg is not EncrAlg.NULL
    if isinstance(payload, TicketPolicyPayload):
        return _encrypted(payload.policy.payloads, tickets)
    if isinstance(payload, TicketPayload):
        if payload.initiator_data:
            decode_initiator_data(payload.initiator_data)
        inside = (*payload.policy.payloads, *decode_ticket_data(payload.ticket_data))
        return tickets > 0 and _encrypted(inside, tickets - 1)
    return True
