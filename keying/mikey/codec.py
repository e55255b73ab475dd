"""MIKEY messages as octets: what is read here and written again has the same octets, as MACs need.

Layouts: RFC 3830 6, RFC 4563 5, RFC 6043 6. Readers raise MikeyError and nothing else, on any input; the
constants of ``codec_wire`` bound them. Writers raise MalformedMessage for values that do not fit their field.
"""

from __future__ import annotations

from collections.abc import Sequence

from keying.mikey import codec_payloads
from keying.mikey.codec_header import read_data_type, read_header, write_header
from keying.mikey.codec_payloads import read_chain, read_ticket_header, write_chain, write_policy
from keying.mikey.codec_wire import MAX_MESSAGE, MAX_NESTING, MAX_PAYLOADS, lv16, whole
from keying.mikey.errors import MalformedMessage, UnsupportedDataType
from keying.mikey.payloads import (
    Header,
    KeyData,
    Message,
    Payload,
    Signature,
    TicketHeader,
    TicketPayload,
    TicketPolicy,
    Verification,
)
from keying.mikey.registry import DataType, NextPayload

__all__ = [
    "MAX_MESSAGE",
    "MAX_NESTING",
    "MAX_PAYLOADS",
    "REFUSED",
    "decode",
    "decode_chain",
    "decode_data_type",
    "decode_header",
    "decode_initiator_data",
    "decode_key_data",
    "decode_ticket",
    "decode_ticket_data",
    "encode",
    "encode_chain",
    "encode_initiator_data",
    "encode_key_data",
    "encode_policy",
    "encode_ticket",
    "encode_ticket_data",
    "ticket_mac_input",
    "without_initiator_data",
    "without_mac",
    "without_signature",
]

REFUSED = frozenset(
    {
        DataType.DH_INIT,
        DataType.DH_RESP,
        DataType.DHHMAC_INIT,
        DataType.DHHMAC_RESP,
        DataType.RSA_R_I_MSG,
        DataType.RSA_R_R_MSG,
    }
)
"""Data types whose payloads are not read: TS 33.328 does not use them."""


def decode(octets: bytes, *, limit: int = MAX_MESSAGE) -> Message:
    """Read a whole message. Raises MikeyError and nothing else."""
    reader = whole(octets, "message", limit)
    header, first = read_header(reader)
    if header.data_type in REFUSED:
        reason = f"messages of type {header.data_type.name} are not read"
        raise UnsupportedDataType("HDR", reason, data_type=header.data_type)
    if first == NextPayload.LAST:
        raise MalformedMessage("HDR", "no payload follows")
    payloads, spans = read_chain(first, reader)
    return Message(header, payloads, raw=reader.octets, spans=spans)


def decode_header(octets: bytes) -> tuple[Header, int, int]:
    """Read HDR alone, of any registered data type; return it, the first payload's number and place."""
    reader = whole(octets, "message")
    header, first = read_header(reader)
    return header, first, reader.position


def decode_data_type(octets: bytes) -> DataType:
    """Read the data type alone."""
    return read_data_type(whole(octets, "message"))


def encode(message: Message) -> bytes:
    """Write a message from its header and payloads (`raw` and `spans` are not looked at)."""
    if not message.payloads:
        raise MalformedMessage("HDR", "no payload follows")
    first, chain = write_chain(message.payloads)
    octets = write_header(message.header, first) + chain
    if len(octets) > MAX_MESSAGE:
        raise MalformedMessage("message", f"{len(octets)} octets, more than {MAX_MESSAGE}")
    return octets


def decode_chain(first: int, octets: bytes) -> tuple[Payload, ...]:
    """Read payloads, the first of number `first`."""
    return read_chain(first, whole(octets, "payloads"))[0]


def encode_chain(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """Write payloads; return the number of the first and the octets."""
    return write_chain(payloads)


def encode_policy(policy: TicketPolicy) -> bytes:
    """Write a ticket policy from Ticket Type to the end of TP Data."""
    return write_policy(policy)


def encode_ticket(ticket: TicketPayload) -> bytes:
    """Write a TICKET payload without its next-payload octet."""
    return codec_payloads.write_ticket(ticket)


def decode_ticket(octets: bytes) -> TicketPayload:
    """Read a TICKET payload without its next-payload octet."""
    reader = whole(octets, "TICKET")
    ticket = codec_payloads.read_ticket(reader)
    reader.finish("TICKET")
    return ticket


def decode_ticket_data(octets: bytes) -> tuple[Payload, ...]:
    """Read Ticket Data of the base ticket: THDR first, then payloads (RFC 6043 A.1)."""
    reader = whole(octets, "Ticket Data")
    header, following = read_ticket_header(reader)
    return (header, *read_chain(following, reader)[0])


def encode_ticket_data(payloads: Sequence[Payload]) -> bytes:
    """Write Ticket Data; the first payload is THDR."""
    if not payloads or not isinstance(payloads[0], TicketHeader):
        raise MalformedMessage("Ticket Data", "begins with THDR")
    following, chain = write_chain(payloads[1:])
    return bytes([following]) + lv16(payloads[0].data, "THDR") + chain


def decode_initiator_data(octets: bytes) -> tuple[Verification, Verification]:
    """Read Initiator Data: Vi and Vr (RFC 6043 6.10).

    Vi is "identical" to the V of TRANSFER_INIT, whose next payload is 0, although Vr follows: both 0 and 9 are taken.
    """
    reader = whole(octets, "Initiator Data")
    if reader.u8("Initiator Data") != NextPayload.V:
        raise MalformedMessage("Initiator Data", "does not begin with Vi")
    if reader.left and octets[reader.position] == NextPayload.LAST:
        reader = whole(octets[:1] + bytes([NextPayload.V]) + octets[2:], "Initiator Data")
        reader.u8("Initiator Data")
    payloads = read_chain(NextPayload.V, reader)[0]
    vi, vr = payloads[0], payloads[-1]
    if len(payloads) < 2 or not isinstance(vi, Verification) or not isinstance(vr, Verification):
        raise MalformedMessage("Initiator Data", "is not Vi and Vr")
    return vi, vr


def encode_initiator_data(vi: Verification, vr: Verification) -> bytes:
    """Write Initiator Data; its MAC input is this without the last ``len(vr.mac)`` octets.

    Vi says that Vr follows: so much it differs from the V it repeats (RFC 6043 6.10).
    """
    first, chain = write_chain((vi, vr))
    return bytes([first]) + chain


def decode_key_data(octets: bytes) -> tuple[KeyData, ...]:
    """Read what a KEMAC decrypts to: one or more Key data sub-payloads (RFC 3830 6.13)."""
    keys: list[KeyData] = []
    for payload in read_chain(NextPayload.KEY_DATA, whole(octets, "KEMAC"))[0]:
        if not isinstance(payload, KeyData):
            raise MalformedMessage("KEMAC", "holds something else than Key data")
        keys.append(payload)
    return tuple(keys)


def encode_key_data(keys: Sequence[KeyData]) -> bytes:
    """Write Key data sub-payloads for a KEMAC."""
    if not keys:
        raise MalformedMessage("KEMAC", "holds no Key data")
    return write_chain(keys)[1]


def without_mac(message: Message | bytes) -> bytes:
    """Return a message's octets without the MAC of its last payload, which is V (RFC 6043 5.5)."""
    message = _read(message)
    verification = message.payloads[-1]
    if not isinstance(verification, Verification):
        raise MalformedMessage("V", "is not the last payload")
    return message.raw[: len(message.raw) - len(verification.mac)]


def without_signature(message: Message | bytes) -> bytes:
    """Return a message's octets without the signature of its last payload, which is SIGN (RFC 6043 5.5)."""
    message = _read(message)
    signature = message.payloads[-1]
    if not isinstance(signature, Signature):
        raise MalformedMessage("SIGN", "is not the last payload")
    return message.raw[: len(message.raw) - len(signature.value)]


def without_initiator_data(message: Message | bytes) -> bytes:
    """Return a TRANSFER_INIT without its MAC and without length and octets of Initiator Data (RFC 6043 5.5).

    They are written behind that MAC, which they repeat. TRANSFER_RESP covers the initial message whole, with them.
    """
    message = _read(message)
    covered = without_mac(message)
    tickets = [
        (payload, end)
        for payload, (_, end) in zip(message.payloads, message.spans, strict=True)
        if isinstance(payload, TicketPayload)
    ]
    if len(tickets) > 1:
        raise MalformedMessage("TICKET", "stands there more than once")
    for ticket, end in tickets:  # none in a CSB update
        covered = covered[: end - len(ticket.initiator_data) - 2] + covered[end:]
    return covered


def ticket_mac_input(policy: TicketPolicy, ticket_data: bytes) -> bytes:
    """Return what the V of Ticket Data covers: Ticket Type to the end of Ticket Data but for the MAC (RFC 6043 A.1).

    The next payload octet in front changes from message to message and is left out, as Initiator Data are; the length
    of Ticket Data is the final one and counts the MAC.
    """
    verification = decode_ticket_data(ticket_data)[-1]
    if not isinstance(verification, Verification):
        raise MalformedMessage("Ticket Data", "does not end with V")
    covered = write_policy(policy) + lv16(ticket_data, "Ticket Data")
    return covered[: len(covered) - len(verification.mac)]


def _read(message: Message | bytes) -> Message:
    if isinstance(message, Message):
        return message if message.raw else decode(encode(message))
    return decode(message)
