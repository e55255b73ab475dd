"""Dialogs: identity, CSeq, route set, remote target (RFC 3261 12)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from signalling.sip.fields import Headers
from signalling.sip.grammar import GrammarError
from signalling.sip.headers import parse_name_addr
from signalling.sip.model import SipRequest, SipResponse
from signalling.sip.uri import SipUri

TARGET_REFRESH = frozenset({"INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY", "REFER"})
"""Requests whose Contact becomes the remote target (RFC 3261 12.2, RFC 3311 5, RFC 6665)."""


class DialogState(Enum):
    """The life of a dialog."""

    EARLY = "early"
    CONFIRMED = "confirmed"
    TERMINATED = "terminated"


class DialogError(Exception):
    """A message that does not fit the dialog; ``status`` is the code to answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


def new_call_id(host: str | None = None) -> str:
    """Return a fresh Call-ID, ``@host`` appended when given."""
    return secrets.token_hex(12) + (f"@{host}" if host else "")


def _contact(message: SipRequest | SipResponse) -> str | None:
    text = message.headers.first_value("contact")
    if text is None:
        return None
    try:
        return str(parse_name_addr(text).uri)
    except GrammarError:
        return None


def _with_tag(address: str, tag: str | None) -> str:
    return address if not tag else f"{address};tag={tag}"


def _without_tag(address: str) -> str:
    parsed = parse_name_addr(address)
    parsed.params.pop("tag", None)
    return str(parsed)


@dataclass(slots=True)
class Dialog:
    """One dialog as one side sees it.

    ``local_uri`` and ``remote_uri`` are whole From/To values without tag, ``route_set`` is in sending order, the CSeq
    numbers are the last used (None: none yet). ``invite_cseq`` is that of the last INVITE sent, for its ACK.
    """

    call_id: str
    local_tag: str
    remote_tag: str
    local_uri: str
    remote_uri: str
    remote_target: str
    route_set: list[str] = field(default_factory=list)
    local_cseq: int | None = None
    remote_cseq: int | None = None
    local_contact: str | None = None
    secure: bool = False
    is_uac: bool = True
    state: DialogState = DialogState.EARLY
    invite_cseq: int | None = None
    acks: dict[int, SipRequest] = field(default_factory=dict)

    @property
    def id(self) -> tuple[str, str, str]:
        """(Call-ID, local tag, remote tag), RFC 3261 12."""
        return self.call_id, self.local_tag, self.remote_tag

    @classmethod
    def from_uac(cls, request: SipRequest, response: SipResponse) -> Dialog:
        """Build the caller's dialog from its request and a 101-299 with To tag (RFC 3261 12.1.2).

        Raises DialogError when the response forms none.
        """
        tag = response.to_tag
        if tag is None and response.status < 200:
            raise DialogError(500, "provisional response without To tag")
        target = _contact(response)
        number, method = request.cseq
        return cls(
            call_id=request.call_id,
            local_tag=request.from_tag or "",
            remote_tag=tag or "",
            local_uri=_without_tag(request.headers.get("from") or ""),
            remote_uri=_without_tag(response.headers.get("to") or ""),
            remote_target=target or request.uri,
            route_set=list(reversed(response.headers.values("record-route"))),
            local_cseq=number,
            local_contact=request.headers.first_value("contact"),
            secure=request.uri[:5].lower() == "sips:",
            is_uac=True,
            state=_state_of(response),
            invite_cseq=number if method == "INVITE" else None,
        )

    @classmethod
    def from_uas(cls, request: SipRequest, response: SipResponse, *, contact: str | None = None) -> Dialog:
        """Build the callee's dialog from the request and its own response with To tag (RFC 3261 12.1.1).

        ``contact``: the own Contact value, taken from the response when None. DialogError 400 without a remote target.
        """
        target = _contact(request)
        if target is None:
            raise DialogError(400, "no usable Contact")
        return cls(
            call_id=request.call_id,
            local_tag=response.to_tag or "",
            remote_tag=request.from_tag or "",
            local_uri=_without_tag(response.headers.get("to") or ""),
            remote_uri=_without_tag(request.headers.get("from") or ""),
            remote_target=target,
            route_set=request.headers.values("record-route"),
            remote_cseq=request.cseq[0],
            local_contact=contact or response.headers.first_value("contact"),
            secure=request.uri[:5].lower() == "sips:",
            is_uac=False,
            state=_state_of(response),
        )

    def request(self, method: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> SipRequest:
        """Build the next request of the dialog (RFC 3261 12.2.1.1); Content-Type is among ``headers``.

        ACK and CANCEL are not built here. DialogError 481 when the dialog is over.
        """
        if self.state is DialogState.TERMINATED:
            raise DialogError(481, "dialog is over")
        self.local_cseq = secrets.randbelow(2**16) + 1 if self.local_cseq is None else self.local_cseq + 1
        if method == "INVITE":
            self.invite_cseq = self.local_cseq
        request = self._build(method, self.local_cseq, headers, body)
        if method in TARGET_REFRESH and self.local_contact and "contact" not in request.headers:
            request.headers.add("Contact", self.local_contact)
        return request

    def _build(self, method: str, number: int, headers: Iterable[tuple[str, str]], body: bytes) -> SipRequest:
        uri, routes = self._routed()
        fields = Headers([("Max-Forwards", "70")])
        for route in routes:
            fields.add("Route", route)
        fields.add("From", _with_tag(self.local_uri, self.local_tag))
        fields.add("To", _with_tag(self.remote_uri, self.remote_tag))
        fields.add("Call-ID", self.call_id)
        fields.add("CSeq", f"{number} {method}")
        for name, value in headers:
            fields.add(name, value)
        return SipRequest(method, uri, fields, body)

    def _routed(self) -> tuple[str, list[str]]:
        """Return Request-URI and Route values; a first route without ``lr`` is a strict router."""
        if not self.route_set:
            return self.remote_target, []
        first = parse_name_addr(self.route_set[0]).uri
        if isinstance(first, SipUri) and not first.loose:
            first.headers.clear()
            first.params.pop("method", None)
            return str(first), [*self.route_set[1:], f"<{self.remote_target}>"]
        return self.remote_target, list(self.route_set)

    def ack_for(self, response: SipResponse, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> SipRequest:
        """Build the ACK of a 2xx to INVITE; the same one again for a retransmission (RFC 3261 13.2.2.4)."""
        number = response.cseq[0]
        ack = self.acks.get(number)
        if ack is None:
            self.acks.clear()
            ack = self.acks[number] = self._build("ACK", number, headers, body)
        return ack

    def check_incoming(self, request: SipRequest) -> None:
        """Take a request of the peer: order of CSeq, target refresh (RFC 3261 12.2.2).

        Raises DialogError: 481 when it is not of this dialog or the dialog is over, 500 for a CSeq that does not rise.
        """
        tags = (request.call_id, request.to_tag or "", request.from_tag or "")
        if tags != self.id or self.state is DialogState.TERMINATED:
            raise DialogError(481, "not this dialog")
        number, _ = request.cseq
        if request.method in ("ACK", "CANCEL"):
            return
        if self.remote_cseq is not None and number <= self.remote_cseq:
            raise DialogError(500, "CSeq out of order")
        self.remote_cseq = number
        if request.method in TARGET_REFRESH:
            self.remote_target = _contact(request) or self.remote_target

    def take_response(self, request: SipRequest, response: SipResponse) -> None:
        """Take a response to an own request: early becomes confirmed, target refresh, end on 481 and 408 (DLG-7)."""
        if self.state is DialogState.TERMINATED:
            return
        if 200 <= response.status < 300:
            if request.method in TARGET_REFRESH:
                self.remote_target = _contact(response) or self.remote_target
            if request.method == "BYE":
                self.terminate()
            elif request.method in ("INVITE", "SUBSCRIBE"):
                self._confirm(response)
        elif self._ended_by(request, response):
            self.terminate()

    def _ended_by(self, request: SipRequest, response: SipResponse) -> bool:
        if request.method == "BYE":
            return response.status >= 300
        return response.status in (408, 481) and self.state is DialogState.CONFIRMED

    def _confirm(self, response: SipResponse) -> None:
        if self.state is DialogState.EARLY:
            self.state = DialogState.CONFIRMED
            routes = response.headers.values("record-route")
            if self.is_uac:
                self.route_set = list(reversed(routes))

    def confirm(self) -> None:
        """Say that a 2xx was sent (callee)."""
        if self.state is DialogState.EARLY:
            self.state = DialogState.CONFIRMED

    def terminate(self) -> None:
        """End the dialog."""
        self.state = DialogState.TERMINATED

    def to_dict(self) -> dict[str, object]:
        """Return what must be stored to go on after a restart (JSON types)."""
        return {
            "call_id": self.call_id,
            "local_tag": self.local_tag,
            "remote_tag": self.remote_tag,
            "local_uri": self.local_uri,
            "remote_uri": self.remote_uri,
            "remote_target": self.remote_target,
            "route_set": list(self.route_set),
            "local_cseq": self.local_cseq,
            "remote_cseq": self.remote_cseq,
            "local_contact": self.local_contact,
            "secure": self.secure,
            "is_uac": self.is_uac,
            "state": self.state.value,
            "invite_cseq": self.invite_cseq,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> Dialog:
        """Rebuild a dialog from :meth:`to_dict`; KeyError, TypeError or ValueError when it is none."""
        routes = stored["route_set"]
        if not isinstance(routes, list):
            raise TypeError("route_set is no list")
        return cls(
            call_id=str(stored["call_id"]),
            local_tag=str(stored["local_tag"]),
            remote_tag=str(stored["remote_tag"]),
            local_uri=str(stored["local_uri"]),
            remote_uri=str(stored["remote_uri"]),
            remote_target=str(stored["remote_target"]),
            route_set=[str(route) for route in routes],
            local_cseq=_number(stored["local_cseq"]),
            remote_cseq=_number(stored["remote_cseq"]),
            local_contact=None if stored["local_contact"] is None else str(stored["local_contact"]),
            secure=bool(stored["secure"]),
            is_uac=bool(stored["is_uac"]),
            state=DialogState(stored["state"]),
            invite_cseq=_number(stored["invite_cseq"]),
        )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _state_of(response: SipResponse) -> DialogState:
    return DialogState.EARLY if response.status < 200 else DialogState.CONFIRMED
