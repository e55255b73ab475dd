"""What keys add to a described message: whether MACs hold, and what is inside KEMACs and Ticket Data.

Everything is worked out from the message (and, for a response, the message it answers) and the keys at hand; what lacks
a key is said to be unchecked, never to hold. For people who debug an exchange, not for the exchanges themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from keying.mikey.cipher import TICKET_CSB_ID, open_kemac, verify_mac
from keying.mikey.codec import (
    decode,
    decode_initiator_data,
    decode_ticket,
    decode_ticket_data,
    ticket_mac_input,
    without_initiator_data,
    without_mac,
)
from keying.mikey.describe import Tree, key_tree, payload_tree
from keying.mikey.errors import MikeyError
from keying.mikey.kdf import (
    Constant,
    MessageKeys,
    Phase,
    fork,
    message_keys,
    mpki,
    mpkr,
    suite_of,
    ticket_keys,
    vr_auth_key,
)
from keying.mikey.ntp import t64
from keying.mikey.payloads import (
    IdRoled,
    Kemac,
    KeyData,
    Message,
    Payload,
    Rand,
    RandRoled,
    TicketPayload,
    TicketPolicyPayload,
    Timestamp,
    Verification,
)
from keying.mikey.registry import DataType, IdRole, KeyDataType, RandRole, TicketFlag
from keying.secret import Secret

P = TypeVar("P")

_INITIAL = frozenset({DataType.REQUEST_INIT_PSK, DataType.RESOLVE_INIT_PSK, DataType.TRANSFER_INIT})
_RESPONSE = frozenset({DataType.REQUEST_RESP, DataType.RESOLVE_RESP, DataType.TRANSFER_RESP})
_TRANSFER = frozenset({DataType.TRANSFER_INIT, DataType.TRANSFER_RESP})
_SIGNERS = {
    DataType.REQUEST_INIT_PSK: (IdRole.INITIATOR, IdRole.KMS),
    DataType.RESOLVE_INIT_PSK: (IdRole.RESPONDER, IdRole.KMS),
    DataType.TRANSFER_INIT: (IdRole.INITIATOR, IdRole.RESPONDER),
}
"""Whose identities follow an initial message in its MAC (RFC 6043 table 5.2)."""


@dataclass(frozen=True, slots=True)
class Known:
    """Keys at hand, and for a response the octets of the initial message. `identities` stand in for omitted IDRs."""

    psk: Secret | None = None
    tpk: Secret | None = None
    mpki: Secret | None = None
    mpkr: Secret | None = None
    """As the initiator and the KMS have it, not forked."""
    forked_mpkr: Secret | None = None
    initial: bytes = b""
    identities: dict[IdRole, bytes] = field(default_factory=dict)
    show_keys: bool = False


def with_keys(known: Known) -> Callable[[Message, Tree], Tree]:
    """Return what :func:`keying.mikey.describe.describe` calls to add what `known` tells."""

    def look(message: Message, tree: Tree) -> Tree:
        children = [*tree.children]
        found = known
        for step in (_ticket, _message, _initiator_data):
            more: tuple[Tree, ...]
            try:
                found, more = step(message, found)
            except MikeyError as fault:
                more = (Tree("check", str(fault), bad=True),)
            children += more
        return replace(tree, children=tuple(children))

    return look


def describe_ticket(octets: bytes, known: Known | None = None) -> Tree:
    """Return what a TICKET payload without its next-payload octet says; with a TPK its MAC is checked too."""
    try:
        ticket = decode_ticket(octets)
    except MikeyError as fault:
        return Tree("TICKET", "", (Tree("fault", str(fault), bad=True),))
    tree = payload_tree(ticket)
    if known is None:
        return tree
    try:
        more = _opened(ticket, known)[1]
    except MikeyError as fault:
        more = (Tree("check", str(fault), bad=True),)
    return replace(tree, children=(*tree.children, *more))


def _ticket(message: Message, known: Known) -> tuple[Known, tuple[Tree, ...]]:
    """Open the ticket, which also gives MPKi and MPKr (RFC 6043 A.2)."""
    source = message
    ticket = _first(message, TicketPayload)
    if ticket is None and message.header.data_type is DataType.TRANSFER_RESP and known.initial:
        source = decode(known.initial)
        ticket = _first(source, TicketPayload)
    if ticket is None:
        return known, ()
    known, found = _opened(ticket, known)
    return known, found if source is message else ()


def _opened(ticket: TicketPayload, known: Known) -> tuple[Known, tuple[Tree, ...]]:
    if known.tpk is None:
        return known, (Tree("ticket MAC", "not checked: no TPK"),)
    policy = ticket.policy
    payloads = decode_ticket_data(ticket.ticket_data)
    rand, timestamp = _of(payloads, Rand), _of(payloads, Timestamp)
    kemac, verification = _of(payloads, Kemac), _of(payloads, Verification)
    if rand is None or timestamp is None or kemac is None or verification is None:
        return known, (Tree("Ticket Data", "is not that of a base ticket"),)
    suite = suite_of(policy.prf, verification.auth_alg)
    keys = ticket_keys(policy.prf, known.tpk, rand.value, suite)
    held = _mac("ticket MAC", verification, keys.auth, ticket_mac_input(policy, ticket.ticket_data))
    if held.bad:
        return known, (held,)
    inside = open_kemac(kemac, keys, TICKET_CSB_ID, t64(timestamp))
    for data in inside:
        if data.key_type is KeyDataType.MPK:
            known = replace(
                known,
                mpki=known.mpki or mpki(policy.prf, data.key, rand.value),
                mpkr=known.mpkr or mpkr(policy.prf, data.key, rand.value),
            )
            break
    return known, (held, _keys("keys in the ticket", inside, known))


def _message(message: Message, known: Known) -> tuple[Known, tuple[Tree, ...]]:
    """Check the message's own MAC and open its KEMAC."""
    verification = message.payloads[-1]
    if not isinstance(verification, Verification):
        return known, ()
    kind = message.header.data_type
    if kind not in _INITIAL | _RESPONSE:
        return known, (Tree("MAC", f"not checked: {kind.name} is not checked here"),)
    initial = message if kind in _INITIAL else decode(known.initial) if known.initial else None
    if initial is None:
        return known, (Tree("MAC", "not checked: the initial message is not at hand"),)
    inkey, missing = _inkey(message, initial, known)
    if inkey is None:
        return known, (Tree("MAC", f"not checked: no {missing}"),)
    suite = suite_of(message.header.prf, verification.auth_alg)
    phase = Phase.INITIAL if kind in _INITIAL else Phase.RESPONSE
    keys = message_keys(message.header.prf, inkey, phase, message.header.csb_id, *_rands(message, initial), suite)
    if kind in _RESPONSE:
        covered = without_mac(message) + initial.raw
    else:
        octets = without_initiator_data(message) if kind is DataType.TRANSFER_INIT else without_mac(message)
        covered = octets + b"".join(_identity(message, role, known) for role in _SIGNERS[kind])
    held = _mac("MAC", verification, keys.auth, covered)
    return known, (held, *_kemacs(message, keys, known)) if not held.bad else (held,)


def _initiator_data(message: Message, known: Known) -> tuple[Known, tuple[Tree, ...]]:
    """Check Vr, and Vi against V (RFC 6043 6.10)."""
    ticket = _first(message, TicketPayload)
    if ticket is None or not ticket.initiator_data:
        return known, ()
    vi, vr = decode_initiator_data(ticket.initiator_data)
    more: list[Tree] = []
    if message.header.data_type is DataType.TRANSFER_INIT:
        same = vi == message.payloads[-1]
        more.append(Tree("Vi", "is the V of the message" if same else "is not the V of the message", bad=not same))
    if known.mpkr is None:
        more.append(Tree("Vr MAC", "not checked: no MPKr"))
    else:
        auth = vr_auth_key(ticket.policy.prf, known.mpkr, suite_of(ticket.policy.prf, vr.auth_alg))
        more.append(_mac("Vr MAC", vr, auth, ticket.initiator_data[: len(ticket.initiator_data) - len(vr.mac)]))
    return known, tuple(more)


def _inkey(message: Message, initial: Message, known: Known) -> tuple[Secret | None, str]:
    """Return the key that protects `message`, or what it would take."""
    kind = message.header.data_type
    if kind not in _TRANSFER:
        return known.psk, "PSK"
    ticket = _first(initial, TicketPayload)
    if kind is DataType.TRANSFER_INIT or ticket is None or not ticket.policy.flags & TicketFlag.I:
        return known.mpki, "MPKi"
    if known.forked_mpkr is not None or known.mpkr is None:
        return known.forked_mpkr, "MPKr"
    modifier = next(_roled(message.payloads, IdRole.RESPONDER), None)
    rand = _rand(message, RandRole.KMS)
    if modifier is None or not rand:
        return None, "IDRr and RANDRkms in the message"
    return fork(ticket.policy.prf, known.mpkr, Constant.FORK_MPKR, modifier, rand), ""


def _rands(message: Message, initial: Message) -> tuple[bytes, bytes]:
    """Return RANDRi and RANDRr as they enter the label (RFC 6043 5.1.2)."""
    kind = message.header.data_type
    if kind in {DataType.RESOLVE_INIT_PSK, DataType.RESOLVE_RESP}:
        return b"", _rand(initial, RandRole.RESPONDER)
    responder = _rand(message, RandRole.RESPONDER) if kind is DataType.TRANSFER_RESP else b""
    return _rand(initial, RandRole.INITIATOR), responder


def _kemacs(message: Message, keys: MessageKeys, known: Known) -> Iterator[Tree]:
    timestamp, kemac = _first(message, Timestamp), _first(message, Kemac)
    if timestamp is not None and kemac is not None:
        yield _keys("keys in KEMAC", open_kemac(kemac, keys, message.header.csb_id, t64(timestamp)), known)


def _keys(name: str, inside: tuple[KeyData, ...], known: Known) -> Tree:
    return Tree(name, "", tuple(key_tree(data, show_keys=known.show_keys) for data in inside))


def _identity(message: Message, role: IdRole, known: Known) -> bytes:
    own = next(_roled(message.payloads, role), None)
    if own is not None:
        return own
    if role in known.identities:
        return known.identities[role]
    policy = _first(message, TicketPolicyPayload) or _first(message, TicketPayload)
    return next(_roled(policy.policy.payloads, role), b"") if policy is not None else b""


def _roled(payloads: tuple[Payload, ...], role: IdRole) -> Iterator[bytes]:
    return (payload.data for payload in payloads if isinstance(payload, IdRoled) and payload.role == role)


def _rand(message: Message, role: RandRole) -> bytes:
    values = (payload.value for payload in message.payloads if isinstance(payload, RandRoled) and payload.role == role)
    return next(values, b"")


def _first(message: Message, kind: type[P]) -> P | None:
    return _of(message.payloads, kind)


def _of(payloads: tuple[Payload, ...], kind: type[P]) -> P | None:
    return next((payload for payload in payloads if isinstance(payload, kind)), None)


def _mac(name: str, verification: Verification, auth: Secret, covered: bytes) -> Tree:
    try:
        verify_mac(verification.auth_alg, auth, covered, verification.mac)
    except MikeyError as fault:
        return Tree(name, fault.reason, bad=True)
    return Tree(name, "holds")
