"""The replay cache: what was taken once is not taken again, whatever the cache had to forget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.mikey.errors import InvalidTimestamp, Replayed
from keying.mikey.replay import ReplayCache
from tests.keying.mikey.stage import NOW

pytestmark = [pytest.mark.clause("TS 33.328", "D-11"), pytest.mark.attack("T5")]


def test_a_message_is_taken_once():
    cache = ReplayCache()
    cache.add(b"alice", "REQUEST", b"message", NOW, NOW)
    for later in (0, 10, 299):
        with pytest.raises(Replayed):
            cache.add(b"alice", "REQUEST", b"message", NOW, NOW + later)


def test_senders_and_roles_have_caches_of_their_own():
    cache = ReplayCache()
    for sender, role in ((b"alice", "REQUEST"), (b"bob", "REQUEST"), (b"alice", "RESOLVE")):
        cache.add(sender, role, b"message", NOW, NOW)
    assert len(cache) == 3


@pytest.mark.parametrize("shift", [-300.5, 300.5, float("inf"), float("nan")])
def test_a_timestamp_outside_the_window_is_refused(shift):
    with pytest.raises(InvalidTimestamp):
        ReplayCache(skew_s=300).add(b"alice", "REQUEST", b"message", NOW + shift, NOW)


@pytest.mark.clause("RFC 3830", "5.4")
def test_memory_is_bounded_for_a_sender_and_forgets_nothing():
    cache = ReplayCache(size=10)
    for n in range(100):
        cache.add(b"alice", "REQUEST", b"%d" % n, NOW + n, NOW + 100)
    assert len(cache) == 10
    for n in range(100):
        with pytest.raises(Replayed):
            cache.add(b"alice", "REQUEST", b"%d" % n, NOW + n, NOW + 100)


def test_one_sender_that_floods_does_not_harm_another():
    cache = ReplayCache(size=10)
    for n in range(100):
        cache.add(b"mallory", "REQUEST", b"%d" % n, NOW + n, NOW + 100)
    cache.add(b"alice", "REQUEST", b"first", NOW, NOW + 100)
    assert len(cache) == 11


def test_memory_is_bounded_over_all_senders_and_forgets_nothing():
    cache = ReplayCache(senders=5)
    for n in range(20):
        cache.add(b"user-%d" % n, "REQUEST", b"message", NOW + n, NOW + 20)
    assert len(cache) <= 5
    for n in range(20):
        with pytest.raises(Replayed):
            cache.add(b"user-%d" % n, "REQUEST", b"message", NOW + n, NOW + 20)


def test_senders_whose_messages_are_outdated_make_room():
    cache = ReplayCache(senders=2, skew_s=10)
    cache.add(b"alice", "REQUEST", b"message", NOW, NOW)
    cache.add(b"bob", "REQUEST", b"message", NOW, NOW)
    cache.add(b"carol", "REQUEST", b"message", NOW + 100, NOW + 100)
    cache.add(b"alice", "REQUEST", b"another", NOW + 91, NOW + 100)
    assert len(cache) == 2


@pytest.mark.clause("RFC 3830", "5.4")
def test_without_its_state_a_cache_refuses_what_it_may_have_seen():
    cache = ReplayCache(reject_before=NOW + 300)
    with pytest.raises(Replayed):
        cache.add(b"alice", "REQUEST", b"message", NOW + 300, NOW + 300)
    cache.add(b"alice", "REQUEST", b"message", NOW + 301, NOW + 301)


@pytest.mark.clause("RFC 6043", "12.4")
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 400)), max_size=60))
def test_no_message_is_ever_taken_twice(messages):
    cache = ReplayCache(size=3, senders=2, skew_s=100)
    taken: set[tuple[int, int, int]] = set()
    clock = 0
    for sender, body, sent in messages:
        clock = max(clock, sent)
        try:
            cache.add(b"%d" % sender, "REQUEST", b"%d-%d" % (body, sent), float(sent), float(clock))
        except InvalidTimestamp:
            continue
        assert (sender, body, sent) not in taken
        taken.add((sender, body, sent))
