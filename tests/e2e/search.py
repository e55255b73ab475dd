"""Many short strings searched for in many octets, in one go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)

SHORTEST = 3
"""Octets of the shortest string that can be searched for."""
_VALUES = 1 << 8 * SHORTEST


class Search(Generic[Name]):
    """Finds strings by a table of their first three octets. Raises ``ValueError`` for a shorter one."""

    def __init__(self, strings: Iterable[tuple[Name, bytes]]) -> None:
        self._by_beginning: defaultdict[bytes, list[tuple[Name, bytes]]] = defaultdict(list)
        for name, string in strings:
            if len(string) < SHORTEST:
                raise ValueError(f"{name} is shorter than {SHORTEST} octets")
            self._by_beginning[string[:SHORTEST]].append((name, string))
        self._is_beginning = np.zeros(_VALUES, dtype=bool)
        for beginning in self._by_beginning:
            self._is_beginning[int.from_bytes(beginning, "little")] = True

    def names_in(self, octets: bytes) -> set[Name]:
        """Return the names of the strings that ``octets`` holds."""
        if len(octets) < SHORTEST:
            return set()
        each = np.frombuffer(octets, dtype=np.uint8).astype(np.uint32)
        beginnings = each[:-2] | each[1:-1] << 8 | each[2:] << 16
        found: set[Name] = set()
        for at in np.flatnonzero(self._is_beginning[beginnings]).tolist():
            for name, string in self._by_beginning[octets[at : at + SHORTEST]]:
                if octets.startswith(string, at):
                    found.add(name)
        return found
