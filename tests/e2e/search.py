"""Many short strings searched for in many octets, in one go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

SHORTEST = 3
"""Octets of the shortest string that can be searched for."""
_VALUES = 1 << 8 * SHORTEST


class Search:
    """Finds strings by a table of their first three octets. Raises ``ValueError`` for a shorter one."""

    def __init__(self, strings: Iterable[tuple[str, bytes]]) -> None:
        self._by_beginning: defaultdict[bytes, list[tuple[str, bytes]]] = defaultdict(list)
        for name, string in strings:
            if len(string) < SHORTEST:
                raise ValueError(f"{name} is shorter than {SHORTEST} octets")
            self._by_beginning[string[:SHORTEST]].append((name, string))
        self._is_beginning = np.zeros(_VALUES, dtype=bool)
        for beginning in self._by_beginning:
            self._is_beginning[int.from_bytes(beginning, "little")] = True

    def names_in(self, octets: bytes) -> set[str]:
        """Return the names of the strings that ``octets`` holds."""
        if len(octets) < SHORTEST:
            return set()
        each = np.frombuffer(octets, dtype=np.uint8).astype(np.uint32)
        beginnings = each[:-2] | each[1:-1] << 8 | each[2:] << 16
        found: set[str] = set()
        for at in np.flatnonzero(self._is_beginning[beginnings]).tolist():
            for name, string in self._by_beginning[octets[at : at + SHORTEST]]:
                if octets.startswith(string, at):
                    found.add(name)
        return found
