"""The console's JSON interface: what each path answers. docs/console.md describes it."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import Mapping
from typing import Final

from lab import callfind, callstore
from lab.callfind import Found, Wanted
from lab.console import documents
from lab.console.answers import Problem, answer
from lab.console.calldetail import MOST_SPANS, CallPages
from lab.console.choices import Choices
from lab.console.events import MOST_CLIENTS
from lab.console.feed import Feed, in_ms
from lab.console.labview import Host, LabView
from lab.console.orders import MOST_AT_ONCE, OrderDesk
from lab.console.server import Ask, Routes
from lab.control import ControlError, Json, Operation, Params
from lab.operator import Operator
from lab.tracestore import TraceStore
from protos import ue_control_pb2

MOST_CALLS: Final = 200
"""Calls of one answer."""
MOST_FOUND: Final = 20
"""Calls and traces of a search."""
_STATES = {"setup": ("setup",), "talking": ("talking",), "ended": ("ended",), "live": callfind.LIVE}


class Api:
    """Handlers of the interface over the parts of a running lab."""

    def __init__(
        self,
        host: Host,
        view: LabView,
        operator: Operator,
        store: TraceStore,
        reader: TraceStore,
        feed: Feed,
        orders: OrderDesk,
        operations: Mapping[str, Operation],
        choices: Choices,
    ) -> None:
        self._host, self._view, self._operator = host, view, operator
        self._store, self._reader, self._feed, self._orders = store, reader, feed, orders
        self._operations = operations
        self._choices = choices
        self._pages = CallPages(view, reader)

    def routes(self) -> Routes:
        """Return every path of the interface."""
        routes = Routes()
        for method, path, handler in (
            ("GET", "/api/lab", self._lab),
            ("GET", "/api/calls", self._calls),
            ("POST", "/api/calls", self._place),
            ("GET", "/api/calls/{call_id}", self._call),
            ("GET", "/api/calls/{call_id}/messages/{step_id}", self._message),
            ("GET", "/api/calls/{call_id}/trace", self._call_trace),
            ("POST", "/api/calls/{call_id}/hang-up", self._hang_up),
            ("GET", "/api/traces/{trace_id}", self._trace),
            ("GET", "/api/orders", self._list_orders),
            ("GET", "/api/registrations", self._registrations),
            ("POST", "/api/users/{name}/register", self._register),
            ("POST", "/api/users/{name}/deregister", self._deregister),
            ("GET", "/api/tickets", self._tickets),
            ("GET", "/api/search", self._search),
            ("GET", "/api/metrics", self._metrics),
        ):
            routes.add(method, path, handler)
        return routes

    # the lab

    async def _lab(self, ask: Ask) -> Params:
        del ask
        lab = self._view.lab
        users, _ = await asyncio.gather(self._view.users(), self._view.audits())
        domains = dict.fromkeys(user.domain for user in lab.users.values())
        return {
            "name": lab.name,
            "state_folder": str(self._host.folder.root),
            "key_export": lab.key_export,
            "domains": [*(domains or (lab.domain,))],
            "security_modes": [{"name": name, "title": mode.title} for name, mode in self._choices.modes.items()],
            "suites": [*self._choices.suites],
            "nodes": [*self._view.nodes()],
            "links": [*self._view.links()],
            "users": [*users],
            "start_s": round(self._host.start_seconds, 3),
            "console": {"orders_max": MOST_AT_ONCE, "sse_max": MOST_CLIENTS},
        }

    async def _registrations(self, ask: Ask) -> Params:
        del ask
        return {"registrations": [*await self._view.registrations()]}

    async def _register(self, ask: Ask) -> Json:
        answered = await self._changes_registration("register", ask)
        return _shown(answered, "user", "registered", "sip_status", "reason", "trace_id", "media_mechanisms")

    async def _deregister(self, ask: Ask) -> Json:
        answered = await self._changes_registration("deregister", ask)
        return {
            **_shown(answered, "user", "registered", "sip_status", "reason", "trace_id", "media_mechanisms"),
            "media_mechanisms": [],
        }

    async def _changes_registration(self, name: str, ask: Ask) -> Params:
        try:
            return await self._operation(name, {"user": ask.parts["name"]})
        finally:
            self._view.forget_statuses()

    async def _operation(self, name: str, params: Params) -> Params:
        async def silent(item: Params) -> None:
            del item

        answered = await self._operations[name](params, silent)
        assert isinstance(answered, dict)
        return answered

    async def _tickets(self, ask: Ask) -> Params:
        limit = _limit(ask, 100, 1000)
        if not self._view.lab.kms:
            return {"tickets": [], "failed": []}
        found = await self._operation("kms-audit", {"user": ask.query.get("user", ""), "limit": limit})
        entries, failed = found.get("entries"), found.get("failed")
        assert isinstance(entries, list)
        assert isinstance(failed, dict)
        tickets: list[Json] = [in_ms(entry) for entry in entries if isinstance(entry, dict)]
        return {"tickets": tickets, "failed": [{"kms": kms, "reason": reason} for kms, reason in failed.items()]}

    async def _metrics(self, ask: Ask) -> Params:
        points = await asyncio.to_thread(self._reader.metrics, ask.query.get("node") or None)
        series: list[Json] = [
            {
                "node": point.node,
                "name": point.name,
                "attributes": {key: str(value) for key, value in point.attributes.items()},
                "value": point.value,
                "unit": point.unit,
                "at": documents.ms(point.time_ns),
            }
            for point in points
        ]
        return {"series": series}

    # calls

    async def _calls(self, ask: Ask) -> Params:
        query = ask.query
        state = query.get("state", "")
        if state and state not in _STATES:
            raise Problem(400, "BAD_REQUEST", f"state: {', '.join(_STATES)}")
        user, text = query.get("user", ""), query.get("q", "").strip()
        wanted = Wanted(
            parties=documents.identities(self._view.lab.users, user) if user else (),
            beginning=text,
            named=self._named(text),
            result=query.get("result", ""),
            security=query.get("security", ""),
            states=_STATES.get(state, ()),
            before=_place(query.get("cursor", "")),
        )
        found = await asyncio.to_thread(self._find, wanted, _limit(ask, 50, MOST_CALLS))
        return {
            "calls": [documents.summary(call, self._view.names) for call in found.calls],
            "cursor": _cursor(found.place),
            "total": found.total,
        }

    def _named(self, text: str) -> tuple[str, ...]:
        """Return the identities of users whose name or number begins so."""
        found = [
            identity
            for user in (self._view.lab.users.values() if text else ())
            if _is_about(text, user.name, user.impu, user.tel)
            for identity in (user.impu, user.tel)
            if identity
        ]
        return tuple(found[: callfind.MOST_PARTIES])

    def _find(self, wanted: Wanted, limit: int) -> Found:
        with self._reader.reading() as db:
            return callfind.find(db, wanted, limit)

    async def _call(self, ask: Ask) -> Params:
        return await self._pages.page(ask.parts["call_id"], self._feed.audits)

    async def _message(self, ask: Ask) -> Params:
        return await self._pages.message(ask.parts["call_id"], ask.parts["step_id"])

    async def _call_trace(self, ask: Ask) -> Params:
        return await self._pages.trace(ask.parts["call_id"])

    async def _trace(self, ask: Ask) -> Params:
        trace_id = ask.parts["trace_id"]
        spans = await asyncio.to_thread(self._reader.spans_of_trace, trace_id, MOST_SPANS)
        if not spans:
            raise Problem(404, "NOT_FOUND", "no trace has this id")
        return documents.trace(trace_id, spans)

    async def _place(self, ask: Ask) -> object:
        return answer({"order": self._orders.place(ask.body).document()}, 202)

    async def _list_orders(self, ask: Ask) -> Params:
        del ask
        return {"orders": [order.document() for order in self._orders.orders()]}

    async def _hang_up(self, ask: Ask) -> Params:
        call_id = ask.parts["call_id"]
        call = await asyncio.to_thread(self._pages.record, call_id)
        names = self._view.names
        ends = {names.user(call.from_uri), names.user(call.to_uri)}
        statuses = await self._view.statuses()
        for user, status in sorted(statuses.items(), key=lambda item: item[0] not in ends):
            if isinstance(status, ue_control_pb2.StatusResponse) and any(
                each.call_id == call_id and each.state != "ended" for each in status.calls
            ):
                return await self._operation("hang-up", {"user": user, "call_id": call_id})
        raise ControlError("no UE of this lab is in this call any more")

    # everything

    async def _search(self, ask: Ask) -> Params:
        text = ask.query.get("q", "").strip()
        if not text:
            return {"calls": [], "users": [], "traces": [], "nodes": []}
        users = [user for user in self._view.lab.users.values() if _is_about(text, user.name, user.impu, user.tel)]
        wanted = Wanted(beginning=text, named=self._named(text))
        found = await asyncio.to_thread(self._find, wanted, MOST_FOUND)
        nodes = [name for name, place in self._view.places().items() if _is_about(text, name, place.nf, place.kind)]
        return {
            "calls": [documents.summary(call, self._view.names) for call in found.calls],
            "users": [self._view.user_facts(user) for user in users],
            "traces": await asyncio.to_thread(self._traces, text.lower()),
            "nodes": [self._view.node(name) for name in nodes],
        }

    def _traces(self, text: str) -> list[Json]:
        """Return the traces whose id begins so; who types less than four digits looks for something else."""
        if len(text) < 4 or set(text) - set("0123456789abcdef"):
            return []
        with self._reader.reading() as db:
            rows = db.execute(
                "SELECT DISTINCT trace_id FROM span WHERE trace_id >= ? AND trace_id < ? LIMIT ?",
                (text, text + callstore.LAST, MOST_FOUND),
            ).fetchall()
            return [_trace_row(db, str(row[0])) for row in rows]


def _trace_row(db: sqlite3.Connection, trace_id: str) -> Json:
    name, node, began = db.execute(
        "SELECT name, node, min(start_ns) FROM span WHERE trace_id = ?", (trace_id,)
    ).fetchone()
    calls = callstore.call_ids_of(db, trace_id)
    return {
        "trace_id": trace_id,
        "what": name,
        "node": node,
        "began": documents.ms(began),
        "call_id": calls[0] if calls else None,
    }


def _is_about(text: str, *names: str) -> bool:
    wanted = text.lower()
    return any(name.lower().startswith((wanted, f"sip:{wanted}", f"tel:{wanted}")) for name in names if name)


def _shown(answered: Params, *keys: str) -> Params:
    return {key: answered.get(key) for key in keys}


def _limit(ask: Ask, usual: int, most: int) -> int:
    text = ask.query.get("limit", str(usual))
    if not text.isascii() or not text.isdigit() or len(text) > 6 or not 1 <= int(text) <= most:
        raise Problem(400, "BAD_REQUEST", f"limit: a number from 1 to {most}")
    return int(text)


def _cursor(place: tuple[int, int] | None) -> str | None:
    if place is None:
        return None
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode("ascii").rstrip("=")


def _place(cursor: str) -> tuple[int, int] | None:
    if not cursor:
        return None
    try:
        began, number = json.loads(base64.urlsafe_b64decode(cursor + "=="))
        if all(type(part) is int and 0 <= part < 1 << 63 for part in (began, number)):
            return began, number
    except (ValueError, TypeError):
        pass
    raise Problem(400, "BAD_REQUEST", "cursor: not one of this list")
