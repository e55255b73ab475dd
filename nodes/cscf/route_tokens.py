"""The user parts this node puts into its own URIs, and how it knows them again (RFC 3608 6.1, RFC 3261 16.6; assumed).

``orig-...`` (Service-Route) is a random name of a registration. ``rr-...`` (Record-Route) is a MAC over the Call-ID, so
that only requests of a dialog that went through this node are relayed on its account, and one over each neighbour of
the dialog, so that they are relayed nowhere else. ``isc-...`` stands for a leg that
an application server hands back; it carries the leg under a MAC, and for how long it counts: who has served a user once
does not act for him ever after. The MAC key is kept in the store, so all of them outlive the process.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from keying.secret import Secret
from nodes.cscf.filter_criteria import SessionCase
from signalling.sip.flow import Hop

MAC_OCTETS = 10
"""80 bits, as RFC 5626 5.2 advises for flow tokens."""
WAY_MARKS = 16
"""Hexadecimal digits for each neighbour: 64 bits, to keep requests short."""
KEY_OCTETS = 32
HAND_BACK_S = 600
"""How long an application server may keep a leg, seconds: beyond timer C its transaction is over (RFC 3261 16.6)."""


@dataclass(frozen=True)
class HandedBack:
    """A leg as it went to an application server: whose, which case, and the criterion to go on from."""

    case: SessionCase
    next_criterion: int
    served_user: str


class RouteTokens:
    """Makes and checks the user parts; ``key`` is 32 octets, ``now`` gives seconds since the epoch."""

    def __init__(self, key: Secret, now: Callable[[], float] = time.time) -> None:
        self._key = key
        self._now = now

    def _mac(self, purpose: str, content: str) -> str:
        message = f"{purpose}\0{content}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key.reveal(), message, hashlib.sha256).digest()[:MAC_OCTETS].hex()

    @staticmethod
    def originating() -> str:
        """A fresh user part for a Service-Route."""
        return f"orig-{secrets.token_hex(8)}"

    def record_route(self, call_id: str, ways: Iterable[Hop] = ()) -> str:
        """The user part of this node's Record-Route in a call whose requests go on to one of ``ways``."""
        marks = [self._mac("record-route", call_id), *(self._way(call_id, hop) for hop in ways)]
        return f"rr-{'-'.join(marks)}"

    def is_record_route(self, user: str, call_id: str) -> bool:
        """Say whether ``user`` is what this node wrote into the Record-Route of that call."""
        call, *_ = user.removeprefix("rr-").split("-")
        return user.startswith("rr-") and hmac.compare_digest(
            call.encode(), self._mac("record-route", call_id).encode()
        )

    def leads_to(self, user: str, call_id: str, hop: Hop) -> bool:
        """Say whether ``hop`` is one of the ways this node wrote into the Record-Route of that call."""
        wanted = self._way(call_id, hop).encode()
        _, *ways = user.removeprefix("rr-").split("-")
        return any(hmac.compare_digest(way.encode(), wanted) for way in ways)

    def _way(self, call_id: str, hop: Hop) -> str:
        return self._mac("way", f"{hop.transport}\0{hop.host.lower()}\0{hop.port}\0{call_id}")[:WAY_MARKS]

    def handed_out(self, leg: HandedBack) -> str:
        """The user part under which an application server gives a leg back."""
        until = int(self._now()) + HAND_BACK_S
        content = f"{leg.case.value}.{leg.next_criterion}.{leg.served_user.encode().hex()}.{until}"
        return f"isc-{content}.{self._mac('isc until', content)}"

    def handed_back(self, user: str) -> HandedBack | None:
        """Read a user part of ``handed_out``; None when it is not this node's, or too old."""
        content, _, mac = user.removeprefix("isc-").rpartition(".")
        wanted = self._mac("isc until", content)
        if not user.startswith("isc-") or not hmac.compare_digest(mac.encode(), wanted.encode()):
            return None
        case, index, served_user, until = content.split(".")
        if self._now() > int(until):
            return None
        return HandedBack(SessionCase(case), int(index), bytes.fromhex(served_user).decode())
