"""A KMS of the test's making: the authority of keying.mikey with its keys in memory, asked with or without sockets."""

import asyncio
import base64
import itertools
import time
from urllib.parse import parse_qs

from keying.mikey.authority import Authority
from keying.mikey.errors import InvalidIdentity, MikeyError
from keying.mikey.groups import Groups
from keying.mikey.identity import Identity
from keying.mikey.policy import Limits
from keying.mikey.profile import Profile
from keying.mikey.request import PskCredential
from keying.mikey.ticket import TicketProtectionKey, mode3_ticket_key
from keying.secret import Secret
from nodes.https import HttpError, HttpFault, HttpResponse
from nodes.ue.config import KmsAddress, KmsPolicy
from nodes.ue.key_management import KeyManagement
from nodes.ue.kms_client import KmsClient
from nodes.ue.network import PinnedNetwork
from nodes.ue.ticket_store import NoVault, TicketStore

ALICE, BOB, CAROL, MALLORY = (f"sip:{name}@ims.test" for name in ("alice", "bob", "carol", "mallory"))
KMS = "kms.ims.test"
ADDRESS = KmsAddress(host="127.0.0.1", port=1, tls_name=KMS, identity=KMS)
MIKEY_TYPE = (("Content-Type", "application/mikey"),)


class StandInKms:
    """Answers whoever it knows. `script` holds what happens to the next requests instead; `asked` what was asked."""

    def __init__(self, *, profile=None, groups=None, now=time.time):
        self.profile = profile or Profile()
        self.now = now
        self.identity = Identity.uri(KMS)
        self.authority = Authority(self.profile, self.identity, modifier_secret=Secret.random(32))
        self.tpk = TicketProtectionKey(b"tpk-0001", Secret.random(32 if self.profile.suite == "256" else 16))
        self.groups = Groups(groups or {})
        self.limits = Limits()
        self.asked = []
        self.script = []
        self.identities = {}
        self.keys = {}
        self._serial = itertools.count(1)

    def enrol(self, user, *more):
        """Share a key with a user, as a bootstrapping does; returns it."""
        name = f"btid-{next(self._serial)}@bsf.ims.test".encode()
        self.keys[name] = Secret.random(32)
        self.identities[name] = tuple(Identity.uri(each) for each in (user, *more))
        return PskCredential(name, self.keys[name])

    async def answer(self, request):
        """Serve an HTTPS request."""
        word = parse_qs(request.target.partition("?")[2])["requesttype"][0]
        self.asked.append(word)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, HttpResponse):
            return step
        if step is not None:
            done = step()
            if asyncio.iscoroutine(done):
                await done
        text = request.body
        binary = text[:1] == b"\x01"
        octets = text if binary else base64.b64decode(text)
        status, response = self._serve(word, octets)
        return HttpResponse(status, MIKEY_TYPE, response if binary else base64.b64encode(response))

    def _serve(self, word, octets):
        now, pending = self.now(), None
        try:
            read = (
                self.authority.read_request if word == self.profile.http_request_word else self.authority.read_resolve
            )
            pending = read(octets, now)
            if pending.psk_identity not in self.keys:
                return 401, b""
            pending = pending.authenticate(self.keys[pending.psk_identity], now)
            name = read(octets, now).psk_identity
            mine = self.identities[name]
            if read == self.authority.read_request:
                if not any(pending.initiator.same(each) for each in mine):
                    raise InvalidIdentity("IDRi", "of somebody else")
                return 200, pending.grant(self.tpk, now, limits=self.limits).response
            if not any(pending.responder.same(each) for each in mine):
                raise InvalidIdentity("IDRr", "of somebody else")
            order = (pending.responder, *mine)
            resolution = self.authority.resolve_ticket(
                pending.ticket, order, self._find, now, groups=self.groups, endpoint=name
            )
            return 200, pending.answer(resolution, now)
        except MikeyError as error:
            answer = self.authority.error(octets, error, now) if pending is None else pending.error(error, now)
            return 403, answer or b""

    def _find(self, name):
        if name == self.tpk.key_id:
            return self.tpk
        if name in self.keys:
            length = 32 if self.profile.suite == "256" else 16
            return mode3_ticket_key(name, self.keys[name], self.identity, length, self.identities[name])
        return None


class Direct:
    """What a KmsClient takes for its HTTPS client: calls the stand-in, or fails as `down` says."""

    def __init__(self, kms):
        self.kms = kms
        self.down = None

    async def request(self, method, address, target, *, headers=(), body=b"", timeout_s=0.0):
        assert method == "POST"
        assert dict(headers)["Content-Type"] == "application/mikey"
        if self.down is not None:
            raise HttpError(self.down, "no KMS")
        return await self.kms.answer(_Request(target, body))


class _Request:
    def __init__(self, target, body):
        self.target, self.body = target, body


class Keys:
    """Credentials that the test hands out; counts how often they had to be made anew."""

    def __init__(self, kms, user, *more):
        self.kms, self.user, self.more = kms, user, more
        self.made = 0
        self._credential = None

    async def credential(self):
        if self._credential is None:
            self.made += 1
            self._credential = self.kms.enrol(self.user, *self.more)
        return self._credential

    def invalidate(self, credential):
        self._credential = None


def management(kms, user, *more, vault=None, https=None, now=time.time, key_export=False, address=ADDRESS, **policy):
    """Return the key management of one user's UE, at the stand-in."""
    wanted = KmsPolicy(**{"level": "preferred", "timeout_s": 1.0, **policy})
    client = KmsClient(
        https or Direct(kms),
        address,
        Keys(kms, user, *more),
        kms.profile,
        PinnedNetwork(kms=address.address),
        timeout_s=wanted.timeout_s,
        now=now,
    )
    store = TicketStore(vault or NoVault(), wanted.tickets_kept)
    return KeyManagement(wanted, client, store, kms.profile, key_export=key_export, now=now)


__all__ = ["ALICE", "BOB", "CAROL", "KMS", "MALLORY", "Direct", "HttpFault", "Keys", "StandInKms", "management"]
