"""One whole exchange through keying.mikey, step by step, for tests that look at it from outside or spoil a step."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keying.mikey.authority import Authority, Granted
from keying.mikey.groups import NO_GROUPS, Groups
from keying.mikey.identity import Identity
from keying.mikey.origin import sdp_ids
from keying.mikey.payloads import CryptoSession, KeyData
from keying.mikey.policy import Limits, Wish
from keying.mikey.profile import DEFAULT_PROFILE, Profile
from keying.mikey.replay import ReplayCache
from keying.mikey.request import PskCredential, TicketRequest
from keying.mikey.resolve import Resolution, TicketResolve
from keying.mikey.sessions import srtp_policy, srtp_session
from keying.mikey.ticket import Ticket, TicketProtectionKey, create_ticket, mode3_ticket_key
from keying.mikey.transfer import Accepted, Established, TransferInitiator, TransferResponder
from keying.secret import Secret

NOW = 1_790_000_000.0
ALICE, BOB, CAROL = (Identity.uri(f"sip:{name}@ims.test") for name in ("alice", "bob", "carol"))
MALLORY = Identity.uri("sip:mallory@ims.test")
KMS = Identity.uri("kms.ims.test")
SUITE_OF = {"128": "AES_CM_128_HMAC_SHA1_80", "256": "AES_256_CM_HMAC_SHA1_80"}
LONG = replace(DEFAULT_PROFILE, suite="256")
BOBS_STREAM = 0x0A0B0C0D


def credential(name: str) -> PskCredential:
    return PskCredential(f"btid-{name}@bsf.ims.test".encode(), Secret(name.encode().ljust(32, b"#")))


def tpk(profile: Profile = DEFAULT_PROFILE, fill: bytes = b"t", key_id: bytes = b"tpk-0001") -> TicketProtectionKey:
    return TicketProtectionKey(key_id, Secret(fill * (32 if profile.suite == "256" else 16)))


def counting(seed: int = 0) -> Callable[[int], bytes]:
    """A source of octets that never repeats itself within a test and does so between runs."""
    numbers = itertools.count(seed << 32)
    return lambda length: hashlib.shake_256(next(numbers).to_bytes(8, "big")).digest(length)


@dataclass
class Played:
    """An exchange as far as it was played, with the objects of every party."""

    octets: dict[str, bytes] = field(default_factory=dict)
    authority: Any = None
    key: Any = None
    request: Any = None
    granted: Any = None
    ticket: Any = None
    initiator: Any = None
    responder: Any = None
    resolve: Any = None
    resolution: Any = None
    accepted: Any = None
    established: Any = None

    def for_verifier(self) -> dict[str, Any]:
        """What the independent verifier wants."""
        secrets = {"psk_i": credential("alice").key, "psk_r": credential("bob").key, "tpk": self.key.key}
        return self.octets | {name: secret.reveal() for name, secret in secrets.items()}


@dataclass
class Stage:
    """Who plays with what. Every step may be called alone; `play` calls them all."""

    profile: Profile = DEFAULT_PROFILE
    wish: Wish = field(default_factory=lambda: Wish(responders=(BOB,)))
    limits: Limits | None = None
    now: float = NOW
    own: tuple[Identity, ...] = (BOB,)
    peer: Identity = BOB
    groups: Groups = NO_GROUPS
    streams: int = 2
    initiator_keys: tuple[KeyData, ...] = ()
    responder_keys: tuple[KeyData, ...] = ()
    endpoint: bytes | None = b"btid-bob"
    mode: int = 1
    draw: Callable[[int], bytes] = field(default_factory=counting)
    replay: ReplayCache = field(default_factory=ReplayCache)
    responder_replay: ReplayCache = field(default_factory=ReplayCache)

    def __post_init__(self) -> None:
        self.key = tpk(self.profile)
        if self.mode == 3:
            self.key = mode3_ticket_key(
                credential("alice").identity, credential("alice").key, KMS, len(self.key.key), (ALICE,)
            )
        self.authority = Authority(
            self.profile, KMS, replay=self.replay, modifier_secret=Secret(b"m" * 32), entropy=self.draw
        )
        self.suite = SUITE_OF[self.profile.suite]

    def tick(self) -> float:
        self.now += 0.25
        return self.now

    def find_tpk(self, key_id: bytes) -> TicketProtectionKey | None:
        return self.key if key_id == self.key.key_id else None

    def request(self) -> TicketRequest:
        return TicketRequest(
            self.profile,
            credential("alice"),
            initiator=ALICE,
            kms=KMS,
            wish=self.wish,
            now=self.tick(),
            entropy=self.draw,
        )

    def grant(self, octets: bytes, psk: Secret | None = None) -> Granted:
        """The KMS's whole way from REQUEST_INIT to REQUEST_RESP, with Alice's key."""
        pending = self.authority.read_request(octets, self.tick())
        authentic = pending.authenticate(psk or credential("alice").key, self.now)
        return authentic.grant(self.key, self.now, limits=self.limits)

    def initiate(self, ticket: Ticket, **changes: Any) -> TransferInitiator:
        given: dict[str, Any] = {
            "own": ALICE,
            "peer": self.peer,
            "sessions": self.crypto_sessions(ticket),
            "policies": [srtp_policy(self.suite, 0)],
            "extensions": [sdp_ids()],
            "keys": self.initiator_keys,
            "suites": (self.suite,),
            "now": self.tick(),
            "entropy": self.draw,
        }
        return TransferInitiator(self.profile, ticket, **given | changes)

    def crypto_sessions(self, ticket: Ticket) -> Sequence[CryptoSession]:
        """One stream of the caller's and one of the callee's for each m-line; complete where no answer completes them."""
        if self.wish.response:
            return [srtp_session(n, (0,), 0x01020300 + n if n % 2 else None) for n in range(1, self.streams + 1)]
        spi = (ticket.keys or self.initiator_keys)[0].spi or b""
        return [srtp_session(n, (0,), 0x01020300 + n, spi) for n in range(1, self.streams + 1)]

    def respond(self, octets: bytes, **changes: Any) -> TransferResponder:
        given: dict[str, Any] = {
            "own": self.own,
            "now": self.tick(),
            "suites": (self.suite,),
            "groups": self.groups,
            "replay": self.responder_replay,
            "entropy": self.draw,
        }
        return TransferResponder(self.profile, octets, **given | changes)

    def ask(self, responder: TransferResponder, **changes: Any) -> TicketResolve:
        given: dict[str, Any] = {"responder": self.own[0], "kms": KMS, "now": self.tick(), "entropy": self.draw}
        return TicketResolve(self.profile, credential("bob"), responder.ticket, **given | changes)

    def answer(self, octets: bytes, psk: Secret | None = None) -> bytes:
        """The KMS's whole way from RESOLVE_INIT to RESOLVE_RESP, with Bob's key."""
        pending = self.authority.read_resolve(octets, self.tick())
        authentic = pending.authenticate(psk or credential("bob").key, self.now)
        resolution = self.authority.resolve_ticket(
            authentic.ticket, self.own, self.find_tpk, self.now, groups=self.groups, endpoint=self.endpoint
        )
        return authentic.answer(resolution, self.now)

    def resolved(self, octets: bytes) -> tuple[TransferResponder, Resolution]:
        """The responder with a TRANSFER_INIT and its resolution, right before it accepts."""
        responder = self.respond(octets)
        resolve = self.ask(responder)
        return responder, resolve.receive(self.answer(resolve.message), self.tick())

    def accept(self, responder: TransferResponder, resolution: Resolution, **changes: Any) -> Accepted:
        ssrcs = {n: BOBS_STREAM + n for n in range(2, self.streams + 1, 2)}
        given: dict[str, Any] = {"ssrcs": ssrcs, "keys": self.responder_keys}
        return responder.accept(resolution, self.tick(), **given | changes)

    def finish(self, initiator: TransferInitiator, accepted: Accepted) -> Established:
        if accepted.response is None:
            return initiator.established()
        return initiator.receive(accepted.response, self.tick())

    def play(self) -> Played:
        played = Played(authority=self.authority, key=self.key)
        if self.mode == 3:
            played.ticket = create_ticket(self.profile, self.wish, ALICE, KMS, self.key, self.tick(), self.draw)
        else:
            played.request = self.request()
            played.granted = self.grant(played.request.message)
            played.ticket = played.request.receive(played.granted.response, self.tick())
            played.octets |= {"REQUEST_INIT": played.request.message, "REQUEST_RESP": played.granted.response}
        self.transfer(played)
        return played

    def transfer(self, played: Played) -> Played:
        """Transfer and Resolve with the ticket that was played so far."""
        played.initiator = self.initiate(played.ticket)
        played.responder = self.respond(played.initiator.message)
        played.resolve = self.ask(played.responder)
        answer = self.answer(played.resolve.message)
        played.resolution = played.resolve.receive(answer, self.tick())
        played.accepted = self.accept(played.responder, played.resolution)
        played.octets |= {"TRANSFER_INIT": played.initiator.message, "RESOLVE_INIT": played.resolve.message}
        played.octets |= {"RESOLVE_RESP": answer}
        if played.accepted.response is not None:
            played.octets["TRANSFER_RESP"] = played.accepted.response
        played.established = self.finish(played.initiator, played.accepted)
        return played
