"""Both ends of a stream on loopback around a packet loop that the test steps, with a clock the test turns."""

import socket
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from keying.secret import Secret
from keying.suites import SUITES
from media.relay import (
    DropCause,
    KeySet,
    Latching,
    MasterKey,
    Mode,
    Protection,
    RelayEvent,
    Side,
    SideConfig,
    SideStatistics,
    StreamConfig,
    TappedPacket,
    Workers,
)
from media.relay.engine import RelayEngine
from media.srtp import SrtpContext

HOST = "127.0.0.1"
SUITE = "AES_CM_128_HMAC_SHA1_80"
SSRC = 0x0DECADE0


def keys(suite: str = SUITE, lifetime: int | None = None, mki: int = 0, mki_length: int = 0) -> KeySet:
    octets = Secret.random(SUITES[suite].key_salt_length)
    return KeySet(SUITES[suite], (MasterKey(octets, lifetime, mki, mki_length),))


def context(of: KeySet, number: int = 0) -> SrtpContext:
    """The reference implementation with the same key."""
    master, suite = of.keys[number], of.suite
    key = master.key_salt.part(0, suite.key_length)
    salt = master.key_salt.part(suite.key_length, suite.key_salt_length)
    mki = master.mki if master.mki_length else None
    return SrtpContext(suite, key, salt, mki=mki, mki_length=master.mki_length)


def rtp(sequence: int, ssrc: int = SSRC, payload: bytes = b"twenty milliseconds of speech", first: int = 0x80) -> bytes:
    timestamp = sequence * 160 % (1 << 32)
    head = bytes([first, 8]) + (sequence % 65536).to_bytes(2, "big") + timestamp.to_bytes(4, "big")
    return head + ssrc.to_bytes(4, "big") + payload


def receiver_report(ssrc: int = SSRC) -> bytes:
    return bytes([0x81, 201, 0, 7]) + ssrc.to_bytes(4, "big") + bytes(24)


def udp(host: str = HOST, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, port))
    sock.settimeout(0.0)
    return sock


def received(sock: socket.socket) -> list[bytes]:
    """Everything that waits at a socket."""
    packets = []
    while True:
        try:
            packets.append(sock.recv(65535))
        except BlockingIOError:
            return packets


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Ends:
    """A phone on the access side, a far end on the core side, the stream between them."""

    def __init__(self, host: str = HOST, *, loop: str = "interpreted") -> None:
        self.host = host
        self.clock = Clock()
        self.events: list[RelayEvent] = []
        self.mirrored: list[TappedPacket] = []
        self.engine = RelayEngine(
            clock=self.clock,
            notify=self.events.append,
            mirror=self.mirrored.append,
            compiled=loop != "interpreted",
            workers=Workers(2) if loop == "threads" else None,
        )
        self.phone, self.far = udp(host), udp(host)
        self.others: list[socket.socket] = []
        self.receive_keys, self.send_keys = keys(), keys()
        self.access = self.core = SideConfig(host, Protection.RTP)

    def other(self, host: str | None = None) -> socket.socket:
        """A socket of somebody else."""
        self.others.append(udp(host or self.host))
        return self.others[-1]

    def plain(self, sock: socket.socket, **fields: Any) -> SideConfig:
        config = SideConfig(self.host, Protection.RTP, remote=sock.getsockname()[:2], mode=Mode.SENDRECV)
        return replace(config, **fields)

    def secured(self, sock: socket.socket, **fields: Any) -> SideConfig:
        config = self.plain(sock, protection=Protection.SRTP, latching=Latching.LATCH)
        return replace(config, **{"send": self.send_keys, "receive": self.receive_keys, **fields})

    def open(self, access: SideConfig | None = None, core: SideConfig | None = None) -> "Ends":
        """SRTP with latching towards the phone, plain RTP towards the far end, unless told otherwise."""
        self.access = access or self.secured(self.phone)
        self.core = core or self.plain(self.far)
        self.local = self.engine.add(StreamConfig("s", {Side.ACCESS: self.access, Side.CORE: self.core}))
        self.sender = context(self.access.receive or self.receive_keys)
        self.hearer = context(self.access.send or self.send_keys)
        return self

    def port(self, side: Side) -> tuple[str, int]:
        return self.local[side].ip, self.local[side].port

    def rtcp_port(self, side: Side) -> tuple[str, int]:
        return self.local[side].ip, self.local[side].rtcp_port

    def step(self) -> None:
        """Let the loop do everything there is to do."""
        while self.engine.step(0.0) or not self.engine.settled():
            pass

    def throw(self, packet: bytes, *, side: Side = Side.ACCESS, by: socket.socket | None = None) -> None:
        """Send to a side, from its own end unless told otherwise, and let the loop work."""
        (by or (self.phone if side is Side.ACCESS else self.far)).sendto(packet, self.port(side))
        self.step()

    def talk(self, sequences: Iterable[int], ssrc: int = SSRC) -> None:
        """Protected packets from the phone; each must come out at the far end as it was."""
        for sequence in sequences:
            self.throw(self.sender.protect_rtp(rtp(sequence, ssrc)))
            assert received(self.far) == [rtp(sequence, ssrc)], f"packet {sequence} did not come through"

    def answer(self, sequences: Iterable[int]) -> None:
        """Plain packets from the far end; each must come out protected at the phone."""
        for sequence in sequences:
            self.throw(rtp(sequence, 0xFA5), side=Side.CORE)
            (packet,) = received(self.phone)
            assert packet[12:] != rtp(sequence)[12:]
            assert self.hearer.unprotect_rtp(packet) == rtp(sequence, 0xFA5)

    def modify(self, side: Side, config: SideConfig) -> None:
        self.engine.modify("s", side, config)
        if side is Side.ACCESS:
            self.access = config
        else:
            self.core = config

    def statistics(self, side: Side = Side.ACCESS) -> SideStatistics:
        told = self.engine.statistics(["s"])[0].sides[side]
        shared = asdict(self.engine.counts()["s"][side])
        assert shared == {name: getattr(told, name) for name in shared}, "memory tells something else"
        return told

    def drops(self, side: Side = Side.ACCESS) -> dict[DropCause, int]:
        return dict(self.statistics(side).drops)

    def assert_balance(self) -> None:
        """in = out + drops, for each direction."""
        for side in Side:
            mine, theirs = self.statistics(side), self.statistics(side.other)
            assert mine.packets_in + mine.rtcp_in == theirs.packets_out + theirs.rtcp_out + mine.dropped

    def close(self) -> None:
        self.engine.close()
        for sock in (self.phone, self.far, *self.others):
            sock.close()
