"""Sequence numbers: never twice, never backwards, whatever dies in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.hss.sequence import SEQ_LIMIT, SequenceExhaustedError, SequenceState, after_resynchronisation, take
from signalling.aka.vectors import DELTA, UsimState


class Disk:
    """What survives a crash."""

    def __init__(self):
        self.ceiling, self.ind = 1, 0
        self.broken = False

    async def save(self, ceiling, ind):
        if self.broken:
            raise OSError
        self.ceiling, self.ind = ceiling, ind

    def restart(self):
        return SequenceState(self.ceiling, self.ind, self.ceiling)


def run(coroutine):
    """Drive a coroutine that never waits."""
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    return end.value.value


@pytest.mark.clause("TS 33.102", "RS-5")
@pytest.mark.attack("T9")
@given(st.lists(st.sampled_from(["take", "crash"]), max_size=80), st.integers(1, 8))
def test_no_number_is_used_twice_across_crashes(steps, block):
    async def scenario():
        disk, usim = Disk(), UsimState()
        state = disk.restart()
        for step in steps:
            if step == "crash":
                state = disk.restart()
                continue
            sqn = await take(state, block, disk.save)
            assert usim.is_fresh(sqn)
            usim.accept(sqn)

    run(scenario())


def test_a_number_that_could_not_be_reserved_is_not_handed_out():
    disk = Disk()
    disk.broken = True
    state = disk.restart()
    with pytest.raises(OSError):
        take(state, 4, disk.save).send(None)
    disk.broken = False
    assert run(take(state, 4, disk.save)) == 1 << 5


@pytest.mark.clause("TS 33.102", "RS-2", "RS-5")
@given(st.integers(0, 1 << 40), st.integers(1, 1 << 40), st.integers(0, 31))
def test_after_resynchronisation_the_next_number_is_accepted(seq_ms, seq_he, ind):
    usim = UsimState({ind: seq_ms})
    state = after_resynchronisation(SequenceState(seq_he, 3, seq_he), usim.sqn_ms)
    assert usim.is_fresh(run(take(state, 4, Disk().save)))


@pytest.mark.clause("TS 33.102", "RS-2")
def test_a_repeated_auts_does_not_turn_the_number_back():
    state = SequenceState(500, 0, 510)
    assert after_resynchronisation(state, 100 << 5) is state
    assert after_resynchronisation(SequenceState(100 + DELTA + 1, 0, 0), 100 << 5).next_seq == 101


def test_the_last_number_ends_it():
    state = SequenceState(SEQ_LIMIT, 0, SEQ_LIMIT)
    with pytest.raises(SequenceExhaustedError):
        take(state, 4, Disk().save).send(None)
