"""Route, Record-Route and next hops of the edge (HOP-2, DLG-2, DLG-3; RFC 3261 16.4-16.6, RFC 5658)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from nodes.pcscf.config import RoutePolicy
from nodes.pcscf.register import with_user
from nodes.pcscf.rejection import RejectionError
from signalling.sip.flow import Hop
from signalling.sip.grammar import format_host
from signalling.sip.headers import GrammarError, parse_name_addr
from signalling.sip.message import SipRequest
from signalling.sip.uri import SipUri, UriError, UrnUri, parse_uri

EMERGENCY: Final = "service:sos"
_DEFAULT_PORT: Final = {"UDP": 5060, "TCP": 5060, "TLS": 5061}


@dataclass(frozen=True, slots=True)
class OwnUri:
    """One address of this node, as a URI."""

    transport: str
    host: str
    port: int

    def uri(self, user: str = "") -> str:
        """The SIP URI of this address with `lr`."""
        bare = f"sip:{format_host(self.host)}:{self.port}"
        text = with_user(bare, user) if user else bare
        return f"{text};transport={self.transport.lower()};lr" if self.transport != "UDP" else f"{text};lr"


class OwnAddresses:
    """Recognises this node's URIs."""

    def __init__(self, addresses: Iterable[tuple[str, int]], names: Iterable[str] = ()) -> None:
        self._addresses = set(addresses)
        self._names = {name.lower() for name in names}

    def mine(self, uri: SipUri) -> bool:
        """The URI leads to this node."""
        port = uri.port or _DEFAULT_PORT.get(uri.transport or "UDP", 5060)
        return (uri.host, port) in self._addresses or uri.host.lower() in self._names


@dataclass(frozen=True, slots=True)
class TakenRoutes:
    """What stood on top of a request's Route and led here: user parts of own URIs, top first."""

    tokens: tuple[str, ...]
    mine: bool


def take_own_routes(request: SipRequest, own: OwnAddresses) -> TakenRoutes:
    """Remove every own URI from the top of Route, and undo a strict router before us (RFC 3261 16.4).

    Raises RejectionError 400 for a Route that is no SIP URI.
    """
    tokens: list[str] = []
    mine = False
    try:
        target = parse_uri(request.uri)
    except UriError:
        target = None
    routes = request.headers.values("Route")
    if isinstance(target, SipUri) and target.loose and own.mine(target) and routes:
        tokens.append(target.user or "")
        mine = True
        request.uri = _route_uri(routes.pop())
        _write_routes(request, routes)
    while routes:
        uri = _parse_route(routes[0])
        if not own.mine(uri):
            break
        mine = True
        tokens.append(uri.user or "")
        routes.pop(0)
    _write_routes(request, routes)
    return TakenRoutes(tuple(token for token in tokens if token), mine)


def _write_routes(request: SipRequest, routes: Sequence[str]) -> None:
    if routes:
        request.headers.set_values("Route", routes)
    else:
        request.headers.remove("Route")


def _parse_route(value: str) -> SipUri:
    try:
        return parse_name_addr(value).sip_uri
    except GrammarError as error:
        raise RejectionError(400, "Bad Route") from error


def _route_uri(value: str) -> str:
    return str(_parse_route(value))


def enforce_service_route(request: SipRequest, service_route: Sequence[str], policy: RoutePolicy) -> bool:
    """Make the Route of an initial request the Service-Route of the registration (HOP-2, T7).

    True when the UE had written something else. Raises RejectionError 400 when policy says so.
    """
    wanted = [str(_parse_route(value)) for value in service_route]
    written = [_route_uri(value) for value in request.headers.values("Route")]
    if written == wanted:
        return False
    if written and policy is RoutePolicy.REJECT:
        raise RejectionError(400, "Bad Route")
    _write_routes(request, [f"<{uri}>" for uri in wanted])
    return bool(written)


def next_hop(request: SipRequest, default_transport: str) -> Hop:
    """Where a request goes: its top Route, else its Request-URI. Raises RejectionError 400 or 404."""
    routes = request.headers.values("Route")
    if routes:
        return hop_of(_parse_route(routes[0]), default_transport)
    try:
        uri = parse_uri(request.uri)
    except UriError as error:
        raise RejectionError(400, "Bad Request-URI") from error
    if not isinstance(uri, SipUri):
        raise RejectionError(404, "Not Found")
    return hop_of(uri, default_transport)


def hop_of(uri: SipUri, default_transport: str) -> Hop:
    """The hop a SIP URI names; without `transport` and port the network's own transport is taken (no DNS here)."""
    transport = uri.transport or ("TLS" if uri.scheme == "sips" else default_transport)
    port = uri.port or _DEFAULT_PORT.get(transport, 5060)
    return Hop(transport, uri.params.get("maddr") or uri.host, port)


def is_emergency(uri: str) -> bool:
    """A Request-URI of the `sos` service (EM-1, RFC 5031 4.2)."""
    try:
        parsed = parse_uri(uri)
    except UriError:
        return False
    if not isinstance(parsed, UrnUri):
        return False
    text = str(parsed).lower().removeprefix("urn:")
    return text == EMERGENCY or text.startswith(EMERGENCY + ".")


def domain_of(uri: str) -> str:
    """The host of a SIP URI, empty for others."""
    try:
        parsed = parse_uri(uri)
    except UriError:
        return ""
    return parsed.host.lower() if isinstance(parsed, SipUri) else ""
