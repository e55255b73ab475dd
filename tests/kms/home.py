"""A lab with KMSs, a BSF that says what the test wants, and what a UE does towards its KMS."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from dataclasses import dataclass, field

from keying.mikey.identity import Identity
from keying.mikey.payloads import TicketPayload, Verification
from keying.mikey.policy import Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.registry import MacAlg
from keying.mikey.request import PskCredential, TicketRequest
from keying.mikey.resolve import TicketResolve
from keying.mikey.ticket import build_initiator_data
from keying.secret import Secret
from nodes.https import HttpsAddress, HttpsClient
from nodes.kms.node import Kms
from protos import bsf_gba_pb2
from sba.errors import ProblemError
from sba.nf import NetworkFunction
from sba.telemetry import Telemetry
from sba.testing import free_port
from tests.kms.parties import ALICE, uri

TARGETS = {"request": "/keymanagement?requesttype=ticketrequest", "resolve": "/keymanagement?requesttype=ticketresolve"}
MIKEY = (("Content-Type", "application/mikey"),)


@dataclass
class Bootstrapped:
    """What the fake BSF knows of a B-TID."""

    key: bytes
    impi: str
    identities: tuple[str, ...]
    expires_at: float


class NbsfGba:
    service = bsf_gba_pb2.DESCRIPTOR.services_by_name["NbsfGba"]

    def __init__(self, node):
        self.node = node

    async def GetBootstrappingInfo(self, request, context):
        self.node.asked.append((request.btid, request.naf_id, context.peer.dns_names))
        self.node.reached.set()
        if self.node.hold is not None:
            await self.node.hold.wait()
        found = self.node.known.get(request.btid)
        if found is None:
            raise ProblemError(404, "CONTEXT_NOT_FOUND")
        return bsf_gba_pb2.BootstrappingInfoResponse(
            ks_naf=found.key,
            impi=found.impi,
            public_identities=found.identities,
            bootstrapped_at=time.time(),
            expires_at=found.expires_at,
        )


class FakeBsf(NetworkFunction):
    """Answers Zn out of `known`; waits for `hold` first."""

    nf_types = ("BSF",)

    async def open_node(self):
        self.known = {}
        self.asked = []
        self.hold = None
        self.reached = asyncio.Event()
        self.offered = [NbsfGba(self)]

    def servicers(self):
        return self.offered


@dataclass
class Ue:
    """A user with a bootstrapped key towards one KMS."""

    lab: object
    identity: Identity
    kms: Identity
    address: HttpsAddress
    credential: PskCredential
    profile: object = DEFAULT_PROFILE
    client: HttpsClient = field(init=False)

    def __post_init__(self):
        self.telemetry = Telemetry("ue", "UE")
        self.client = HttpsClient(self.lab.folder / "pki" / "ca.crt", self.telemetry)

    async def post(self, operation, body, *, binary=True, headers=MIKEY, method="POST", target=None, timeout_s=15.0):
        body = body if binary else base64.b64encode(body)
        return await self.client.request(
            method, self.address, target or TARGETS[operation], headers=headers, body=body, timeout_s=timeout_s
        )

    def wish(self, *responders, **more):
        return Wish(responders=responders, **more)

    def request(self, *responders, at=None, initiator=None, **more):
        return TicketRequest(
            self.profile,
            self.credential,
            initiator=initiator or self.identity,
            kms=self.kms,
            wish=self.wish(*responders, **more),
            now=at or time.time(),
        )

    async def ticket(self, *responders, binary=True, **more):
        """A ticket, or the response when it was none."""
        exchange = self.request(*responders, **more)
        response = await self.post("request", exchange.message, binary=binary)
        if response.status != 200:
            return response
        body = response.body if binary else base64.b64decode(response.body)
        return exchange.receive(body, time.time())

    def resolution(self, payload, *, at=None, responder=None):
        return TicketResolve(
            self.profile,
            self.credential,
            payload,
            responder=responder or self.identity,
            kms=self.kms,
            now=at or time.time(),
        )

    async def resolve(self, payload, *, binary=True, **more):
        """What the ticket holds for this user, or the response when it was nothing."""
        exchange = self.resolution(payload, **more)
        response = await self.post("resolve", exchange.message, binary=binary)
        if response.status != 200:
            return response
        body = response.body if binary else base64.b64decode(response.body)
        return exchange.receive(body, time.time())


def sent(ticket, mac=b"\x07" * 20):
    """The ticket as a TRANSFER_INIT with that MAC carries it: with Initiator Data when it forks."""
    payload = ticket.payload
    if not ticket.forking:
        return payload
    verification = Verification(MacAlg.HMAC_SHA_1_160, mac)
    return TicketPayload(payload.policy, payload.ticket_data, build_initiator_data(ticket, verification))


class Home:
    """The KMS of a home domain beside its fake BSF."""

    def __init__(self, lab, domain="ims.test", suffix=""):
        self.lab = lab
        self.domain = domain
        self.kms_name, self.bsf_name = f"kms{suffix}", f"bsf{suffix}"
        self.identity = Identity.uri(f"kms.{domain}")
        self.port = free_port()
        self.bsf = None
        self.kms = None

    def name_certificate(self, instance, nf_type, role):
        """Give an instance a certificate that shows its role beside its own name."""
        environment = self.lab.add("client", instance, nf_types=(nf_type,))
        names = {environment.node.fqdn, f"{role}.{self.domain}"}
        self.lab.ca.issue(instance, (nf_type,), environment.node.nf_instance_id, dns=sorted(names), ips=["127.0.0.1"])

    def settings(self, **more):
        return {
            "home_domains": [self.domain],
            "lab_domains": ["ims.test", "partner.test"],
            "http": {"host": "127.0.0.1", "port": self.port},
            "heartbeat_s": 1,
            "bsf_timeout_s": 10.0,  # a machine may be slow
        } | more

    async def start_bsf(self):
        self.name_certificate(self.bsf_name, "BSF", "bsf")
        self.bsf = await self.lab.start(
            "bsf", self.bsf_name, {"home_domains": [self.domain], "heartbeat_s": 1}, cls=FakeBsf
        )
        return self.bsf

    async def start(self, **settings):
        await self.start_bsf()
        self.name_certificate(self.kms_name, "KMS", "kms")
        self.kms = await self.lab.start("kms", self.kms_name, self.settings(**settings), cls=Kms)
        return self

    async def spawn(self, **settings):
        """The KMS as a process; its BSF stays here."""
        if self.bsf is None:
            await self.start_bsf()
            self.name_certificate(self.kms_name, "KMS", "kms")
        return await self.lab.spawn("kms", self.kms_name, self.settings(**settings), nf_types=("KMS",))

    def ue(self, name, *, identities=None, lifetime_s=3600.0, key=None, btid=None, known=True):
        """A user who has bootstrapped."""
        identity = name if isinstance(name, Identity) else uri(f"sip:{name}@{self.domain}")
        btid = btid or f"{base64.b64encode(secrets.token_bytes(16)).decode()}@bsf.{self.domain}"
        key = key or Secret.random(32)
        if known:
            user = identity.text.partition(":")[2].partition("@")[0]
            self.bsf.known[btid] = Bootstrapped(
                key.reveal(),
                f"{user}@{self.domain}",
                identities or (identity.text,),
                time.time() + lifetime_s,
            )
        address = HttpsAddress(host="127.0.0.1", port=self.port, tls_name=self.identity.text)
        return Ue(self.lab, identity, self.identity, address, PskCredential(btid.encode(), key))


__all__ = ["ALICE", "FakeBsf", "Home", "Ue", "asyncio", "sent"]
