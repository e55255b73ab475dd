"""What the operator's own calls tell before the first span does: who calls whom, and that it was answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from lab.callfold import CallRecord
from lab.calls import CallOrder
from lab.console.documents import identities
from lab.control import Params, Progress
from lab.labfile import LabFile
from lab.tracestore import TraceStore

_ANSWERED = frozenset({"established", "media"})


def noting(store: TraceStore, lab: Callable[[], LabFile], order: CallOrder, progress: Progress) -> Progress:
    """Return a progress that passes on to ``progress`` and notes the call in the table of calls."""
    users = lab().users
    caller, callee = identities(users, order.caller)[0], identities(users, order.callee)[0]
    noted: set[str] = set()

    async def note(item: Params) -> None:
        call_id, state = str(item.get("call_id") or ""), str(item.get("state") or "")
        step = "answered" if state in _ANSWERED else "begun"
        if call_id and state != "ended" and step not in noted:
            noted.add(step)
            await asyncio.to_thread(store.change_call, call_id, _change(caller, callee, order.security, step))
        await progress(item)

    return note


def _change(caller: str, callee: str, security: str, step: str) -> Callable[[CallRecord], None]:
    now = time.time_ns()

    def change(call: CallRecord) -> None:
        call.began_ns = call.began_ns or now
        call.from_uri = call.from_uri or caller
        call.to_uri = call.to_uri or callee
        if security and not call.modes:
            call.modes[""] = (1, security)
        if step == "answered" and not call.sip_status:
            call.sip_status, call.final_ns = 200, now

    return change
