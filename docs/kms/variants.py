# ruff: noqa: INP001, T201 - a program for a page
"""The variants that docs/kms.md shows, played through keying.mikey with a fixed clock and a fixed random source.

    python docs/kms/variants.py no-forking reuse update mode-3 group error

prints the same octets each time; the page has them, and ``tests/house/test_kms_doc.py`` compares. It is also the
shortest program that plays all of RFC 6043 through the library: one function a party, octets in between. The keys here
protect nothing; outside a lab key octets are never printed.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from dataclasses import dataclass, field

from keying.mikey.authority import Authority
from keying.mikey.describe import summary
from keying.mikey.errors import InvalidPolicyParameter, InvalidTicketPolicy
from keying.mikey.groups import NO_GROUPS, Groups
from keying.mikey.identity import Identity
from keying.mikey.payloads import KeyData
from keying.mikey.policy import Wish, flags_text
from keying.mikey.profile import DEFAULT_PROFILE as PROFILE
from keying.mikey.registry import KeyDataType
from keying.mikey.request import PskCredential, TicketRequest
from keying.mikey.resolve import Resolution, TicketResolve
from keying.mikey.sessions import SessionKeys, srtp_policy, srtp_session
from keying.mikey.ticket import Ticket, TicketProtectionKey, create_ticket, mode3_ticket_key, ticket_key_id
from keying.mikey.transfer import Accepted, TransferInitiator, TransferResponder
from keying.secret import Secret

SUITE = "AES_CM_128_HMAC_SHA1_80"
KMS = Identity.uri("kms.ims.test")
ALICE, BOB, DESK = (Identity.uri(f"sip:{name}@ims.test") for name in ("alice", "bob", "helpdesk"))
ALICES = PskCredential(b"btid-alice@bsf.ims.test", Secret(b"A" * 32))
BOBS = PskCredential(b"btid-bob@bsf.ims.test", Secret(b"B" * 32))
TPK = TicketProtectionKey(b"tpk-0001", Secret(b"T" * 16))


@dataclass
class Lab:
    """A clock, a random source that repeats between runs, and a KMS."""

    groups: Groups = NO_GROUPS
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    now: float = 1_800_000_000.0

    def __post_init__(self) -> None:
        self.kms = Authority(PROFILE, KMS, modifier_secret=Secret(b"M" * 32), entropy=self.draw)

    def draw(self, octets: int) -> bytes:
        """Return octets that look random."""
        return hashlib.shake_256(next(self.numbers).to_bytes(8, "big")).digest(octets)

    def tick(self) -> float:
        """Let a quarter of a second go by."""
        self.now += 0.25
        return self.now

    def ticket(self, wish: Wish) -> Ticket:
        """Ticket Request, both sides."""
        request = TicketRequest(
            PROFILE, ALICES, initiator=ALICE, kms=KMS, wish=wish, now=self.tick(), entropy=self.draw
        )
        authentic = self.kms.read_request(request.message, self.tick()).authenticate(ALICES.key, self.now)
        return request.receive(authentic.grant(TPK, self.now).response, self.tick())

    def call(self, ticket: Ticket, peer: Identity = BOB) -> TransferInitiator:
        """TRANSFER_INIT of alice for one audio line."""
        return TransferInitiator(
            PROFILE,
            ticket,
            own=ALICE,
            peer=peer,
            sessions=[srtp_session(1, (0,), 0x0A11CE00), srtp_session(2, (0,), None)],
            policies=[srtp_policy(SUITE, 0)],
            suites=(SUITE,),
            now=self.tick(),
            entropy=self.draw,
        )

    def resolve(self, called: TransferResponder, tpk: TicketProtectionKey = TPK) -> tuple[Resolution, bytes, bytes]:
        """Ticket Resolve of bob, both sides; also its two messages."""
        asked = TicketResolve(PROFILE, BOBS, called.ticket, responder=BOB, kms=KMS, now=self.tick(), entropy=self.draw)
        authentic = self.kms.read_resolve(asked.message, self.tick()).authenticate(BOBS.key, self.now)
        resolution = self.kms.resolve_ticket(
            authentic.ticket,
            [BOB],
            {tpk.key_id: tpk}.get,
            self.now,
            groups=self.groups,
            endpoint=b"bob's phone",
        )
        answer = authentic.answer(resolution, self.now)
        return asked.receive(answer, self.tick()), asked.message, answer

    def answer(self, octets: bytes, resolution: Resolution) -> Accepted:
        """TRANSFER_RESP of bob."""
        called = self.called(octets)
        return called.accept(resolution, self.tick(), ssrcs={2: 0x00B0B000})

    def called(self, octets: bytes) -> TransferResponder:
        """What bob makes of a TRANSFER_INIT before any KMS is asked."""
        return TransferResponder(
            PROFILE,
            octets,
            own=[BOB],
            now=self.tick(),
            suites=(SUITE,),
            may_be_in_groups=True,
            entropy=self.draw,
        )


def show(octets: bytes | None, *, hexed: bool = False) -> None:
    """Print a message's payloads, and its octets when asked for."""
    assert octets is not None
    print(summary(octets))
    if hexed:
        for start in range(0, len(octets), 48):
            print("   ", octets[start : start + 48].hex())


def key_of(keys: SessionKeys) -> str:
    """Return SPI and master key of alice's stream."""
    return f"MKI {keys[1].spi.hex()}, master key {keys[1].tek.reveal().hex()}"


def no_forking() -> None:
    """I=0: no Initiator Data, no MPKr, no modifier; MPKi protects the response too."""
    lab = Lab()
    ticket = lab.ticket(Wish((BOB,), forking=False))
    print("flags", flags_text(ticket.policy))
    call = lab.call(ticket)
    resolution, _, answer = lab.resolve(lab.called(call.message))
    print("keys in RESOLVE_RESP", *(key.key_type.name for key in (resolution.mpki, *resolution.keys)))
    show(call.message)
    show(answer)
    accepted = lab.answer(call.message, resolution)
    show(accepted.response, hexed=True)
    print(key_of(accepted.keys))


def reuse() -> None:
    """J=1: new CSB ID, T and RANDs for each call; resolved once, the modifier stays."""
    lab = Lab()
    ticket = lab.ticket(Wish((BOB,), reusable=True))
    print("flags", flags_text(ticket.policy))
    resolution: Resolution | None = None
    for number in (1, 2):
        call = lab.call(ticket)
        if resolution is None:
            resolution, _, _ = lab.resolve(lab.called(call.message))
        accepted = lab.answer(call.message, resolution)
        assert accepted.response is not None
        established = call.receive(accepted.response, lab.tick())
        print(f"call {number}: CSB ID {call.csb_id:08x}, RANDRkms {resolution.rand_kms.hex()[:16]}...")
        print(f"  {key_of(established.keys)}")


def update() -> None:
    """CSB update: alice brings a new TGK (L=1)."""
    lab = Lab()
    ticket = lab.ticket(Wish((BOB,), initiator_keys=True))
    print("flags", flags_text(ticket.policy))
    call = lab.call(ticket)
    resolution, _, _ = lab.resolve(lab.called(call.message))
    accepted = lab.answer(call.message, resolution)
    assert accepted.response is not None
    ours = call.receive(accepted.response, lab.tick()).association
    print("before:", key_of(ours.keys))
    fresh = KeyData(KeyDataType.TGK, Secret(lab.draw(16)), spi=lab.draw(4))
    sessions = [
        srtp_session(1, (0,), 0x0A11CE00, fresh.spi or b""),
        srtp_session(2, (0,), 0x00B0B000, fresh.spi or b""),
    ]
    started = ours.start(lab.tick(), keys=[fresh], sessions=sessions)
    show(started.message, hexed=True)
    response, theirs = accepted.association.receive(started.message, lab.tick()).accept(lab.tick())
    show(response)
    assert response is not None
    print("after: ", key_of(started.receive(response, lab.tick())))
    assert key_of(theirs) == key_of(ours.keys)


def mode_3() -> None:
    """D=0: alice makes the ticket under a key she shares with her KMS; nothing is requested."""
    lab = Lab()
    tpk = mode3_ticket_key(ALICES.identity, ALICES.key, KMS, 16)
    ticket = create_ticket(PROFILE, Wish((BOB,)), ALICE, KMS, tpk, lab.tick(), lab.draw)
    print("flags", flags_text(ticket.policy))
    print("TPK named in Ticket Data", ticket_key_id(ticket.payload).decode())
    call = lab.call(ticket)
    owned = mode3_ticket_key(ALICES.identity, ALICES.key, KMS, 16, (ALICE,))
    resolution, _, _ = lab.resolve(lab.called(call.message), owned)
    accepted = lab.answer(call.message, resolution)
    show(call.message)
    show(accepted.response)
    print(key_of(accepted.keys))


def group() -> None:
    """IDRr of the ticket is a group: the KMS knows its members and names the one that asked."""
    lab = Lab(Groups({"sip:helpdesk@ims.test": ["sip:bob@ims.test", "sip:carol@ims.test"]}))
    ticket = lab.ticket(Wish((DESK,)))
    call = lab.call(ticket, DESK)
    called = lab.called(call.message)
    resolution, asked, answer = lab.resolve(called)
    accepted = lab.answer(call.message, resolution)
    assert accepted.response is not None
    for octets in (call.message, asked, answer, accepted.response):
        show(octets)
    print("called", called.called.text)
    print("answered", call.receive(accepted.response, lab.tick()).responder.text)


def error() -> None:
    """Error messages: of a KMS that has checked the MAC, and of a responder that has not."""
    lab = Lab()
    request = TicketRequest(
        PROFILE, ALICES, initiator=ALICE, kms=KMS, wish=Wish((BOB,)), now=lab.tick(), entropy=lab.draw
    )
    authentic = lab.kms.read_request(request.message, lab.tick()).authenticate(ALICES.key, lab.now)
    show(
        authentic.error(InvalidTicketPolicy("IDRr", "policy allows no ticket for this responder"), lab.now), hexed=True
    )
    call = lab.call(lab.ticket(Wish((BOB,))))
    show(lab.called(call.message).error(InvalidPolicyParameter("SP", "none is acceptable"), lab.tick()), hexed=True)


VARIANTS = {
    "no-forking": no_forking,
    "reuse": reuse,
    "update": update,
    "mode-3": mode_3,
    "group": group,
    "error": error,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or VARIANTS:
        VARIANTS[name]()
