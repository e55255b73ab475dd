"""The cryptography that Ticket Request, Transfer and Resolve cannot do without, and nothing else.

HMAC-SHA-1, AES in counter mode and random octets in a straight line, over the values of a call that was placed with
the engines: no message is read or written, nothing is remembered, labels and what a MAC covers are at hand. A key is
derived where it is used and nowhere else (RFC 6043 5.1, 5.5, A; algorithms and lengths of the default profile). Each
operation returns what it came to, and the constructor holds that against the messages and keys of the call.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from secrets import token_bytes
from typing import TypeVar

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.kms_parties import KMS, PROFILE, Call
from keying.mikey import codec
from keying.mikey.ntp import t64
from keying.mikey.payloads import Kemac, Message, Payload, RandRoled, TicketPayload, Timestamp, Verification
from keying.mikey.registry import RandRole
from keying.mikey.ticket import open_ticket

KEY, SALT, MAC, RAND = 16, 14, 20, 32
SESSION, BUNDLE = b"\xff", b"\xff" * 4
ENCR, SALTING, AUTH = bytes.fromhex("150533e1"), bytes.fromhex("29b88916"), bytes.fromhex("2d22ac75")
TEK, TGK_SALT = bytes.fromhex("2ad01c64"), bytes.fromhex("39a2c14b")
FORK_MPKR, FORK_TGK = bytes.fromhex("2b288856"), bytes.fromhex("1512b54a")
MPKI, MPKR = bytes.fromhex("220e99a2"), bytes.fromhex("1f4d675b")

P = TypeVar("P", bound=Payload)
Results = tuple[bytes, ...]


def prf(key: bytes, label: bytes, length: int) -> bytes:
    """P of RFC 3830 4.1.2; no key here is longer than its one block of 256 bits."""
    output, a = b"", label
    while len(output) < length:
        a = hmac.digest(key, a, "sha1")
        output += hmac.digest(key, a + label, "sha1")
    return output[:length]


def mac(key: bytes, octets: bytes) -> bytes:
    return hmac.digest(key, octets, "sha1")


def check(key: bytes, octets: bytes, received: bytes) -> bytes:
    """Compute a MAC and compare it in constant time."""
    computed = hmac.digest(key, octets, "sha1")
    hmac.compare_digest(computed, received)
    return computed


def aes_cm(key: bytes, salt: bytes, mask: int, octets: bytes) -> bytes:
    counter = (int.from_bytes(salt) ^ mask).to_bytes(SALT) + bytes(2)
    context = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    return context.update(octets) + context.finalize()


@dataclass(frozen=True)
class Protection:
    """Labels of the keys of a message or of Ticket Data."""

    encr: bytes
    salt: bytes
    auth: bytes

    @classmethod
    def of(cls, phase: int, csb_id: bytes, *rands: bytes) -> Protection:
        scope = SESSION + csb_id + bytes([phase]) + b"".join(map(lv8, rands))
        return cls(ENCR + scope, SALTING + scope, AUTH + scope)

    def keys(self, key: bytes) -> tuple[bytes, bytes, bytes]:
        return prf(key, self.encr, KEY), prf(key, self.salt, SALT), prf(key, self.auth, MAC)

    def auth_key(self, key: bytes) -> bytes:
        return prf(key, self.auth, MAC)


def lv8(octets: bytes) -> bytes:
    return bytes([len(octets)]) + octets


def only(within: Message | tuple[Payload, ...], kind: type[P]) -> P:
    payloads = within.payloads if isinstance(within, Message) else within
    [found] = [each for each in payloads if isinstance(each, kind)]
    return found


def rand_of(message: Message, role: RandRole) -> bytes:
    [value] = [each.value for each in message.payloads if isinstance(each, RandRoled) and each.role == role]
    return value


class Exchange:
    """A question to the KMS and its answer."""

    def __init__(self, psk: bytes, question: bytes, answer: bytes, asker: bytes, role: RandRole) -> None:
        asked, answered = codec.decode(question), codec.decode(answer)
        csb_id = asked.header.csb_id.to_bytes(4)
        rand = rand_of(asked, role)
        rands = (rand, b"") if role is RandRole.INITIATOR else (b"", rand)
        self._psk = psk
        self._ask, self._answer = Protection.of(1, csb_id, *rands), Protection.of(2, csb_id, *rands)
        self._asked, self._asked_mac = question[:-MAC] + asker + KMS.data, question[-MAC:]
        self._answered, self._answered_mac = answer[:-MAC] + question, answer[-MAC:]
        self._mask = int.from_bytes(csb_id + t64(only(answered, Timestamp)))
        self._kemac = only(answered, Kemac).encr_data
        encr, salt, _ = self._answer.keys(psk)
        self._keys = aes_cm(encr, salt, self._mask, self._kemac)

    def check_question(self) -> bytes:
        return check(self._ask.auth_key(self._psk), self._asked, self._asked_mac)

    def answer(self) -> Results:
        encr, salt, auth = self._answer.keys(self._psk)
        return aes_cm(encr, salt, self._mask, self._keys), mac(auth, self._answered)

    def at_ue(self) -> Results:
        token_bytes(RAND)
        asked = mac(self._ask.auth_key(self._psk), self._asked)
        encr, salt, auth = self._answer.keys(self._psk)
        answered = check(auth, self._answered, self._answered_mac)
        return asked, answered, aes_cm(encr, salt, self._mask, self._kemac)

    @property
    def question_mac(self) -> bytes:
        return self._asked_mac

    @property
    def in_answer(self) -> Results:
        return self._kemac, self._answered_mac

    @property
    def seen_by_ue(self) -> Results:
        return self._asked_mac, self._answered_mac, self._keys


class SealedTicket:
    """A ticket under its TPK."""

    def __init__(self, call: Call) -> None:
        payload = call.ticket.payload
        contents = open_ticket(PROFILE, payload, lambda _name: call.tpk)
        data = codec.decode_ticket_data(payload.ticket_data)
        self._tpk = call.tpk.key.reveal()
        self.mpk, self.tgk = contents.mpk.key.reveal(), contents.keys[0].key.reveal()
        self._protection = Protection.of(5, BUNDLE, contents.rand)
        self._mask = int.from_bytes(BUNDLE + t64(contents.timestamp))
        self._covered = codec.ticket_mac_input(payload.policy, payload.ticket_data)
        self.sealed, self.mac = only(data, Kemac).encr_data, only(data, Verification).mac
        encr, salt, _ = self._protection.keys(self._tpk)
        self.opened = aes_cm(encr, salt, self._mask, self.sealed)
        scope = SESSION + BUNDLE + b"\x06" + lv8(contents.rand)
        self._mpki, self._mpkr = MPKI + scope, MPKR + scope

    def seal(self) -> Results:
        encr, salt, auth = self._protection.keys(self._tpk)
        return aes_cm(encr, salt, self._mask, self.opened), mac(auth, self._covered)

    def open(self) -> Results:
        encr, salt, auth = self._protection.keys(self._tpk)
        return check(auth, self._covered, self.mac), aes_cm(encr, salt, self._mask, self.sealed)

    def mpki(self) -> bytes:
        return prf(self.mpk, self._mpki, KEY)

    def mpkr(self) -> bytes:
        return prf(self.mpk, self._mpkr, KEY)


class Transferred:
    """TRANSFER_INIT and TRANSFER_RESP, Initiator Data, the forked keys and those of the crypto sessions."""

    def __init__(self, call: Call) -> None:
        assert call.ticket.mpkr is not None
        assert call.resolution.forked_mpkr is not None
        answer = call.accepted.response or b""
        offered, answered = codec.decode(call.offer), codec.decode(answer)
        csb_id, peer = offered.header.csb_id.to_bytes(4), call.pair.callee.identity.data
        rands = rand_of(offered, RandRole.INITIATOR), rand_of(answered, RandRole.RESPONDER)
        self._offer, self._answer = Protection.of(1, csb_id, rands[0], b""), Protection.of(2, csb_id, *rands)
        self._offered = codec.without_initiator_data(offered) + call.pair.caller.identity.data + peer
        self.offer_mac, self.answer_mac = call.offer[-MAC:], answer[-MAC:]
        self._answered = answer[:-MAC] + call.offer
        data = only(offered, TicketPayload).initiator_data
        self._vr, self.vr = Protection.of(4, BUNDLE).auth, data[-MAC:]
        self._vr_covered = data[:-MAC]
        fork = SESSION + BUNDLE + b"\x00" + len(peer).to_bytes(2) + peer + lv8(rand_of(answered, RandRole.KMS))
        self._fork_mpkr, self._fork_tgk = FORK_MPKR + fork, FORK_TGK + fork
        self._mpki, self._mpkr = call.ticket.mpki.key.reveal(), call.ticket.mpkr.key.reveal()
        self._tgk = call.ticket.keys[0].key.reveal()
        self.forked = call.resolution.forked_mpkr.key.reveal(), call.resolution.keys[0].key.reveal()
        tail = BUNDLE + b"\x03" + lv8(rands[0]) + lv8(rands[1])
        sessions = call.accepted.keys.by_cs_id
        self._sessions = [(TEK + bytes([cs_id]) + tail, TGK_SALT + bytes([cs_id]) + tail) for cs_id in sessions]
        self.masters = tuple(key.reveal() for each in sessions.values() for key in (each.tek, each.salt))

    def check_vr(self, mpkr: bytes) -> bytes:
        return check(prf(mpkr, self._vr, MAC), self._vr_covered, self.vr)

    def fork(self, mpkr: bytes, tgk: bytes) -> tuple[bytes, bytes]:
        return prf(mpkr, self._fork_mpkr, KEY), prf(tgk, self._fork_tgk, KEY)

    def offer(self) -> Results:
        token_bytes(RAND)
        made = mac(self._offer.auth_key(self._mpki), self._offered)
        return made, mac(prf(self._mpkr, self._vr, MAC), self._vr_covered)

    def accept(self) -> Results:
        checked = check(self._offer.auth_key(self._mpki), self._offered, self.offer_mac)
        token_bytes(RAND)
        return checked, mac(self._answer.auth_key(self.forked[0]), self._answered), *self._derive(self.forked[1])

    def establish(self) -> Results:
        mpkr, tgk = self.fork(self._mpkr, self._tgk)
        return check(self._answer.auth_key(mpkr), self._answered, self.answer_mac), *self._derive(tgk)

    def _derive(self, tgk: bytes) -> list[bytes]:
        return [key for tek, salt in self._sessions for key in (prf(tgk, tek, KEY), prf(tgk, salt, SALT))]


class Cryptography:
    """The operations of one call. Raises ArithmeticError where one does not come to what the call has."""

    def __init__(self, call: Call) -> None:
        caller, callee = call.pair.caller, call.pair.callee
        self._request = Exchange(
            caller.credential.key.reveal(), call.request, call.granted, caller.identity.data, RandRole.INITIATOR
        )
        self._resolve = Exchange(
            callee.credential.key.reveal(), call.question, call.resolved, callee.identity.data, RandRole.RESPONDER
        )
        self._ticket = SealedTicket(call)
        self._transfer = Transferred(call)
        for name, right in self._expected(call).items():
            if getattr(self, name)() != right:
                raise ArithmeticError(f"{name} does not come to what the messages have")

    def request_at_kms(self) -> Results:
        """Check V; make MPK, TGK and RAND; seal the ticket; derive MPKi and MPKr; encrypt the answer and make its V."""
        checked = self._request.check_question()
        token_bytes(KEY), token_bytes(KEY), token_bytes(RAND)
        return checked, *self._ticket.seal(), self._ticket.mpki(), self._ticket.mpkr(), *self._request.answer()

    def resolve_at_kms(self) -> Results:
        """Check V, ticket and Vr; open the ticket; derive MPKi and MPKr, fork MPKr and TGK; encrypt the answer."""
        checked = self._resolve.check_question()
        opened = self._ticket.open()
        mpki, mpkr = self._ticket.mpki(), self._ticket.mpkr()
        vr = self._transfer.check_vr(mpkr)
        token_bytes(RAND)
        return checked, *opened, mpki, vr, *self._transfer.fork(mpkr, self._ticket.tgk), *self._resolve.answer()

    def request(self) -> Results:
        """Ticket Request at both ends."""
        return *self._request.at_ue(), *self.request_at_kms()

    def resolve(self) -> Results:
        """Ticket Resolve at both ends."""
        return *self._resolve.at_ue(), *self.resolve_at_kms()

    def transfer(self) -> Results:
        """Ticket Transfer at both ends, to the master keys and salts of its crypto sessions at either."""
        return *self._transfer.offer(), *self._transfer.accept(), *self._transfer.establish()

    def _expected(self, call: Call) -> dict[str, Results]:
        request, resolve, ticket, transfer = self._request, self._resolve, self._ticket, self._transfer
        assert call.ticket.mpkr is not None
        mpki, mpkr = call.ticket.mpki.key.reveal(), call.ticket.mpkr.key.reveal()
        granting = (request.question_mac, ticket.sealed, ticket.mac, mpki, mpkr, *request.in_answer)
        resolving = (
            *(resolve.question_mac, ticket.mac, ticket.opened, mpki, transfer.vr),
            *(*transfer.forked, *resolve.in_answer),
        )
        accepted = (transfer.answer_mac, *transfer.masters)
        return {
            "request_at_kms": granting,
            "resolve_at_kms": resolving,
            "request": (*request.seen_by_ue, *granting),
            "resolve": (*resolve.seen_by_ue, *resolving),
            "transfer": (transfer.offer_mac, transfer.vr, transfer.offer_mac, *accepted, *accepted),
        }
