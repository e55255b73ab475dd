"""One local UDP port of a side: whom it listens to, where it sends, and how it learns that (H.248.37, IQ-14)."""

import ipaddress
import socket
from dataclasses import replace
from enum import Enum, auto
from functools import lru_cache

from media.relay.interface import Address, DropCause, InactivityDirection, Latching, Mode, Protection, SideConfig
from media.relay.sockets import open_flow, overflow_of, set_dscp

_NO_HOST = ("0.0.0.0", "::")  # noqa: S104 - the address of a stream on hold (RFC 3264 8.4), never bound
_LAST_PORT = 65535
_UINT32 = 0xFFFFFFFF


def usable(address: Address | None) -> Address | None:
    """Return the address as the kernel writes it (RFC 5952), unless it says "nowhere": port 0 or the unspecified host.

    Raises ValueError for a host that is no IP address.
    """
    if address is None or not address[1]:
        return None
    host = _host(address[0])
    if host in _NO_HOST:
        return None
    return address if host == address[0] else (host, address[1])


@lru_cache(maxsize=1024)
def _host(text: str) -> str:
    return str(ipaddress.ip_address(text))


def terms_of(config: SideConfig) -> SideConfig:
    """Return what is kept of a configuration: the same object for all that say the same.

    Thousands of streams differ in their addresses and keys alone. Who needs an address has it; keys are in no place but
    the contexts once those are made.
    """
    return _shared(
        replace(
            config,
            protection=Protection(config.protection),  # equal is not enough: these are compared by identity
            mode=Mode(config.mode),
            latching=Latching(config.latching),
            inactivity_direction=InactivityDirection(config.inactivity_direction),
            remote=None,
            remote_rtcp=None,
            send=None,
            receive=None,
        )
    )


@lru_cache(maxsize=1024)
def _shared(terms: SideConfig) -> SideConfig:
    return terms


class Verdict(Enum):
    """What the address a packet came from is worth."""

    ACCEPT = auto()
    CANDIDATE = auto()
    """Acceptable, and becomes the peer once the packet has passed every other check."""


class Port:
    """RTP or RTCP port. `destination` is where packets to the peer go: the latched address, else the signalled one."""

    __slots__ = (
        "_armed",
        "_config",
        "_remote",
        "_remote_heard",
        "_taken",
        "catch",
        "destination",
        "flow",
        "latch_changes",
        "latched",
        "rtcp",
    )

    def __init__(self, catch: socket.SocketType, *, rtcp: bool) -> None:
        self.catch = catch
        self.rtcp = rtcp
        self.flow: socket.SocketType | None = None
        self.destination: Address | None = None
        self.latched: Address | None = None
        self.latch_changes = 0
        self._remote: Address | None = None
        self._armed = False
        self._remote_heard = False
        """The signalled peer has been the latched one."""
        self._config: SideConfig | None = None
        self._taken = overflow_of(catch)
        """What of the overflow of both sockets was taken already, less what twins that are closed had."""

    @property
    def local(self) -> Address:
        """Where packets of this port are received."""
        host, port, *_ = self.catch.getsockname()
        return host, port

    def take_overflow(self) -> int:
        """Return how many packets the kernel has dropped since the last call because nobody read them in time."""
        now = overflow_of(self.catch) + (0 if self.flow is None else overflow_of(self.flow))
        lost, self._taken = (now - self._taken) & _UINT32, now & _UINT32
        return lost

    def resume(self, latched: Address | None) -> None:
        """Have a peer from the beginning: it was heard when another packet loop had this port."""
        self.latched = latched

    def configure(self, config: SideConfig, terms: SideConfig, *, again: bool) -> list[tuple[bytes, Address]]:
        """Take a new configuration and keep its `terms`; `again`: a Configure asked for it, which alone arms RELATCH.

        Returns packets that came while the sockets were changed.
        """
        remote = self._signalled(config)
        moved = remote is not None and self._remote is not None and remote != self._remote
        self._config = terms
        if remote is not None:
            self._remote = remote
        if config.latching is Latching.OFF or moved:
            self.latched = None
            self._remote_heard = False
        self._armed = again and config.latching is Latching.RELATCH and self.latched is not None
        for sock in (self.catch, self.flow):
            if sock is not None:
                set_dscp(sock, config.dscp)
        if remote is None and self.latched is None:
            return self._aim(None)
        return self._aim(self.latched or (None if config.await_media else remote))

    def _signalled(self, config: SideConfig) -> Address | None:
        remote = usable(config.remote)
        if not self.rtcp:
            return remote
        if config.remote_rtcp is not None:
            return usable(config.remote_rtcp)
        return None if remote is None or remote[1] == _LAST_PORT else (remote[0], remote[1] + 1)

    @property
    def settled(self) -> bool:
        """Whether packets from `destination` need no further look at where they come from."""
        return self._config is not None and (self._config.latching is Latching.OFF or self.latched is not None)

    def verdict(self, address: Address) -> Verdict | DropCause:
        """Judge the source of a packet before anything else about it is known."""
        config = self._config
        if config is None:
            return DropCause.NOT_LATCHED
        if config.latching is Latching.OFF:
            return self._filtered(address, config, Verdict.ACCEPT)
        if self.latched is not None:
            if address == self.latched:
                return Verdict.ACCEPT
            if not (self._armed or self._reclaims(address, config)):
                return DropCause.WRONG_SOURCE
        return self._filtered(address, config, Verdict.CANDIDATE)

    def _reclaims(self, address: Address, config: SideConfig) -> bool:
        """Whether the signalled peer takes the port back, once, from whoever was faster (RFC 7362 5).

        Somebody on its host, or with a copy of its first packet, may have latched before it.
        """
        return address == self._remote and not self._remote_heard and not config.await_media

    def _filtered(self, address: Address, config: SideConfig, passed: Verdict) -> Verdict | DropCause:
        """Compare with the signalled remote. Only SRTP may come from anywhere: it proves itself (RFC 4568 6.4.1)."""
        check_host, check_port = self._checks(config)
        if not (check_host or check_port):
            return passed
        if self._remote is None:
            return DropCause.NOT_LATCHED
        if check_host and address[0] != self._remote[0]:
            return DropCause.WRONG_SOURCE
        if check_port and address[1] != self._remote[1]:
            return DropCause.WRONG_SOURCE
        return passed

    @staticmethod
    def _checks(config: SideConfig) -> tuple[bool, bool]:
        """Whether host and port of a source have to be the signalled ones."""
        proves_itself = config.protection is Protection.SRTP
        check_host = config.source_address or not (proves_itself or config.any_source)
        check_port = config.source_port or (
            not proves_itself and config.latching is Latching.OFF and not config.any_source
        )
        return check_host, check_port

    @property
    def hears_peer_alone(self) -> bool:
        """Whether everything that reaches `catch` is from a wrong source, but for packets of :attr:`reclaimer`."""
        config = self._config
        if config is None or self.flow is None:
            return False
        if config.latching is Latching.OFF:
            return all(self._checks(config)) and self.destination == self._remote
        return self.latched is not None and not self._armed

    @property
    def reclaimer(self) -> Address | None:
        """The address that may still take the port from the latched peer, if there is one."""
        config, remote = self._config, self._remote
        if config is None or remote is None or config.latching is Latching.OFF or remote == self.latched:
            return None
        return remote if self._reclaims(remote, config) else None

    def latch(self, address: Address) -> list[tuple[bytes, Address]]:
        """Make `address` the peer. Returns packets that came while the sockets were changed."""
        if self.latched != address:
            self.latch_changes += 1
        self.latched = address
        self._remote_heard = self._remote_heard or address == self._remote
        self._armed = False
        return self._aim(address)

    def _aim(self, destination: Address | None) -> list[tuple[bytes, Address]]:
        if destination == self.destination:
            return []
        self.destination = destination
        self.close_flow()
        if destination is None or self.rtcp:  # RTCP is rare: one socket does
            return []
        try:
            self.flow, early = open_flow(self.catch, destination, self._config.dscp if self._config else 0)
        except OSError:  # an address of another family: counted when something is sent
            return []
        if self.flow is not None:
            self._taken += overflow_of(self.flow)
        return early

    def send(self, packet: memoryview) -> DropCause | None:
        """Send to the peer. Returns why it could not be, or None."""
        if self.destination is None:
            return DropCause.NOT_LATCHED
        for _ in range(2):
            try:
                if self.flow is not None:
                    self.flow.send(packet)
                else:
                    self.catch.sendto(packet, self.destination)
            except ConnectionRefusedError:  # tells of an earlier packet: this one may pass
                continue
            except BlockingIOError:
                return DropCause.SEND_BLOCKED
            except OSError as error:
                return DropCause.OVERSIZE if error.errno == 90 else DropCause.UNREACHABLE
            return None
        return DropCause.UNREACHABLE

    def close_flow(self) -> None:
        """Close the connected twin, if any."""
        if self.flow is not None:
            self._taken -= overflow_of(self.flow)
            self.flow.close()
            self.flow = None

    def close(self) -> None:
        """Close both sockets."""
        self.close_flow()
        self.catch.close()
