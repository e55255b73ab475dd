"""Packet index estimation and the replay list of SRTP (RFC 3711 3.3.1, 3.3.2)."""

from media.srtp_errors import KeyExpired, ReplayError, ReplayTooOld

DEFAULT_WINDOW = 128
"""Packets the replay list looks back."""
MINIMUM_WINDOW = 64
"""RFC 3711 3.3.2: SRTP-WINDOW-SIZE is at least 64 packets."""
HALF_SEQUENCE_SPACE = 1 << 15
MAXIMUM_ROC = (1 << 32) - 1


def estimate_index(roc: int, highest_sequence: int, sequence: int) -> int:
    """Return the 48-bit index nearest to ``2^16 * roc + highest_sequence`` for `sequence` (RFC 3711 3.3.1).

    An index below zero does not exist, so with ROC 0 the estimate never goes back to ROC - 1. Raises KeyExpired
    when the ROC itself would wrap.
    """
    if highest_sequence < HALF_SEQUENCE_SPACE:
        if sequence - highest_sequence > HALF_SEQUENCE_SPACE and roc > 0:
            roc -= 1
    elif highest_sequence - HALF_SEQUENCE_SPACE > sequence:
        roc += 1
        if roc > MAXIMUM_ROC:
            raise KeyExpired("the rollover counter is used up")
    return roc << 16 | sequence


class ReplayWindow:
    """A sliding list of the indices that were accepted, `size` packets deep. Raises ValueError below 64."""

    __slots__ = ("_bits", "_mask", "highest", "size")

    def __init__(self, size: int = DEFAULT_WINDOW) -> None:
        if size < MINIMUM_WINDOW:
            raise ValueError(f"a replay window holds at least {MINIMUM_WINDOW} packets")
        self.size = size
        self.highest = -1
        self._bits = 0
        self._mask = (1 << size) - 1

    def check(self, index: int) -> None:
        """Raise ReplayError when `index` was accepted before, ReplayTooOld when it lies behind the window."""
        behind = self.highest - index
        if behind < 0:
            return
        if behind >= self.size:
            raise ReplayTooOld("index lies behind the replay window")
        if self._bits >> behind & 1:
            raise ReplayError("index was seen before")

    def accept(self, index: int) -> None:
        """Enter `index`, which :meth:`check` let pass and whose packet authenticated."""
        ahead = index - self.highest
        if ahead > 0:
            self._bits = (self._bits << ahead | 1) & self._mask if ahead < self.size else 1
            self.highest = index
        else:
            self._bits |= 1 << -ahead


class SourceState:
    """What a context knows of one SSRC in one direction: ROC, s_l, the SRTCP index and both replay lists."""

    __slots__ = ("highest_sequence", "next_rtcp_index", "roc", "rtcp_window", "rtp_window")

    def __init__(self, window: int, roc: int = 0, highest_sequence: int | None = None) -> None:
        self.roc = roc
        self.highest_sequence = highest_sequence
        self.rtp_window = ReplayWindow(window)
        self.rtcp_window = ReplayWindow(window)
        self.next_rtcp_index = 0

    def estimate(self, sequence: int) -> int:
        """Return the index of the packet with this SEQ; before the first packet it is under the current ROC."""
        if self.highest_sequence is None:
            return self.roc << 16 | sequence
        return estimate_index(self.roc, self.highest_sequence, sequence)

    def accept(self, index: int) -> None:
        """Take the authenticated `index` into ROC, s_l and the replay list (RFC 3711 3.3.1)."""
        self.rtp_window.accept(index)
        roc, sequence = index >> 16, index & 0xFFFF
        if self.highest_sequence is None or roc > self.roc:
            self.roc, self.highest_sequence = roc, sequence
        elif roc == self.roc and sequence > self.highest_sequence:
            self.highest_sequence = sequence
