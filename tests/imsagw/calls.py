"""Iq requests of a P-CSCF and the ends of a call, for the tests of the gateway."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keying.sdes import CryptoAttribute, InlineKey, generate
from keying.secret import Secret
from keying.suites import SUITES
from media.srtp import SrtpContext
from nodes.imsagw.crypto import write_crypto
from nodes.imsagw.node import ImsAgw
from protos import iq_pb2
from sba.client import SbiClient
from sba.testing import LabFixture

IQ = iq_pb2.DESCRIPTOR.services_by_name["Iq"].methods_by_name
SUITE = "AES_CM_128_HMAC_SHA1_80"
CALL_ID = "call-1@ims.test"
_numbers = itertools.count(1)


def tx_id() -> str:
    return f"tx-{next(_numbers)}"


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(0.0)
    return sock


async def read(sock: socket.socket, timeout_s: float = 2.0) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 2048), timeout_s)


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the answer is true, and return it."""
    for _ in range(1000):
        found = await condition()
        if found:
            return found
        await asyncio.sleep(0.005)
    raise TimeoutError("it never came true")


def context_of(line: CryptoAttribute | iq_pb2.CryptoAttr) -> SrtpContext:
    if isinstance(line, iq_pb2.CryptoAttr):
        line = CryptoAttribute(line.tag, SUITES[line.suite], (InlineKey(Secret(line.key_salt)),))
    return SrtpContext(line.suite, line.master_key, line.master_salt)


def rtp(sequence: int, ssrc: int = 0xDECAF, payload: bytes = b"speech" * 10) -> bytes:
    return (
        b"\x80\x08"
        + sequence.to_bytes(2, "big")
        + (sequence * 160).to_bytes(4, "big")
        + ssrc.to_bytes(4, "big")
        + payload
    )


@dataclass
class Call:
    """A phone with SRTP, a far end with plain RTP, and the requests that join them at the gateway."""

    pcscf: SbiClient
    phone: socket.socket = field(default_factory=udp)
    far: socket.socket = field(default_factory=udp)
    phone_key: CryptoAttribute = field(default_factory=lambda: generate(SUITE, 1))
    context_id: str = ""
    answer: Any = None

    def access(self, **fields: Any) -> iq_pb2.StreamSpec:
        spec = iq_pb2.StreamSpec(stream_id=1, media=iq_pb2.AUDIO, transport=iq_pb2.RTP_SAVP, latching=iq_pb2.LATCH)
        spec.remote.ip, spec.remote.port = self.phone.getsockname()
        spec.mode = iq_pb2.SENDRECV
        spec.sdes_remote.append(write_crypto(self.phone_key))
        spec.sdes_local_request.suites.append(SUITE)
        spec.sdes_local_request.tag = self.phone_key.tag
        spec.MergeFrom(iq_pb2.StreamSpec(**fields))
        return spec

    def core(self, **fields: Any) -> iq_pb2.StreamSpec:
        spec = iq_pb2.StreamSpec(stream_id=1, media=iq_pb2.AUDIO, transport=iq_pb2.RTP_AVP, mode=iq_pb2.SENDRECV)
        spec.remote.ip, spec.remote.port = self.far.getsockname()
        spec.MergeFrom(iq_pb2.StreamSpec(**fields))
        return spec

    def request(self, access: iq_pb2.StreamSpec | None = None, core: iq_pb2.StreamSpec | None = None) -> Any:
        request = iq_pb2.ReserveRequest(tx_id=tx_id(), new=True, correlation=CALL_ID)
        request.terminations.add(new=True, side=iq_pb2.ACCESS).streams.append(access or self.access())
        request.terminations.add(new=True, side=iq_pb2.CORE).streams.append(core or self.core())
        return request

    async def reserve(self, access: iq_pb2.StreamSpec | None = None, core: iq_pb2.StreamSpec | None = None) -> Any:
        self.answer = await self.pcscf.call(IQ["ReserveAndConfigure"], self.request(access, core))
        self.context_id = self.answer.context_id
        return self.answer

    async def configure(self, side: int, *streams: iq_pb2.StreamSpec) -> Any:
        request = iq_pb2.ConfigureRequest(tx_id=tx_id(), context_id=self.context_id)
        request.terminations.add(id=self.termination(side).termination_id).streams.extend(streams)
        return await self.pcscf.call(IQ["Configure"], request)

    async def release(self) -> Any:
        request = iq_pb2.ReleaseRequest(tx_id=tx_id(), context_id=self.context_id, cause=iq_pb2.NORMAL)
        return await self.pcscf.call(IQ["Release"], request)

    async def audit(self) -> Any:
        return await self.pcscf.call(IQ["Audit"], iq_pb2.AuditRequest(root=True))

    def termination(self, side: int) -> Any:
        return next(each for each in self.answer.terminations if each.side == side)

    def local(self, side: int) -> Any:
        return self.termination(side).streams[0]

    def port(self, side: int) -> tuple[str, int]:
        local = self.local(side)
        return local.ip, local.port

    def phone_hears(self) -> SrtpContext:
        return context_of(self.local(iq_pb2.ACCESS).sdes_local[0])

    async def talk(self, first: int, count: int, sender: SrtpContext) -> None:
        """Send packets from the phone and read each at the far end."""
        for sequence in range(first, first + count):
            self.phone.sendto(sender.protect_rtp(rtp(sequence)), self.port(iq_pb2.ACCESS))
            assert await read(self.far) == rtp(sequence)

    def close(self) -> None:
        self.phone.close()
        self.far.close()


@asynccontextmanager
async def gateway(folder: Path, **settings: Any) -> AsyncIterator[tuple[ImsAgw, SbiClient, LabFixture]]:
    """A gateway in this process, its packet loop too unless `relay` says otherwise, and a P-CSCF's client."""
    async with LabFixture(folder) as lab:
        node = await lab.start("imsagw", "imsagw-a", {"relay": "in-process", **settings}, cls=ImsAgw)
        yield node, await lab.client("PCSCF"), lab
