"""The UE's bootstrapping client: shared keys with NAFs out of the USIM (TS 33.220 4.5.2 and 4.5.3, TS 24.109 4)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from keying.secret import Secret
from nodes.https import HttpsAddress, HttpsClient
from nodes.ue.card import Card
from sba.telemetry import Telemetry


class GbaError(Exception):
    """No key could be bootstrapped; `reason` is one word: unreachable, refused, network, card or protocol."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class GbaKey:
    """What the UE shares with one NAF: the B-TID that names it, Ks_NAF (32 octets), and its end (Unix seconds)."""

    btid: str
    key: Secret
    naf_fqdn: str
    expires_at: float


class GbaClient:
    """Bootstraps with the BSF when no valid Ks is at hand and derives the key of each NAF from it.

    `remember` stores the card's sequence numbers (``card.sequence()``); it is awaited whenever the card accepted a
    challenge, before anything made of it is used.
    """

    def __init__(
        self,
        client: HttpsClient,
        card: Card,
        bsf: HttpsAddress,
        telemetry: Telemetry,
        remember: Callable[[], Awaitable[None]],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._card = card
        self._bsf = bsf
        self._telemetry = telemetry
        self._remember = remember
        self._now = now

    async def credential(self, naf_fqdn: str) -> GbaKey:
        """Return the key shared with a NAF, bootstrapping first when there is none; raises :class:`GbaError`."""
        raise NotImplementedError

    def invalidate(self, btid: str | None = None) -> None:
        """Forget the bootstrap, e.g. after a 401 of the NAF; one with another B-TID than given stays."""
        raise NotImplementedError

    async def renew(self, naf_fqdn: str) -> GbaKey:
        """Bootstrap anew and return the NAF's new key; raises :class:`GbaError`."""
        raise NotImplementedError
