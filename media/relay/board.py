"""Counters in memory that a packet loop shares with who commands it: read at any time, without a word to either.

Each side of a stream has a row of 64-bit words. Its first part is counted by the thread that carries the packets (for a
compiled loop `relay_counts` of `packet_loop.h`; else it stays 0), its second part holds what was counted elsewhere and,
for the packet loop itself, what it has taken over of the first. Each word has one writer, is written as a whole and
only grows, so that a reader needs no lock and their sum is never less than it was. A row keeps its counts when its side
is gone, and is given to another only when others have been free for longer. The rows outlive the packet loop for as
long as somebody has them mapped.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from collections import deque
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
COUNTS_OCTETS = 8 * (6 + len(CAUSES) + 1)
"""Octets of `relay_counts`."""

_PACKETS, _OCTETS_IN, _REFUSED, _RTCP_REFUSED, _PACKETS_OUT, _OCTETS_OUT, _DROPS = range(7)
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
_RESTING_ROWS = 64
"""Rows that are free before one of them is used again: who commands may not have heard yet that its side is gone."""
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

    def _take(self, first: int) -> tuple[int, int]:
        """Return what two words have grown by since the last call."""
        at, words = self.row * _ROW + first, self._words
        taken = at + _TAKEN
        one, other, before, earlier = words[at], words[at + 1], words[taken], words[taken + 1]
        words[taken], words[taken + 1] = one, other
        return one - before, other - earlier

    def take_in(self) -> tuple[int, int]:
        """Return packets that came in and were sent on, and octets in, dropped ones too, since the last call."""
        return self._take(_PACKETS)

    def take_out(self) -> tuple[int, int]:
        """Return packets and octets out since the last call."""
        return self._take(_PACKETS_OUT)

    def take_drops(self) -> tuple[int, int, list[tuple[DropCause, int]]]:
        """Return packets of media and of RTCP dropped since the last call, and by cause."""
        at, words = self.row * _ROW, self._words
        refused, rtcp = words[at + _REFUSED], words[at + _RTCP_REFUSED]
        media, other = self._take(_REFUSED)
        if not media and not other and refused + rtcp == sum(self._drops or ()):
            return 0, 0, []
        before = self._drops or [0] * len(CAUSES)
        self._drops = words[at + _DROPS : at + _ACTIVE].tolist()
        changes = zip(CAUSES, self._drops, before, strict=True)
        return media, other, [(cause, now - then) for cause, now, then in changes if now > then]

    @property
    def taken(self) -> list[int]:
        """What was taken over, in the order of `SideCounts`."""
        at = self.row * _ROW + _TAKEN
        packets, octets_in, refused, rtcp, packets_out, octets_out = self._words[at : at + _DROPS].tolist()
        return [packets + refused, packets_out, octets_in, octets_out, rtcp, 0]

    @property
    def drops(self) -> dict[DropCause, int]:
        """Drops by cause, as taken over."""
        return dict(zip(CAUSES, self._drops or (), strict=False))


class Board:
    """The rows of a packet loop. `descriptor` may be given to others: they can read, and nothing else.

    Raises RelayUnavailableError where memory cannot be shared (Linux before 5.1).
    """

    def __init__(self) -> None:
        self.descriptor = -1
        try:
            self.descriptor = os.memfd_create("imslab-relay-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.descriptor, _OCTETS)
            self.memory = mmap.mmap(self.descriptor, _OCTETS)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as error:
            if self.descriptor >= 0:
                os.close(self.descriptor)
            raise RelayUnavailableError(f"no memory to be shared for counters: {error.strerror}") from None
        self._words = memoryview(self.memory).cast("Q")
        self._free: deque[int] = deque()
        self._used = 0

    def open(self) -> Tally:
        """Give a row out. Raises RelayUnavailableError when all are."""
        if self._used < MOST_ROWS and len(self._free) <= _RESTING_ROWS:
            row = self._used
            self._used += 1
        elif self._free:
            row = self._free.popleft()
            self._words[row * _ROW : (row + 1) * _ROW] = _NOTHING
        else:
            raise RelayUnavailableError("no room for the counters of another stream")
        return Tally(self._words, row)

    def close(self, tally: Tally) -> None:
        """Take a row back; nobody counts in it any more."""
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

    def publish(self, tally: Tally, counters: Sequence[int], drops: Mapping[DropCause, int]) -> None:
        """Show what was counted elsewhere: a side's counters (in the order of `SideCounts`) without what was taken over
        from its row."""
        found = [counter - seen for counter, seen in zip(counters, tally.taken, strict=True)]
        words, at = self._words, tally.row * _ROW + _ELSEWHERE
        if words[at : at + _COUNTERS].tolist() == found:
            return  # each drop is of a packet that came in
        seen_drops = tally.drops
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
    present = dict(rows)  # in one step: a metric is read in a thread of its own, and streams come and go
    return {stream: {side: _counts(words, row) for side, row in sides.items()} for stream, sides in present.items()}


def _counts(words: memoryview, row: int) -> SideCounts:
    own = words[row * _ROW : (row + 1) * _ROW].tolist()
    elsewhere = own[_ELSEWHERE:]
    drops = dict(zip(_ALL_CAUSES, elsewhere[_COUNTERS:], strict=False))
    for cause, count in zip(CAUSES, own[_DROPS:_ACTIVE], strict=True):
        drops[cause] += count
    return SideCounts(
        packets_in=elsewhere[0] + own[_PACKETS] + own[_REFUSED],
        packets_out=elsewhere[1] + own[_PACKETS_OUT],
        octets_in=elsewhere[2] + own[_OCTETS_IN],
        octets_out=elsewhere[3] + own[_OCTETS_OUT],
        rtcp_in=elsewhere[4] + own[_RTCP_REFUSED],
        rtcp_out=elsewhere[5],
        drops={cause: count for cause, count in drops.items() if count},
    )
