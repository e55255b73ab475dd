"""What a MIKEY message says, as one line and as a tree, for traces and for people. Never raises, on any octets.

Payloads have the names of RFC 6043 2.3 (IDRi, RANDRkms, TRe ...) and stand in the order of the message, so that a line
can be held against the message diagrams of RFC 6043 4.2 and 5.2.

The tree shows what stands in the octets. With keys (``describe_keys``) MACs are checked and KEMACs opened; a key itself
is shown as ``<secret n bytes>`` unless the caller asks for its octets.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from keying.mikey.codec import decode, decode_header, decode_initiator_data, decode_key_data, decode_ticket_data
from keying.mikey.errors import MikeyError
from keying.mikey.ntp import interval_seconds, to_unix
from keying.mikey.payloads import (
    Certificate,
    CertificateHash,
    CryptoSession,
    EnvelopeKey,
    ErrorPayload,
    GeneralExtension,
    Header,
    Id,
    IdRoled,
    Kemac,
    KeyData,
    Message,
    Payload,
    Rand,
    RandRoled,
    SecurityPolicy,
    Signature,
    SrtpIdSession,
    TicketHeader,
    TicketPayload,
    TicketPolicy,
    TicketPolicyPayload,
    Timestamp,
    TimestampRole,
    Verification,
)
from keying.mikey.registry import (
    EncrAlg,
    ErrorNumber,
    ExtensionType,
    IdRole,
    MacAlg,
    ProtType,
    RandRole,
    SrtpParameter,
    TicketFlag,
    TicketType,
    TsRole,
    TsType,
)
from keying.secret import Secret

MAX_SHOWN = 64
"""Octets of a field that are written out; the rest is counted."""

_ID_ROLES = {
    IdRole.INITIATOR: "IDRi",
    IdRole.RESPONDER: "IDRr",
    IdRole.KMS: "IDRkms",
    IdRole.PSK: "IDRpsk",
    IdRole.APPLICATION: "IDRapp",
    IdRole.KMS_INITIATOR: "IDRkmsi",
    IdRole.KMS_RESPONDER: "IDRkmsr",
}
_RAND_ROLES = {RandRole.INITIATOR: "RANDRi", RandRole.RESPONDER: "RANDRr", RandRole.KMS: "RANDRkms"}
_TS_ROLES = {TsRole.ISSUE: "TRi", TsRole.START: "TRs", TsRole.END: "TRe", TsRole.REKEY: "TRr"}
_NAMES: dict[type, str] = {
    Timestamp: "T",
    Rand: "RAND",
    Id: "ID",
    Certificate: "CERT",
    CertificateHash: "CHASH",
    SecurityPolicy: "SP",
    KeyData: "Key data",
    Kemac: "KEMAC",
    EnvelopeKey: "PKE",
    Signature: "SIGN",
    Verification: "V",
    GeneralExtension: "GENEXT",
    TicketHeader: "THDR",
    TicketPolicyPayload: "TP",
    TicketPayload: "TICKET",
}


@dataclass(frozen=True, slots=True)
class Tree:
    """A name, a value in words, and what is inside. `bad` marks what cannot be read or does not hold."""

    name: str
    value: str = ""
    children: tuple[Tree, ...] = ()
    bad: bool = False

    @property
    def sound(self) -> bool:
        """False when this or anything inside is bad."""
        return not self.bad and all(child.sound for child in self.children)

    def find(self, *names: str) -> Tree:
        """Return what stands under `names`, one level each. Raises KeyError."""
        node = self
        for name in names:
            for child in node.children:
                if child.name == name:
                    node = child
                    break
            else:
                raise KeyError(name)
        return node

    def lines(self, depth: int = 0) -> list[str]:
        """Return the tree as indented lines."""
        mark = "  <-- fault" if self.bad else ""
        own = "  " * depth + self.name + (f": {self.value}" if self.value else "") + mark
        return [own, *(line for child in self.children for line in child.lines(depth + 1))]

    def as_json(self) -> dict[str, Any]:
        """Return the tree as what JSON can write."""
        result: dict[str, Any] = {"name": self.name}
        if self.value:
            result["value"] = self.value
        if self.bad:
            result["fault"] = True
        if self.children:
            result["children"] = [child.as_json() for child in self.children]
        return result


def summary(octets: bytes) -> str:
    """Return data type and payload names as the RFC lists them, e.g. ``REQUEST_RESP: T, IDRkms, TICKET, KEMAC, V``."""
    try:
        message = decode(octets)
    except MikeyError as fault:
        return f"{_data_type(octets)}: not readable ({fault})"
    return f"{message.header.data_type.name}: {', '.join(map(label, message.payloads))}"


def label(payload: Payload) -> str:
    """Return a payload's name with its role; of ERR, with its number's name."""
    match payload:
        case IdRoled(role=role):
            return _ID_ROLES.get(_member(IdRole, role), f"IDR{int(role)}")
        case RandRoled(role=role):
            return _RAND_ROLES.get(_member(RandRole, role), f"RANDR{int(role)}")
        case TimestampRole(role=role):
            return _TS_ROLES.get(_member(TsRole, role), f"TR{int(role)}")
        case ErrorPayload(number=number):
            return f"ERR {name_of(ErrorNumber, number)}"
        case _:
            return _NAMES[type(payload)]


def describe(octets: bytes, look: Callable[[Message, Tree], Tree] | None = None) -> Tree:
    """Return what `octets` say. `look` adds what keys can tell (:func:`keying.mikey.describe_keys.with_keys`)."""
    try:
        message = decode(octets)
    except MikeyError as fault:
        children: tuple[Tree, ...] = ()
        with contextlib.suppress(MikeyError):
            children = (_header(decode_header(octets)[0]),)
        return Tree(_data_type(octets), "", (*children, Tree("fault", str(fault), bad=True)))
    tree = Tree(
        message.header.data_type.name,
        f"{len(octets)} octets",
        (_header(message.header), *(payload_tree(payload) for payload in message.payloads)),
    )
    return look(message, tree) if look is not None else tree


def payload_tree(payload: Payload, *, show_keys: bool = False) -> Tree:  # noqa: C901 - one case a payload
    """Return what a payload says. `show_keys` writes out the octets of Key data."""
    name = label(payload)
    match payload:
        case Timestamp() | TimestampRole():
            return Tree(name, _time(payload))
        case Rand(value=value) | RandRoled(value=value):
            return Tree(name, _hex(value))
        case Id(id_type=kind, data=data) | IdRoled(id_type=kind, data=data):
            return Tree(name, f"{text_of(data)} ({kind.name})")
        case Certificate(cert_type=cert, data=data):
            return Tree(name, f"{cert.name}, {len(data)} octets")
        case CertificateHash(hash_func=func, value=value):
            return Tree(name, f"{func.name} {_hex(value)}")
        case SecurityPolicy():
            return _policy(payload)
        case KeyData():
            return key_tree(payload, show_keys=show_keys)
        case Kemac():
            return _kemac(payload, show_keys=show_keys)
        case EnvelopeKey(cache=cache, data=data):
            return Tree(name, f"C {cache}, {len(data)} octets")
        case Signature(sign_type=sign, value=value):
            return Tree(name, f"{sign.name}, {len(value)} octets")
        case Verification(auth_alg=alg, mac=mac):
            return Tree(name, f"{alg.name} {_hex(mac)}")
        case ErrorPayload(number=number):
            return Tree(name, str(number))
        case GeneralExtension(extension_type=kind_no, data=data):
            return Tree(name, f"{name_of(ExtensionType, kind_no)}: {text_of(data)}")
        case TicketHeader(data=data):
            return Tree(name, _hex(data))
        case TicketPolicyPayload(policy=policy):
            return Tree(name, "", _ticket_policy(policy))
        case TicketPayload():
            return _ticket(payload)


def key_tree(data: KeyData, *, show_keys: bool) -> Tree:
    """Return a key's type, SPI or interval, and length; its octets when `show_keys`."""
    children = [Tree("key", _key(data.key, show_keys=show_keys))]
    if data.salt is not None:
        children.append(Tree("salt", _key(data.salt, show_keys=show_keys)))
    if data.spi is not None:
        children.append(Tree("SPI", _hex(data.spi)))
    if data.interval is not None:
        children.append(Tree("interval", " to ".join(map(_hex, data.interval))))
    return Tree("Key data", data.key_type.name, tuple(children))


def text_of(data: bytes) -> str:
    """Return printable ASCII as it is, anything else in hex."""
    if data and all(0x20 <= octet < 0x7F for octet in data) and len(data) <= 4 * MAX_SHOWN:
        return data.decode("ascii")
    return _hex(data)


def name_of(registry: type[IntEnum], value: int) -> str:
    """Return the registered name of `value`, or the number."""
    try:
        return registry(value).name
    except ValueError:
        return str(int(value))


def _member(registry: type[IntEnum], value: int) -> Any:
    try:
        return registry(value)
    except ValueError:
        return None


def _data_type(octets: bytes) -> str:
    try:
        return decode_header(octets)[0].data_type.name
    except MikeyError:
        return "MIKEY message"


def _header(header: Header) -> Tree:
    sessions: Iterable[Tree] = map(_session, header.sessions, range(1, len(header.sessions) + 1))
    children = (
        Tree("CSB ID", f"{header.csb_id:08x}"),
        Tree("PRF func", header.prf.name),
        Tree("V", "response wanted" if header.verification else "no response wanted"),
        Tree("CS ID map", f"{header.map_type.name}, {len(header.sessions)} crypto sessions", tuple(sessions)),
    )
    return Tree("HDR", "", children)


def _session(session: CryptoSession | SrtpIdSession, place: int) -> Tree:
    if isinstance(session, SrtpIdSession):
        return Tree(f"CS {place}", f"policy {session.policy_no}, SSRC {session.ssrc:08x}, ROC {session.roc}")
    parts = [
        f"{name_of(ProtType, session.prot_type)}",
        f"policies {', '.join(map(str, session.policies)) or 'none'}",
        f"session data {_hex(session.session_data)}" + (" with ROC and SEQ" if session.rollover else ""),
        f"SPI {_hex(session.spi)}",
    ]
    return Tree(f"CS {session.cs_id}", "; ".join(parts))


def _policy(policy: SecurityPolicy) -> Tree:
    srtp = policy.prot_type == ProtType.SRTP
    parameters = (
        Tree(
            name_of(SrtpParameter, kind) if srtp else f"parameter {kind}",
            str(int.from_bytes(value)) if 0 < len(value) <= 4 else _hex(value),
        )
        for kind, value in policy.parameters
    )
    said = f"policy {policy.policy_no}, {name_of(ProtType, policy.prot_type)}"
    return Tree("SP", said + ("" if policy.parameters else ", all defaults"), tuple(parameters))


def _kemac(kemac: Kemac, *, show_keys: bool) -> Tree:
    said = f"{kemac.encr_alg.name}, {len(kemac.encr_data)} octets" + (
        f", {kemac.mac_alg.name}" if kemac.mac_alg is not MacAlg.NULL else ""
    )
    if kemac.encr_alg is not EncrAlg.NULL:
        return Tree("KEMAC", said)
    try:
        keys = decode_key_data(kemac.encr_data)
    except MikeyError as fault:
        return Tree("KEMAC", said, (Tree("fault", str(fault), bad=True),))
    return Tree("KEMAC", said, tuple(key_tree(key, show_keys=show_keys) for key in keys))


def _ticket_policy(policy: TicketPolicy) -> tuple[Tree, ...]:
    kind = f"{name_of(TicketType, policy.ticket_type)}, subtype {policy.subtype}, version {policy.version}"
    flags = " ".join(flag.name or "" for flag in TicketFlag if policy.flags & flag)
    return (
        Tree("ticket type", kind),
        Tree("PRF func", policy.prf.name),
        Tree("flags", flags or "none"),
        Tree("TP Data", "", tuple(map(payload_tree, policy.payloads))),
    )


def _ticket(ticket: TicketPayload) -> Tree:
    children = list(_ticket_policy(ticket.policy))
    try:
        inside = tuple(map(payload_tree, decode_ticket_data(ticket.ticket_data)))
    except MikeyError:  # only its issuer has to be able to read it
        inside = ()
    children.append(Tree("Ticket Data", f"{len(ticket.ticket_data)} octets", inside))
    if ticket.initiator_data:
        try:
            vi, vr = decode_initiator_data(ticket.initiator_data)
        except MikeyError as fault:
            children.append(Tree("Initiator Data", str(fault), bad=True))
        else:
            shown = tuple(Tree(name, f"{v.auth_alg.name} {_hex(v.mac)}") for name, v in (("Vi", vi), ("Vr", vr)))
            children.append(Tree("Initiator Data", "", shown))
    return Tree("TICKET", "", tuple(children))


def _time(timestamp: Timestamp | TimestampRole) -> str:
    if timestamp.ts_type is TsType.COUNTER:
        return f"counter {int.from_bytes(timestamp.value)}"
    if isinstance(timestamp, TimestampRole) and timestamp.role == TsRole.REKEY:
        if timestamp.ts_type is TsType.NTP_UTC_32:
            return f"{interval_seconds(timestamp)} s"
        return _hex(timestamp.value)
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=to_unix(timestamp))
    return f"{moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z')} ({timestamp.ts_type.name})"


def _key(key: Secret, *, show_keys: bool) -> str:
    return key.reveal().hex() if show_keys else str(key)


def _hex(octets: bytes) -> str:
    if not octets:
        return "empty"
    if len(octets) <= MAX_SHOWN:
        return octets.hex()
    return f"{octets[:MAX_SHOWN].hex()}... ({len(octets)} octets)"
