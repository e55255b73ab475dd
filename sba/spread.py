"""Whose turn it is: instances of a producer take work in proportion to what they have free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from protos import nrf_nfm_pb2

NfProfile = nrf_nfm_pb2.NfProfile
MOST = 4096
"""Instances whose credit is remembered; beyond that all begin anew."""


def free_capacity(profile: NfProfile) -> int:
    """Return the weight of an instance: its capacity, less what it says it is loaded with (percent)."""
    return max(profile.capacity, 1) * max(100 - profile.load, 1)


class Turns:
    """Smooth weighted round robin: each instance earns credit by its weight, who has most goes first and pays for all.

    One consumer so gives every instance its share within few requests, where a draw would leave one without for long,
    and a load that is some seconds old cannot send everybody to the same instance.
    """

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def order(self, profiles: Sequence[NfProfile]) -> list[NfProfile]:
        """Sort equals: the one whose turn it is first, the rest by credit; equal credit stays in the order given."""
        if len(profiles) < 2:
            return list(profiles)
        if len(self._credit) > MOST:
            self._credit.clear()
        weights = {profile.nf_instance_id: free_capacity(profile) for profile in profiles}
        for instance_id, weight in weights.items():
            self._credit[instance_id] = self._credit.get(instance_id, 0.0) + weight
        ordered = sorted(profiles, key=lambda profile: -self._credit[profile.nf_instance_id])
        self._credit[ordered[0].nf_instance_id] -= sum(weights.values())
        return ordered

    def forget(self, instance_ids: Iterable[str]) -> None:
        """Drop the credit of instances that are gone."""
        for instance_id in instance_ids:
            self._credit.pop(instance_id, None)


def by_rank(profiles: Iterable[NfProfile], turns: Turns, last: frozenset[str] = frozenset()) -> list[NfProfile]:
    """Sort by priority, lower first, and among equals by turn; those in ``last`` (instance ids) come behind all."""
    ranks: dict[tuple[bool, int], list[NfProfile]] = {}
    for profile in profiles:
        ranks.setdefault((profile.nf_instance_id in last, profile.priority), []).append(profile)
    first, *others = [ranks[rank] for rank in sorted(ranks)] or [[]]
    ordered = turns.order(first)
    for rank in others:
        ordered += sorted(rank, key=lambda profile: -free_capacity(profile))
    return ordered
