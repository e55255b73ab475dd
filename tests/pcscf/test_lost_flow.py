"""A registration belongs to its connection: the next one from the same address and port is a stranger's (T7)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct

import pytest

from sba.testing import async_test
from signalling.sip.dialog import Dialog
from signalling.sip.message import SipRequest, SipResponse, StreamMessage, StreamParser
from signalling.sip.stack import make_response
from tests.pcscf.edge import CRYPTO_1, HOST, REQUESTED, audio, edge, ok

pytestmark = [
    pytest.mark.attack("T7"),
    pytest.mark.clause("TS 33.203", "O.4.3", "TLS-4"),
    pytest.mark.clause("RFC 5626", "5.3.1"),
]

SECURE = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1)
_branches = itertools.count(1)


class Line:
    """One connection to the edge from a port of the test's choice; says what it is told to."""

    def __init__(self, reader, writer, transport):
        self._reader, self._writer, self._transport = reader, writer, transport
        self._parser = StreamParser()
        self._arrived = []
        self.port = writer.get_extra_info("sockname")[1]

    @classmethod
    async def open(cls, hop, port=0):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        line.bind((HOST, port))
        line.settimeout(0)
        await asyncio.get_running_loop().sock_connect(line, (hop.host, hop.port))
        context = None
        if hop.transport == "TLS":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        name = "pcscf" if context else None
        reader, writer = await asyncio.open_connection(sock=line, ssl=context, server_hostname=name)
        return cls(reader, writer, hop.transport)

    def cut(self):
        """Break the connection with RST, so that its port is free at once."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def send(self, message):
        if isinstance(message, SipRequest):
            message = message.copy()
            via = f"SIP/2.0/{self._transport} {HOST}:{self.port};rport;branch=z9hG4bKline{next(_branches)}"
            message.headers.prepend("Via", via)
        self._writer.write(message.to_bytes())

    async def message(self):
        async with asyncio.timeout(5):
            while not self._arrived:
                events = self._parser.receive(await self._reader.read(65536))
                self._arrived += [event.message for event in events if isinstance(event, StreamMessage)]
        return self._arrived.pop(0)

    async def answer(self, request):
        """Send a request and return its final response."""
        self.send(request)
        while True:
            message = await self.message()
            if isinstance(message, SipResponse) and message.status >= 200 and message.cseq == request.cseq:
                return message

    async def sign_on(self, ue):
        """Register a UE of the fixture over this connection."""
        challenge = await self.answer(ue.register())
        assert challenge.status == 401
        ue.verify = challenge.headers.get("Security-Server") or ""
        answer = await self.answer(ue.register(response="00" * 16, nonce="bm9uY2U=", verify=ue.verify))
        assert answer.status == 200
        ue.service_route = answer.headers.values("Service-Route")


@contextlib.asynccontextmanager
async def stolen_port(folder, transport="TLS", **settings):
    """A registered UE whose connection is gone, and a stranger's from the same address and port."""
    async with edge(folder, **settings) as it:
        alice = await it.ue("alice", transport)
        alice.algorithm = "MD5"
        own = await Line.open(it.gm_hop(transport), 0)
        await own.sign_on(alice)
        own.cut()
        await asyncio.sleep(0.1)
        stranger = await Line.open(it.gm_hop(transport), own.port)
        try:
            yield it, alice, stranger
        finally:
            stranger.cut()


@pytest.mark.parametrize("transport", ["TLS", "TCP"])
@async_test
async def test_a_new_connection_from_the_same_port_may_not_call(tmp_path, transport):
    async with stolen_port(tmp_path, transport) as (it, alice, stranger):
        answer = await stranger.answer(alice.invite("sip:bob@ims.test", audio(40000)))
        assert answer.status == 403
        assert it.core.requests.empty()


@async_test
async def test_a_new_connection_from_the_same_port_is_called_by_nobody(tmp_path):
    async with stolen_port(tmp_path) as (it, alice, stranger):
        assert (await stranger.answer(alice.invite("sip:bob@ims.test"))).status == 403  # the edge has seen it
        answer = await it.core.send(it.call_to(alice, audio(50000)), it.mw_hop()).final()
        assert answer.status == 430


@pytest.mark.parametrize(("transport", "vouched"), [("TLS", "tls-yes"), ("TCP", "ip-assoc-yes")])
@async_test
async def test_a_register_on_a_new_connection_carries_no_flag_that_spares_the_challenge(tmp_path, transport, vouched):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice", transport)
        alice.algorithm = "MD5"
        own = await Line.open(it.gm_hop(transport))
        await own.sign_on(alice)
        assert (await own.answer(alice.register())).status == 401
        assert f'integrity-protected="{vouched}"' in it.registered[-1].headers.get("Authorization")
        own.cut()
        await asyncio.sleep(0.1)
        stranger = await Line.open(it.gm_hop(transport), own.port)
        assert (await stranger.answer(alice.register())).status == 401
        assert "integrity-protected" not in it.registered[-1].headers.get("Authorization")
        assert (await stranger.answer(alice.invite("sip:bob@ims.test"))).status == 403
        stranger.cut()


@async_test
async def test_who_proves_himself_on_the_new_connection_has_his_registration_back(tmp_path):
    async with stolen_port(tmp_path) as (it, alice, again):
        await again.sign_on(alice)
        again.send(alice.invite("sip:bob@ims.test", SECURE))
        invite = await it.core.next("INVITE")
        assert invite.request.headers.get("P-Asserted-Identity") == f"<{alice.impu}>"
        exchange = it.core.send(it.call_to(alice, audio(50000)), it.mw_hop())
        while not isinstance(request := await again.message(), SipRequest):
            pass
        assert request.method == "INVITE"
        again.send(make_response(request, 486, to_tag="busy"))
        assert (await exchange.final()).status == 486
        invite.respond(make_response(invite.request, 486))


@pytest.mark.attack("T9")
@async_test
async def test_after_a_restart_every_connection_is_a_strangers_until_it_registers(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        own = await Line.open(it.gm_hop("TLS"))
        await own.sign_on(alice)
        path = it.path_of(alice)
        own.cut()
        await it.restart()
        again = await Line.open(it.gm_hop("TLS"), own.port)
        assert (await again.answer(alice.invite("sip:bob@ims.test", SECURE))).status == 403
        answer = await it.core.send(it.call_to(alice, audio(50000), path=path), it.mw_hop()).final()
        assert answer.status == 430
        await again.sign_on(alice)
        again.send(alice.invite("sip:bob@ims.test", SECURE))
        invite = await it.core.next("INVITE")
        invite.respond(make_response(invite.request, 486))
        again.cut()


@pytest.mark.clause("TS 24.229", "HOP-4")
@async_test
async def test_a_call_is_not_taken_over_by_who_knows_its_tags_and_has_its_port(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        own = await Line.open(it.gm_hop("TLS"))
        await own.sign_on(alice)
        request = alice.invite("sip:bob@ims.test", SECURE)
        own.send(request)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        while (final := await own.message()).status < 200:
            pass
        near = Dialog.from_uac(request, final)
        own.send(near.ack_for(final))
        await it.core.next_ack()
        own.cut()
        await asyncio.sleep(0.1)
        stranger = await Line.open(it.gm_hop("TLS"), own.port)
        assert (await stranger.answer(near.request("BYE"))).status == 403
        assert it.core.requests.empty()
        assert it.iq.contexts
        await stranger.sign_on(alice)
        stranger.send(near.request("BYE"))
        bye = await it.core.next("BYE")
        bye.respond(make_response(bye.request, 200))
        stranger.cut()
