"""Reading and writing numbers and length-prefixed fields with every length checked, and the bounds of what is read.

Network octet order, payloads on octet boundaries without padding (RFC 3830 6). The bounds are ours: RFC 3830 has none
for a message, and a TICKET may hold no more than its 16-bit lengths say (RFC 6043 6.10).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from keying.mikey.errors import MalformedMessage, MikeyError

MAX_MESSAGE = 65_535
"""Octets of a message, ticket or key chain that we read."""
MAX_PAYLOADS = 256
"""Payloads of a message that we read, those inside ticket policies included."""
MAX_NESTING = 3
"""Payload chains inside one another: a message, TP Data, and what an unexpected TP in TP Data holds."""

E = TypeVar("E", bound=IntEnum)


class Budget:
    """Payloads that may still be read of one message."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_PAYLOADS

    def spend(self) -> None:
        """Take one payload off. Raises MalformedMessage when there were too many."""
        if self.left == 0:
            raise MalformedMessage("message", f"more than {MAX_PAYLOADS} payloads")
        self.left -= 1


class Reader:
    """Octets with a position. Every read names the field it is for and raises MalformedMessage when it is cut short."""

    __slots__ = ("budget", "depth", "octets", "position")

    def __init__(self, octets: bytes, *, position: int = 0, depth: int = 1, budget: Budget | None = None) -> None:
        self.octets = octets
        self.position = position
        self.depth = depth
        self.budget = budget if budget is not None else Budget()

    def take(self, length: int, where: str) -> bytes:
        """Return the next `length` octets."""
        end = self.position + length
        if end > len(self.octets):
            raise MalformedMessage(where, f"cut short: {length} octets are due, {self.left} are left")
        part = self.octets[self.position : end]
        self.position = end
        return part

    def u8(self, where: str) -> int:
        """Return the next octet."""
        return self.take(1, where)[0]

    def u16(self, where: str) -> int:
        """Return the next two octets, network order."""
        return int.from_bytes(self.take(2, where))

    def u24(self, where: str) -> int:
        """Return the next three octets, network order."""
        return int.from_bytes(self.take(3, where))

    def u32(self, where: str) -> int:
        """Return the next four octets, network order."""
        return int.from_bytes(self.take(4, where))

    def lv8(self, where: str) -> bytes:
        """Return a field behind its length of one octet."""
        return self.take(self.u8(where), where)

    def lv16(self, where: str) -> bytes:
        """Return a field behind its length of two octets."""
        return self.take(self.u16(where), where)

    @property
    def left(self) -> int:
        """Octets not read yet."""
        return len(self.octets) - self.position

    def finish(self, where: str) -> None:
        """Raise MalformedMessage when octets are left."""
        if self.left:
            raise MalformedMessage(where, f"{self.left} octets behind the last payload")

    def nested(self, octets: bytes, where: str) -> Reader:
        """Return a reader for a chain inside this one. Raises MalformedMessage beyond MAX_NESTING."""
        if self.depth >= MAX_NESTING:
            raise MalformedMessage(where, "payloads are nested too deep")
        return Reader(octets, depth=self.depth + 1, budget=self.budget)


def whole(octets: bytes, where: str, limit: int = MAX_MESSAGE) -> Reader:
    """Return a reader over all of `octets`. Raises MalformedMessage beyond `limit` octets."""
    if len(octets) > limit:
        raise MalformedMessage(where, f"{len(octets)} octets, more than {limit}")
    return Reader(bytes(octets))


def known(registry: type[E], value: int, where: str, fault: type[MikeyError] = MalformedMessage) -> E:
    """Return `value` as a member of `registry`. Raises `fault` for one that is not there."""
    try:
        return registry(value)
    except ValueError:
        raise fault(where, f"{value} is not known") from None


def known_or_number(registry: type[E], value: int) -> int:
    """Return `value` as a member of `registry` where it is one: a private role does not make a payload unreadable."""
    try:
        return registry(value)
    except ValueError:
        return value


def number(value: int, octets: int, where: str) -> bytes:
    """Write an unsigned number. Raises MalformedMessage when it does not fit."""
    if not 0 <= value < 1 << (8 * octets):
        raise MalformedMessage(where, f"does not fit into {octets} octets")
    return int(value).to_bytes(octets)


def u8(value: int, where: str) -> bytes:
    """Write one octet."""
    return number(value, 1, where)


def u16(value: int, where: str) -> bytes:
    """Write two octets."""
    return number(value, 2, where)


def lv8(value: bytes, where: str) -> bytes:
    """Write a field behind its length of one octet."""
    return number(len(value), 1, where) + value


def lv16(value: bytes, where: str) -> bytes:
    """Write a field behind its length of two octets."""
    return number(len(value), 2, where) + value


def exactly(value: bytes, length: int, where: str) -> bytes:
    """Return `value`. Raises MalformedMessage when it has another length than its type gives it."""
    if len(value) != length:
        raise MalformedMessage(where, f"{len(value)} octets, {length} are due")
    return value
