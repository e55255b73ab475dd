"""Finding producers: a cache over the NRF's answers and the choice among several instances."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protos import nrf_disc_pb2, nrf_nfm_pb2
from sba.errors import RemoteProblem
from sba.spread import Turns, by_rank

NfProfile = nrf_nfm_pb2.NfProfile
_STALE_LIMIT_S = 3600.0
_SUSPECT_S = 2.0
_RETRY_S = 0.5
_PATIENCE_S = 0.5
"""How long an answer of before waits for a new one; that one is taken when it comes later."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a consumer looks for; empty fields do not restrict."""

    nf_type: str
    service_name: str = ""
    home_domain: str = ""
    access_network: str = ""
    instance_id: str = ""


@dataclass(slots=True)
class _Entry:
    profiles: list[NfProfile]
    fresh_until: float
    fetched: float
    turns: Turns


class Discovery:
    """Producers by query. An answer is used for as long as the NRF said; without the NRF an old one serves on."""

    def __init__(
        self,
        ask: Callable[[Query], Awaitable[nrf_disc_pb2.DiscoveryResponse]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._entries: dict[Query, _Entry] = {}
        self._asking: dict[Query, asyncio.Future[_Entry]] = {}
        self._suspects: dict[str, float] = {}

    def known(self, query: Query) -> list[NfProfile] | None:
        """Return an answer that is still good, in the order in which to try it, without asking."""
        entry = self._entries.get(query)
        if entry is None or not entry.profiles or entry.fresh_until <= self._clock():
            return None
        return self._order(entry)

    async def find(self, query: Query, *, fresh: bool = False) -> list[NfProfile]:
        """Return the producers that fit, in the order in which to try them.

        Raises :class:`RemoteProblem` when the NRF cannot be asked and never answered this query before.
        """
        entry = self._entries.get(query)
        now = self._clock()
        if entry is None or not entry.profiles or now - entry.fetched > _STALE_LIMIT_S:
            entry = await self._fetch(query)
        elif fresh or entry.fresh_until <= now:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    entry = await self._fetch(query)
            except (RemoteProblem, TimeoutError):
                entry.fresh_until = self._clock() + _RETRY_S
        return self._order(entry)

    def _order(self, entry: _Entry) -> list[NfProfile]:
        """Sort by priority; equals take turns by free capacity; instances that just failed come last."""
        if len(entry.profiles) == 1:
            return list(entry.profiles)
        return by_rank(entry.profiles, entry.turns, self._suspected())

    def _suspected(self) -> frozenset[str]:
        if not self._suspects:
            return frozenset()
        now = self._clock()
        self._suspects = {name: until for name, until in self._suspects.items() if until > now}
        return frozenset(self._suspects)

    def suspect(self, instance_id: str) -> None:
        """Put an instance that did not answer behind the others for a while."""
        self._suspects[instance_id] = self._clock() + _SUSPECT_S

    def trust(self, instance_id: str) -> None:
        """Take back :meth:`suspect` after an answer."""
        if self._suspects:
            self._suspects.pop(instance_id, None)

    def forget(self, nf_type: str = "") -> None:
        """Drop answers about an NF type, or all of them, so that the next question reaches the NRF."""
        for query, entry in self._entries.items():
            if not nf_type or query.nf_type == nf_type:
                entry.fresh_until = 0.0

    async def _fetch(self, query: Query) -> _Entry:
        asking = self._asking.get(query)
        if asking is None:
            asking = self._asking[query] = asyncio.ensure_future(self._load(query))
            asking.add_done_callback(lambda done: self._loaded(query, done))
        return await asyncio.shield(asking)

    def _loaded(self, query: Query, done: asyncio.Future[_Entry]) -> None:
        self._asking.pop(query, None)
        if not done.cancelled():
            done.exception()

    async def _load(self, query: Query) -> _Entry:
        response = await self._ask(query)
        now = self._clock()
        before = self._entries.get(query)
        entry = _Entry(list(response.profiles), now + response.validity_s, now, before.turns if before else Turns())
        if before is not None:
            kept = {profile.nf_instance_id for profile in entry.profiles}
            entry.turns.forget(
                profile.nf_instance_id for profile in before.profiles if profile.nf_instance_id not in kept
            )
        self._entries[query] = entry
        return entry
