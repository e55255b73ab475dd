"""Which way a request goes, as pure functions (TS 24.229 5.3 and 5.4.3; RFC 3261 16.4 to 16.6).

The functions work on a copy of the request that the caller owns, and raise ``RejectionError`` with the answer to give
when there is no way.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from nodes.cscf.identities import asserted_identities, canonical, telephone_identity
from nodes.cscf.registration import Binding, Registration
from nodes.cscf.rejection import RejectionError
from nodes.cscf.route_tokens import HandedBack, RouteTokens
from nodes.cscf.trust import Peer
from signalling.sip.flow import same_host
from signalling.sip.headers import GrammarError, default_port, parse_name_addr
from signalling.sip.message import SipRequest
from signalling.sip.stack import Hop
from signalling.sip.uri import SipUri, TelUri, Uri, UriError, parse_uri

SERVER_TYPE = "IMS_AS"
"""NF type of application servers, who alone hand legs back."""
DIALOG_FORMING = frozenset({"INVITE", "SUBSCRIBE", "REFER", "NOTIFY"})
"""Methods that get a Record-Route (DLG-2)."""


@dataclass(frozen=True)
class OwnNames:
    """How this node is written in URIs: host names and addresses in lower case, its Mw port and transport."""

    hosts: frozenset[str]
    port: int
    transport: str

    def match(self, uri: Uri) -> bool:
        """Say whether a URI points at this node."""
        if not isinstance(uri, SipUri) or uri.host.lower() not in self.hosts:
            return False
        port = uri.port if uri.port is not None else default_port(uri.transport or self.transport)
        return port == self.port


class Leg(Enum):
    """What a request wants from this node."""

    IN_DIALOG = "in-dialog"
    ORIGINATING = "originating"
    HANDED_BACK = "handed-back"
    TERMINATING = "terminating"
    LOCAL = "local"


@dataclass(frozen=True)
class Arrival:
    """A request as it arrived: its leg, and what the topmost Route said (``token``, ``handed_back``)."""

    leg: Leg
    token: str = ""
    handed_back: HandedBack | None = None


def next_route(request: SipRequest) -> SipUri | None:
    """URI of the topmost Route. Raises ``RejectionError`` 400 when it is malformed or no SIP URI."""
    value = request.headers.first_value("Route")
    if value is None:
        return None
    try:
        return parse_name_addr(value).sip_uri
    except GrammarError:
        raise RejectionError(400, "Malformed Route") from None


def request_uri(request: SipRequest) -> Uri:
    """The parsed Request-URI. Raises ``RejectionError`` 400."""
    try:
        return parse_uri(request.uri)
    except UriError:
        raise RejectionError(400, "Malformed Request-URI") from None


def arrive(request: SipRequest, own: OwnNames, tokens: RouteTokens, peer: Peer) -> Arrival:
    """Take this node's Route off a request and say which leg it is on (RFC 3261 16.4).

    Raises ``RejectionError``: 403 for Route tricks (a token that is not ours, more Route from outside the trust domain,
    an originating or handed-back leg from outside it, a leg handed back by who is no application server, a Record-Route
    of another call), 481 for a request in a dialog that this node does not know.
    """
    _undo_strict_routing(request, own)
    token = _take_own_route(request, own)
    if token.startswith("rr-"):
        if not tokens.is_record_route(token, request.call_id):
            raise RejectionError(403, "Route Not Of This Dialog")
        return Arrival(Leg.IN_DIALOG, token)
    if request.to_tag is not None:
        if own.match(request_uri(request)) and not request.headers.get("Route"):
            return Arrival(Leg.LOCAL)
        raise RejectionError(481, "No Such Dialog Here")
    if not peer.trusted and (token.startswith(("orig-", "isc-")) or request.headers.get("Route")):
        raise RejectionError(403, "Route Not Allowed")
    if token.startswith("isc-"):
        if peer.nf_types and SERVER_TYPE not in peer.nf_types:
            raise RejectionError(403, "Not Handed To This Neighbour")
        leg = tokens.handed_back(token)
        if leg is None:
            raise RejectionError(403, "Route Not Of This Node")
        return Arrival(Leg.HANDED_BACK, token, leg)
    if request.headers.get("Route"):
        raise RejectionError(403, "Route Beyond This Node Not Allowed")
    if token.startswith("orig-"):
        return Arrival(Leg.ORIGINATING, token)
    if own.match(request_uri(request)):
        return Arrival(Leg.LOCAL)
    return Arrival(Leg.TERMINATING)


def _undo_strict_routing(request: SipRequest, own: OwnNames) -> None:
    """A strict router before us put our Record-Route into the Request-URI: take the last Route back (DLG-2a)."""
    uri = request_uri(request)
    routes = request.headers.values("Route")
    if not routes or not own.match(uri) or not isinstance(uri, SipUri) or not (uri.user or "").startswith("rr-"):
        return
    try:
        target = parse_name_addr(routes[-1]).uri
    except GrammarError:
        raise RejectionError(400, "Malformed Route") from None
    request.headers.set_values("Route", [f"<{uri}>", *routes[:-1]])
    request.uri = str(target)


def _take_own_route(request: SipRequest, own: OwnNames) -> str:
    """Remove the topmost Route when it is this node; returns its user part."""
    uri = next_route(request)
    if uri is None:
        return ""
    if not own.match(uri):
        if request.to_tag is not None:
            raise RejectionError(481, "No Such Dialog Here")
        raise RejectionError(403, "Route Does Not Name This Node")
    request.headers.remove_first_value("Route")
    return uri.user or ""


def served_user(request: SipRequest, registration: Registration | None) -> str:
    """The public identity an originating request is served for (TS 24.229 5.4.3.2, assumed).

    It is the first asserted identity that belongs to the registration the Service-Route token stands for. Raises
    ``RejectionError`` 403 when the token stands for nobody registered, nothing is asserted, the identity is another
    user's, or it is barred.
    """
    if registration is None:
        raise RejectionError(403, "Originator Not Registered")
    usable = registration.profile.usable
    asserted = [canonical(uri) for uri in asserted_identities(request.headers)]
    if not asserted or any(identity not in usable for identity in asserted):
        raise RejectionError(403, "Asserted Identity Not Of This Registration")
    return asserted[0]


def check_handed_back(request: SipRequest, registration: Registration) -> None:
    """Check that an application server lets the served user call as nobody else; it may leave out who calls.

    Raises ``RejectionError`` 403 for an asserted identity that is not one of the registration (T7).
    """
    usable = registration.profile.usable
    asserted = [canonical(uri) for uri in asserted_identities(request.headers)]
    readable = len(asserted) == len(request.headers.values("P-Asserted-Identity"))
    if not readable or any(identity not in usable for identity in asserted):
        raise RejectionError(403, "Asserted Identity Not Of The Served User")


def dialled(request: SipRequest, home_domains: Collection[str]) -> tuple[str, str]:
    """The identity a Request-URI means and its domain: ("tel:...", "") for a number, else ("sip:...", domain).

    ``sip:+number@domain;user=phone`` of one of our domains counts as the number. Raises ``RejectionError`` 416 for
    other schemes.
    """
    uri = request_uri(request)
    if isinstance(uri, TelUri):
        if not uri.is_global:
            raise RejectionError(404, "Local Numbers Are Not Served")
        return canonical(uri), ""
    if not isinstance(uri, SipUri):
        raise RejectionError(416, "Unsupported URI Scheme")
    domain = uri.host.lower()
    number = telephone_identity(uri)
    if number is not None and domain in home_domains:
        return number, ""
    return canonical(uri), domain


def targets_of(registration: Registration, now: float) -> list[tuple[Binding, ...]]:
    """Contacts to try, grouped by falling q; one per UE instance, the newest first (RFC 3261 16.6, RFC 5626 7)."""
    chosen: dict[str, Binding] = {}
    for binding in sorted(registration.live(now), key=lambda binding: binding.registered_at, reverse=True):
        chosen.setdefault(binding.instance_id or binding.contact, binding)
    groups: dict[float, list[Binding]] = {}
    for binding in chosen.values():
        groups.setdefault(binding.q, []).append(binding)
    return [tuple(groups[q]) for q in sorted(groups, reverse=True)]


def toward_contact(request: SipRequest, binding: Binding) -> SipRequest:
    """The request as it goes to one contact: Path as Route, Contact as Request-URI, the dialled identity kept.

    P-Called-Party-ID takes the old Request-URI (RFC 7315 4.2.2), Route the Path of the binding (RFC 3327 5.3), and
    headers or a method inside the Contact URI never become part of the Request-URI (RFC 3261 19.1.1).
    """
    branch = request.copy()
    branch.headers.set("P-Called-Party-ID", f"<{request.uri}>")
    branch.headers.remove("Route")
    branch.headers.remove("P-Access-Network-Info")
    if binding.path:
        branch.headers.set_values("Route", binding.path)
    contact = parse_uri(binding.contact)
    if isinstance(contact, SipUri):
        contact = contact.copy()
        contact.headers.clear()
        contact.params.pop("method", None)
    branch.uri = str(contact)
    return branch


def hop_of(request: SipRequest, default_transport: str) -> Hop:
    """Where a request goes next by its topmost Route or Request-URI (RFC 3261 16.6 step 7).

    Raises ``RejectionError`` 416 when the URI is no SIP URI.
    """
    uri: Uri | None = next_route(request)
    if uri is None:
        uri = request_uri(request)
    if not isinstance(uri, SipUri):
        raise RejectionError(416, "Unsupported URI Scheme")
    return _hop(uri, default_transport)


def way_back(request: SipRequest, default_transport: str) -> Hop | None:
    """Where requests of the called side go on to: the topmost Record-Route, else the Contact (RFC 3261 12.1.1).

    A Contact counts only when it names the host that sent the request: this node opens connections to its neighbours,
    not to whatever host a UE behind one of them wrote.
    """
    record_route = request.headers.first_value("Record-Route")
    value = record_route or request.headers.first_value("Contact")
    try:
        hop = None if value is None else _hop(parse_name_addr(value).sip_uri, default_transport)
    except GrammarError:
        return None
    if hop is None or record_route:
        return hop
    via = request.top_via
    return hop if same_host(hop.host, via.received or via.host.strip("[]")) else None


def _hop(uri: SipUri, default_transport: str) -> Hop:
    transport = uri.transport or ("TLS" if uri.scheme == "sips" else default_transport)
    return Hop(transport, uri.host, uri.port if uri.port is not None else default_port(transport))
