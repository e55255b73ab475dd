"""The notifier of the registration event package: subscriptions, their end, and NOTIFY (RFC 3680, RFC 6665 4.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from nodes.cscf.call_procedure import RegEvent
from nodes.cscf.config import CscfSettings
from nodes.cscf.location import ContactEvents, LocationService, RecordTable
from nodes.cscf.neighbours import MW
from nodes.cscf.reg_event import CONTENT_TYPE, may_watch, reginfo, watches_himself
from nodes.cscf.registrar import ContactEvent
from nodes.cscf.registration import Binding, Registration
from nodes.cscf.rejection import RejectionError
from nodes.cscf.routing import hop_of
from signalling.sip.connection import DelayedCall
from signalling.sip.dialog import Dialog, DialogError
from signalling.sip.flow import TransactionFailure
from signalling.sip.grammar import parse_digits
from signalling.sip.message import SipResponse
from signalling.sip.stack import ServerTxn, SipStack, make_response

LEAST_INTERVAL = 5.0
"""Seconds between two NOTIFY of one subscription (RFC 3680 4.10)."""
LONGEST = 600000
DialogId = tuple[str, str, str]


@dataclass
class Subscription:
    """One watcher of one registration set; ``expires_at`` is seconds since the epoch, ``version`` that of reginfo.

    ``watcher`` is the node that watches in its own name, empty for the user himself.
    """

    dialog: Dialog
    impi: str
    expires_at: float
    watcher: str = ""
    version: int = 0
    events: dict[str, tuple[Binding, ContactEvent]] = field(default_factory=dict)
    last_notified: float = float("-inf")
    pending: DelayedCall | None = None

    def to_record(self) -> dict[str, object]:
        """The form kept in the store."""
        return {
            "dialog": self.dialog.to_dict(),
            "impi": self.impi,
            "expires_at": self.expires_at,
            "watcher": self.watcher,
            "version": self.version,
        }


class RegEventServer:
    """Keeps the subscriptions of one S-CSCF; ``own_uri`` is the Contact of its dialogs."""

    def __init__(
        self,
        stack: SipStack,
        settings: CscfSettings,
        location: LocationService,
        table: RecordTable,
        home_domains: Collection[str],
        own_uri: str,
        keep: Callable[[Awaitable[None]], None],
    ) -> None:
        self._stack = stack
        self._settings = settings
        self._location = location
        self._table = table
        self._home_domains = home_domains
        self._own_uri = own_uri
        self._keep = keep
        self._subscriptions: dict[DialogId, Subscription] = {}
        location.listen(self._changed)

    def __len__(self) -> int:
        return len(self._subscriptions)

    async def load(self) -> None:
        """Read the subscriptions an earlier life left."""
        for key, record in list(await self._table.items()):
            try:
                dialog = Dialog.from_dict(_mapping(record["dialog"]))
                subscription = Subscription(
                    dialog,
                    str(record["impi"]),
                    _number(record["expires_at"]),
                    str(record.get("watcher", "")),
                    int(_number(record["version"])),
                )
            except (KeyError, TypeError, ValueError):
                await self._table.delete(key)
                continue
            if subscription.expires_at <= self._location.now:
                await self._table.delete(key)
            else:
                self._subscriptions[dialog.id] = subscription

    def close(self) -> None:
        """Stop the timers; the store keeps the subscriptions."""
        for subscription in self._subscriptions.values():
            _stop(subscription)

    async def subscribe(self, txn: ServerTxn, asked: RegEvent) -> None:
        """Take a new subscription and send the first NOTIFY (RFC 6665 4.2.1).

        A watcher has so many of one registration at a time, and then loses the oldest. Raises ``RejectionError``: 404
        when nobody is registered, 403 for a stranger, 503 when there are too many.
        """
        if asked.registration is None:
            raise RejectionError(404, "Not Registered")
        if not may_watch(asked.request, asked.registration, asked.peer, self._home_domains):
            raise RejectionError(403, "Not Allowed To Watch")
        watcher = "" if watches_himself(asked.request, asked.registration) else asked.peer.instance_id
        await self._make_room(asked.registration, watcher)
        if len(self._subscriptions) >= self._settings.max_subscriptions:
            raise RejectionError(503, "Too Many Subscriptions", [("Retry-After", "60")])
        seconds = self._seconds(txn)
        response = make_response(
            txn.request, 200, headers=[("Contact", f"<{self._own_uri}>"), ("Expires", str(seconds))]
        )
        dialog = Dialog.from_uas(txn.request, response)
        subscription = Subscription(dialog, asked.registration.impi, self._location.now + seconds, watcher)
        self._subscriptions[dialog.id] = subscription
        txn.respond(response)
        await self._notify(subscription, asked.registration, final=seconds == 0)

    async def _make_room(self, registration: Registration, watcher: str) -> None:
        own = [one for one in self._subscriptions.values() if (one.impi, one.watcher) == (registration.impi, watcher)]
        for oldest in own[: max(0, len(own) + 1 - self._settings.max_subscriptions_per_watcher)]:
            await self._notify(oldest, registration, final=True)

    async def refresh(self, txn: ServerTxn) -> None:
        """Take a SUBSCRIBE in a subscription's dialog; Expires 0 ends it. Raises ``RejectionError`` 481."""
        request = txn.request
        subscription = self._subscriptions.get((request.call_id, request.to_tag or "", request.from_tag or ""))
        if subscription is None:
            raise RejectionError(481, "No Such Subscription")
        try:
            subscription.dialog.check_incoming(request)
        except DialogError as error:
            raise RejectionError(error.status, "Not In This Dialog") from None
        seconds = self._seconds(txn)
        subscription.expires_at = self._location.now + seconds
        headers = [("Contact", f"<{self._own_uri}>"), ("Expires", str(seconds))]
        txn.respond(make_response(request, 200, headers=headers))
        await self._notify(subscription, self._location.by_impi(subscription.impi), final=seconds == 0)

    def _seconds(self, txn: ServerTxn) -> int:
        text = txn.request.headers.get("Expires")
        asked = None if text is None else parse_digits(text.strip(), 2**32 - 1)
        return min(self._settings.subscription_expires if asked is None else asked, LONGEST)

    def _changed(self, registration: Registration, events: ContactEvents) -> None:
        for subscription in list(self._subscriptions.values()):
            if subscription.impi != registration.impi:
                continue
            for binding, event in events:
                subscription.events[binding.contact_id] = (binding, event)
            if not registration.bindings:
                self._keep(self._notify(subscription, registration, final=True))
                continue
            if subscription.pending is None:
                wait = subscription.last_notified + LEAST_INTERVAL - self._location.now
                subscription.pending = self._stack.clock.callLater(max(0.0, wait), self._due, subscription)

    def _due(self, subscription: Subscription) -> None:
        subscription.pending = None
        registration = self._location.by_impi(subscription.impi)
        self._keep(self._notify(subscription, registration, final=registration is None))

    async def _notify(self, subscription: Subscription, registration: Registration | None, *, final: bool) -> None:
        _stop(subscription)
        now = self._location.now
        remaining = max(0, round(subscription.expires_at - now))
        over = final or remaining == 0 or registration is None
        body = b"" if registration is None else reginfo(registration, subscription.events, subscription.version, now)
        reason = "timeout" if registration is not None and registration.bindings else "noresource"
        state = f"terminated;reason={reason}" if over else f"active;expires={remaining}"
        headers = [("Event", "reg"), ("Subscription-State", state), ("Contact", f"<{self._own_uri}>")]
        if body:
            headers.append(("Content-Type", CONTENT_TYPE))
        request = subscription.dialog.request("NOTIFY", headers, body)
        subscription.version += 1
        subscription.last_notified = now
        subscription.events = {}
        if over:
            await self._forget(subscription)
        else:
            await self._table.put(_key(subscription), subscription.to_record())

        def answered(response: SipResponse) -> None:
            if response.status in (404, 405, 410, 416, 480, 481, 482, 489, 501):
                self._keep(self._forget(subscription))

        def failed(_failure: TransactionFailure) -> None:
            self._keep(self._forget(subscription))

        hop = hop_of(request, self._settings.mw_transport.upper())
        self._stack.send(request, hop, role=MW, on_response=answered, on_failure=failed)

    async def _forget(self, subscription: Subscription) -> None:
        _stop(subscription)
        if self._subscriptions.pop(subscription.dialog.id, None) is not None:
            await self._table.delete(_key(subscription))


def _stop(subscription: Subscription) -> None:
    if subscription.pending is not None and subscription.pending.active():
        subscription.pending.cancel()
    subscription.pending = None


def _key(subscription: Subscription) -> str:
    return "|".join(subscription.dialog.id)[:512]


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("not a mapping")
    return value


def _number(value: object) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError("not a number")
    return float(value)
