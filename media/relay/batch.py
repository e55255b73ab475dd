"""Several datagrams of one socket in one system call, each in a slot where it can be transformed in place."""

from typing import NamedTuple, Protocol, cast

import cffi

from media.relay.interface import MAX_DATAGRAM
from media.relay.libsrtp import TRAILER_LIMIT

SLOTS = 16
"""Datagrams read at once."""
_DONT_WAIT = 0x40
"""MSG_DONTWAIT of Linux."""

_ffi = cffi.FFI()
_ffi.cdef("""
struct iovec { void *iov_base; size_t iov_len; };
struct msghdr { void *msg_name; unsigned int msg_namelen; struct iovec *msg_iov; size_t msg_iovlen;
    void *msg_control; size_t msg_controllen; int msg_flags; };
struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
int recvmmsg(int descriptor, struct mmsghdr *messages, unsigned int count, int flags, void *timeout);
""")


class _Library(Protocol):
    def recvmmsg(self, descriptor: int, messages: object, count: int, flags: int, timeout: object) -> int: ...


class Slot(NamedTuple):
    """Room for one datagram. `place` is where :attr:`Batch.sizes` tells its length; `views` are made on first use."""

    octets: bytearray
    data: object
    views: list[memoryview | None]
    place: int


class Batch:
    """The slots of a packet loop. `views` bounds the lengths for which a slot keeps a prepared view."""

    def __init__(self, views: int) -> None:
        size = MAX_DATAGRAM + 1
        messages = _ffi.new("struct mmsghdr[]", SLOTS)
        vectors = _ffi.new("struct iovec[]", SLOTS)
        step, first = _ffi.sizeof("struct mmsghdr") // 4, _ffi.offsetof("struct mmsghdr", "msg_len") // 4
        self.slots: list[Slot] = []
        for number in range(SLOTS):
            octets = bytearray(size + TRAILER_LIMIT)
            data = _ffi.from_buffer(octets)
            vectors[number] = {"iov_base": data, "iov_len": size}
            messages[number].msg_hdr.msg_iov = vectors + number
            messages[number].msg_hdr.msg_iovlen = 1
            self.slots.append(Slot(octets, data, [None] * views, step * number + first))
        self.sizes = memoryview(_ffi.buffer(messages)).cast("I")
        self._messages, self._vectors = messages, vectors
        self._library = cast("_Library", _ffi.dlopen(None))

    def receive(self, descriptor: int) -> int:
        """Read what waits at a socket, up to all slots; return how many datagrams, or -1 when there was none."""
        return self._library.recvmmsg(descriptor, self._messages, SLOTS, _DONT_WAIT, _ffi.NULL)
