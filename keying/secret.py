"""The type every key lives in: it never shows its octets by accident."""

import hmac
import secrets
from typing import NoReturn


class Secret:
    """Key material of a fixed length in octets.

    Prints as ``<secret 16 bytes>``, compares in constant time, cannot be hashed, pickled, copied or iterated;
    the octets come out through :meth:`reveal` alone, so every use of a key can be found by searching for that name.
    """

    __slots__ = ("_octets",)
    __hash__ = None  # type: ignore[assignment]  # an unhashable type is declared this way in Python

    def __init__(self, octets: bytes | bytearray | memoryview) -> None:
        if not isinstance(octets, (bytes, bytearray, memoryview)):
            raise TypeError("a secret is made of octets")
        self._octets = bytes(octets)

    @classmethod
    def random(cls, length: int) -> "Secret":
        """Return `length` octets of the system's cryptographic random source. Raises ValueError below one octet."""
        if length < 1:
            raise ValueError("a secret has at least one octet")
        return cls(secrets.token_bytes(length))

    def reveal(self) -> bytes:
        """Return the octets themselves."""
        return self._octets

    def part(self, start: int, stop: int) -> "Secret":
        """Return octets `start` to `stop` (exclusive) as a secret. Raises ValueError outside this one."""
        if not 0 <= start <= stop <= len(self._octets):
            raise ValueError("part lies outside the secret")
        return Secret(self._octets[start:stop])

    def joined(self, *others: "Secret") -> "Secret":
        """Return this secret followed by `others`."""
        return Secret(b"".join((self._octets, *(other.reveal() for other in others))))

    def __len__(self) -> int:
        return len(self._octets)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._octets, other._octets)

    def __repr__(self) -> str:
        return f"<secret {len(self._octets)} bytes>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __iter__(self) -> NoReturn:
        raise TypeError("a secret cannot be iterated")

    def __copy__(self) -> NoReturn:
        raise TypeError("a secret cannot be copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a secret cannot be copied")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret cannot be pickled")
