"""A wire tap: every packet that crosses the loopback interface of one lab, as the kernel sent it."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

ETH_P_ALL = 3
PACKET_OUTGOING = 4
IPV4 = 0x0800


@dataclass(frozen=True)
class Packet:
    """One IPv4 packet: seconds since the epoch, protocol ("UDP"/"TCP"), addresses, payload above the transport."""

    time: float
    protocol: str
    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes

    def touches(self, address: str) -> bool:
        return address in (self.source[0], self.destination[0])

    def between(self, one: str, other: str) -> bool:
        return {self.source[0], self.destination[0]} == {one, other}


class WireTap:
    """Collects packets of one IPv4 network between ``start`` and ``stop``. Needs CAP_NET_RAW."""

    def __init__(self, network: str) -> None:
        self._network = ipaddress.ip_network(network)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.bind(("lo", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self.packets: list[Packet] = []
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # What is under way when the caller is done still counts.
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline and self._thread.is_alive():
            self._stop.wait(0.05)
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _collect(self) -> None:
        while not self._stop.is_set():
            try:
                data, address = self._socket.recvfrom(65_535)
            except TimeoutError:
                continue
            if address[1] != IPV4 or address[2] != PACKET_OUTGOING:
                continue
            packet = self._parse(data)
            if packet is not None:
                self.packets.append(packet)

    def _parse(self, data: bytes) -> Packet | None:
        if len(data) < 20 or data[0] >> 4 != 4:
            return None
        header = (data[0] & 0x0F) * 4
        source, destination = (ipaddress.ip_address(data[i : i + 4]) for i in (12, 16))
        if source not in self._network and destination not in self._network:
            return None
        body = data[header : struct.unpack_from("!H", data, 2)[0]]
        if data[9] == socket.IPPROTO_UDP and len(body) >= 8:
            offset, protocol = 8, "UDP"
        elif data[9] == socket.IPPROTO_TCP and len(body) >= 20:
            offset, protocol = (body[12] >> 4) * 4, "TCP"
        else:
            return None
        ports = struct.unpack_from("!HH", body)
        return Packet(time.time(), protocol, (str(source), ports[0]), (str(destination), ports[1]), body[offset:])

    def rtp(self, one: str, other: str) -> list[Packet]:
        """UDP packets between two addresses that look like RTP (not RTCP)."""
        return [
            packet
            for packet in self.packets
            if packet.protocol == "UDP"
            and packet.between(one, other)
            and len(packet.payload) >= 12
            and packet.payload[0] >> 6 == 2
            and not 192 <= packet.payload[1] <= 223
        ]

    def streams(self, protocol: str) -> Iterator[tuple[tuple[str, int], tuple[str, int], bytes]]:
        """The payloads of each flow, joined."""
        flows: dict[tuple[tuple[str, int], tuple[str, int]], bytearray] = {}
        for packet in self.packets:
            if packet.protocol == protocol:
                flows.setdefault((packet.source, packet.destination), bytearray()).extend(packet.payload)
        for (source, destination), payload in flows.items():
            yield source, destination, bytes(payload)
