"""MIKEY messages as octets: what is read here and written again has the same octets, as MACs need.

Layouts: RFC 3830 6, RFC 4563 5, RFC 6043 6. Encoders raise MalformedMessage for values that do not fit their field.
"""

from __future__ import annotations

from collections.abc import Sequence

from keying.mikey.payloads import Header, KeyData, Message, Payload, TicketPayload, TicketPolicy, Verification
from keying.mikey.registry import DataType

MAX_MESSAGE = 65_535
"""Octets of a message that we read."""


def decode(octets: bytes, *, limit: int = MAX_MESSAGE) -> Message:
    """Read a whole message. Raises MikeyError and nothing else."""
    raise NotImplementedError


def decode_header(octets: bytes) -> tuple[Header, int, int]:
    """Read HDR alone, of any registered data type; return it, the first payload's number and place."""
    raise NotImplementedError


def decode_data_type(octets: bytes) -> DataType:
    """Read the data type alone."""
    raise NotImplementedError


def encode(message: Message) -> bytes:
    """Write a message from its header and payloads (`raw` and `spans` are not looked at)."""
    raise NotImplementedError


def decode_chain(first: int, octets: bytes) -> tuple[Payload, ...]:
    """Read payloads, the first of number `first`."""
    raise NotImplementedError


def encode_chain(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """Write payloads; return the number of the first and the octets."""
    raise NotImplementedError


def encode_policy(policy: TicketPolicy) -> bytes:
    """Write a ticket policy from Ticket Type to the end of TP Data."""
    raise NotImplementedError


def encode_ticket(ticket: TicketPayload) -> bytes:
    """Write a TICKET payload without its next-payload octet."""
    raise NotImplementedError


def decode_ticket(octets: bytes) -> TicketPayload:
    """Read a TICKET payload without its next-payload octet."""
    raise NotImplementedError


def decode_ticket_data(octets: bytes) -> tuple[Payload, ...]:
    """Read Ticket Data of the base ticket: THDR first, then payloads (RFC 6043 A.1)."""
    raise NotImplementedError


def encode_ticket_data(payloads: Sequence[Payload]) -> bytes:
    """Write Ticket Data; the first payload is THDR."""
    raise NotImplementedError


def decode_initiator_data(octets: bytes) -> tuple[Verification, Verification]:
    """Read Initiator Data: Vi and Vr. Vi may say "last" or "V" for what follows (RFC 6043 6.10 has it both ways)."""
    raise NotImplementedError


def encode_initiator_data(vi: Verification, vr: Verification) -> bytes:
    """Write Initiator Data; its MAC input is this without the last ``len(vr.mac)`` octets."""
    raise NotImplementedError


def decode_key_data(octets: bytes) -> tuple[KeyData, ...]:
    """Read what a KEMAC decrypts to: Key data sub-payloads."""
    raise NotImplementedError


def encode_key_data(keys: Sequence[KeyData]) -> bytes:
    """Write Key data sub-payloads for a KEMAC."""
    raise NotImplementedError


def without_mac(octets: bytes) -> bytes:
    """Return a message without the MAC of its last payload, which is V (RFC 6043 5.5)."""
    raise NotImplementedError


def without_signature(octets: bytes) -> bytes:
    """Return a message without the signature of its last payload, which is SIGN."""
    raise NotImplementedError


def with_mac(octets: bytes, mac: bytes) -> bytes:
    """Return a message with `mac` in its last payload, which is V with a MAC of that length."""
    raise NotImplementedError


def without_initiator_data(octets: bytes) -> bytes:
    """Return a TRANSFER_INIT without its MAC and without length and octets of Initiator Data (RFC 6043 table 5.2)."""
    raise NotImplementedError


def ticket_mac_input(policy: TicketPolicy, ticket_data: bytes) -> bytes:
    """Return what the V of Ticket Data covers: Ticket Type to the end of Ticket Data but for the MAC (RFC 6043 A.1)."""
    raise NotImplementedError
