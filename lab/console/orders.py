"""Calls that the page orders: the checks and the desk of ``imslab call``; what becomes of them is an event."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from lab.calls import CallDesk, CallOrder
from lab.console.answers import Problem
from lab.console.choices import Choices
from lab.control import ControlError, Json, Params, Progress

MOST_AT_ONCE: Final = 8
"""Orders in progress; one more is refused."""
MOST_KEPT: Final = 50
"""Orders that are remembered."""
SECONDS: Final = (0.1, 3600.0)
"""Shortest and longest talk time, s: that of ``imslab call``."""
MOST_SUITES: Final = 16


@dataclass
class Order:
    """A call somebody asked for, and how it goes."""

    number: int
    at_ms: float
    wanted: CallOrder
    state: str = "waiting"
    call_id: str = ""
    sip_status: int = 0
    reason: str = ""
    problem: str | None = None
    verdict: Json = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state in ("ended", "refused")

    def document(self) -> Params:
        """Return the JSON form."""
        return {
            "order": self.number,
            "at": self.at_ms,
            "from": self.wanted.caller,
            "to": self.wanted.callee,
            "security": self.wanted.security or None,
            "seconds": self.wanted.seconds,
            "state": self.state,
            "call_id": self.call_id,
            "sip_status": self.sip_status,
            "reason": self.reason,
            "problem": self.problem,
            "verdict": self.verdict,
        }


class OrderDesk:
    """Takes orders and keeps the last of them.

    ``noting`` wraps the progress of a call, so that a call is known before its first span.
    """

    def __init__(
        self,
        desk: CallDesk,
        choices: Choices,
        told: Callable[[Order], None],
        noting: Callable[[CallOrder, Progress], Progress],
    ) -> None:
        self._desk = desk
        self._choices = choices
        self._told = told
        self._noting = noting
        self._orders: OrderedDict[int, Order] = OrderedDict()
        self._number = 0

    def orders(self) -> list[Order]:
        """Return the last orders, newest first."""
        return list(reversed(self._orders.values()))

    def place(self, body: Params) -> Order:
        """Take an order. Raises ``Problem`` for one that is no order, ``ControlError`` for one the lab cannot try."""
        wanted = self._wanted(body)
        self._desk.check(wanted)
        if sum(not order.over for order in self._orders.values()) >= MOST_AT_ONCE:
            raise Problem(503, "BUSY", f"{MOST_AT_ONCE} calls of this page are in progress", (("Retry-After", "2"),))
        self._number += 1
        order = self._orders[self._number] = Order(self._number, round(time.time() * 1000), wanted)
        while len(self._orders) > MOST_KEPT:
            oldest = next(number for number, each in self._orders.items() if each.over)
            del self._orders[oldest]
        order.task = asyncio.create_task(self._carry_out(order), name=f"order {order.number}")
        return order

    async def close(self) -> None:
        """End what is in progress."""
        tasks = [order.task for order in self._orders.values() if order.task is not None and not order.task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wanted(self, body: Params) -> CallOrder:
        unknown = set(body) - {"from", "to", "security", "seconds", "suites"}
        if unknown:
            raise _wrong(f"{min(unknown)}: there is no such field")
        caller, callee, security = body.get("from"), body.get("to"), body.get("security")
        if not isinstance(caller, str) or not caller or len(caller) > 256:
            raise _wrong("from: the name of a user is needed")
        if not isinstance(callee, str) or not callee or len(callee) > 256 or not callee.isprintable():
            raise _wrong("to: the name of a user or a URI is needed")
        if security is not None and security not in (modes := self._choices.modes):
            raise _wrong(f"security: {', '.join(modes)}, or nothing for what the caller prefers")
        known = self._choices.suites
        seconds, suites = body.get("seconds", 5.0), body.get("suites", [])
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise _wrong("seconds: a number is needed")
        if not SECONDS[0] <= seconds <= SECONDS[1]:
            raise _wrong(f"seconds: from {SECONDS[0]} to {SECONDS[1]}")
        named = suites if isinstance(suites, list) and len(suites) <= MOST_SUITES else [None]
        if not all(isinstance(suite, str) and suite in known for suite in named):
            raise _wrong(f"suites: a list of {', '.join(known)}")
        return CallOrder(
            caller=caller,
            callee=callee,
            security=security if isinstance(security, str) else "",
            seconds=float(seconds),
            suites=tuple(map(str, named)),
        )

    async def _carry_out(self, order: Order) -> None:
        async def progress(item: Params) -> None:
            order.state = str(item.get("state") or order.state)
            order.call_id = str(item.get("call_id") or order.call_id)
            status = item.get("sip_status")
            order.sip_status = status if isinstance(status, int) and status else order.sip_status
            order.reason = str(item.get("reason") or order.reason)
            if order.state != "ended":  # the verdict says more
                self._told(order)

        try:
            verdict = await self._desk.place(order.wanted, self._noting(order.wanted, progress))
        except ControlError as error:
            order.state, order.problem = "refused", str(error)
        except asyncio.CancelledError:
            order.state, order.problem = "refused", "the lab went down"
            raise
        except Exception as error:  # noqa: BLE001 - whatever ended it, the page has to know that it is over
            order.state, order.problem = "refused", f"{type(error).__name__}: {error}"
        else:
            order.state, order.verdict = "ended", verdict.document()
            order.call_id, order.sip_status = verdict.call_id or order.call_id, verdict.sip_status
            order.reason = verdict.reason
        finally:
            self._told(order)


def _wrong(detail: str) -> Problem:
    return Problem(400, "BAD_REQUEST", detail)
