"""Sequence numbers of the AKA vectors: SQN = SEQ || IND, 48 bits, IND the low 5 (RS-5; TS 33.102 Annex C, assumed).

SEQ steps by one and IND goes round for every vector. Numbers are taken from a block whose end is on disk before the
first of them leaves, so a killed HSS comes back beyond everything it ever answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from signalling.aka.vectors import DELTA, IND_BITS

SEQ_LIMIT = 1 << (48 - IND_BITS)
"""First SEQ that no longer fits 48 bits with its IND."""

SaveCeiling = Callable[[int, int], Awaitable[None]]
"""Writes (first SEQ not reserved, next IND) durably before it returns."""


class SequenceExhaustedError(Exception):
    """The subscriber has used every sequence number; only a new K helps."""


@dataclass
class SequenceState:
    """Where a subscriber stands: the next SEQ and IND to hand out, and the first SEQ not yet reserved on disk."""

    next_seq: int = 1
    next_ind: int = 0
    ceiling: int = 1


def compose(seq: int, ind: int) -> int:
    """SQN of its two parts. Raises ``SequenceExhaustedError`` past 43 bits of SEQ."""
    if not 0 <= seq < SEQ_LIMIT:
        raise SequenceExhaustedError
    return (seq << IND_BITS) | ind


async def take(state: SequenceState, block: int, save: SaveCeiling) -> int:
    """Hand out the next SQN; reserves ``block`` more on disk first when the reserve is used up.

    Raises ``SequenceExhaustedError``, and whatever ``save`` raises: then no number was handed out.
    """
    sqn = compose(state.next_seq, state.next_ind)
    following = (state.next_ind + 1) % (1 << IND_BITS)
    if state.next_seq >= state.ceiling:
        ceiling = min(state.next_seq + block, SEQ_LIMIT)
        await save(ceiling, following)
        state.ceiling = ceiling
    state.next_seq += 1
    state.next_ind = following
    return sqn


def after_resynchronisation(state: SequenceState, sqn_ms: int) -> SequenceState:
    """Follow the USIM (RS-2): SQN_HE becomes SQN_MS when the next number would not be accepted (TS 33.102 6.3.5).

    The number stays where it is when the USIM would accept it anyway, so that a repeated AUTS cannot turn it back.
    """
    seq_ms = sqn_ms >> IND_BITS
    if seq_ms < state.next_seq <= seq_ms + DELTA:
        return state
    return SequenceState(next_seq=seq_ms + 1, next_ind=state.next_ind, ceiling=seq_ms + 1)
