"""Authentication data of a subscriber: AKA vectors in SQN order, or digest HA1 (TS 33.203 6.1; RS-2, RS-3)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from keying.secret import Secret
from nodes.hss.provision import AkaCredentials, Subscriber
from nodes.hss.sequence import SequenceState, after_resynchronisation, take
from sba.store import KeyValueTable
from signalling.aka.digest import compute_ha1
from signalling.aka.vectors import AuthenticationVector, generate_vector, resynchronise


@dataclass(frozen=True)
class DigestData:
    """HA1 of a digest user per algorithm, 32 or 64 lower-case hex digits."""

    realm: str
    ha1_md5: Secret
    ha1_sha256: Secret


def digest_data(subscriber: Subscriber, password: Secret) -> DigestData:
    """Work out HA1 with the private identity as user and the home domain as realm (TS 33.203 N.2)."""
    realm = subscriber.domain
    return DigestData(
        realm,
        compute_ha1("MD5", subscriber.impi, realm, password),
        compute_ha1("SHA-256", subscriber.impi, realm, password),
    )


class AuthenticationCentre:
    """Makes vectors; the sequence numbers are on disk before a vector leaves (RS-5).

    ``table`` keeps, by private identity, the first SEQ not reserved and the next IND; ``block`` numbers are reserved
    at a time.
    """

    def __init__(self, table: KeyValueTable, block: int) -> None:
        self._table = table
        self._block = block
        self._states: dict[str, SequenceState] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def vectors(
        self, impi: str, keys: AkaCredentials, count: int, resync: tuple[bytes, bytes] | None = None
    ) -> list[AuthenticationVector]:
        """Make ``count`` vectors in SQN order, after following ``resync`` = (RAND 16 octets, AUTS 14 octets).

        Raises ``MacFailure`` when the AUTS is not the USIM's, then nothing changed (RS-3), and
        ``SequenceExhaustedError``.
        """
        sqn_ms = None if resync is None else resynchronise(keys.k, keys.opc, *resync)
        async with self._locks.setdefault(impi, asyncio.Lock()):
            state = await self._state(impi)
            if sqn_ms is not None:
                state = self._states[impi] = after_resynchronisation(state, sqn_ms)

            async def save(ceiling: int, ind: int) -> None:
                await self._table.put(impi, {"ceiling": ceiling, "ind": ind})

            numbers = [await take(state, self._block, save) for _ in range(count)]
        return [generate_vector(keys.k, keys.opc, sqn, amf=keys.amf) for sqn in numbers]

    async def _state(self, impi: str) -> SequenceState:
        state = self._states.get(impi)
        if state is None:
            record = await self._table.get(impi)
            state = SequenceState()
            if record is not None:
                ceiling = int(record["ceiling"])
                state = SequenceState(ceiling, int(record["ind"]), ceiling)
            self._states[impi] = state
        return state
