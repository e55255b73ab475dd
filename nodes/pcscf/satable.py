"""Security associations of ipsec-3gpp: SPIs, ports, the SA table (TS 33.203 7; PC-4, PC-9, PC-10, E-11, E-22).

The backend here is `none`: every rule about ports, SPIs and the table is kept, nothing is encrypted. It is flagged
NON-SECURE wherever it shows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from nodes.pcscf.rejection import RejectionError
from signalling.secagree import MechanismEntry

IPSEC: Final = "ipsec-3gpp"
LOWEST_SPI: Final = 1_000_000_000
"""Ten digits without padding (REG-6)."""
HIGHEST_SPI: Final = 2**32 - 1
MAX_PER_DIRECTION: Final = 6
"""Established security associations per direction and IMPI (E-22)."""
MAX_TEMPORARY: Final = 4
"""Temporary ones per IMPI and UE address: whoever asks for one has proved nothing yet, so the oldest gives way."""
FORBIDDEN_PORTS: Final = frozenset({5060, 5061})
NON_SECURE: Final = "NON-SECURE"


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the UE asked for: one SPI pair, one port pair, algorithm pairs in its order."""

    spi_c: int
    spi_s: int
    port_c: int
    port_s: int
    algorithms: tuple[str, ...]
    """`alg/ealg`, e.g. `hmac-sha-1-96/aes-cbc`."""


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """One set of four SAs between a UE and this node."""

    impi: str
    ue_ip: str
    ue_port_c: int
    ue_port_s: int
    port_c: int
    port_s: int
    spi_c: int
    spi_s: int
    ue_spi_c: int
    ue_spi_s: int
    algorithm: str
    expires_at: float
    temporary: bool = True

    def to_dict(self) -> dict[str, object]:
        """A JSON form for the store; holds no key."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> SecurityAssociation:
        """The inverse of `to_dict`."""
        return cls(**stored)  # type: ignore[arg-type]


def read_proposal(client: Sequence[MechanismEntry]) -> Proposal | None:
    """The ipsec-3gpp proposal of a Security-Client, None when there is none.

    Raises RejectionError 400 for a malformed one, or one with several SPI or port pairs (REG-4).
    """
    entries = [entry for entry in client if entry.name.lower() == IPSEC and not entry.is_media]
    usable = [entry for entry in entries if (entry.get("mod") or "trans").lower() == "trans"]
    if not usable:
        return None
    numbers = {tuple(_number(entry, name) for name in ("spi-c", "spi-s", "port-c", "port-s")) for entry in usable}
    if len(numbers) != 1:
        raise RejectionError(400, "One SPI Pair And One Port Pair")
    spi_c, spi_s, port_c, port_s = next(iter(numbers))
    if spi_c == spi_s or port_c == port_s or {port_c, port_s} & FORBIDDEN_PORTS or not all((port_c, port_s)):
        raise RejectionError(400, "Bad SPI Or Port In Security-Client")
    algorithms = tuple(
        f"{(entry.get('alg') or '').lower()}/{(entry.get('ealg') or 'null').lower()}" for entry in usable
    )
    return Proposal(spi_c, spi_s, port_c, port_s, algorithms)


def _number(entry: MechanismEntry, name: str) -> int:
    text = entry.get(name) or ""
    top = HIGHEST_SPI if name.startswith("spi") else 65535
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > top:
        raise RejectionError(400, f"Bad {name} In Security-Client")
    return int(text)


def select_algorithm(own: Sequence[str], proposal: Proposal, *, allow_null: bool) -> str | None:
    """The first of this node's pairs the UE offered too (PC-9); None when there is none (E-11)."""
    for pair in own:
        if pair in proposal.algorithms and (allow_null or not pair.endswith("/null")):
            return pair
    return None


def server_entries(own: Sequence[str], association: SecurityAssociation | None) -> list[MechanismEntry]:
    """All own algorithms in falling q, with the SPIs and ports of an association (PC-10, UE-3)."""
    entries: list[MechanismEntry] = []
    for index, pair in enumerate(own):
        alg, _, ealg = pair.partition("/")
        params: list[tuple[str, str | None]] = [("q", f"0.{max(9 - index, 1)}"), ("alg", alg), ("ealg", ealg or "null")]
        if association is not None:
            params += [
                ("spi-c", str(association.spi_c)),
                ("spi-s", str(association.spi_s)),
                ("port-c", str(association.port_c)),
                ("port-s", str(association.port_s)),
            ]
        entries.append(MechanismEntry(IPSEC, tuple(params)))
    return entries


class SaTable:
    """Every SA this node holds, by (UE address, UE client port). `now` gives seconds since the epoch."""

    def __init__(self, now: Callable[[], float], random_spi: Callable[[], int] | None = None) -> None:
        self._now = now
        self._rows: dict[tuple[str, int], SecurityAssociation] = {}
        self._of: dict[str, dict[tuple[str, int], SecurityAssociation]] = {}
        self._spis: set[int] = set()
        self._random = random_spi or (lambda: LOWEST_SPI + secrets.randbelow(HIGHEST_SPI - LOWEST_SPI))

    def __len__(self) -> int:
        return len(self._rows)

    def create(
        self, impi: str, ue_ip: str, proposal: Proposal, algorithm: str, ports: tuple[int, int], lifetime_s: float
    ) -> SecurityAssociation:
        """Make a temporary SA set; `ports` are this node's client and server port.

        Only established ones count against the user, who could otherwise be locked out by whoever knows the identity.
        Raises RejectionError: 400 for an address and port in use by somebody else, 403 for the seventh (PC-4).
        """
        held = self.find(ue_ip, proposal.port_c)
        if held is not None and not (held.impi == impi and held.temporary):
            raise RejectionError(400, "Security Association Exists")
        rows = [row for row in self._of.get(impi, {}).values() if row.expires_at > self._now()]
        if sum(not row.temporary for row in rows) >= MAX_PER_DIRECTION:
            raise RejectionError(403, "Too Many Security Associations")
        temporary = [row for row in rows if row.temporary and row.ue_ip == ue_ip and row != held]
        for row in temporary[: max(0, len(temporary) + 1 - MAX_TEMPORARY)]:
            self.drop(row)
        theirs = {proposal.spi_c, proposal.spi_s}
        spi_c = self._fresh(theirs)
        spi_s = self._fresh(theirs | {spi_c})
        made = SecurityAssociation(
            impi, ue_ip, proposal.port_c, proposal.port_s, ports[0], ports[1], spi_c, spi_s,
            proposal.spi_c, proposal.spi_s, algorithm, self._now() + lifetime_s,
        )  # fmt: skip
        self.put(made)
        return made

    def _fresh(self, taken: set[int]) -> int:
        while (spi := self._random()) in taken or spi in self._spis:
            pass
        return spi

    def put(self, row: SecurityAssociation) -> None:
        """Take an SA in, e.g. from the store; one with the same ends gives way."""
        place = (row.ue_ip, row.ue_port_c)
        held = self._rows.get(place)
        if held is not None:
            self.drop(held)
        self._rows[place] = row
        self._of.setdefault(row.impi, {})[place] = row
        self._spis.update((row.spi_c, row.spi_s))

    def find(self, ue_ip: str, ue_port_c: int) -> SecurityAssociation | None:
        """The SA a message from there came under."""
        row = self._rows.get((ue_ip, ue_port_c))
        return row if row is not None and row.expires_at > self._now() else None

    def drop(self, row: SecurityAssociation) -> None:
        """Delete an SA set."""
        place = (row.ue_ip, row.ue_port_c)
        if self._rows.get(place) != row:
            return
        del self._rows[place]
        mine = self._of[row.impi]
        del mine[place]
        if not mine:
            del self._of[row.impi]
        self._spis -= {row.spi_c, row.spi_s}

    def expire(self) -> list[SecurityAssociation]:
        """Delete what has run out and return it."""
        gone = [row for row in self._rows.values() if row.expires_at <= self._now()]
        for row in gone:
            self.drop(row)
        return gone
