"""The streams of a packet loop that died, given to the one after it: same ports, same peers, no key that was used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from media.relay import (
    LocalAddress,
    PortsExhaustedError,
    Relay,
    RelayError,
    RelayUnavailableError,
    Resume,
    Side,
    StreamConfig,
)
from nodes.imsagw.context import Context, StreamRecord

_AT_ONCE = 64
"""Contexts whose commands are under way at the same moment."""
_PORT_TRIES = 20
_PORT_PAUSE_S = 0.025
"""The kernel may still be closing the ports of the dead process."""


@dataclass(slots=True)
class Revival:
    """What became of the contexts: those that go on, `keyless` among them, and those that could not be had again."""

    kept: list[Context] = field(default_factory=list)
    lost: list[tuple[Context, str]] = field(default_factory=list)
    """With the reason."""

    @property
    def keyless(self) -> list[Context]:
        """Contexts with streams that wait for new keys."""
        return [context for context in self.kept if context.keyless]

    @property
    def streams(self) -> int:
        """Streams of the contexts that go on."""
        return sum(len(context.stream_ids) for context in self.kept)


async def revive(relay: Relay, contexts: Iterable[Context]) -> Revival:
    """Open every stream again at `relay`; SRTP streams whose gate has been open come without keys (RFC 3711 9.1).

    Raises RelayUnavailableError when that packet loop is gone as well.
    """
    found = Revival()
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(context: Context) -> None:
        async with room:
            try:
                await _revive(relay, context)
            except RelayUnavailableError:
                raise
            except RelayError as error:
                found.lost.append((context, str(error)))
            else:
                found.kept.append(context)

    await asyncio.gather(*(one(context) for context in list(contexts)))
    return found


async def _revive(relay: Relay, context: Context) -> None:
    opened: list[str] = []
    try:
        for stream_id in context.stream_ids:
            records = _records(context, stream_id)
            for record in records.values():
                record.lose_keys()
            name = context.relay_id(stream_id)
            locals_ = await _open_again(
                relay,
                StreamConfig(
                    name,
                    {side: record.config for side, record in records.items()},
                    {side: _resume(record) for side, record in records.items()},
                    context.used_keys(stream_id),
                ),
            )
            opened.append(name)
            for side, record in records.items():
                record.local = locals_[side]
    except RelayUnavailableError:
        raise
    except RelayError:
        for name in opened:
            await relay.remove(name)
        raise


async def _open_again(relay: Relay, config: StreamConfig) -> dict[Side, LocalAddress]:
    for _ in range(_PORT_TRIES):
        try:
            return dict(await relay.add(config))
        except PortsExhaustedError:
            await asyncio.sleep(_PORT_PAUSE_S)
    return dict(await relay.add(config))


def _records(context: Context, stream_id: int) -> dict[Side, StreamRecord]:
    return {each.side: each.streams[stream_id] for each in context.terminations.values() if stream_id in each.streams}


def _resume(record: StreamRecord) -> Resume:
    port = record.local.port if record.local is not None else 0
    return Resume(port, record.latched, dict(record.received), dict(record.sent), record.srtcp_sent)
