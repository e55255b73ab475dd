"""The registry: profiles, their heartbeats, who watches them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from protos import nrf_disc_pb2, nrf_nfm_pb2
from sba.spread import Turns, by_rank
from sba.store import KeyValueTable

NfProfile = nrf_nfm_pb2.NfProfile
Kind = nrf_nfm_pb2.NfStatusEvent.Kind
_WATCH_QUEUE = 1024


@dataclass(slots=True)
class Entry:
    """A registered profile and when it was last heard of, in seconds of the registry's clock."""

    profile: NfProfile
    heard: float
    silent: bool = False
    serial_number: int = 0
    """Of the certificate under which the NF was last heard of."""


@dataclass(eq=False, slots=True)
class Watcher:
    """A subscriber to status events; empty fields do not restrict."""

    nf_type: str
    instance_id: str
    queue: asyncio.Queue[nrf_nfm_pb2.NfStatusEvent] = field(default_factory=lambda: asyncio.Queue(_WATCH_QUEUE))

    def wants(self, profile: NfProfile) -> bool:
        """Tell whether an event about this profile goes to the subscriber."""
        return (not self.nf_type or self.nf_type in profile.nf_types) and (
            not self.instance_id or self.instance_id == profile.nf_instance_id
        )


class Registry:
    """Profiles by NF instance id, kept in the store so that a restarted NRF knows them.

    ``silence`` is how many heartbeat intervals may pass without a sign of life, ``forget_s`` when a silent NF is
    removed altogether. An NF whose certificate ``is_revoked`` (by serial number) is not discovered any more, until it
    comes back under another.
    """

    def __init__(
        self,
        table: KeyValueTable,
        *,
        clock: Callable[[], float],
        silence: float = 3.0,
        forget_s: float = 3600.0,
        is_revoked: Callable[[int], bool] = lambda _serial_number: False,
    ) -> None:
        self._table = table
        self._is_revoked = is_revoked
        self._clock = clock
        self._silence = silence
        self._forget_s = forget_s
        self._entries: dict[str, Entry] = {}
        self._watchers: set[Watcher] = set()
        self._turns = Turns()

    async def load(self) -> None:
        """Read what an earlier process stored; every profile gets a full silence period from now."""
        for instance_id, value in await self._table.items():
            profile = NfProfile.FromString(base64.b64decode(value["profile"]))
            self._entries[instance_id] = Entry(profile, self._clock(), serial_number=int(value.get("serial", "0"), 16))

    def get(self, instance_id: str) -> NfProfile | None:
        """Return a registered profile."""
        entry = self._entries.get(instance_id)
        return entry.profile if entry is not None else None

    def all(self, nf_type: str = "") -> list[NfProfile]:
        """Return every profile of an NF type, or all, ordered by instance name."""
        found = [e.profile for e in self._entries.values() if not nf_type or nf_type in e.profile.nf_types]
        return sorted(found, key=lambda profile: profile.instance_name)

    async def put(self, profile: NfProfile, serial_number: int = 0) -> None:
        """Register or replace a profile that came under a certificate with this serial number."""
        before = self._entries.get(profile.nf_instance_id)
        entry = self._entries[profile.nf_instance_id] = Entry(profile, self._clock(), serial_number=serial_number)
        await self._keep(entry)
        if before is None:
            self._tell(Kind.NF_REGISTERED, profile)
        elif before.profile != profile or before.silent:
            self._tell(Kind.NF_PROFILE_CHANGED, profile)

    async def _keep(self, entry: Entry) -> None:
        value = base64.b64encode(entry.profile.SerializeToString()).decode("ascii")
        stored = {"profile": value, "serial": f"{entry.serial_number:x}"}
        await self._table.put(entry.profile.nf_instance_id, stored)

    async def beat(
        self, instance_id: str, status: nrf_nfm_pb2.NfStatus, load: int, serial_number: int | None = None
    ) -> NfProfile | None:
        """Note a sign of life, and under which certificate (None: as before); None when the NF is not registered."""
        entry = self._entries.get(instance_id)
        if entry is None:
            return None
        entry.heard = self._clock()
        changed = entry.silent or (status and status != entry.profile.status)
        entry.silent = False
        entry.profile.load = load
        if status:
            entry.profile.status = status
        if changed:
            self._tell(Kind.NF_PROFILE_CHANGED, entry.profile)
        if serial_number is not None and serial_number != entry.serial_number:
            entry.serial_number = serial_number
            await self._keep(entry)
        return entry.profile

    async def remove(self, instance_id: str) -> bool:
        """Deregister; False when it was not registered."""
        entry = self._entries.pop(instance_id, None)
        self._turns.forget((instance_id,))
        await self._table.delete(instance_id)
        if entry is not None:
            self._tell(Kind.NF_DEREGISTERED, entry.profile)
        return entry is not None

    async def expire(self) -> list[str]:
        """Suspend NFs that fell silent and forget those silent for long; return the newly suspended instances."""
        now = self._clock()
        suspended: list[str] = []
        for instance_id, entry in tuple(self._entries.items()):
            silent_for = now - entry.heard
            if silent_for > self._forget_s:
                await self.remove(instance_id)
            elif not entry.silent and silent_for > self._silence * max(entry.profile.heartbeat_s, 1):
                entry.silent = True
                suspended.append(instance_id)
                self._tell(Kind.NF_DEREGISTERED, entry.profile)
        return suspended

    def discover(self, request: nrf_disc_pb2.DiscoveryRequest) -> list[NfProfile]:
        """Return the producers that fit a request, best first (TS 29.510 NFDiscovery).

        Order: priority, then by turns in proportion to free capacity, over all who ask, so that consumers that ask once
        spread too.
        """
        fitting = [
            entry.profile
            for entry in self._entries.values()
            if not entry.silent and _fits(entry.profile, request) and not self._is_revoked(entry.serial_number)
        ]
        return by_rank(fitting, self._turns)

    async def watch(self, nf_type: str, instance_id: str) -> AsyncIterator[nrf_nfm_pb2.NfStatusEvent]:
        """Yield events about matching profiles until the subscriber goes away."""
        watcher = Watcher(nf_type, instance_id)
        self._watchers.add(watcher)
        try:
            while True:
                yield await watcher.queue.get()
        finally:
            self._watchers.discard(watcher)

    @property
    def watchers(self) -> int:
        """Number of subscribers."""
        return len(self._watchers)

    def _tell(self, kind: Kind, profile: NfProfile) -> None:
        event = nrf_nfm_pb2.NfStatusEvent(kind=kind, profile=profile)
        for watcher in self._watchers:
            if watcher.wants(profile):
                if watcher.queue.full():  # a subscriber that does not read loses the oldest news
                    watcher.queue.get_nowait()
                watcher.queue.put_nowait(event)


def _fits(profile: NfProfile, request: nrf_disc_pb2.DiscoveryRequest) -> bool:
    """Tell whether a profile answers a request.

    One that is undiscoverable takes no new work but finishes what it has (TS 29.510 6.1.6.3.7): who knows it may ask.
    """
    known = request.target_nf_instance_id == profile.nf_instance_id
    at_work = profile.status == nrf_nfm_pb2.REGISTERED or (known and profile.status == nrf_nfm_pb2.UNDISCOVERABLE)
    if not at_work:
        return False
    if request.target_nf_type not in profile.nf_types:
        return False
    if profile.allowed_nf_types and request.requester_nf_type not in profile.allowed_nf_types:
        return False
    wanted = set(request.service_names)
    return (
        wanted <= {service.service_name for service in profile.services}
        and request.target_nf_instance_id in ("", profile.nf_instance_id)
        and (not request.home_domain or request.home_domain in profile.home_domains)
        and request.access_network in ("", profile.access_network)
    )
