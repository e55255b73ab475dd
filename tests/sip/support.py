"""Two SIP stacks on loopback, and an asyncio coroutine as a pytest-twisted test."""

from __future__ import annotations

import asyncio
import functools

import pytest_twisted
from twisted.internet import defer, reactor

from signalling.sip.stack import SipStack, make_response
from signalling.sip.timers import TimerConfig

FAST = TimerConfig.core().scaled(0.02)


def on_the_loop(function):
    """Run an ``async def`` test as a task of the reactor's loop."""

    @pytest_twisted.ensureDeferred
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        task = asyncio.ensure_future(function(*args, **kwargs), loop=reactor._asyncioEventloop)
        return await defer.Deferred.fromFuture(task)

    return wrapper


class Recorder:
    """A transaction user that keeps what it gets; ``answer`` is called with each new transaction."""

    def __init__(self, answer=None):
        self.answer = answer or (lambda txn: txn.respond(make_response(txn.request, 200)))
        self.requests = []
        self.cancels = []
        self.acks = []
        self.closed = []
        self.ack_came = asyncio.Event()

    def request_received(self, txn):
        self.requests.append(txn)
        self.answer(txn)

    def cancel_received(self, txn, cancel):
        self.cancels.append((txn, cancel))

    def ack_received(self, request, flow, txn):
        self.acks.append((request, flow, txn))
        self.ack_came.set()

    def flow_closed(self, flow):
        self.closed.append(flow)


def new_stack(handler=None, **kwargs):
    kwargs.setdefault("timers", FAST)
    return SipStack(reactor, handler=handler, **kwargs)


def headers(method="INVITE", *, call_id="call-1", cseq=1, to_tag=None, extra=()):
    to = "<sip:bob@ims.test>" + (f";tag={to_tag}" if to_tag else "")
    return [
        ("Max-Forwards", "70"),
        ("From", "<sip:alice@ims.test>;tag=a1"),
        ("To", to),
        ("Call-ID", call_id),
        ("CSeq", f"{cseq} {method}"),
        *extra,
    ]
