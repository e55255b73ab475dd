"""Which name the certificate of a neighbour on Mw or ISC has to show when SIP names it by an address.

Routes and paths hold addresses. Where a node's address is known when its certificate is issued, the certificate shows
it. In a lab of containers it is known when the node starts: there the NRF says whose address it is, among the network
functions one may meet on Mw, and the certificate has to show that one's name. An address that network functions of
different types claim is nobody's: a P-CSCF cannot take the place of an S-CSCF by saying so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from sba import runtime
from sba.discovery import Discovery, Query
from sba.errors import RemoteProblem
from sba.networks import is_ip_literal

ROLES = frozenset({"mw", "isc"})
"""Roles of Mw and ISC sockets in NRF profiles."""
LOOK_S = 5.0
"""Pause between two looks at the NRF, seconds; an address that nobody is known to have is looked up before it is
dialled."""

PAUSE_S = 0.25
"""Shortest pause between two looks, seconds."""


class MwNames:
    """Names by address, of the NF types given, as the NRF has them."""

    def __init__(self, discovery: Discovery, nf_types: Collection[str], log: Callable[..., None]) -> None:
        self._discovery = discovery
        self._nf_types = tuple(nf_types)
        self._log = log
        self._disputed: frozenset[str] = frozenset()
        self._names: dict[str, frozenset[str]] = {}
        self._wanted = asyncio.Event()
        self._waiting: list[Callable[[], None]] = []
        self._task: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Look once, and again from time to time."""
        await self.refresh()
        self._task = runtime.spawn(self._keep())

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    def of(self, address: str) -> frozenset[str]:
        """Return the names that a certificate may show for ``address``; empty while nobody is known to have it."""
        return self._names.get(address, frozenset())

    def before_dialling(self, name: str, dial: Callable[[], None]) -> None:
        """Call ``dial``, for an address nobody is known to have after a look at the NRF.

        A neighbour that came a moment ago is known then. An address that still is nobody's is dialled as well, and the
        certificate has to show it. What is known is dialled at once and looked at meanwhile: should somebody else have
        that address by now, the next attempt is right.
        """
        if self._task is None or not is_ip_literal(name):
            dial()
            return
        if name in self._names:
            dial()
        else:
            self._waiting.append(dial)
        self._wanted.set()

    async def refresh(self) -> None:
        """Ask the NRF; what it does not answer stays as it was."""
        found: dict[str, dict[frozenset[str], set[str]]] = {}
        try:
            for nf_type in self._nf_types:
                for profile in await self._discovery.find(Query(nf_type), fresh=True):
                    for point in profile.endpoints:
                        if point.role in ROLES and point.tls_name:
                            claims = found.setdefault(point.host, {})
                            claims.setdefault(frozenset(profile.nf_types), set()).add(point.tls_name)
        except RemoteProblem:
            return
        disputed = frozenset(address for address, claims in found.items() if len(claims) > 1)
        for address in disputed - self._disputed:
            claimants = sorted(name for names in found[address].values() for name in names)
            self._log("mw-address-disputed", level="warning", address=address, claimants=claimants)
        self._disputed = disputed
        self._names = {
            address: frozenset(names)
            for address, claims in found.items()
            if address not in disputed
            for names in claims.values()
        }

    async def _keep(self) -> None:
        while True:
            self._wanted.clear()
            waiting, self._waiting = self._waiting, []
            try:
                await self.refresh()
            finally:
                for dial in waiting:
                    dial()
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wanted.wait()


def no_names(_address: str) -> frozenset[str]:
    """Return nothing: addresses are shown by certificates themselves."""
    return frozenset()


Names = Callable[[str], Collection[str]]
"""Names that a certificate may show instead of an address."""
