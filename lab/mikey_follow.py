"""One exchange file from the first message to the media keys: every message, and every derivation with its label.

For people who learn MIKEY-TICKET or debug their own: the labels printed here are what the keys are derived with. A key
is shown as ``<secret n bytes>`` unless its octets are asked for.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from keying.mikey.cipher import TICKET_CSB_ID, open_kemac
from keying.mikey.codec import decode, decode_ticket_data
from keying.mikey.describe import Tree, describe
from keying.mikey.describe_keys import Known, with_keys
from keying.mikey.errors import MikeyError
from keying.mikey.kdf import (
    INITIATOR_DATA_SCOPE,
    Constant,
    MessageKeys,
    Phase,
    fork_scope,
    label,
    message_scope,
    mpk_scope,
    prf,
    session_scope,
    suite_of,
    ticket_scope,
)
from keying.mikey.ntp import t64
from keying.mikey.payloads import (
    CryptoSession,
    IdRoled,
    Kemac,
    KeyData,
    Message,
    RandRoled,
    SecurityPolicy,
    TicketPayload,
    Timestamp,
)
from keying.mikey.payloads import Rand as RandPayload
from keying.mikey.registry import IdRole, KeyDataType, PrfFunc, RandRole, TicketFlag
from keying.mikey.sessions import suite_of_policy
from keying.secret import Secret
from lab.exchange import KEYS, MESSAGES

_T = TypeVar("_T")
_WAY = {
    "REQUEST_INIT": "initiator to its KMS, HTTP POST",
    "REQUEST_RESP": "KMS to initiator, HTTP 200",
    "TRANSFER_INIT": "initiator to responder, a=key-mgmt of the SDP offer",
    "RESOLVE_INIT": "responder to its KMS, HTTP POST",
    "RESOLVE_RESP": "KMS to responder, HTTP 200",
    "TRANSFER_RESP": "responder to initiator, a=key-mgmt of the SDP answer",
}
_ANSWERS = {"REQUEST_RESP": "REQUEST_INIT", "RESOLVE_RESP": "RESOLVE_INIT", "TRANSFER_RESP": "TRANSFER_INIT"}
_CHECKED_WITH = {
    "REQUEST_INIT": ("psk_i",),
    "REQUEST_RESP": ("psk_i", "tpk"),
    "TRANSFER_INIT": ("tpk",),
    "RESOLVE_INIT": ("psk_r", "tpk"),
    "RESOLVE_RESP": ("psk_r",),
    "TRANSFER_RESP": ("tpk",),
}


class ExchangeError(ValueError):
    """The file is no exchange, or says what cannot be; the text names the entry."""


@dataclass(frozen=True)
class Exchange:
    """The messages and keys of a file; what the call did without is absent."""

    messages: Mapping[str, bytes]
    keys: Mapping[str, Secret]


def read_exchange(content: object) -> Exchange:
    """Return the exchange of a file's JSON. Raises ``ExchangeError``."""
    if not isinstance(content, dict) or not set(content) >= {"TRANSFER_INIT"}:
        raise ExchangeError("it is not what `imslab call --exchange` writes: no TRANSFER_INIT")
    messages: dict[str, bytes] = {}
    keys: dict[str, Secret] = {}
    for name in (*MESSAGES, *KEYS):
        text = content.get(name, "")
        if not isinstance(text, str):
            raise ExchangeError(f"{name} is not text")
        try:
            octets = base64.b64decode(text, validate=True) if name in MESSAGES else bytes.fromhex(text)
        except (binascii.Error, ValueError):
            raise ExchangeError(f"{name} is not {'base64' if name in MESSAGES else 'hexadecimal'}") from None
        if octets and name in MESSAGES:
            messages[name] = octets
        elif octets:
            keys[name] = Secret(octets)
    return Exchange(messages, keys)


@dataclass(frozen=True)
class Step:
    """A message of the exchange: who sent it where, what it says, what is derived from it."""

    name: str
    way: str
    tree: Tree
    derivations: tuple[str, ...]


def follow(exchange: Exchange, *, show_keys: bool = False) -> Iterator[Step]:
    """Go through the exchange in order. Raises ``ExchangeError`` for a message that cannot be read."""
    reader = _Reader(exchange, show_keys=show_keys)
    for name in MESSAGES:
        if name not in exchange.messages:
            continue
        octets = exchange.messages[name]
        known = Known(
            psk=next((exchange.keys.get(key) for key in _CHECKED_WITH[name] if key.startswith("psk")), None),
            tpk=exchange.keys.get("tpk") if "tpk" in _CHECKED_WITH[name] else None,
            initial=exchange.messages.get(_ANSWERS.get(name, ""), b""),
            show_keys=show_keys,
        )
        tree = describe(octets, with_keys(known))
        try:
            derivations = tuple(reader.derive(name))
        except MikeyError as error:
            raise ExchangeError(f"{name}: {error}") from None
        yield Step(name, _WAY[name], tree, derivations)


class _Reader:
    """Derives what each message needs, writing down each label."""

    def __init__(self, exchange: Exchange, *, show_keys: bool) -> None:
        self._exchange = exchange
        self._show = show_keys
        self._read: dict[str, Message] = {}
        self._keys: dict[str, Secret] = dict(exchange.keys)
        self._in_ticket: tuple[KeyData, ...] = ()
        self._lines: list[str] = []

    def derive(self, name: str) -> list[str]:
        """Return the derivations behind one message."""
        self._lines = []
        message = decode(self._exchange.messages[name])
        if not message.header.data_type.name.startswith(name):
            raise ExchangeError(f"{name} is a {message.header.data_type.name}")
        self._read[name] = message
        if name.startswith("REQUEST"):
            self._protection(message, "psk_i", self._rand("REQUEST_INIT", RandRole.INITIATOR), b"")
        if name == "REQUEST_RESP" or (name == "TRANSFER_INIT" and not self._in_ticket):
            self._ticket(message)
        if name == "TRANSFER_INIT":
            self._protection(message, "MPKi", self._rand(name, RandRole.INITIATOR), b"")
            if self._flag(TicketFlag.I) and "MPKr" in self._keys:
                suite = suite_of(self._policy_prf())
                self._note("Vr auth_key", suite.prf, "MPKr", Constant.AUTH, INITIATOR_DATA_SCOPE, suite.auth_bits)
        if name.startswith("RESOLVE"):
            self._protection(message, "psk_r", b"", self._rand("RESOLVE_INIT", RandRole.RESPONDER))
        if name == "RESOLVE_RESP" and self._flag(TicketFlag.I):
            self._fork(message)
        if name == "TRANSFER_RESP":
            self._answered(message)
        return self._lines

    def _answered(self, message: Message) -> None:
        forked = self._flag(TicketFlag.I)
        if forked and "MPKr'" not in self._keys:
            self._fork(message)
        rand_i = self._rand("TRANSFER_INIT", RandRole.INITIATOR)
        rand_r = self._rand("TRANSFER_RESP", RandRole.RESPONDER)
        self._protection(message, "MPKr'" if forked else "MPKi", rand_i, rand_r)
        offered = [p for p in self._read["TRANSFER_INIT"].payloads if isinstance(p, SecurityPolicy)]
        policies = {p.policy_no: p for p in (*offered, *message.payloads) if isinstance(p, SecurityPolicy)}
        for session in message.header.sessions:
            if isinstance(session, CryptoSession) and session.policies and session.policies[0] in policies:
                self._session(message.header.prf, session, policies[session.policies[0]], rand_i, rand_r)

    def _session(
        self, func: PrfFunc, session: CryptoSession, policy: SecurityPolicy, rand_i: bytes, rand_r: bytes
    ) -> None:
        key = next((k for k in self._in_ticket if k.spi == session.spi), None)
        name = f"key {session.spi.hex()}"
        if key is None or name not in self._keys:
            return
        suite = suite_of_policy(policy)
        head = f"CS {session.cs_id}, SSRC {session.session_data[:4].hex()}, MKI {session.spi.hex()}, {suite.name}"
        if key.key_type in {KeyDataType.TEK, KeyDataType.TEK_SALT}:
            self._lines.append(f"{head}: the TEK of the ticket is the master key")
            return
        rand_i = rand_i if self._flag(TicketFlag.H) else b""
        rand_r = rand_r if self._flag(TicketFlag.G) else b""
        scope = session_scope(session.cs_id, rand_i, rand_r)
        self._note(f"{head}: master key", func, name, Constant.TEK, scope, 8 * suite.key_length)
        if key.salt is None:
            self._note(f"{head}: master salt", func, name, Constant.TGK_SALT, scope, 8 * suite.salt_length)

    def _ticket(self, message: Message) -> None:
        if "tpk" not in self._keys:
            return
        ticket = _first(message.payloads, TicketPayload)
        if ticket is None:
            raise ExchangeError("the message has no TICKET")
        func, suite = ticket.policy.prf, suite_of(ticket.policy.prf)
        inside = decode_ticket_data(ticket.ticket_data)
        rand, kemac, time = _first(inside, RandPayload), _first(inside, Kemac), _first(inside, Timestamp)
        if rand is None or kemac is None or time is None:
            raise ExchangeError("Ticket Data is not that of a base ticket")
        scope = ticket_scope(rand.value)
        keys = MessageKeys(
            encr=self._note("ticket encr_key", func, "tpk", Constant.ENCR, scope, suite.encr_bits),
            salt=self._note("ticket salt_key", func, "tpk", Constant.SALT, scope, suite.salt_bits),
            auth=self._note("ticket auth_key", func, "tpk", Constant.AUTH, scope, suite.auth_bits),
        )
        self._in_ticket = open_kemac(kemac, keys, TICKET_CSB_ID, t64(time))
        for data in self._in_ticket:
            if data.key_type is KeyDataType.MPK:
                self._keys["MPK"] = data.key
                scope = mpk_scope(rand.value)
                bits = 8 * len(data.key)
                self._keys["MPKi"] = self._note("MPKi", func, "MPK", Constant.MPKI, scope, bits)
                self._keys["MPKr"] = self._note("MPKr", func, "MPK", Constant.MPKR, scope, bits)
            else:
                self._keys[f"key {(data.spi or b'').hex()}"] = data.key

    def _fork(self, message: Message) -> None:
        """The modifier is IDRr and RANDRkms of the message (RFC 6043 5.1.1)."""
        identity = next((p for p in message.payloads if isinstance(p, IdRoled) and p.role == IdRole.RESPONDER), None)
        rand = next((p.value for p in message.payloads if isinstance(p, RandRoled) and p.role == RandRole.KMS), b"")
        if identity is None or "MPKr" not in self._keys:
            return
        scope = fork_scope(identity.data, rand)
        func = self._policy_prf()
        bits = 8 * len(self._keys["MPKr"])
        self._keys["MPKr'"] = self._note("MPKr'", func, "MPKr", Constant.FORK_MPKR, scope, bits)
        for data in self._in_ticket:
            if data.key_type.is_tgk:
                name = f"key {(data.spi or b'').hex()}"
                forked = self._note(f"TGK' {name[4:]}", func, name, Constant.FORK_TGK, scope, 8 * len(data.key))
                self._keys[name] = forked

    def _protection(self, message: Message, inkey: str, rand_i: bytes, rand_r: bytes) -> None:
        if inkey not in self._keys:
            return
        func, suite = message.header.prf, suite_of(message.header.prf)
        initial = message.header.data_type.name.startswith(("REQUEST_INIT", "TRANSFER_INIT", "RESOLVE_INIT"))
        phase = Phase.INITIAL if initial else Phase.RESPONSE
        scope = message_scope(phase, message.header.csb_id, rand_i, rand_r)
        self._note("auth_key", func, inkey, Constant.AUTH, scope, suite.auth_bits)
        if _first(message.payloads, Kemac) is not None:
            self._note("encr_key", func, inkey, Constant.ENCR, scope, suite.encr_bits)
            self._note("salt_key", func, inkey, Constant.SALT, scope, suite.salt_bits)

    def _note(self, what: str, func: PrfFunc, inkey: str, constant: Constant, scope: bytes, bits: int) -> Secret:
        octets = label(constant, scope)
        derived = prf(func, self._keys[inkey], octets, bits)
        shown = derived.reveal().hex() if self._show else repr(derived)
        self._lines.append(f"{what} = PRF({inkey}, {octets.hex()}, {bits}) = {shown}")
        return derived

    def _rand(self, name: str, role: RandRole) -> bytes:
        payloads = self._read[name].payloads if name in self._read else ()
        return next((p.value for p in payloads if isinstance(p, RandRoled) and p.role == role), b"")

    def _flag(self, flag: TicketFlag) -> bool:
        return bool(self._ticket_payload().policy.flags & flag)

    def _policy_prf(self) -> PrfFunc:
        return self._ticket_payload().policy.prf

    def _ticket_payload(self) -> TicketPayload:
        for message in self._read.values():
            ticket = _first(message.payloads, TicketPayload)
            if ticket is not None:
                return ticket
        raise ExchangeError("no message before this one has a TICKET")


def _first(payloads: Iterable[object], kind: type[_T]) -> _T | None:
    return next((each for each in payloads if isinstance(each, kind)), None)
