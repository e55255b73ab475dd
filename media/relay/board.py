"""Counters in memory that a packet loop shares with who commands it: read at any time, without a word to either.

Each side of a stream has a row of 64-bit words. Its first part is counted by the thread that carries the packets (for a
compiled loop `relay_counts` of `packet_loop.h`; else it stays 0), its second part holds what was counted elsewhere and,
for the packet loop itself, what it has taken over of the first. Each word has one writer, is written as a whole and
only grows, so that a reader needs no lock and their sum is never less than it was. The rows outlive the packet loop for
as long as somebody has them mapped.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from array import array
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from media.relay.interface import DropCause, RelayUnavailableError, Side, SideCounts

CAUSES = (
    DropCause.AUTH_FAILED,
    DropCause.REPLAYED,
    DropCause.MKI,
    DropCause.KEY_EXPIRED,
    DropCause.TOO_SHORT,
    DropCause.OVERSIZE,
    DropCause.NOT_RTP,
    DropCause.STUN,
    DropCause.DTLS,
    DropCause.WRONG_SOURCE,
    DropCause.RATE_LIMITED,
    DropCause.SEND_BLOCKED,
    DropCause.UNREACHABLE,
    DropCause.SSRC_LIMIT,
)
"""Causes by their numbers in `packet_loop.h`."""
Rows: TypeAlias = Mapping[str, Mapping[Side, int]]
"""Which row each side of a stream has, by stream."""
COUNTS_OCTETS = 8 * (5 + len(CAUSES) + 1)
"""Octets of `relay_counts`."""

_PACKETS, _OCTETS_IN, _OCTETS_OUT, _REFUSED, _RTCP_REFUSED, _DROPS = range(6)
_ACTIVE = _DROPS + len(CAUSES)
_LINE = 8
"""Words of a cache line: the two parts have different writers and share none."""
_ELSEWHERE = -(-(_ACTIVE + 1) // _LINE) * _LINE
_ALL_CAUSES = tuple(DropCause)
_COUNTERS = 6
_TAKEN = _ELSEWHERE + _COUNTERS + len(_ALL_CAUSES)
"""What of the first words the side has taken over; of use to the packet loop alone."""
_ROW = -(-(_TAKEN + _DROPS) // _LINE) * _LINE
MOST_ROWS = 1 << 17
"""Two for each stream; the memory of those that nobody used is not there."""
_OCTETS = 8 * _ROW * MOST_ROWS
_SEAL_FUTURE_WRITE = 0x10
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL


class Tally:
    """What was counted of one side in its row by a thread, and how much of that the side has taken over."""

    __slots__ = ("_drops", "_words", "row")

    def __init__(self, words: memoryview, row: int) -> None:
        self._words = words
        self.row = row
        self._drops: list[int] | None = None

    def take(self) -> tuple[int, int, int]:
        """Return packets carried and octets in and out since the last call."""
        at, words = self.row * _ROW, self._words
        now, taken = words[at : at + _REFUSED], words[at + _TAKEN : at + _TAKEN + _REFUSED]
        found, before = now.tolist(), taken.tolist()
        taken[:] = memoryview(array("Q", found))
        return found[0] - before[0], found[1] - before[1], found[2] - before[2]

    def take_drops(self) -> tuple[int, int, list[tuple[DropCause, int]]]:
        """Return packets of media and of RTCP dropped since the last call, and by cause."""
        at, words = self.row * _ROW, self._words
        refused, rtcp = words[at + _REFUSED], words[at + _RTCP_REFUSED]
        media, other = refused - words[at + _TAKEN + _REFUSED], rtcp - words[at + _TAKEN + _RTCP_REFUSED]
        if not media and not other and refused + rtcp == sum(self._drops or ()):
            return 0, 0, []
        before = self._drops or [0] * len(CAUSES)
        self._drops = words[at + _DROPS : at + _ACTIVE].tolist()
        changes = zip(CAUSES, self._drops, before, strict=True)
        causes = [(cause, now - then) for cause, now, then in changes if now > then]
        words[at + _TAKEN + _REFUSED], words[at + _TAKEN + _RTCP_REFUSED] = refused, rtcp
        return media, other, causes

    @property
    def taken(self) -> tuple[int, int, int, int, int]:
        """Packets of media in, packets out, octets in and out, and RTCP packets in, as taken over."""
        at = self.row * _ROW + _TAKEN
        packets, octets_in, octets_out, refused, rtcp = self._words[at : at + _DROPS].tolist()
        return packets + refused, packets, octets_in, octets_out, rtcp

    @property
    def drops(self) -> dict[DropCause, int]:
        """Drops by cause, as taken over."""
        return dict(zip(CAUSES, self._drops or (), strict=False))


class Board:
    """The rows of a packet loop. `descriptor` may be given to others: they can read, and nothing else."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("imslab-relay-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, _OCTETS)
        self.memory = mmap.mmap(self.descriptor, _OCTETS)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        self._words = memoryview(self.memory).cast("Q")
        self._free: list[int] = []
        self._used = 0

    def open(self) -> Tally:
        """Give a row out. Raises RelayUnavailableError when all are."""
        if self._free:
            row = self._free.pop()
        elif self._used < MOST_ROWS:
            row = self._used
            self._used += 1
        else:
            raise RelayUnavailableError("no room for the counters of another stream")
        return Tally(self._words, row)

    def close(self, tally: Tally) -> None:
        """Take a row back; nobody counts in it any more."""
        at = tally.row * _ROW
        self._words[at : at + _ROW] = _NOTHING
        self._free.append(tally.row)

    @staticmethod
    def offset(tally: Tally) -> int:
        """Where in `memory` the thread counts."""
        return tally.row * _ROW * 8

    def active(self, tally: Tally) -> float:
        """When a thread last sent something on, seconds of its clock."""
        at = (tally.row * _ROW + _ACTIVE) * 8
        value: float = memoryview(self.memory)[at : at + 8].cast("d")[0]
        return value

    def publish(self, own: Tally, far: Tally | None, counters: Sequence[int], drops: Mapping[DropCause, int]) -> None:
        """Show what was counted elsewhere than in rows: the side's counters (in the order of `SideCounts`) without what
        was taken over from its own row, and from that of the far side."""
        media_in, _, octets_in, _, rtcp_in = own.taken
        _, sent, _, octets_out, _ = far.taken if far is not None else _NONE_TAKEN
        there = media_in, sent, octets_in, octets_out, rtcp_in, 0
        found = [counter - seen for counter, seen in zip(counters, there, strict=True)]
        words, at = self._words, own.row * _ROW + _ELSEWHERE
        if words[at : at + _COUNTERS].tolist() == found:
            return  # each drop is of a packet that came in
        seen_drops = own.drops
        for number, cause in enumerate(_ALL_CAUSES):
            words[at + _COUNTERS + number] = drops.get(cause, 0) - seen_drops.get(cause, 0)
        for number, value in enumerate(found):
            words[at + number] = value

    def read(self, rows: Rows) -> Mapping[str, Mapping[Side, SideCounts]]:
        """Return the counters of streams by their rows."""
        return _read(self._words, rows)

    def release(self) -> None:
        """Let go of the memory, in which nobody counts any more; it goes with the last who has it mapped."""
        if self.descriptor < 0:
            return
        os.close(self.descriptor)
        self.descriptor = -1
        with contextlib.suppress(BufferError):  # somebody looks at it: then it goes with him
            self._words.release()
            self.memory.close()


_NONE_TAKEN = (0, 0, 0, 0, 0)
_NOTHING = memoryview(bytes(8 * _ROW)).cast("Q")


class SharedCounters:
    """The rows of another process's packet loop, to be read.

    Takes over `descriptor`. Raises RelayUnavailableError when that is no board which stays as it is.
    """

    def __init__(self, descriptor: int) -> None:
        try:
            state = os.fstat(descriptor)
            sealed = stat.S_ISREG(state.st_mode) and fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
            if not sealed or state.st_size != _OCTETS:
                raise RelayUnavailableError("the packet loop shares counters of another version")
            memory = mmap.mmap(descriptor, _OCTETS, prot=mmap.PROT_READ)
        except OSError as error:
            raise RelayUnavailableError(f"the packet loop's counters cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)
        self._words = memoryview(memory).cast("Q")

    def read(self, rows: Rows) -> Mapping[str, Mapping[Side, SideCounts]]:
        """Return the counters of streams by their rows."""
        return _read(self._words, rows)


def _read(words: memoryview, rows: Rows) -> Mapping[str, Mapping[Side, SideCounts]]:
    return {
        stream: {side: _counts(words, row, sides.get(side.other)) for side, row in sides.items()}
        for stream, sides in rows.items()
    }


def _counts(words: memoryview, row: int, far: int | None) -> SideCounts:
    own = words[row * _ROW : (row + 1) * _ROW].tolist()
    other = words[far * _ROW : far * _ROW + _REFUSED].tolist() if far is not None else (0, 0, 0)
    elsewhere = own[_ELSEWHERE:]
    drops = dict(zip(_ALL_CAUSES, elsewhere[_COUNTERS:], strict=False))
    for cause, count in zip(CAUSES, own[_DROPS:_ACTIVE], strict=True):
        drops[cause] += count
    return SideCounts(
        packets_in=elsewhere[0] + own[_PACKETS] + own[_REFUSED],
        packets_out=elsewhere[1] + other[_PACKETS],
        octets_in=elsewhere[2] + own[_OCTETS_IN],
        octets_out=elsewhere[3] + other[_OCTETS_OUT],
        rtcp_in=elsewhere[4] + own[_RTCP_REFUSED],
        rtcp_out=elsewhere[5],
        drops={cause: count for cause, count in drops.items() if count},
    )
