"""The queue between a node and its collector: bounded, never in the way, and honest about what it lost."""

import threading

from sba.batches import Batches


class Collector:
    """Takes batches while the gate is open; refuses them when told."""

    def __init__(self):
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.refuse = False
        self.seen = []

    def send(self, items):
        self.entered.set()
        self.gate.wait(10)
        if not self.refuse:
            self.seen.append(list(items))
        return not self.refuse


def test_what_does_not_fit_is_counted_and_nobody_waits():
    it = Collector()
    queue = Batches(it.send, name="t", room=3, batch=2, interval_s=60)
    queue.add(0)
    queue.add(1)
    assert it.entered.wait(10), "a full batch is sent without waiting for the interval"
    for number in range(2, 8):
        queue.add(number)
    assert queue.depth == 3
    assert queue.lost["queue_full"] == 3
    it.gate.set()
    queue.close()
    assert it.seen == [[0, 1], [2, 3], [4]]
    assert (queue.sent, queue.depth) == (5, 0)


def test_a_batch_that_was_refused_is_lost_and_counted():
    it = Collector()
    it.gate.set()
    it.refuse = True
    queue = Batches(it.send, name="t", room=10, batch=10, interval_s=60)
    queue.add(1)
    assert queue.flush() is False
    it.refuse = False
    queue.add(2)
    assert queue.flush() is True
    queue.close()
    queue.add(3)
    assert (it.seen, queue.sent, queue.lost) == ([[2]], 1, {"queue_full": 1, "export_failed": 1})
