"""A P-CSCF on real sockets, with an IMS-AGW, UEs and a core that the tests play themselves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from keying.sdes import generate
from nodes import siptls
from nodes.pcscf.iq import crypto_to_proto
from nodes.pcscf.node import Pcscf
from protos import iq_pb2
from sba import runtime
from sba.errors import ProblemError
from sba.identity import NodeIdentity
from sba.nf import NetworkFunction
from sba.testing import LabFixture
from signalling.sip.flow import Flow, Hop
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.stack import ServerTxn, SipStack, make_response
from signalling.sip.timers import TimerConfig

HOST = "127.0.0.1"
ALICE = "sip:alice@ims.test"
BOB = "sip:bob@ims.test"


class FakeGateway(NetworkFunction):
    """An IMS-AGW that hands out ports and keys, remembers every request and fails on demand."""

    nf_types = ("IMS_AGW",)

    async def open_node(self) -> None:
        self.iq = FakeIq()

    def servicers(self) -> list[object]:
        return [self.iq]


class FakeIq:
    service = iq_pb2.DESCRIPTOR.services_by_name["Iq"]

    def __init__(self) -> None:
        self.epoch = "epoch-1"
        self.log: list[tuple[str, Any]] = []
        self.contexts: dict[str, dict[str, dict[int, iq_pb2.LocalInfo]]] = {}
        self.sides: dict[str, int] = {}
        self.owner: dict[str, str] = {}
        self.correlation: dict[str, str] = {}
        self.keys: list[bytes] = []
        self.fail: dict[str, ProblemError] = {}
        self.mute = 0
        """So many reservations are carried out but never answered."""
        self.quick = asyncio.Event()
        """Not set: a Configure waits."""
        self.quick.set()
        self.port = 20000
        self.notes: asyncio.Queue[iq_pb2.Notification] = asyncio.Queue()

    def requests(self, name: str) -> list[Any]:
        return [request for method, request in self.log if method == name]

    def _enter(self, name: str, request: Any) -> None:
        self.log.append((name, request))
        if name in self.fail:
            raise self.fail[name]

    async def ReserveAndConfigure(self, request, context):
        self._enter("Reserve", request)
        name = f"c{len(self.correlation) + 1}"
        self.contexts[name] = {}
        self.correlation[name] = request.correlation
        self.owner[name] = context.peer.instance_id
        response = iq_pb2.ReserveResponse(context_id=name, epoch=self.epoch)
        for index, wanted in enumerate(request.terminations):
            termination = f"{name}t{index}"
            self.contexts[name][termination] = {}
            self.sides[termination] = wanted.side
            info = response.terminations.add(termination_id=termination, side=wanted.side)
            info.streams.extend(self._streams(name, termination, wanted))
        if self.mute:
            self.mute -= 1
            await asyncio.sleep(2)  # longer than anybody waits
        return response

    async def Configure(self, request, context):
        self._enter("Configure", request)
        await self.quick.wait()
        if request.context_id not in self.contexts:
            raise ProblemError(404, "CONTEXT_NOT_FOUND")
        response = iq_pb2.ConfigureResponse()
        for wanted in request.terminations:
            info = response.terminations.add(termination_id=wanted.id, side=self.sides[wanted.id])
            info.streams.extend(self._streams(request.context_id, wanted.id, wanted))
        return response

    def _streams(self, name: str, termination: str, wanted: Any) -> list[iq_pb2.LocalInfo]:
        held = self.contexts[name][termination]
        given = []
        for spec in wanted.streams:
            self.keys.extend(line.key_salt for line in spec.sdes_remote)
            if spec.removed:
                held.pop(spec.stream_id, None)
                continue
            info = held.get(spec.stream_id)
            if info is None:
                self.port += 2
                info = iq_pb2.LocalInfo(stream_id=spec.stream_id, ip=HOST, port=self.port, rtcp_port=self.port + 1)
                held[spec.stream_id] = info
            if spec.HasField("sdes_local_request"):
                self._lines(info, spec.sdes_local_request)
            if spec.sdes_local_selected:
                chosen = [line for line in info.sdes_local if line.tag == spec.sdes_local_selected]
                del info.sdes_local[:]
                info.sdes_local.extend(chosen)
            given.append(info)
        return given

    def _lines(self, info: iq_pb2.LocalInfo, request: iq_pb2.SdesLocalRequest) -> None:
        same = [line.suite for line in info.sdes_local] == list(request.suites)
        if same and not request.rekey and (not request.tag or info.sdes_local[0].tag == request.tag):
            return
        del info.sdes_local[:]
        for offset, suite in enumerate(request.suites):
            line = crypto_to_proto(generate(suite, (request.tag or 1) + offset))
            self.keys.append(line.key_salt)
            info.sdes_local.append(line)

    async def Release(self, request, context):
        self._enter("Release", request)
        self.contexts.pop(request.context_id, None)
        return iq_pb2.ReleaseResponse()

    async def Audit(self, request, context):
        self._enter("Audit", request)
        return iq_pb2.AuditResponse(
            epoch=self.epoch,
            contexts=[
                iq_pb2.ContextAudit(
                    context_id=name, owner=self.owner.get(name, ""), correlation=self.correlation.get(name, "")
                )
                for name in self.contexts
            ],
        )

    async def Associate(self, request, context):
        self._enter("Associate", request)
        return iq_pb2.AssociateResponse(agw_id="agw", epoch=self.epoch, srtp=True)

    async def Heartbeat(self, request, context):
        self._enter("Heartbeat", request)
        return iq_pb2.HeartbeatResponse(epoch=self.epoch)

    async def Events(self, request, context):
        self._enter("Events", request)
        while True:
            yield await self.notes.get()

    async def Reserve(self, request, context):
        return await self.ReserveAndConfigure(request, context)

    async def SetThroughConnection(self, request, context):
        raise ProblemError(501, "NOT_IMPLEMENTED")

    ActivateRealmMonitor = ConfigureMonitor = SetThroughConnection


class Party:
    """A SIP end the test plays: what arrives is queued, what is sent returns all responses."""

    def __init__(self, name: str, role: str, timers: TimerConfig) -> None:
        self.name = name
        self.role = role
        self.stack = SipStack(runtime.reactor(), timers=timers, handler=self, server_name=name)
        self.requests: asyncio.Queue[ServerTxn] = asyncio.Queue()
        self.acks: asyncio.Queue[SipRequest] = asyncio.Queue()
        self.cancels: asyncio.Queue[SipRequest] = asyncio.Queue()
        self.auto: dict[str, Callable[[ServerTxn], SipResponse | None]] = {}
        self.address: tuple[str, int] = (HOST, 0)
        self.transport = "TLS"
        self.seen: list[bytes] = []

    def request_received(self, txn: ServerTxn) -> None:
        answer = self.auto.get(txn.request.method)
        if answer is not None:
            response = answer(txn)
            if response is not None:
                txn.respond(response)
            return
        self.requests.put_nowait(txn)

    def cancel_received(self, txn: ServerTxn, cancel: SipRequest) -> None:
        self.cancels.put_nowait(cancel)
        txn.respond(make_response(txn.request, 487))

    def ack_received(self, request: SipRequest, flow: Flow, txn: ServerTxn | None) -> None:
        self.acks.put_nowait(request)

    def flow_closed(self, flow: Flow) -> None:
        pass

    async def next(self, method: str, wait_s: float = 20.0) -> ServerTxn:
        async with asyncio.timeout(wait_s):
            txn = await self.requests.get()
        assert txn.request.method == method, txn.request.to_bytes()
        return txn

    async def next_ack(self, wait_s: float = 20.0) -> SipRequest:
        async with asyncio.timeout(wait_s):
            return await self.acks.get()

    def send(self, request: SipRequest, hop: Hop) -> Exchange:
        return Exchange(self, request, hop)


class Exchange:
    """One client transaction with its responses."""

    def __init__(self, party: Party, request: SipRequest, hop: Hop) -> None:
        self.responses: asyncio.Queue[SipResponse | Exception] = asyncio.Queue()
        self.txn = party.stack.send(
            request, hop, role=party.role, on_response=self.responses.put_nowait, on_failure=self.responses.put_nowait
        )

    async def next(self, wait_s: float = 20.0) -> SipResponse:
        async with asyncio.timeout(wait_s):
            while True:
                response = await self.responses.get()
                if isinstance(response, Exception):
                    raise response
                if response.status != 100:
                    return response

    async def final(self, wait_s: float = 20.0) -> SipResponse:
        while (response := await self.next(wait_s)).status < 200:
            pass
        return response


class Ue(Party):
    """A UE on Gm: registers over TLS (AKAv2 as far as the edge sees) or UDP."""

    def __init__(self, name: str, edge: EdgeFixture, transport: str = "TLS") -> None:
        super().__init__(name, "ue", edge.timers)
        self.edge = edge
        self.transport = transport
        self.impu = f"sip:{name}@ims.test"
        self.cseq = 0
        self.hop = edge.gm_hop(transport)
        self.verify = ""
        self.call_id = f"reg-{name}@ue"
        self.service_route: list[str] = []
        self.algorithm = "AKAv2-SHA-256" if transport == "TLS" else "MD5"
        self.last: SipResponse | None = None
        self.extra: list[tuple[str, str]] = []

    async def open(self) -> Ue:
        listener = await self.stack.listen("UDP" if self.transport == "UDP" else "TCP", HOST, 0, role="ue")
        self.address = listener.address
        self.stack.set_client_tls("ue", siptls.client(self.edge.pki / "ca.crt"))
        return self

    @property
    def contact(self) -> str:
        return f"<sip:{self.name}@{self.address[0]}:{self.address[1]}>"

    def register(self, *, client: str | None = "sdes-srtp;mediasec", **more: Any) -> SipRequest:
        self.cseq += 1
        authorization = (
            f'Digest username="{self.name}@ims.test",realm="ims.test",uri="sip:ims.test",'
            f'nonce="{more.get("nonce", "")}",response="{more.get("response", "")}",algorithm={self.algorithm}'
        )
        headers = [
            ("Max-Forwards", "70"),
            ("From", f"<{self.impu}>;tag=r{self.cseq}"),
            ("To", f"<{self.impu}>"),
            ("Call-ID", more.get("call_id", self.call_id)),
            ("CSeq", f"{self.cseq} REGISTER"),
            ("Contact", f"{self.contact};expires={more.get('expires', 3600)}"),
            ("Supported", "path"),
            ("Authorization", authorization),
        ]
        if client:
            headers.append(("Security-Client", client))
        if more.get("verify"):
            headers.append(("Security-Verify", more["verify"]))
        return SipRequest("REGISTER", "sip:ims.test", headers + self.extra + more.get("headers", []))

    async def sign_on(
        self, *, client: str | None = "sdes-srtp;mediasec", echo: bool = True, **more: Any
    ) -> SipResponse:
        """Register: challenge, answer. Returns the final response."""
        challenge = await self.send(self.register(client=client, **more), self.hop).final()
        if challenge.status != 401:
            self.last = challenge
            return challenge
        server = challenge.headers.get("Security-Server") or ""
        verify = more.pop("verify_with", server) if echo else ""
        final = await self.send(
            self.register(client=client, response="00" * 16, nonce="bm9uY2U=", verify=verify, **more), self.hop
        ).final()
        self.verify = server or final.headers.get("Security-Server") or ""
        self.service_route = final.headers.values("Service-Route")
        self.last = final
        return final

    def invite(self, to: str, body: bytes = b"", **more: Any) -> SipRequest:
        headers = [
            ("Max-Forwards", "70"),
            ("From", f"<{self.impu}>;tag=f-{self.name}"),
            ("To", f"<{to}>"),
            ("Call-ID", more.get("call_id", f"call-{self.name}@ue")),
            ("CSeq", "1 INVITE"),
            ("Contact", self.contact),
            ("Supported", "100rel"),
        ]
        headers += [("Route", value) for value in more.get("route", self.service_route)]
        if self.verify and more.get("echo", True):
            headers.append(("Security-Verify", more.get("verify", self.verify)))
        if body:
            headers.append(("Content-Type", "application/sdp"))
        return SipRequest("INVITE", to, headers + more.get("headers", []), body)

    async def close(self) -> None:
        await self.stack.stop()


class EdgeFixture:
    """The P-CSCF, its gateway, and the core."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = settings
        self.timers = TimerConfig.core()
        self.pki = folder / "pki"
        self.parties: list[Party] = []
        self.spans = InMemorySpanExporter()

    async def open(self, lab: LabFixture) -> None:
        self.lab = lab
        self.agw = await lab.start("imsagw", "imsagw-a", {"access_network": "a"}, cls=FakeGateway)
        self.iq: FakeIq = self.agw.iq
        await self.open_core()
        await self.start_pcscf()

    async def start_pcscf(self) -> None:
        settings = {
            "gm": [
                {"transport": "UDP", "host": HOST, "port": 0},
                {"transport": "TCP", "host": HOST, "port": 0},
                {"transport": "TLS", "host": HOST, "port": 0},
            ],
            "mw": [{"transport": self.core.transport, "host": HOST, "port": 0}],
            "access_network": "a",
            "core_routes": {"ims.test": self.core_uri()},
            "t1_access_s": 0.5,
            "iq_heartbeat_s": 0.2,
            **self.settings,
        }
        self.node: Pcscf = await self.lab.start("pcscf", "pcscf-a", settings, cls=Pcscf)
        self.node.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))

    async def restart(self) -> None:
        """Stop and start again with the same ports and store."""
        known = {uri.transport: uri.port for uri in self.node.gm}
        self.settings["gm"] = [{"transport": name, "host": HOST, "port": known[name]} for name in ("UDP", "TCP", "TLS")]
        mw = self.node.edge.mw
        self.settings["mw"] = [{"transport": mw.transport, "host": HOST, "port": mw.port}]
        await self.lab.stop("pcscf-a")
        await self.start_pcscf()

    async def open_core(self) -> None:
        transport = self.settings.pop("core_transport", "TLS")
        self.core = Party("core", "mw", self.timers)
        self.core.transport = transport
        identity = NodeIdentity(self.lab.add("cscf", "cscf-1", nf_types=("SCSCF", "ICSCF")))
        tls = None
        if transport == "TLS":
            tls = siptls.server(identity, mutual=True)
            self.core.stack.set_client_tls("mw", siptls.client(identity.ca_path, identity))
        listener = await self.core.stack.listen(transport, HOST, 0, role="mw", tls=tls)
        self.core.address = listener.address
        self.core.auto["REGISTER"] = self.registrar
        self.registered: list[SipRequest] = []
        self.service_policy = ""
        self.max_sessions = 0
        self.parties.append(self.core)

    def core_uri(self, user: str = "") -> str:
        who = f"{user}@" if user else ""
        return f"sip:{who}{HOST}:{self.core.address[1]};transport={self.core.transport.lower()};lr"

    def registrar(self, txn: ServerTxn) -> SipResponse:
        """A registrar that believes any response and challenges everything else."""
        request = txn.request
        self.registered.append(request)
        authorization = request.headers.get("Authorization") or ""
        if 'response=""' in authorization:
            challenge = (
                'Digest realm="ims.test",nonce="bm9uY2U=",algorithm=AKAv1-MD5,qop="auth",'
                'ik="00112233445566778899aabbccddeeff",ck="ffeeddccbbaa99887766554433221100"'
            )
            return make_response(request, 401, headers=[("WWW-Authenticate", challenge)])
        name = str(request.to.uri)
        headers = [
            ("Path", request.headers.get("Path") or ""),
            ("Service-Route", f"<{self.core_uri('orig')}>"),
            ("P-Associated-URI", f"<{name}>, <tel:+15550100>"),
            ("P-Charging-Vector", 'icid-value="x";orig-ioi=a;term-ioi=b'),
            ("P-Charging-Function-Addresses", "ccf=1"),
            ("Contact", request.headers.get("Contact") or ""),
        ]
        if self.service_policy:
            headers.append(("P-Imslab-Media-Security", self.service_policy))
        if self.max_sessions:
            headers.append(("P-Imslab-Max-Sessions", str(self.max_sessions)))
        return make_response(request, 200, headers=headers)

    def gm_hop(self, transport: str) -> Hop:
        uri = next(uri for uri in self.node.gm if uri.transport == transport)
        name = "pcscf-a.ims.test" if transport == "TLS" else None
        return Hop(transport, uri.host, uri.port, tls_name=name)

    def mw_hop(self) -> Hop:
        mw = self.node.edge.mw
        return Hop(mw.transport, mw.host, mw.port)

    async def ue(self, name: str, transport: str = "TLS") -> Ue:
        party = await Ue(name, self, transport).open()
        self.parties.append(party)
        return party

    def path_of(self, ue: Ue) -> str:
        """The Path the P-CSCF wrote into the UE's last REGISTER."""
        found = [one for one in self.registered if str(one.to.uri) == ue.impu]
        return found[-1].headers.values("Path")[0]

    def call_to(self, ue: Ue, body: bytes = b"", **more: Any) -> SipRequest:
        """An INVITE of the core for a UE."""
        headers = [
            ("Max-Forwards", "69"),
            ("Route", more.get("path", self.path_of(ue))),
            ("From", "<sip:caller@ims.test>;tag=far"),
            ("To", f"<{ue.impu}>"),
            ("Call-ID", more.get("call_id", f"mt-{ue.name}@core")),
            ("CSeq", "1 INVITE"),
            ("Contact", f"<{self.core_uri('caller')}>"),
            ("P-Asserted-Identity", "<sip:caller@ims.test>"),
            ("P-Charging-Vector", 'icid-value="y"'),
        ]
        if body:
            headers.append(("Content-Type", "application/sdp"))
        return SipRequest("INVITE", ue.contact.strip("<>"), headers + more.get("headers", []), body)

    def decisions(self) -> list[dict[str, Any]]:
        prefix = "imslab.decision."
        return [
            {
                key.removeprefix(prefix): value
                for key, value in (span.attributes or {}).items()
                if key.startswith(prefix)
            }
            for span in self.spans.get_finished_spans()
            if span.name == "key.decision"
        ]

    async def close(self) -> None:
        for party in self.parties:
            await party.stack.stop()


@contextlib.asynccontextmanager
async def edge(folder: Path, **settings: Any) -> AsyncIterator[EdgeFixture]:
    """A running edge; everything is closed afterwards."""
    fixture = EdgeFixture(folder, **settings)
    async with LabFixture(folder) as lab:
        try:
            await fixture.open(lab)
            yield fixture
        finally:
            await fixture.close()


def ok(
    txn: ServerTxn, body: bytes = b"", *, status: int = 200, tag: str = "callee", contact: str, **more: Any
) -> SipResponse:
    """A response of a callee that makes a dialog."""
    headers = [("Contact", contact), *more.get("headers", [])]
    return make_response(
        txn.request, status, to_tag=tag, headers=headers, body=body, content_type="application/sdp" if body else None
    )


def audio(
    port: int, proto: str = "RTP/AVP", *attributes: str, ip: str = HOST, version: int = 1, extra: str = ""
) -> bytes:
    """A session description with one audio line."""
    lines = [
        "v=0", f"o=- 1 {version} IN IP4 {ip}", "s=-", f"c=IN IP4 {ip}", "t=0 0",
        f"m=audio {port} {proto} 0 8", "a=rtpmap:0 PCMU/8000", *[f"a={attribute}" for attribute in attributes],
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n" + extra).encode()


KEY_1 = "inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd"
KEY_2 = "inline:gIGCg4SFhoeIiYqLjI2Oj5CRkpOUlZaXmJmam5yd"
CRYPTO_1 = f"crypto:1 AES_CM_128_HMAC_SHA1_80 {KEY_1}"
CRYPTO_2 = f"crypto:1 AES_CM_128_HMAC_SHA1_80 {KEY_2}"
REQUESTED = "3ge2ae:requested"
