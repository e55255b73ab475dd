"""The Twisted shell of an RTP session: two sockets (or one with rtcp-mux) and the clock, no decisions."""

import socket
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.protocol import DatagramProtocol

from keying.sdes import CryptoAttribute
from media.g711 import Codec
from media.pacer import TimeReactor, pacer_of
from media.rtp_session import RtpSession
from media.session_events import Address, Direction, Outgoing, RtpStatistics, SessionEvent, SessionSettings
from media.source import AudioSource
from media.srtp import DEFAULT_GRACE
from media.wav import write_wav

PORT_ATTEMPTS = 64
"""Times a pair of ports is asked of the kernel before the endpoint gives up."""


class UdpPort(Protocol):
    """A bound UDP port of Twisted."""

    def getHost(self) -> "UdpHost":  # noqa: N802 - Twisted's name
        """Return the local address."""

    def write(self, datagram: bytes, addr: Address | None = None, /) -> int | None:
        """Send a datagram."""

    def stopListening(self) -> "Deferred[None] | None":  # noqa: N802 - Twisted's name
        """Close the port."""


class UdpHost(Protocol):
    """The local address of a port."""

    host: str
    port: int


class MediaReactor(TimeReactor, Protocol):
    """What an endpoint needs of a reactor: time, and Twisted's IReactorSocket for UDP."""

    def adoptDatagramPort(  # noqa: N802 - Twisted's name
        self, descriptor: int, family: socket.AddressFamily, protocol: DatagramProtocol, /
    ) -> UdpPort:
        """Serve a bound UDP socket; the descriptor is duplicated."""


class PortsExhausted(OSError):  # noqa: N818 - names the resource that ran out
    """No even port with the next one free could be had."""


class _Socket(DatagramProtocol):
    """Hands the datagrams of one port to the endpoint."""

    def __init__(self, received: Callable[[bytes, Address], None]) -> None:
        self._received = received

    def datagramReceived(self, datagram: bytes, addr: Address) -> None:  # noqa: N802 - Twisted's name
        self._received(datagram, (addr[0], addr[1]))


def _bind_one(host: str, port: int) -> tuple[socket.socket, ...]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)  # noqa: FBT003 - positional by definition
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return (bound,)


def _bind_pair(host: str, port: int) -> tuple[socket.socket, ...]:
    """Bind an even port and the next one, or `port` and the next one (RFC 3550 11)."""
    for _ in range(PORT_ATTEMPTS):
        (first,) = _bind_one(host, port)
        number = first.getsockname()[1]
        try:
            (second,) = _bind_one(host, number + 1 if port else number ^ 1)
        except OSError:
            first.close()
            if port:
                raise
            continue
        return (first, second) if port or not number & 1 else (second, first)
    raise PortsExhausted("no pair of ports is free")


class RtpEndpoint:
    """One end of an audio stream: binds its ports, speaks at the reactor's pace, records what it hears.

    Order of use: :meth:`open` (ports for the SDP), then in any order as offer/answer tells :meth:`secure`,
    :meth:`set_remote`, :meth:`set_codec`, :meth:`set_direction`; :meth:`start`; at the end :meth:`close`.
    `on_event` gets the session's events as they happen.
    """

    def __init__(
        self,
        reactor: MediaReactor,
        settings: SessionSettings | None = None,
        *,
        source: AudioSource | None = None,
        on_event: Callable[[SessionEvent], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._pacer = pacer_of(reactor)
        self._unpace: Callable[[], None] | None = None
        self._rtp: UdpPort | None = None
        self._rtcp: UdpPort | None = None
        self._former: tuple[UdpPort | None, UdpPort | None] | None = None
        """Ports spoken from while an offer to move is out."""
        self.on_event = on_event
        self.session = RtpSession(settings, source=source, clock=reactor.seconds)

    # -- ports -----------------------------------------------------------------------------------------------------

    def open(self, host: str, port: int = 0) -> Address:
        """Bind `host` and return the RTP address; port 0: an even one of the kernel's choice, RTCP on the next.

        With rtcp-mux a single port of any parity. Raises OSError: PortsExhausted, or the given port is taken.
        """
        if self._rtp is not None:
            raise RuntimeError("already open")
        self._rtp, self._rtcp = self._bind(host, port)
        return self.local

    def move(self, port: int = 0) -> Address:
        """Take new ports on the same host for an offer. Returns their address.

        Until :meth:`end_move` both are listened to and the former ones are spoken from (RFC 3264 8.3.1). An endpoint
        that has moved needs a new sending key: call :meth:`secure_sending` (RFC 4568 7.1.4).
        """
        host = self.local[0]
        self.end_move(back=True)
        former = (self._rtp, self._rtcp)
        self._rtp, self._rtcp = self._bind(host, port)
        self._former = former
        return self.local

    def end_move(self, *, back: bool = False) -> None:
        """Close the former ports: the offer was accepted; or with `back` the new ones: it was refused."""
        if self._former is None:
            return
        unused, self._former = self._former, None
        if back:
            unused, (self._rtp, self._rtcp) = (self._rtp, self._rtcp), unused
        for port in unused:
            if port is not None:
                port.stopListening()

    def _bind(self, host: str, port: int) -> tuple[UdpPort, UdpPort | None]:
        bound = _bind_one(host, port) if self.session.settings.rtcp_mux else _bind_pair(host, port)
        adopted = []
        for one in bound:
            with one:
                adopted.append(self._reactor.adoptDatagramPort(one.fileno(), one.family, _Socket(self._received)))
        return adopted[0], adopted[1] if len(adopted) > 1 else None

    @property
    def local(self) -> Address:
        """The RTP address. Raises RuntimeError while not open."""
        if self._rtp is None:
            raise RuntimeError("not open")
        bound = self._rtp.getHost()
        return bound.host, bound.port

    @property
    def local_rtcp(self) -> Address:
        """The RTCP address, the RTP one with rtcp-mux. Raises RuntimeError while not open."""
        if self._rtcp is None:
            return self.local
        bound = self._rtcp.getHost()
        return bound.host, bound.port

    # -- what the offer/answer decides -----------------------------------------------------------------------------

    def set_remote(self, host: str, port: int, rtcp: Address | None = None) -> None:
        """Send to this address; `rtcp` None: the next port, or the same one with rtcp-mux."""
        self.session.set_remote((host, port), rtcp)

    def set_codec(self, codec: Codec, payload_type: int | None = None, dtmf_payload_type: int | None = None) -> None:
        """Speak this codec; `dtmf_payload_type` None: no telephone events."""
        self.session.set_codec(codec, payload_type, dtmf_payload_type)

    def set_direction(self, direction: Direction | str) -> None:
        """Hold or resume. Raises ValueError for a word that is no direction."""
        self.session.set_direction(Direction(direction))

    def secure(self, send: CryptoAttribute | None, receive: CryptoAttribute | None) -> None:
        """Begin SRTP with new contexts (ROC 0); None where a key is not known yet (silent until then)."""
        self.session.protection.start(send, receive)

    def secure_sending(self, crypto: CryptoAttribute) -> None:
        """Begin a new sending context: the key of the answer, or this side moved (RFC 4568 7.1.4)."""
        self.session.protection.start_sending(crypto)

    def secure_receiving(self, crypto: CryptoAttribute) -> None:
        """Begin a new receiving context: the key of the answer, or the far end moved (RFC 4568 7.1.4)."""
        self.session.protection.start_receiving(crypto)

    def rekey_sending(self, crypto: CryptoAttribute) -> None:
        """Change the sending key on the same address; ROC goes on. Raises `media.srtp.KeyReused`."""
        self.session.protection.rekey_sending(crypto)

    def rekey_receiving(self, crypto: CryptoAttribute, grace: float = DEFAULT_GRACE) -> None:
        """Change the receiving key on the same address; the former one is taken `grace` seconds more."""
        self.session.protection.rekey_receiving(crypto, grace)

    def unsecure(self) -> None:
        """Go on as plain RTP because offer/answer agreed on it."""
        self.session.protection.stop()

    # -- running ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Speak and report from the next packet time on; a second call changes nothing."""
        if self._unpace is None:
            self._unpace = self._pacer.add(self)

    def stop(self) -> None:
        """Fall silent; ports stay open."""
        if self._unpace is not None:
            self._unpace()
            self._unpace = None

    def close(self, reason: str = "") -> "Deferred[None]":
        """Send BYE, stop and close the ports; fires when they are closed. Figures and recording stay readable."""
        self.stop()
        if self._rtp is not None:
            self._send(self.session.bye(reason))
        ports = [port for port in (self._rtp, self._rtcp, *(self._former or ())) if port is not None]
        self._former = None
        self._rtp = self._rtcp = None
        closing = gatherResults([maybeDeferred(port.stopListening) for port in ports])
        return closing.addCallback(lambda _: None)

    def play(self, source: AudioSource | None) -> None:
        """Say something else; None: silence."""
        self.session.play(source)

    def send_digits(self, digits: str) -> None:
        """Send DTMF digits as telephone events. Raises `media.dtmf.DtmfError`."""
        self.session.send_digits(digits)

    def paced(self, skipped: int) -> None:
        """Pass one packet time (called by the pacer)."""
        if skipped:
            self.session.skip(skipped)
        self._send(self.session.tick())
        self._tell()

    def _received(self, datagram: bytes, source: Address) -> None:
        self.session.receive(datagram, source)
        self._tell()

    def _send(self, due: list[Outgoing]) -> None:
        for outgoing in due:
            rtp, rtcp = self._former or (self._rtp, self._rtcp)
            port = rtcp if outgoing.rtcp and rtcp is not None else rtp
            if port is None:
                continue
            try:
                port.write(outgoing.octets, outgoing.destination)
            except OSError:  # a full buffer or no route: lost, as on any network
                self.session.drops["send_failed"] += 1

    def _tell(self) -> None:
        events = self.session.events()
        if self.on_event is not None:
            for event in events:
                self.on_event(event)

    # -- what came of it -------------------------------------------------------------------------------------------

    def statistics(self) -> RtpStatistics:
        """Return the figures so far."""
        return self.session.statistics()

    def heard(self) -> "array[int]":
        """Return what was heard so far: 16-bit samples at 8 kHz, loss as silence."""
        return self.session.heard()

    def write_recording(self, path: Path) -> None:
        """Write what was heard to a WAV file. Raises OSError."""
        write_wav(path, self.heard())
