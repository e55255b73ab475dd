"""Users with pre-shared keys and the engines' side of one call between them: messages to feed a KMS with."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass

from keying.mikey.accept import Accepted
from keying.mikey.authority import Authority, Granted
from keying.mikey.identity import Identity
from keying.mikey.kmsexchange import PskCredential
from keying.mikey.policy import Limits, Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.request import TicketRequest
from keying.mikey.resolve import Resolution, TicketResolve
from keying.mikey.sessions import srtp_policy, srtp_session
from keying.mikey.ticket import Ticket, TicketProtectionKey
from keying.mikey.transfer import TransferInitiator, TransferResponder
from keying.secret import Secret

PROFILE = DEFAULT_PROFILE
DOMAIN = "ims.test"
KMS = Identity.uri(f"kms.{DOMAIN}")
LIMITS = Limits(max_validity_s=86_400.0)
POLICY = srtp_policy("AES_CM_128_HMAC_SHA1_80", 0)


@dataclass(frozen=True)
class User:
    """A user and what is shared with the KMS: a key of 32 octets, as Ks_NAF, under a name like a B-TID."""

    identity: Identity
    credential: PskCredential

    @classmethod
    def new(cls, name: str) -> User:
        btid = base64.b64encode(Secret.random(16).reveal()) + f"@bsf.{DOMAIN}".encode()
        return cls(Identity.uri(f"sip:{name}@{DOMAIN}"), PskCredential(btid, Secret.random(32)))


@dataclass(frozen=True)
class Pair:
    """Who calls and who is called."""

    caller: User
    callee: User

    def request(self) -> TicketRequest:
        return TicketRequest(
            PROFILE,
            self.caller.credential,
            initiator=self.caller.identity,
            kms=KMS,
            wish=Wish(responders=(self.callee.identity,)),
            now=time.time(),
        )

    def offer(self, ticket: Ticket) -> TransferInitiator:
        """Offer one audio stream: a crypto session for either direction."""
        sessions = (srtp_session(1, (0,), 0x01020304), srtp_session(2, (0,), None))
        return TransferInitiator(
            PROFILE,
            ticket,
            own=self.caller.identity,
            peer=self.callee.identity,
            sessions=sessions,
            policies=(POLICY,),
            now=time.time(),
        )

    def receive(self, offer: bytes) -> TransferResponder:
        return TransferResponder(PROFILE, offer, own=(self.callee.identity,), now=time.time())

    def resolve(self, received: TransferResponder) -> TicketResolve:
        return TicketResolve(
            PROFILE,
            self.callee.credential,
            received.ticket,
            responder=self.callee.identity,
            kms=KMS,
            now=time.time(),
        )


def accept(received: TransferResponder, resolution: Resolution) -> Accepted:
    return received.accept(resolution, time.time(), ssrcs={2: 0x05060708})


class Kms:
    """The engine of a KMS with the keys of its users in a dictionary."""

    def __init__(self, tpk: TicketProtectionKey, pairs: list[Pair], modifier: Secret) -> None:
        self.tpk = tpk
        self._psks = {
            user.credential.identity: user.credential.key for pair in pairs for user in (pair.caller, pair.callee)
        }
        self._authority = Authority(PROFILE, KMS, modifier_secret=modifier)

    def grant(self, request: bytes) -> Granted:
        now = time.time()
        pending = self._authority.read_request(request, now)
        return pending.authenticate(self._psks[pending.psk_identity or b""], now).grant(self.tpk, now, limits=LIMITS)

    def resolve(self, question: bytes) -> bytes:
        now = time.time()
        pending = self._authority.read_resolve(question, now)
        message = pending.authenticate(self._psks[pending.psk_identity or b""], now)
        resolution = self._authority.resolve_ticket(
            message.ticket, (message.responder,), lambda _name: self.tpk, now, endpoint=b"device"
        )
        return message.answer(resolution, now)


@dataclass(frozen=True)
class Call:
    """The six messages of a call and the keys behind them."""

    pair: Pair
    tpk: TicketProtectionKey
    request: bytes
    granted: bytes
    ticket: Ticket
    offer: bytes
    question: bytes
    resolved: bytes
    resolution: Resolution
    accepted: Accepted

    @classmethod
    def placed(cls, pair: Pair, kms: Kms) -> Call:
        """Carry out one call with the engines of everybody."""
        asking = pair.request()
        granted = kms.grant(asking.message).response
        ticket = asking.receive(granted, time.time())
        offering = pair.offer(ticket)
        received = pair.receive(offering.message)
        resolving = pair.resolve(received)
        resolved = kms.resolve(resolving.message)
        resolution = resolving.receive(resolved, time.time())
        accepted = accept(received, resolution)
        assert accepted.response is not None
        established = offering.receive(accepted.response, time.time())
        assert established.keys[1].tek == accepted.keys[1].tek
        return cls(
            pair,
            kms.tpk,
            asking.message,
            granted,
            ticket,
            offering.message,
            resolving.message,
            resolved,
            resolution,
            accepted,
        )


class Parties:
    """Pairs of users, and the ticket protection key that every KMS of a run has."""

    def __init__(self, pairs: int) -> None:
        self.pairs = [Pair(User.new(f"caller{number}"), User.new(f"callee{number}")) for number in range(pairs)]
        self.tpk = TicketProtectionKey(Secret.random(PROFILE.tpk_id_octets).reveal(), Secret.random(32))
        self.modifier = Secret.random(32)

    def kms(self) -> Kms:
        """A KMS's engine that has seen nothing yet."""
        return Kms(self.tpk, self.pairs, self.modifier)

    def turns(self, count: int) -> list[Pair]:
        return [self.pairs[number % len(self.pairs)] for number in range(count)]

    def requests(self, count: int) -> list[bytes]:
        """Fresh REQUEST_INITs."""
        return [pair.request().message for pair in self.turns(count)]

    def tickets(self, count: int) -> list[tuple[Pair, Ticket]]:
        """Fresh tickets, each with the pair that it is for."""
        kms, made = self.kms(), []
        for pair in self.turns(count):
            asking = pair.request()
            made.append((pair, asking.receive(kms.grant(asking.message).response, time.time())))
        return made

    def questions(self, count: int) -> list[bytes]:
        """Fresh RESOLVE_INITs, each for a ticket of its own that came in a TRANSFER_INIT."""
        return [pair.resolve(pair.receive(pair.offer(ticket).message)).message for pair, ticket in self.tickets(count)]
