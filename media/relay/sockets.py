"""UDP ports of the relay: pairs from the kernel, and a connected twin that only the peer's packets reach.

The kernel gives a datagram to the socket that matches best. So each port has a `catch` socket that hears everybody,
and,
once the peer is known, a `flow` socket of the same local address connected to the peer. A flood from anywhere else
fills the queue of `catch`; the call is read from `flow`, without looking at addresses.
"""

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

from media.relay.interface import Address, PortsExhaustedError

PORT_REST_S = 10.0
"""Seconds a released port is not given out again (IQ-12, assumed)."""
RECEIVE_BUFFER = 40 * 1024
"""Octets asked of SO_RCVBUF, which the kernel doubles: about 64 packets of speech."""
MOST_EARLY = 256
"""Packets read at a socket that is new: more than its queue can have taken before it was connected."""
_ATTEMPTS = 400
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
_UDP_SEGMENT = 103


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def _open(address: Address, dscp: int, *, shared: bool = False) -> socket.SocketType:
    family = _family(address[0])
    sock = socket.SocketType(family, socket.SOCK_DGRAM)  # half of a socket.socket
    try:
        sock.settimeout(0.0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_dscp(sock, dscp)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def set_dscp(sock: socket.SocketType, dscp: int) -> None:
    """Mark what leaves the socket with a DiffServ code point, 0 to 63 (RFC 2474)."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)


@cache
def segments_of(size: int) -> tuple[tuple[int, int, bytes], ...]:
    """Ancillary data of sendmsg that makes datagrams of `size` octets out of what is sent (UDP_SEGMENT, Linux 4.18).

    It belongs to that one call. Raised by a kernel or a route that cannot: OSError, and nothing was sent.
    """
    return ((socket.IPPROTO_UDP, _UDP_SEGMENT, size.to_bytes(2, sys.byteorder)),)


def overflow_of(sock: socket.SocketType) -> int:
    """Return how many datagrams the kernel dropped at a socket, modulo 2^32, most of them because its queue was full
    (SO_MEMINFO, Linux 4.12). A kernel that does not tell is taken to have dropped none."""
    try:
        octets = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return 0
    return int(_MEMINFO.unpack(octets)[8]) if len(octets) == _MEMINFO.size else 0


@contextmanager
def _shareable(sock: socket.SocketType) -> Iterator[None]:
    """Let the twin bind; nobody else may before or after."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def open_flow(
    catch: socket.SocketType, peer: Address, dscp: int
) -> tuple[socket.SocketType | None, list[tuple[bytes, Address]]]:
    """Open the twin of `catch` towards `peer`; None when there is no route or no descriptor left.

    Returns beside it what reached the twin before it was connected, with the address each came from.
    """
    early: list[tuple[bytes, Address]] = []
    try:
        with _shareable(catch):
            flow = _open(catch.getsockname()[:2], dscp, shared=True)
        try:
            flow.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
            flow.connect(peer)
            with suppress(BlockingIOError):
                while len(early) < MOST_EARLY:  # the peer may send faster than this reads
                    data, address = flow.recvfrom(65535)
                    early.append((data, address[:2]))
        except OSError:
            flow.close()
        else:
            return flow, early
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRINUSE):
            raise
    return None, early


class PortPool:
    """Gives out UDP ports and lets released ones rest. `clock` returns seconds; `port_range` limits what is given."""

    def __init__(self, clock: Callable[[], float], port_range: tuple[int, int] | None = None) -> None:
        self._clock = clock
        self._range = port_range
        self._next = port_range[0] if port_range else 0
        self._resting: dict[Address, float] = {}

    def release(self, address: Address) -> None:
        """Note that a port was closed just now."""
        self._resting.pop(address, None)
        self._resting[address] = self._clock() + PORT_REST_S

    def open(self, ip: str, *, pair: bool, dscp: int) -> tuple[socket.SocketType, socket.SocketType | None]:
        """Bind a port, or an even port and the next one for RTCP (RFC 3550 11). Raises PortsExhaustedError."""
        self._end_rests()
        attempts = _ATTEMPTS if self._range is None else (self._range[1] - self._range[0]) // 2 + 1
        for _ in range(attempts):
            try:
                rtp = _open((ip, self._candidate()), dscp)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise PortsExhaustedError(f"no UDP port on {ip}: {error.strerror}") from None
            port = rtp.getsockname()[1]
            if (ip, port) in self._resting or (pair and (port % 2 or (ip, port + 1) in self._resting)):
                rtp.close()
                continue
            if not pair:
                return rtp, None
            try:
                return rtp, _open((ip, port + 1), dscp)
            except OSError as error:
                rtp.close()
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise PortsExhaustedError(f"no UDP port on {ip}: {error.strerror}") from None
            except OverflowError:
                rtp.close()
        raise PortsExhaustedError(f"no pair of UDP ports free on {ip}")

    def open_again(
        self, ip: str, port: int, *, pair: bool, dscp: int
    ) -> tuple[socket.SocketType, socket.SocketType | None]:
        """Bind a port that a packet loop before this one had, whatever rests. Raises PortsExhaustedError."""
        try:
            rtp = _open((ip, port), dscp)
            try:
                return rtp, _open((ip, port + 1), dscp) if pair else None
            except (OSError, OverflowError):
                rtp.close()
                raise
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no such port"
            raise PortsExhaustedError(f"UDP port {port} on {ip} cannot be had again: {reason}") from None

    def _end_rests(self) -> None:
        """Forget ports that rested long enough; the ones released first stand first."""
        now = self._clock()
        while self._resting:
            address, until = next(iter(self._resting.items()))
            if until > now:
                return
            del self._resting[address]

    def _candidate(self) -> int:
        if self._range is None:
            return 0
        port = self._next
        self._next = port + 2 if port + 3 <= self._range[1] else self._range[0]
        return port
