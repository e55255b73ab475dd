"""What the edge keeps of a dialog so that it can act in it by itself: BYE both ways (HOP-7), offers to the UE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nodes.pcscf.media_plan import Side
from nodes.pcscf.session_timer import SessionTimer
from signalling.sip.grammar import GrammarError, format_params, parse_digits, parse_params
from signalling.sip.headers import MAX_CSEQ, parse_name_addr
from signalling.sip.message import SipMessage, SipRequest, SipResponse
from signalling.sip.uri import SipUri

CSEQ_MOST: Final = MAX_CSEQ - 2**20
"""No request numbered above this passes: what this node sends in the dialog lies above it (RFC 3261 12.2.1.1)."""


@dataclass(slots=True)
class EdgeDialog:
    """A dialog through this node. `uri`s are whole From/To values without tag; route sets exclude this node."""

    call_id: str
    caller: Side
    """The side the INVITE came from."""
    tags: dict[Side, str]
    addresses: dict[Side, str]
    contacts: dict[Side, str]
    cseqs: dict[Side, int]
    """Highest CSeq each side used."""
    routes: dict[Side, tuple[str, ...]]
    """Route set towards a side."""
    confirmed: bool = False
    ended: bool = False
    described: str = ""
    """The last INVITE to which a response brought a session description; not stored, as it is not to outlive it."""
    invite_cseq: int = 0
    inserted: dict[Side, list[tuple[int, int]]] = field(default_factory=dict)
    """Requests of this node towards a side: (CSeq of the peer from which on it counts, by how much), rising."""
    timer: SessionTimer = field(default_factory=SessionTimer)

    def to_dict(self) -> dict[str, Any]:
        """A JSON form for the store."""
        return {
            "call_id": self.call_id,
            "caller": str(self.caller),
            "tags": _plain(self.tags),
            "addresses": _plain(self.addresses),
            "contacts": _plain(self.contacts),
            "cseqs": _plain(self.cseqs),
            "routes": {str(side): list(route) for side, route in self.routes.items()},
            "confirmed": self.confirmed,
            "invite_cseq": self.invite_cseq,
            "inserted": {str(side): [list(step) for step in steps] for side, steps in self.inserted.items()},
            "timer": self.timer.to_dict(),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> EdgeDialog:
        """The inverse of `to_dict`."""
        return cls(
            call_id=stored["call_id"],
            caller=Side(stored["caller"]),
            tags=_sided(stored["tags"]),
            addresses=_sided(stored["addresses"]),
            contacts=_sided(stored["contacts"]),
            cseqs=_sided(stored["cseqs"]),
            routes={Side(side): tuple(route) for side, route in stored["routes"].items()},
            confirmed=bool(stored["confirmed"]),
            invite_cseq=int(stored["invite_cseq"]),
            inserted={
                Side(side): [(int(start), int(count)) for start, count in steps]
                for side, steps in stored.get("inserted", {}).items()
            },
            timer=SessionTimer.from_dict(stored.get("timer", {})),
        )

    def belongs(self, message: SipMessage, sender: Side) -> bool:
        """The tags of a message from `sender` are those of this dialog."""
        if isinstance(message, SipRequest):
            return message.from_tag == self.tags[sender] and message.to_tag == self.tags[sender.other]
        return message.to_tag == self.tags[sender] and message.from_tag == self.tags[sender.other]

    def request_seen(self, request: SipRequest, sender: Side) -> None:
        """Follow CSeq, remote target (RFC 3261 12.2) and session timer."""
        self.cseqs[sender] = max(self.cseqs[sender], request.cseq[0])
        self.timer.request_seen(request, sender)
        if request.method in ("INVITE", "UPDATE"):
            self._target(request, sender)

    def response_seen(self, response: SipResponse, sender: Side) -> None:
        """Follow the remote target in 2xx to INVITE and UPDATE."""
        if response.cseq[1] in ("INVITE", "UPDATE") and 100 < response.status < 300:
            self._target(response, sender)

    def steer(self, request: SipRequest, towards: Side) -> bool:
        """Write the stored route set and remote target into a request, whatever its sender had there (HOP-2, HOP-4).

        True when the sender had another route set (TS 24.229 5.2.6.3).
        """
        wanted = self.routes[towards]
        written = tuple(_uri_of(value) for value in request.headers.values("Route"))
        if wanted:
            request.headers.set_values("Route", [f"<{uri}>" for uri in wanted])
        else:
            request.headers.remove("Route")
        request.uri = self.contacts[towards] or request.uri
        return written != wanted

    def _target(self, message: SipMessage, sender: Side) -> None:
        contact = contact_uri(message)
        if contact:
            self.contacts[sender] = contact

    def shifted(self, number: int, towards: Side) -> int:
        """The CSeq that a side sees in a request of its peer numbered `number` (RFC 3261 12.2.1.1).

        It lies above those this node has inserted; what was sent before, and the ACK of it, keeps its number.
        """
        counts = [count for start, count in self.inserted.get(towards, ()) if start <= number]
        return number + (counts[-1] if counts else 0)

    def unshifted(self, number: int, towards: Side) -> int:
        """The inverse of `shifted`: the CSeq that the peer of a side gave the request which the side saw as `number`.

        What no request of the peer is numbered stays as it is.
        """
        counts = (0, *(count for _, count in self.inserted.get(towards, ())))
        return next((number - count for count in counts if self.shifted(number - count, towards) == number), number)

    def renumbered(self, request: SipRequest, towards: Side) -> SipRequest:
        """The request of a peer as it goes on: CSeq, and wherever it names the CSeq of another request.

        That is RAck of a PRACK (RFC 3262 7.2), and in the event package of a REFER the id: SUBSCRIBE names a REFER of
        its sender, NOTIFY one of its receiver (RFC 3515 2.4.6).
        """
        number, method = request.cseq
        changed: dict[str, str] = {}
        if (shifted := self.shifted(number, towards)) != number:
            changed["CSeq"] = f"{shifted} {method}"
        named = (request.headers.get("RAck") or "").split()
        known = parse_digits(named[1], CSEQ_MOST) if len(named) == 3 else None
        if known is not None and (shifted := self.shifted(known, towards)) != known:
            changed["RAck"] = f"{named[0]} {shifted} {named[2]}"
        event = request.headers.get("Event")
        if event is not None and (refer := _refer_of(event)) is not None:
            own = method == "SUBSCRIBE"
            shifted = self.shifted(refer, towards) if own else self.unshifted(refer, towards.other)
            if shifted != refer:
                package, _, rest = event.partition(";")
                changed["Event"] = f"{package}{format_params({**parse_params(rest), 'id': str(shifted)})}"
        if not changed:
            return request
        request = request.copy()
        for name, value in changed.items():
            request.headers.set(name, value)
        return request

    def reinvite(self, towards: Side, body: bytes, now: float) -> SipRequest:
        """An INVITE of this node in the name of the other side, which knows nothing of it; `now` is Unix time, s."""
        sender = towards.other
        seen = self.cseqs[sender]
        steps = self.inserted.setdefault(towards, [])
        made = steps[-1][1] if steps else 0
        begun = seen or sender is self.caller
        start, count = (seen + 1, made + 1) if begun else (0, made + 2)  # its first may be numbered 0
        if steps and steps[-1][0] == start:
            steps.pop()
        steps.append((start, count))
        request = self._numbered("INVITE", towards, seen + made + 1, "")
        request.headers.set("Contact", f"<{self.contacts[sender]}>")
        request.headers.set("Content-Type", "application/sdp")
        for name, value in self.timer.headers(sender, now):
            request.headers.add(name, value)
        request.body = body
        return request

    def ack_of(self, invite: SipRequest, towards: Side) -> SipRequest:
        """The ACK of a 2xx to an INVITE of this node; its remote target is that of the response (RFC 3261 13.2.2.4)."""
        return self._numbered("ACK", towards, invite.cseq[0], "")

    def bye(self, towards: Side, reason: str = "") -> SipRequest:
        """A BYE in the name of the other side; its CSeq is one above what that side used."""
        return self._request("BYE", towards, self._next_cseq(towards.other), reason)

    def ack(self, towards: Side) -> SipRequest:
        """The ACK of a 2xx the caller will never acknowledge itself."""
        return self._request("ACK", towards, self.invite_cseq, "")

    def _next_cseq(self, sender: Side) -> int:
        self.cseqs[sender] += 1
        return self.cseqs[sender]

    def _request(self, method: str, towards: Side, cseq: int, reason: str) -> SipRequest:
        return self._numbered(method, towards, self.shifted(cseq, towards), reason)

    def _numbered(self, method: str, towards: Side, cseq: int, reason: str) -> SipRequest:
        sender = towards.other
        headers = [
            ("Max-Forwards", "70"),
            ("From", f"{self.addresses[sender]};tag={self.tags[sender]}"),
            ("To", f"{self.addresses[towards]};tag={self.tags[towards]}"),
            ("Call-ID", self.call_id),
            ("CSeq", f"{cseq} {method}"),
        ]
        headers += [("Route", f"<{route}>") for route in self.routes[towards]]
        if reason:
            headers.append(("Reason", reason))
        return SipRequest(method, self.contacts[towards], headers)


def dialog_of(request: SipRequest, response: SipResponse, caller: Side, own: Sequence[str] = ()) -> EdgeDialog | None:
    """The dialog an INVITE and a response with a To tag make; None when the response cannot make one.

    `own` are this node's Record-Route URIs as they stand in the message; routes beyond them belong to the other side
    (RFC 3261 12.1).
    """
    tag = response.to_tag
    contact = contact_uri(response)
    if not tag or not contact or response.status <= 100 or response.status >= 300:
        return None
    before, after = split_record_route(response, own)
    callee = caller.other
    timer = SessionTimer()
    timer.request_seen(request, caller)
    return EdgeDialog(
        call_id=request.call_id,
        caller=caller,
        tags={caller: request.from_tag or "", callee: tag},
        addresses={caller: _without_tag(request.headers.get("From")), callee: _without_tag(request.headers.get("To"))},
        contacts={caller: contact_uri(request), callee: contact},
        cseqs={caller: request.cseq[0], callee: 0},
        routes={caller: after, callee: tuple(reversed(before))},
        invite_cseq=request.cseq[0],
        timer=timer,
    )


def split_record_route(message: SipMessage, own: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Record-Route URIs (above this node's, below this node's): towards the callee, towards the caller."""
    above: list[str] = []
    below: list[str] = []
    passed = False
    for value in message.headers.values("Record-Route"):
        uri = _uri_of(value)
        if uri in own:
            passed = True
        else:
            (below if passed else above).append(uri)
    return tuple(above), tuple(below)


def contact_uri(message: SipMessage) -> str:
    """The URI of the first Contact as a Request-URI may carry it (RFC 3261 19.1.1), empty without one."""
    for value in message.headers.values("Contact"):
        try:
            uri = parse_name_addr(value).uri
        except GrammarError:
            return ""
        if isinstance(uri, SipUri) and (uri.headers or "method" in uri.params):
            uri = uri.copy()
            uri.headers.clear()
            uri.params.pop("method", None)
        return str(uri)
    return ""


def _refer_of(event: str) -> int | None:
    """The CSeq of the REFER that an Event value names, if it does."""
    package, _, rest = event.partition(";")
    if package.strip(" \t").lower() != "refer":
        return None
    try:
        return parse_digits(parse_params(rest).get("id") or "", CSEQ_MOST)
    except GrammarError:
        return None


def _uri_of(value: str) -> str:
    try:
        return str(parse_name_addr(value).uri)
    except GrammarError:
        return ""


def _without_tag(value: str | None) -> str:
    try:
        address = parse_name_addr(value or "")
    except GrammarError:
        return value or ""
    address.params = {name: text for name, text in address.params.items() if name != "tag"}
    return str(address)


def _plain(sided: Mapping[Side, Any]) -> dict[str, Any]:
    return {str(side): value for side, value in sided.items()}


def _sided(stored: Mapping[str, Any]) -> dict[Side, Any]:
    return {Side(side): value for side, value in stored.items()}
