"""One event loop per process, shared by Twisted and asyncio.

This module alone installs the reactor and alone converts between Deferred and Future.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import ParamSpec, TypeVar, cast

from twisted.internet import asyncioreactor
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["deferred", "future", "keep", "loop", "reactor", "spawn"]

T = TypeVar("T")
P = ParamSpec("P")

_GC_THRESHOLD = 20_000
_LOOP_ATTRIBUTE = "_asyncioEventloop"


def install() -> None:
    """Install the asyncio reactor on a new event loop; does nothing when it already stands.

    Raises ``RuntimeError`` when another kind of reactor was installed first.
    """
    if "twisted.internet.reactor" in sys.modules:
        if not isinstance(sys.modules["twisted.internet.reactor"], AsyncioSelectorReactor):
            raise RuntimeError("another reactor than the asyncio one is installed")
        return
    loop_ = asyncio.new_event_loop()
    asyncio.set_event_loop(loop_)
    asyncioreactor.install(loop_)


def reactor() -> AsyncioSelectorReactor:
    """Return the installed reactor, installing it first when there is none."""
    install()
    from twisted.internet import reactor as installed

    return cast("AsyncioSelectorReactor", installed)


def loop() -> asyncio.AbstractEventLoop:
    """Return the event loop under the reactor."""
    return cast("asyncio.AbstractEventLoop", getattr(reactor(), _LOOP_ATTRIBUTE))


def deferred(awaitable: Awaitable[T]) -> Deferred[T]:
    """Run an awaitable as a task of the loop and return a Deferred with its result."""
    return Deferred.fromFuture(spawn(awaitable))


def spawn(awaitable: Awaitable[T]) -> asyncio.Future[T]:
    """Start an awaitable on the loop in a copy of the caller's context and return its future."""
    if asyncio.isfuture(awaitable):
        return awaitable
    coroutine = awaitable if asyncio.iscoroutine(awaitable) else _await(awaitable)
    return loop().create_task(cast("Coroutine[object, object, T]", coroutine))


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def future(pending: Deferred[T]) -> asyncio.Future[T]:
    """Return a future with the result of a Deferred, so that a coroutine can await it."""
    return pending.asFuture(loop())


def keep(function: Callable[P, T]) -> Callable[P, T]:
    """Bind a callback to the context of the moment it is registered.

    A plain Deferred callback, ``callLater`` or ``deferToThread`` function runs in whatever context the
    reactor happens to be in, which may be another request's; wrapped in ``keep`` it runs in its own.
    """
    context = copy_context()

    def bound(*args: P.args, **kwargs: P.kwargs) -> T:
        return context.copy().run(function, *args, **kwargs)

    return bound


def run(main: Callable[[], Awaitable[int | None]]) -> int:
    """Run the reactor until ``main`` returns or a signal stops it; return the exit status.

    An exception of ``main`` is written to stderr by Twisted's log and gives status 1. ``main`` is
    cancelled when SIGTERM or SIGINT arrives and gets to finish its clean-up.
    """
    standing = reactor()
    # What the imports left behind lives as long as the process; the collector need not walk over it again and again.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    outcome = {"status": 0}

    def start() -> None:
        task = asyncio.ensure_future(_await(main()), loop=loop())
        ended: Deferred[int | None] = Deferred.fromFuture(task)

        def finished(result: int | Failure | None) -> None:
            if isinstance(result, Failure):
                if result.check(asyncio.CancelledError) is None:
                    outcome["status"] = 1
                    sys.stderr.write(result.getTraceback())
            else:
                outcome["status"] = int(result or 0)
            if not stopping:
                standing.stop()

        stopping: list[bool] = []

        def before_shutdown() -> Deferred[object]:
            stopping.append(True)
            over: Deferred[object] = Deferred()
            task.add_done_callback(lambda _: over.callback(None))
            task.cancel()
            return over

        standing.addSystemEventTrigger("before", "shutdown", before_shutdown)
        ended.addBoth(finished)

    standing.callWhenRunning(start)
    standing.run()
    return outcome["status"]
