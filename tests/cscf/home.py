"""A home network for tests: NRF, HSS and CSCF in this process, and a SIP stack that plays a P-CSCF over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from keying.secret import Secret
from nodes import siptls
from nodes.cscf.node import Cscf
from nodes.hss.node import Hss
from nodes.hss.provision import AkaCredentials, FilterCriterion, PublicIdentity, Subscriber, Trigger, build_provisioning
from sba import runtime
from sba.identity import NodeIdentity
from sba.store import Sealer
from sba.testing import LabFixture, free_port
from signalling.aka.digest import DigestChallenge, aka_password, answer_challenge
from signalling.aka.vectors import Usim, parse_nonce
from signalling.sip.flow import Flow, Hop
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.stack import ServerTxn, SipStack, make_response
from signalling.sip.timers import TimerConfig

K = Secret(bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc"))
OPC = Secret(bytes.fromhex("cd63cb71954a9f4e48a5994e37a02baf"))
PASSWORD = Secret(b"correct horse battery")
DOMAIN = "ims.test"

ALICE = Subscriber(
    "001010000000001@ims.test",
    DOMAIN,
    (
        PublicIdentity("sip:alice@ims.test"),
        PublicIdentity("tel:+15550100"),
        PublicIdentity("sip:secret-alice@ims.test", barred=True),
    ),
    AkaCredentials(K, OPC),
)
BOB = Subscriber(
    "001010000000002@ims.test",
    DOMAIN,
    (PublicIdentity("sip:bob@ims.test"), PublicIdentity("tel:+15550101")),
    AkaCredentials(K, OPC),
)
DAVE = Subscriber("dave@ims.test", DOMAIN, (PublicIdentity("sip:dave@ims.test"),), PASSWORD)
ERIN = Subscriber(
    "001010000000005@ims.test",
    DOMAIN,
    (PublicIdentity("sip:erin@ims.test"),),
    AkaCredentials(K, OPC),
    filter_criteria=(
        FilterCriterion(1, "sip:127.0.0.1:9;transport=tcp", (Trigger(method="INVITE", session_case="orig"),)),
    ),
)
SUBSCRIBERS = (ALICE, BOB, DAVE, ERIN)


async def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    """Let the loop run until a condition holds; raises ``TimeoutError``."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def look() -> None:
        if condition():
            changed.set()
        else:
            loop.call_later(0.01, look)

    look()
    async with asyncio.timeout(seconds):
        await changed.wait()


class MwPeer:
    """A node on Mw under test control: sends what it is told, answers what ``answer`` says, remembers both."""

    def __init__(self, stack: SipStack, host: str, transport: str) -> None:
        self.stack = stack
        self.host = host
        self.transport = transport
        self.port = 0
        self.received: list[SipRequest] = []
        self.acks: list[SipRequest] = []
        self.cancelled: list[SipRequest] = []
        self.transactions: list[ServerTxn] = []
        self.answers: dict[str, object] = {}
        self._arrived = asyncio.Event()
        self._numbers = itertools.count(1)

    async def open(self, identity: NodeIdentity | None, port: int = 0) -> None:
        tls = siptls.server(identity, mutual=True) if identity is not None else None
        if identity is not None:
            self.stack.set_client_tls("mw", siptls.client(identity.ca_path, identity))
        self.stack.handler = self
        listener = await self.stack.listen(self.transport, self.host, port, role="mw", tls=tls)
        self.port = listener.address[1]

    @property
    def uri(self) -> str:
        return f"sip:flow-1@{self.host}:{self.port};transport={self.transport.lower()};lr"

    def request_received(self, txn: ServerTxn) -> None:
        self.received.append(txn.request)
        self.transactions.append(txn)
        self._arrived.set()
        answer = self.answers.get(txn.request.method, 200)
        if answer is None:
            return
        status, headers = answer if isinstance(answer, tuple) else (answer, ())
        contact = [("Contact", f"<{self.uri}>")] if status < 300 else []
        txn.respond(make_response(txn.request, status, headers=[*contact, *headers]))

    def cancel_received(self, txn: ServerTxn, cancel: SipRequest) -> None:
        self.cancelled.append(cancel)
        txn.respond(make_response(txn.request, 487))

    def ack_received(self, request: SipRequest, flow: Flow, txn: ServerTxn | None) -> None:
        self.acks.append(request)
        self._arrived.set()

    def flow_closed(self, flow: Flow) -> None:
        pass

    async def until(self, condition, seconds: float = 8.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._arrived.clear()
                await self._arrived.wait()

    def request(
        self,
        method: str,
        uri: str,
        *,
        sender: str = "sip:alice@ims.test",
        to: str | None = None,
        call_id: str | None = None,
        cseq: int = 1,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> SipRequest:
        number = next(self._numbers)
        return SipRequest(
            method,
            uri,
            [
                ("Max-Forwards", "70"),
                ("From", f"<{sender}>;tag=f{number}"),
                ("To", to or f"<{uri}>"),
                ("Call-ID", call_id or f"call-{number}-{self.port}@{self.host}"),
                ("CSeq", f"{cseq} {method}"),
                *headers,
            ],
            body,
        )


@dataclass
class Phone:
    """A UE behind the peer: identity, USIM or password, and the state of its registration."""

    subscriber: Subscriber
    peer: MwPeer
    hop: Hop
    flag: str | None = "tls-connected"
    algorithm: str | None = "AKAv2-SHA-256"
    contact: str = "sip:192.0.2.10:5061;transport=tls"
    contact_params: str = ""
    call_id: str = ""
    cseq: int = 0
    usim: Usim = field(default_factory=lambda: Usim(K, OPC))
    nc: int = 0
    last: SipResponse | None = None

    @property
    def impu(self) -> str:
        return self.subscriber.public_identities[0].uri

    def credentials(self, parameters: str = 'nonce="",response=""') -> tuple[str, str]:
        text = f'Digest username="{self.subscriber.impi}",realm="{self.subscriber.domain}",uri="sip:{self.subscriber.domain}",{parameters}'
        if self.algorithm:
            text += f",algorithm={self.algorithm}"
        if self.flag:
            text += f',integrity-protected="{self.flag}"'
        return ("Authorization", text)

    async def send(
        self,
        authorization: tuple[str, str] | None,
        *,
        expires: int | None = 600,
        impu: str | None = None,
        contact: str | None = None,
        extra: Iterable[tuple[str, str]] = (),
        path: bool = True,
        cseq: int | None = None,
    ) -> SipResponse:
        self.cseq = cseq if cseq is not None else self.cseq + 1
        self.call_id = self.call_id or f"reg-{self.peer.port}-{self.subscriber.impi}-{id(self)}"
        impu = impu or self.impu
        headers = [("P-Charging-Vector", 'icid-value=icid-1;orig-ioi="Type 1visited.test"')]
        contact = contact if contact is not None else f"<{self.contact}>{self.contact_params}"
        if contact:
            headers.append(("Contact", contact))
        if expires is not None:
            headers.append(("Expires", str(expires)))
        if path:
            headers += [("Path", f"<{self.peer.uri}>"), ("Require", "path"), ("Supported", "path")]
        if authorization:
            headers.append(authorization)
        request = self.peer.request(
            "REGISTER",
            f"sip:{self.subscriber.domain}",
            sender=impu,
            to=f"<{impu}>",
            call_id=self.call_id,
            cseq=self.cseq,
            headers=[*headers, *extra],
        )
        self.last = await self.peer.stack.request(request, self.hop, role="mw")
        return self.last

    def answer(self, response: SipResponse, *, res: Secret | None = None) -> tuple[str, str]:
        challenge = DigestChallenge.parse(response.headers.get_all("WWW-Authenticate")[0])
        self.nc += 1
        if (challenge.algorithm or "").startswith("AKA"):
            rand, autn = parse_nonce(challenge.nonce)
            result = self.usim.authenticate(rand, autn)
            password = aka_password(challenge.algorithm, res or result.res, result.ik, result.ck)
        else:
            password = res or PASSWORD
        made = answer_challenge(
            challenge,
            username=self.subscriber.impi,
            password=password,
            method="REGISTER",
            uri=f"sip:{self.subscriber.domain}",
            cnonce="0a4f113b",
            nc=self.nc if not (challenge.algorithm or "").startswith("AKA") else 1,
        )
        text = made.format()
        if self.flag:
            text += f', integrity-protected="{"yes" if self.flag == "no" else self.flag}"'
        return ("Authorization", text)

    async def register(self, **options: object) -> SipResponse:
        self.nc = 0
        challenged = await self.send(self.credentials() if self.algorithm or self.flag else None, **options)
        assert challenged.status == 401, challenged
        return await self.send(self.answer(challenged), **options)

    @property
    def service_route(self) -> str:
        assert self.last is not None
        return self.last.headers.get("Service-Route") or ""

    def originating(self, *more: tuple[str, str]) -> list[tuple[str, str]]:
        return [
            ("Route", self.service_route),
            ("P-Asserted-Identity", f"<{self.impu}>"),
            ("Contact", f"<{self.contact}>"),
            *more,
        ]


class Home:
    """The network under test and its P-CSCF stand-ins."""

    def __init__(self, lab: LabFixture, cscf: Cscf | None, hop: Hop, transport: str) -> None:
        self.lab = lab
        self.cscf = cscf
        self.hop = hop
        self.transport = transport
        self.peers: list[MwPeer] = []

    async def peer(
        self, instance: str = "pcscf-x", nf_type: str = "PCSCF", host: str = "127.0.0.1", port: int = 0
    ) -> MwPeer:
        environment = self.lab.add("client", instance, nf_types=(nf_type,), ips=("127.0.0.1", "127.0.0.2", "127.0.0.3"))
        identity = NodeIdentity(environment) if self.transport == "TLS" else None
        stack = SipStack(runtime.reactor(), timers=TimerConfig.core())
        peer = MwPeer(stack, host, self.transport)
        await peer.open(identity, port)
        self.peers.append(peer)
        return peer

    def phone(self, subscriber: Subscriber, peer: MwPeer, **options: object) -> Phone:
        if isinstance(subscriber.credentials, Secret):
            options = {"flag": None, "algorithm": None, **options}
        return Phone(subscriber, peer, self.hop, **options)  # type: ignore[arg-type]


def provision(lab: LabFixture, instance: str, subscribers: Iterable[Subscriber]) -> dict[str, object]:
    """Write the sealed subscriber file of an HSS instance and return the HSS settings."""
    subscribers = tuple(subscribers)
    path = lab.folder / f"{instance}.subscribers"
    path.write_bytes(build_provisioning(subscribers, Sealer(lab.folder / "sealing.key", lab.instance_id(instance))))
    return {"provisioning_file": str(path), "home_domains": sorted({subscriber.domain for subscriber in subscribers})}


@contextlib.asynccontextmanager
async def home_network(
    folder: Path, *, transport: str = "tls", subscribers: Iterable[Subscriber] = SUBSCRIBERS, **settings: object
) -> AsyncIterator[Home]:
    """NRF, HSS and CSCF of ims.test, in this process."""
    async with LabFixture(folder) as lab:
        await lab.start("hss", "hss", provision(lab, "hss", subscribers), cls=Hss)
        port = free_port()
        cscf = await lab.start(
            "cscf",
            "cscf",
            {"mw": {"host": "127.0.0.1", "port": port}, "mw_transport": transport, **settings},
            cls=Cscf,
        )
        home = Home(lab, cscf, Hop(transport.upper(), "127.0.0.1", port), transport.upper())
        try:
            yield home
        finally:
            for peer in home.peers:
                await peer.stack.stop()
