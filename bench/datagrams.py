"""Many datagrams at the speed of C without a compiler: prepared once, sent and counted in batches (sendmmsg, recvmmsg).

The interpreter's lock is free during a batch, so a thread may send while another one does something else.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence

import cffi

Address = tuple[str, int]
MOST = 64
"""Datagrams of one batch."""
ROOM = 2048
"""Octets kept of a datagram that is received."""

_ffi = cffi.FFI()
_ffi.cdef("""
int sendmmsg(int fd, void *messages, unsigned int count, int flags);
int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout);
""")
_libc = _ffi.dlopen(None)
_MESSAGE = struct.Struct("<QI4xQQQQi4xI4x")  # struct mmsghdr
_VECTOR = struct.Struct("<QQ")  # struct iovec
_NAME = struct.Struct("!4s8x")


def _place(octets: bytearray) -> int:
    return int(_ffi.cast("uintptr_t", _ffi.from_buffer(octets)))


def address_octets(address: Address) -> bytes:
    """struct sockaddr_in of an IPv4 address."""
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", address[1]) + _NAME.pack(socket.inet_aton(address[0]))


class Outbox:
    """Datagrams, each with where it goes, in the order in which they are sent."""

    def __init__(self, datagrams: Sequence[tuple[bytes, Address]]) -> None:
        self.count = len(datagrams)
        names = {address: number for number, address in enumerate(dict.fromkeys(address for _, address in datagrams))}
        self._names = bytearray(b"".join(address_octets(address) for address in names))
        self._pool = bytearray(b"".join(octets for octets, _ in datagrams) or b"\0")
        self._vectors = bytearray(_VECTOR.size * self.count)
        self._messages = bytearray(_MESSAGE.size * self.count)
        pool, vectors, first_name = _place(self._pool), _place(self._vectors), _place(self._names)
        for number, (octets, address) in enumerate(datagrams):
            vector = vectors + number * _VECTOR.size
            _VECTOR.pack_into(self._vectors, number * _VECTOR.size, pool, len(octets))
            name = first_name + 16 * names[address]
            _MESSAGE.pack_into(self._messages, number * _MESSAGE.size, name, 16, vector, 1, 0, 0, 0, 0)
            pool += len(octets)
        self._first = _place(self._messages)

    def aim(self, addresses: Sequence[Address]) -> None:
        """Send elsewhere from now on: new addresses in the order in which the first ones appeared."""
        octets = b"".join(address_octets(address) for address in addresses)
        if len(octets) != len(self._names):
            raise ValueError("as many addresses as before are needed")
        self._names[:] = octets

    def send(self, sock: socket.socket, first: int, count: int) -> int:
        """Send up to `count` from the `first` on; returns how many the kernel took (0: it could take none now)."""
        count = min(count, self.count - first, MOST)
        if count <= 0:
            return 0
        at = _ffi.cast("void *", self._first + first * _MESSAGE.size)
        return max(0, int(_libc.sendmmsg(sock.fileno(), at, count, socket.MSG_DONTWAIT)))


class Inbox:
    """What arrives at sockets, counted; the first octets of each datagram of a batch can be looked at."""

    def __init__(self) -> None:
        self._pool = bytearray(ROOM * MOST)
        self._vectors = bytearray(_VECTOR.size * MOST)
        self._messages = bytearray(_MESSAGE.size * MOST)
        pool, vectors = _place(self._pool), _place(self._vectors)
        for number in range(MOST):
            _VECTOR.pack_into(self._vectors, number * _VECTOR.size, pool + ROOM * number, ROOM)
            _MESSAGE.pack_into(self._messages, number * _MESSAGE.size, 0, 0, vectors + 16 * number, 1, 0, 0, 0, 0)
        self._at = _ffi.cast("void *", _place(self._messages))

    def batch(self, sock: socket.socket) -> int:
        """Take up to a batch of what waits; returns how many that were."""
        count = int(_libc.recvmmsg(sock.fileno(), self._at, MOST, socket.MSG_DONTWAIT, _ffi.NULL))
        if count >= 0:
            return count
        if _ffi.errno in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED):
            return 0
        raise OSError(_ffi.errno, "recvmmsg")

    def octets(self, number: int) -> bytes:
        """Datagram `number` of the last batch."""
        (size,) = struct.unpack_from("=I", self._messages, number * _MESSAGE.size + 56)
        return bytes(self._pool[number * ROOM : number * ROOM + min(size, ROOM)])
