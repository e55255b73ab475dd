"""Every value that TS 33.328 chose and that could not be read, or that is local policy: one object, nothing in line.

RFC 3830 and RFC 6043 leave these open. What is marked "assumed" stands for text of TS 33.328 (Annexes A, D, H, I, K)
that was not available; :func:`assumed` lists those values, and a lab can set each of them (``mikey_profile``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, get_type_hints

from keying.mikey.registry import IdType, TsType

TicketKind = tuple[int, int, int]
"""Ticket type, subtype, version."""

BASE_TICKET: TicketKind = (1, 1, 1)
"""The MIKEY base ticket (RFC 6043 Appendix A)."""
THREE_GPP_TICKET: TicketKind = (2, 1, 1)
"""The 3GPP base ticket; subtype and version are assumed (TS 33.328 6.2.3.4, D.4)."""


@dataclass(frozen=True, slots=True)
class Assumed:
    """Marks a value of :class:`Profile` that stands for text of TS 33.328 that could not be read."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The values of MIKEY-TICKET that are a choice; lengths in octets, times in seconds."""

    # Tickets
    ticket_kinds_accepted: Annotated[
        frozenset[TicketKind], Assumed("TS 33.328 6.2.3.4.2 and D.4: subtypes and versions of type 2")
    ] = frozenset({BASE_TICKET, THREE_GPP_TICKET})
    ticket_kind_issued: Annotated[TicketKind, Assumed("TS 33.328 6.2.3.4.1: the type that a KMS issues")] = BASE_TICKET
    base_format_kinds: Annotated[
        frozenset[TicketKind], Assumed("TS 33.328 D.4: Ticket Data of type 2 is built as that of type 1")
    ] = frozenset({BASE_TICKET, THREE_GPP_TICKET})
    max_responders: int = 64
    """IDRr payloads of a ticket policy that we take."""

    # Algorithms
    suite: Annotated[str, Assumed("TS 33.328 D.2A: algorithms; a row of keying.mikey.kdf.SUITES")] = "128"
    suites_accepted: Annotated[frozenset[str], Assumed("TS 33.328 D.2A: algorithms")] = frozenset({"128", "256"})

    # Lengths that we send; RFC 6043 12.1 gives the minimum from the keys
    request_rand_octets: Annotated[
        int, Assumed("TS 33.328 D.2A: RANDRi of REQUEST_INIT; 32 goes with a 256-bit Ks_NAF")
    ] = 32
    transfer_rand_octets: Annotated[int, Assumed("TS 33.328 D.2A: RANDRi and RANDRr of the Transfer exchange")] = 32
    resolve_rand_octets: Annotated[int, Assumed("TS 33.328 D.2A: RANDRr of RESOLVE_INIT")] = 32
    kms_rand_octets: Annotated[int, Assumed("TS 33.328 D.2A: RANDRkms")] = 32
    ticket_rand_octets: Annotated[int, Assumed("TS 33.328 D.2A: RAND in Ticket Data")] = 32
    rand_min_octets: int = 16
    """What we take (RFC 3830 6.11: SHOULD be at least 16)."""
    spi_octets: Annotated[int, Assumed("TS 33.328 D.2A: SPI and MKI length")] = 4
    tpk_id_octets: int = 8
    """Length of the identifier (IDRpsk in Ticket Data) by which our KMS finds a ticket protection key."""

    # Time
    ts_type: Annotated[TsType, Assumed("TS 33.328 D.2A: timestamp type")] = TsType.NTP_UTC
    ts_types_accepted: frozenset[TsType] = frozenset({TsType.NTP_UTC, TsType.NTP, TsType.NTP_UTC_32})
    """COUNTER needs state that a KMS must not keep before it has authenticated the sender (RFC 6043 12.3)."""
    clock_skew_s: float = 300.0
    replay_cache_size: int = 10_000
    """Messages remembered for each sender and role (RFC 3830 5.4: local policy)."""
    replay_cache_senders: int = 4096
    """Senders remembered at a time."""

    # Identities
    kms_identity_type: Annotated[IdType, Assumed("TS 33.328 D.2: ID type of IDRkms")] = IdType.URI
    psk_identity_type: Annotated[IdType, Assumed("TS 33.328 D.2: IDRpsk is the B-TID as a byte string")] = (
        IdType.BYTE_STRING
    )

    # Security protocols that IANA has no number for
    prot_type_tls: Annotated[int, Assumed("TS 33.328 H.2: Prot type of TLS-PSK; private use")] = 241
    prot_type_mime: Annotated[int, Assumed("TS 33.328 I.3: Prot type of MIME protection; private use")] = 242

    # Messaging
    genext_proof_of_origin: Annotated[int, Assumed("TS 33.328 K.1: General Extension type; private use")] = 241

    # SDP
    send_sdp_ids: Annotated[bool, Assumed("TS 33.328 7.2.3: the SDP IDs extension of RFC 4567 is sent")] = True

    # HTTP between UE and KMS
    http_path: Annotated[str, Assumed("TS 33.328 A.1: Request-URI")] = "/keymanagement"
    http_operation_parameter: Annotated[str, Assumed("TS 33.328 A.1: name of the query parameter")] = "requesttype"
    http_request_word: Annotated[str, Assumed("TS 33.328 A.2: Ticket Request")] = "ticketrequest"
    http_resolve_word: Annotated[str, Assumed("TS 33.328 A.2: Ticket Resolve")] = "ticketresolve"
    http_content_type: str = "application/mikey"
    """RFC 3830 10.1."""
    http_body_encoding: Annotated[str, Assumed('TS 33.328 A.1: "base64" or "binary"; both are read')] = "base64"

    # Public keys in place of a PSK (RFC 6043 4.2.1.3)
    accept_public_key: Annotated[bool, Assumed("TS 33.328 D.2: REQUEST_INIT_PK and RESOLVE_INIT_PK")] = False


DEFAULT_PROFILE = Profile()
"""What the lab runs with when its description says nothing else."""


def assumed() -> list[tuple[str, object, str]]:
    """Return name, default and reason of every value that stands for text of TS 33.328 that could not be read."""
    return [
        (name, getattr(DEFAULT_PROFILE, name), mark.why)
        for name, hint in get_type_hints(Profile, include_extras=True).items()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(mark, Assumed)
    ]
