"""A P-CSCF of the test's making on a real SIP stack, and a UE without its SBI in front of it."""

import asyncio
import io
import itertools

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from keying.secret import Secret
from nodes.siptrace import SipTracer
from nodes.ue.agent import UserAgent
from nodes.ue.card import Card
from nodes.ue.config import RegisterOptions, UeSettings
from nodes.ue.gm import Gm
from nodes.ue.registrar import Registrar, Wish
from nodes.ue.service import UeControl
from sba.pki import LabCa
from sba.telemetry import Telemetry
from signalling.aka.digest import DigestChallenge, DigestCredentials, aka_password, verify
from signalling.aka.vectors import Usim, generate_vector, next_sqn, parse_auts, resynchronise
from signalling.sip.dialog import Dialog
from signalling.sip.message import Headers, SipRequest
from signalling.sip.stack import Hop, SipStack, make_response
from signalling.sip.timers import TimerConfig

K, OPC = Secret(bytes(range(16))), Secret(bytes(range(16, 32)))
IP = "127.0.0.1"
IMPI, DOMAIN = "001010000000001@ims.test", "ims.test"
SERVER_LIST = "sdes-srtp;mediasec, msrp-tls;mediasec"
ALGORITHM = {"aka-tls": "AKAv2-SHA-256", "aka-udp": "AKAv1-MD5"}


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """TLS with the certificate of the fake P-CSCF."""

    def __init__(self, pki):
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.use_privatekey_file(str(pki / "pcscf.key"))
        self.context.use_certificate_chain_file(str(pki / "pcscf.crt"))

    def serverConnectionForTLS(self, protocol):
        connection = SSL.Connection(self.context, None)
        connection.set_app_data(protocol)
        return connection


class FakePcscf:
    """Registers whoever answers its AKA challenge; keeps every request; INVITEs go to `on_invite`."""

    def __init__(self, profile="aka-tls"):
        self.profile = profile
        self.stack = SipStack(reactor, timers=TimerConfig.access().scaled(0.05), handler=self)
        self.requests = []
        self.acks = []
        self.script = []
        self.sqn = 32
        self.vectors = {}
        self.flow = None
        self.server_list = SERVER_LIST
        self.expires = 3600
        self.on_invite = None
        self.closed = 0

    async def open(self, pki=None):
        if self.profile == "aka-tls":
            listener = await self.stack.listen("TLS", IP, 0, role="gm", tls=ServerTls(pki))
        else:
            listener = await self.stack.listen("UDP", IP, 0, role="gm")
            self.protected = await self.stack.listen("UDP", IP, 0, role="gm-s")
        self.port = listener.address[1]

    def cut(self):
        """Break the connection to the UE as a dying node does."""
        self.stack._transport.connection(self.flow).abort()

    def freeze(self):
        """Read nothing more from the connection to the UE, as a node that hangs."""
        self.stack._transport.connection(self.flow).transport.pauseProducing()

    def of(self, method):
        return [request for request in self.requests if request.method == method]

    # RequestHandler

    def request_received(self, txn):
        request = txn.request
        self.requests.append(request)
        if request.method == "REGISTER":
            self.flow = txn.flow
            step = self.script.pop(0) if self.script else None
            txn.respond(step(self, request) if step else self.register(request))
        elif request.method == "INVITE" and self.on_invite is not None:
            self.on_invite(txn)
        else:
            txn.respond(make_response(request, 200))

    def cancel_received(self, txn, cancel):
        self.requests.append(cancel)
        txn.respond(make_response(txn.request, 487))

    def ack_received(self, request, flow, txn):
        self.acks.append(request)

    def flow_closed(self, flow):
        self.closed += 1

    # registration

    def challenge(self, request, **changes):
        self.sqn = next_sqn(self.sqn)
        vector = generate_vector(K, OPC, changes.get("sqn", self.sqn))
        self.vectors[vector.nonce] = vector
        value = DigestChallenge(DOMAIN, changes.get("nonce", vector.nonce), ALGORITHM[self.profile], ("auth",)).format()
        headers = [("WWW-Authenticate", value)]
        server = self.server_list
        if self.profile == "aka-udp":
            server = f"ipsec-3gpp;q=0.9;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=3000000021;spi-s=3000000022;port-c=46020;port-s={self.protected.address[1]}, {server}"
        if server:
            headers.append(("Security-Server", server))
        return make_response(request, 401, headers=headers)

    def register(self, request):
        credentials = DigestCredentials.parse(request.headers.get("Authorization"))
        vector = self.vectors.get(credentials.nonce)
        if vector is not None and credentials.auts is not None:
            self.sqn = resynchronise(K, OPC, vector.rand, parse_auts(credentials.auts.reveal().decode()))
            return self.challenge(request)
        if vector is None or not len(credentials.response):
            return self.challenge(request)
        algorithm = ALGORITHM[self.profile]
        password = aka_password(algorithm, vector.xres, vector.ik, vector.ck)
        if not verify(credentials, algorithm=algorithm, method="REGISTER", password=password):
            return make_response(request, 403)
        return self.accepted(request)

    def accepted(self, request):
        contact = request.headers.get("Contact").partition(";expires")[0]
        asked = int(request.headers.get("Expires"))
        headers = [
            ("Contact", f"{contact};expires={min(asked, self.expires)}"),
            ("Service-Route", "<sip:orig@scscf.ims.test;lr>"),
            ("P-Associated-URI", "<sip:alice@ims.test>, <tel:+15550100>"),
        ]
        return make_response(request, 200, headers=headers)

    # calls towards the UE

    def invite(self, ue, body=b"", headers=(), to_tag=""):
        fields = Headers(
            [
                ("Max-Forwards", "70"),
                ("From", "<sip:bob@ims.test>;tag=b1"),
                ("To", "<sip:alice@ims.test>" + (f";tag={to_tag}" if to_tag else "")),
                ("Call-ID", f"call-{next(_serial)}@pcscf"),
                ("CSeq", "1 INVITE"),
                ("Contact", f"<sip:bob@{IP}:{self.port}>"),
                ("P-Asserted-Identity", "<sip:bob@ims.test>"),
                *headers,
            ]
        )
        if body:
            fields.add("Content-Type", "application/sdp")
        return SipRequest("INVITE", ue.registrar.identity.contact_uri, fields, body)

    def send(self, request, seen, hop=None):
        return self.stack.send(
            request, hop or Hop.over(self.flow), role="gm", on_response=seen.append, on_failure=seen.append
        )

    def acknowledge(self, request, response):
        dialog = Dialog.from_uac(request, response)
        self.stack.send_ack(dialog.ack_for(response), Hop.over(self.flow), "gm")
        return dialog


_serial = itertools.count(1)


class TestUe:
    """The UE's parts, wired as the node wires them."""

    __test__ = False

    def __init__(self, folder, port, profile="aka-tls", tls_name="pcscf.ims.test", keys=None, **settings):
        self.settings = UeSettings(
            impi=IMPI,
            impu="sip:alice@ims.test",
            domain=DOMAIN,
            profile=profile,
            ip=IP,
            pcscf={
                "transport": "TLS" if profile == "aka-tls" else "UDP",
                "host": IP,
                "port": port,
                "tls_name": tls_name,
            },
            key_file="",
            t1_s=0.05,
            retry_first_s=0.05,
            **settings,
        )
        self.log = io.StringIO()
        self.telemetry = Telemetry("alice", "UE", stream=self.log)
        self.card = Card(IMPI, DOMAIN, profile, usim=Usim(K, OPC))
        tracer = SipTracer(self.telemetry, node="alice", interfaces=Gm.interfaces())
        self.gm = Gm(reactor, self.settings, tracer, folder / "pki" / "ca.crt")
        self.remembered = 0
        self.registrar = Registrar(
            self.gm, self.card, self.settings, self.telemetry, reactor, "urn:uuid:1", self.remember
        )
        self.agent = UserAgent("alice", self.settings, self.gm, self.registrar, self.telemetry, reactor, keys)
        self.gm.stack.handler = self.agent
        self.control = UeControl(self.agent)

    async def remember(self):
        self.remembered += 1

    async def register(self, mechanisms=("sdes-srtp",), expires=600_000, **options):
        return await self.registrar.register(Wish(mechanisms, expires, RegisterOptions(**options)))


class Site:
    """A fake P-CSCF with its certificate and a UE, for the length of a block."""

    def __init__(self, folder, profile="aka-tls", **settings):
        self.folder, self.profile, self.settings = folder, profile, settings

    async def __aenter__(self):
        ca = LabCa.create(self.folder / "pki")
        ca.issue("pcscf", ("PCSCF",), "9750dcc2-516e-5ea0-8a26-54fa6ff6986b", dns=["pcscf.ims.test"], ips=[IP])
        self.pcscf = FakePcscf(self.profile)
        await self.pcscf.open(self.folder / "pki")
        self.ue = TestUe(self.folder, self.pcscf.port, self.profile, **self.settings)
        await self.ue.gm.open()
        return self

    async def __aexit__(self, *_):
        await self.ue.agent.close()
        self.ue.registrar.close()
        await self.ue.gm.close()
        await self.pcscf.stack.stop()


async def until(condition, seconds=5.0):
    """Let the reactor run until something holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens inside other objects
            await asyncio.sleep(0.005)
