"""SIP messages of a node to a Homer server over HEP3: bounded, never waited for, and no matter where the server is."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from keying.redaction import redact
from keying.secret import Secret
from nodes.hep import TCP, UDP, HepMessage, encode
from sba import runtime
from sba.errors import ConfigurationError
from signalling.sip.flow import Flow
from signalling.sip.message import SipMessage

MOST_PACKETS: Final = 1000
"""Packets that wait for a server which is slow or away; later ones are lost."""
MOST_OCTETS: Final = 4 << 20
MOST_PASSWORD: Final = 256
"""Longest password, octets."""
_PATIENCE_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_RESOLVE_AGAIN_S: Final = 60.0


class HepSettings(BaseModel):
    """The Homer server of a node, and how it knows this agent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(min_length=1, description="Name or address of the server")
    port: int = Field(default=9060, ge=1, le=65535)
    transport: Literal["udp", "tcp"] = "udp"
    capture_id: int = Field(default=2001, ge=0, le=2**32 - 1, description="Capture agent id")
    password_file: str = Field(default="", description="File with the agent's password; empty = none")

    def password(self) -> Secret | None:
        """Read the password. Raises :class:`ConfigurationError` where the file cannot be used."""
        if not self.password_file:
            return None
        try:
            with Path(self.password_file).open("rb") as file:
                text = file.read(MOST_PASSWORD + 2).strip()
        except OSError as error:
            raise ConfigurationError(
                f"the HEP password {self.password_file} cannot be read: {error.strerror}"
            ) from None
        if not text or len(text) > MOST_PASSWORD:
            raise ConfigurationError(f"the HEP password {self.password_file} is not of 1 to {MOST_PASSWORD} octets")
        return Secret(text)


class HepLink(Protocol):
    """The way to the server."""

    lost: int
    sent: int

    def put(self, packet: bytes) -> None:
        """Send a packet some time, or count it as lost."""

    async def run(self) -> None:
        """Work until cancelled."""

    def close(self) -> None:
        """Close the socket."""


class UdpLink:
    """Datagrams: sent at once or lost."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._socket: socket.socket | None = None
        self._address: tuple[Any, ...] | None = None
        self.lost = 0
        self.sent = 0

    def put(self, packet: bytes) -> None:
        """Send a datagram unless the server's address is not known or the kernel has no room."""
        if self._socket is None or self._address is None:
            self.lost += 1
            return
        try:
            self._socket.sendto(packet, self._address)
        except OSError:  # also what an earlier datagram met: nobody listens
            self.lost += 1
        else:
            self.sent += 1

    async def run(self) -> None:
        """Look the server up, and again from time to time."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(*self._target, type=socket.SOCK_DGRAM)
                family, kind, protocol, _, address = found[0]
                if self._socket is None or self._socket.family != family:
                    self.close()
                    self._socket = socket.socket(family, kind, protocol)
                    self._socket.settimeout(0)
                self._address = address
                pause = _RESOLVE_AGAIN_S
            except OSError:
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class TcpLink:
    """A connection that is opened again when it is lost; meanwhile packets wait, up to a bound."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._waiting: deque[bytes] = deque()
        self._octets = 0
        self._arrived = asyncio.Event()
        self.lost = 0
        self.sent = 0

    def put(self, packet: bytes) -> None:
        """Let a packet wait for the connection unless too many do."""
        if len(self._waiting) >= MOST_PACKETS or self._octets + len(packet) > MOST_OCTETS:
            self.lost += 1
            return
        self._waiting.append(packet)
        self._octets += len(packet)
        self._arrived.set()

    async def run(self) -> None:
        """Keep a connection and send what waits."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    reader, writer = await asyncio.open_connection(*self._target)
            except (OSError, TimeoutError):
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            pause = _FIRST_PAUSE_S
            gone = asyncio.ensure_future(reader.read(1))  # a server says nothing: what ends this is its end
            try:
                await self._send(writer, gone)
            except (OSError, TimeoutError):
                pass
            finally:
                gone.cancel()
                writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter, gone: asyncio.Future[bytes]) -> None:
        while not gone.done():
            while self._waiting and not gone.done():
                packet = self._waiting[0]
                writer.write(packet)
                async with asyncio.timeout(_PATIENCE_S):
                    await writer.drain()
                self._waiting.popleft()
                self._octets -= len(packet)
                self.sent += 1
            self._arrived.clear()
            arrived = asyncio.ensure_future(self._arrived.wait())
            either: set[asyncio.Future[Any]] = {arrived, gone}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                arrived.cancel()

    def close(self) -> None:
        """Nothing is open outside :meth:`run`."""


class HepExport:
    """Observer of a SIP stack that tells a Homer server what it sees; keys are masked always."""

    def __init__(self, settings: HepSettings, node: str, trace_of: Callable[[SipMessage], str]) -> None:
        self._settings = settings
        self._node = node
        self._trace_of = trace_of
        self._password = settings.password()
        kind = UdpLink if settings.transport == "udp" else TcpLink
        self.link: HepLink = kind(settings.host, settings.port)
        self._running: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin to look for the server."""
        self._running = runtime.spawn(self.link.run())

    def stop(self) -> None:
        """End; what still waits is lost."""
        if self._running is not None:
            self._running.cancel()
            self._running = None
        self.link.close()

    def message_sent(self, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """A message left for the first time."""
        del txn_key
        self._tell(data, message, flow, sent=True)

    def message_received(self, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """A message came that is no known retransmission."""
        del txn_key
        self._tell(data, message, flow, sent=False)

    def retransmission(self, direction: str, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """A message went or came again."""
        del txn_key
        self._tell(data, message, flow, sent=direction == "sent")

    def message_dropped(self, reason: str, data: bytes, flow: Flow | None) -> None:
        """Octets that were no message are not SIP to Homer either."""

    def _tell(self, data: bytes, message: SipMessage, flow: Flow, *, sent: bool) -> None:
        source, destination = (flow.local, flow.remote) if sent else (flow.remote, flow.local)
        found = HepMessage(
            time_ns=time.time_ns(),
            protocol=UDP if flow.transport == "UDP" else TCP,
            source=source,
            destination=destination,
            payload=redact(data),
            call_id=message.call_id,
            trace_id=self._trace_of(message),
        )
        try:
            packet = encode(found, capture_id=self._settings.capture_id, node=self._node, password=self._password)
        except ValueError:  # a peer without an address
            self.link.lost += 1
            return
        self.link.put(packet)
