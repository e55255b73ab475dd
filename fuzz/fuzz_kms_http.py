"""Fuzz the KMS's endpoint: whatever the body, an answer of Annex A comes back and no key in it.

The first octet of an input says which operation is asked for (bit 0) and whether every MAC is taken for right (bit 1),
so that what comes after authentication is reached too; the rest is the body. Clock, keys and users are fixed; store,
BSF and other KMSs are stand-ins without any I/O.

Run: ``python fuzz/fuzz_kms_http.py fuzz/seeds/kms_http -max_total_time=60``; ``python fuzz/fuzz_kms_http.py seeds``
writes the seeds.
"""

import asyncio
import base64
import hashlib
import io
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from keying.mikey import cipher, codec
    from keying.mikey.authority import Authority
    from keying.mikey.errors import MikeyError
    from keying.mikey.identity import Identity
    from keying.mikey.payloads import TicketPayload, Verification
    from keying.mikey.policy import Wish
    from keying.mikey.profile import DEFAULT_PROFILE
    from keying.mikey.registry import MacAlg
    from keying.mikey.replay import ReplayCache
    from keying.mikey.request import PskCredential, TicketRequest
    from keying.mikey.resolve import TicketResolve
    from keying.mikey.ticket import TicketProtectionKey, build_initiator_data
    from keying.secret import Secret
    from nodes.httpmessage import HttpRequest
    from nodes.kms.config import KmsSettings, RateLimit
    from nodes.kms.credentials import UnknownCredential, UserCredential
    from nodes.kms.endpoint import KmsEndpoint
    from nodes.kms.exchanges import Exchanges
    from nodes.kms.limits import buckets
    from nodes.kms.peers import PeerUnavailable
    from nodes.kms.policy import read_book
    from nodes.kms.watch import Watch
    from sba.telemetry import Telemetry

NOW = 1_800_000_000.0
KMS = "kms.ims.test"
TARGET = f"{DEFAULT_PROFILE.http_path}?{DEFAULT_PROFILE.http_operation_parameter}="
WORDS = (DEFAULT_PROFILE.http_request_word, DEFAULT_PROFILE.http_resolve_word)
HEADERS = (("Content-Type", DEFAULT_PROFILE.http_content_type),)
STATUSES = frozenset({200, 400, 401, 403, 413, 503, 504})
ALICE, BOB = Identity.uri("sip:alice@ims.test"), Identity.uri("sip:bob@ims.test")
TICKET_KEY = TicketProtectionKey(b"ticketkey"[:8], Secret(b"T" * 32))
KEYS = {
    b"alice@bsf.ims.test": UserCredential(Secret(b"A" * 32), "alice@ims.test", (ALICE,), NOW + 1e6),
    b"bob@bsf.ims.test": UserCredential(Secret(b"B" * 32), "bob@ims.test", (BOB,), NOW + 1e6),
}
VERIFY = cipher.verify_mac


class Octets:
    """A random source that says the same each time."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, length: int) -> bytes:
        self.count += 1
        return hashlib.shake_128(self.count.to_bytes(4, "big")).digest(length)


class Ring:
    current = TICKET_KEY

    def find(self, key_id: bytes) -> Secret | None:
        return TICKET_KEY.key if key_id == TICKET_KEY.key_id else None


class StoreInMemory:
    async def first_sight(self, digest: bytes, forget_at: float) -> bool:
        return bool(digest) and forget_at > NOW

    async def first_use(self, ticket_id: str, digest: bytes, forget_at: float) -> bool:
        return bool(ticket_id) and bool(digest) and forget_at > 0

    async def record(self, record: object) -> None:
        assert record.to_row()["party"]


class Credentials:
    async def find(self, psk_identity: bytes, now: float) -> UserCredential:
        if psk_identity not in KEYS:
            raise UnknownCredential
        assert now == NOW
        return KEYS[psk_identity]


class Peers:
    async def resolve(self, *_request: object) -> object:
        raise PeerUnavailable("none here", late=False)


def make() -> tuple[KmsEndpoint, Authority]:
    """A KMS without any I/O."""
    settings = KmsSettings(
        lab_domains=("partner.test",),
        user_made_tickets=True,
        groups={"sip:sales@ims.test": {"members": ["sip:alice@ims.test", "sip:bob@ims.test"]}},
    )
    telemetry = Telemetry("kms", "KMS", stream=io.StringIO())
    telemetry.log = lambda *_event, **_fields: None
    authority = Authority(DEFAULT_PROFILE, Identity.uri(KMS), modifier_secret=Secret(b"M" * 32), entropy=Octets())
    plenty = RateLimit(per_second=1e12, burst=10**9)
    exchanges = Exchanges(
        authority, read_book(settings, ("ims.test",)), Ring(), StoreInMemory(), Credentials(), Peers(),
        users=buckets(plenty, lambda: 0.0), endpoint_key=Secret(b"E" * 32),
        refusals=buckets(plenty, lambda: 0.0), now=lambda: NOW,
    )  # fmt: skip
    endpoint = KmsEndpoint(exchanges, DEFAULT_PROFILE, KMS, buckets(plenty, lambda: 0.0), Watch(telemetry, lambda: 1))
    return endpoint, authority


ENDPOINT, AUTHORITY = make()
LOOP = asyncio.new_event_loop()


def answer(operation: int, body: bytes) -> object:
    """The response to a body, as to a message never seen before."""
    AUTHORITY.replay = ReplayCache()
    request = HttpRequest("POST", TARGET + WORDS[operation], HEADERS, body, ("127.0.0.1", 1))
    return LOOP.run_until_complete(ENDPOINT.handle(request))


def one_input(data: bytes) -> None:
    """Post a body; nothing may be raised, and an answer reads as what it says it is."""
    if not data:
        return
    forgiving = bool(data[0] & 2)
    cipher.verify_mac = (lambda *_arguments: None) if forgiving else VERIFY
    try:
        response = answer(data[0] & 1, data[1:])
    finally:
        cipher.verify_mac = VERIFY
    if response.status not in STATUSES:
        raise AssertionError(f"status {response.status}")
    octets = response.body
    if response.content_type == DEFAULT_PROFILE.http_content_type:
        octets = octets if octets[:1] == b"\x01" else base64.b64decode(octets, validate=True)
        if codec.encode(codec.decode(octets)) != octets:
            raise AssertionError("round trip")
    elif response.status == 200:
        raise AssertionError("an answer without a message")
    for secret in (TICKET_KEY.key, *(user.key for user in KEYS.values())):
        if secret.reveal() in octets:
            raise AssertionError("a key in the answer")


def seeds() -> dict[str, bytes]:
    """Good messages of both operations, each also without a look at its MACs, in both forms."""
    random = Octets()
    kms = Identity.uri(KMS)
    alice, bob = (PskCredential(name, user.key) for name, user in KEYS.items())
    found: dict[str, bytes] = {}
    wishes = {
        "plain": Wish(responders=(BOB,)),
        "noforking": Wish(responders=(BOB,), forking=False),
        "group": Wish(responders=(Identity.uri("sip:sales@ims.test"),), reusable=True, validity_s=None),
        "elsewhere": Wish(responders=(Identity.uri("sip:erin@partner.test"), BOB)),
    }
    for name, wish in wishes.items():
        asking = TicketRequest(DEFAULT_PROFILE, alice, initiator=ALICE, kms=kms, wish=wish, now=NOW, entropy=random)
        found[f"request-{name}"] = b"\x00" + asking.message
        ticket = asking.receive(answer(0, asking.message).body, NOW) if wish.validity_s else None
        if ticket is None:
            continue
        payload = ticket.payload
        if ticket.forking:
            data = build_initiator_data(ticket, Verification(MacAlg.HMAC_SHA_1_160, bytes(20)))
            payload = TicketPayload(payload.policy, payload.ticket_data, data)
        resolving = TicketResolve(DEFAULT_PROFILE, bob, payload, responder=BOB, kms=kms, now=NOW, entropy=random)
        resolving.receive(answer(1, resolving.message).body, NOW)
        found[f"resolve-{name}"] = b"\x01" + resolving.message
    for name, octets in tuple(found.items()):
        found[f"{name}-forgiving"] = bytes([octets[0] | 2]) + octets[1:]
        found[f"{name}-base64"] = octets[:1] + base64.b64encode(octets[1:])
    return found


def main() -> None:
    """Write the seeds, or hand over to libFuzzer."""
    if sys.argv[1:] == ["seeds"]:
        folder = Path(__file__).resolve().parent / "seeds" / "kms_http"
        folder.mkdir(parents=True, exist_ok=True)
        for name, octets in seeds().items():
            (folder / name).write_bytes(octets)
        return
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    try:
        main()
    except MikeyError as error:
        sys.exit(f"the seeds cannot be made: {error}")
