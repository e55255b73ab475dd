"""Every MIKEY payload as a value: fields as RFC 3830 6 and RFC 6043 6 name them, no octets, no checks of policy.

The order of payloads in a message gives the "next payload" octets, so none of these has such a field. Keys are
:class:`keying.secret.Secret`; everything else is public. ``keying.mikey.codec`` writes and reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from keying.mikey.registry import (
    CertType,
    CsIdMapType,
    DataType,
    EncrAlg,
    HashFunc,
    IdType,
    KeyDataType,
    MacAlg,
    PrfFunc,
    ProtType,
    SignType,
    TsType,
)
from keying.secret import Secret


@dataclass(frozen=True, slots=True)
class SrtpIdSession:
    """A crypto session of an SRTP-ID map: its CS ID is its place, from 1 (RFC 3830 6.1.1). Read, never sent."""

    policy_no: int
    ssrc: int
    roc: int


@dataclass(frozen=True, slots=True)
class CryptoSession:
    """A crypto session of a GENERIC-ID map (RFC 6043 6.1.1).

    `policies` are the numbers of SP payloads; `session_data` is for SRTP the SSRC (4 octets), with `rollover` (S flag)
    followed by ROC (4) and SEQ (2); `spi` names the key that the session begins with.
    """

    cs_id: int
    prot_type: int = ProtType.SRTP
    rollover: bool = False
    policies: tuple[int, ...] = ()
    session_data: bytes = b""
    spi: bytes = b""


@dataclass(frozen=True, slots=True)
class Header:
    """HDR, the common header (RFC 3830 6.1, RFC 6043 6.1). `csb_id` is an unsigned 32-bit number."""

    data_type: DataType
    csb_id: int
    prf: PrfFunc = PrfFunc.MIKEY_1
    verification: bool = False
    """The V flag: a response is wanted.

    RFC 6043 6.1 clears it everywhere but in CSB updates, 4.2.1.1, 4.2.2.1 and 4.2.3.1 set it or copy F into it: it is
    sent as chapter 4 says, and read in CSB updates alone.
    """
    map_type: CsIdMapType = CsIdMapType.EMPTY
    sessions: tuple[CryptoSession, ...] | tuple[SrtpIdSession, ...] = ()
    version: int = 1


@dataclass(frozen=True, slots=True)
class Timestamp:
    """T (RFC 3830 6.6): 8 octets for the NTP types, 4 for COUNTER and NTP-UTC-32."""

    ts_type: TsType
    value: bytes


@dataclass(frozen=True, slots=True)
class TimestampRole:
    """TR (RFC 6043 6.4). `role` is a TsRole where it is a registered one."""

    role: int
    ts_type: TsType
    value: bytes


@dataclass(frozen=True, slots=True)
class Rand:
    """RAND (RFC 3830 6.11): up to 255 octets."""

    value: bytes


@dataclass(frozen=True, slots=True)
class RandRoled:
    """RANDR (RFC 6043 6.8). `role` is a RandRole where it is a registered one."""

    role: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Id:
    """ID (RFC 3830 6.7). MIKEY-TICKET uses IDR instead."""

    id_type: IdType
    data: bytes


@dataclass(frozen=True, slots=True)
class IdRoled:
    """IDR (RFC 6043 6.6). `role` is an IdRole where it is a registered one."""

    role: int
    id_type: IdType
    data: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """CERT (RFC 3830 6.7): DER, or a URL."""

    cert_type: CertType
    data: bytes


@dataclass(frozen=True, slots=True)
class CertificateHash:
    """CHASH (RFC 3830 6.8)."""

    hash_func: HashFunc
    value: bytes


@dataclass(frozen=True, slots=True)
class SecurityPolicy:
    """SP (RFC 3830 6.10): `parameters` are (type, value) in order; absent ones have the protocol's defaults."""

    policy_no: int
    prot_type: int = ProtType.SRTP
    parameters: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class KeyData:
    """A Key data sub-payload (RFC 3830 6.13, RFC 6043 6.2.1).

    `salt` is there for the +SALT types alone. `spi` (KV type 1) or `interval` (KV type 2: valid from, valid to) or
    neither (KV type 0).
    """

    key_type: KeyDataType
    key: Secret
    salt: Secret | None = None
    spi: bytes | None = None
    interval: tuple[bytes, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Kemac:
    """KEMAC (RFC 3830 6.2): `encr_data` encrypted, or in the plain with NULL in a TP payload."""

    encr_alg: EncrAlg
    encr_data: bytes = field(repr=False)
    mac_alg: MacAlg = MacAlg.NULL
    mac: bytes = b""


@dataclass(frozen=True, slots=True)
class EnvelopeKey:
    """PKE (RFC 3830 6.3): the envelope key under the receiver's public key; `cache` is the C field, 0 to 2."""

    cache: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """SIGN (RFC 3830 6.5): always last, has no next payload."""

    sign_type: SignType
    value: bytes


@dataclass(frozen=True, slots=True)
class Verification:
    """V (RFC 3830 6.9): the MAC over the message as RFC 6043 5.5 lists its parts."""

    auth_alg: MacAlg
    mac: bytes


@dataclass(frozen=True, slots=True)
class ErrorPayload:
    """ERR (RFC 3830 6.12). `number` is a MIKEY error number; `reserved` is 0 as sent."""

    number: int
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class GeneralExtension:
    """General Extension (RFC 3830 6.15)."""

    extension_type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class TicketHeader:
    """THDR (RFC 6043 A.1): the first element of Ticket Data, nowhere else."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class TicketPolicy:
    """What TP and TICKET say of a ticket (RFC 6043 6.10).

    `flags` holds the bits D to O as :class:`keying.mikey.registry.TicketFlag`; `payloads` is TP Data in order:
    IDRkms, IDRi, TRs, TRe, TRr, KEMAC, IDRapp, IDRr.
    """

    ticket_type: int
    subtype: int
    version: int
    prf: PrfFunc
    flags: int
    payloads: tuple[Payload, ...] = ()
    reserved: int = 0

    @property
    def kind(self) -> tuple[int, int, int]:
        """Ticket type, subtype, version."""
        return self.ticket_type, self.subtype, self.version


@dataclass(frozen=True, slots=True)
class TicketPolicyPayload:
    """TP (RFC 6043 6.10): the policy that is asked for."""

    policy: TicketPolicy


@dataclass(frozen=True, slots=True)
class TicketPayload:
    """TICKET (RFC 6043 6.10): the granted policy, Ticket Data (opaque but to its issuer), Initiator Data or nothing."""

    policy: TicketPolicy
    ticket_data: bytes
    initiator_data: bytes = b""


Payload = (
    Timestamp
    | TimestampRole
    | Rand
    | RandRoled
    | Id
    | IdRoled
    | Certificate
    | CertificateHash
    | SecurityPolicy
    | KeyData
    | Kemac
    | EnvelopeKey
    | Signature
    | Verification
    | ErrorPayload
    | GeneralExtension
    | TicketHeader
    | TicketPolicyPayload
    | TicketPayload
)


@dataclass(frozen=True, slots=True)
class Message:
    """A MIKEY message. A received one keeps its octets and where each payload stands in them, for MACs.

    `spans` are (start, end) octets of each payload in `raw`, its next-payload octet included; both are empty in a
    message that was built here and not encoded yet.
    """

    header: Header
    payloads: tuple[Payload, ...]
    raw: bytes = field(default=b"", compare=False, repr=False)
    spans: tuple[tuple[int, int], ...] = field(default=(), compare=False)
