"""Requests other than REGISTER: originating and terminating leg, the way to other home networks and to servers.

TS 24.229 5.3.2 (I-CSCF), 5.4.3.2 (originating), 5.4.3.3 (terminating), 5.4.3.4 (original dialog); assumed where a
docstring says so. ``CallProcedure.route`` decides; carrying out is the proxy's business.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Protocol

from nodes.cscf import charging
from nodes.cscf.config import CscfSettings
from nodes.cscf.filter_criteria import ServerHop, SessionCase, next_server
from nodes.cscf.hss import Flag, HssClient
from nodes.cscf.identities import asserted_identities, tel_twin
from nodes.cscf.location import LocationService
from nodes.cscf.register_request import check_required_options
from nodes.cscf.registration import Profile, Registration
from nodes.cscf.rejection import RejectionError
from nodes.cscf.route_tokens import HandedBack, RouteTokens
from nodes.cscf.routing import (
    DIALOG_FORMING,
    Leg,
    OwnNames,
    arrive,
    check_handed_back,
    dialled,
    hop_of,
    next_route,
    request_uri,
    served_user,
    targets_of,
    toward_contact,
    way_back,
)
from nodes.cscf.trust import Peer, strip_asserted
from signalling.sip.flow import Hop
from signalling.sip.message import SipRequest, SipResponse


@dataclass(frozen=True)
class Target:
    """One branch: the request as it goes there, the next hop, and the own URI to record ("" for none)."""

    request: SipRequest
    hop: Hop
    record_route: str = ""


@dataclass(frozen=True)
class Forwarding:
    """Where a request goes: groups of branches, each group tried when the one before it failed.

    ``callee`` is the profile whose identities may be asserted in responses, ``term_ioi`` this network's charging
    identifier in responses ("" to leave them), ``vector`` the charging vector of the request, ``server`` the hop of an
    application server with its default handling, ``onward`` the rest of the way when that server fails,
    ``handed_back`` whether a server gave the leg back, so that it has not failed.
    """

    groups: tuple[tuple[Target, ...], ...]
    callee: Profile | None = None
    term_ioi: str = ""
    vector: charging.ChargingVector | None = None
    server: ServerHop | None = None
    onward: Callable[[], Awaitable[Forwarding]] | None = field(default=None, compare=False)
    handed_back: bool = False


@dataclass(frozen=True)
class Local:
    """A request for this node itself, in no leg of anybody."""

    request: SipRequest


@dataclass(frozen=True)
class RegEvent:
    """A subscription to the registration state of a user served here (RFC 3680); None when he is not registered."""

    request: SipRequest
    registration: Registration | None
    peer: Peer


class Neighbours(Protocol):
    """What is known of other home networks, from the NRF."""

    async def home_network(self, domain: str) -> Hop | None:
        """The entry (I-CSCF) of another home domain."""

    async def domains(self) -> Collection[str]:
        """Home domains whose HSS can be asked for a number."""


class Servers(Protocol):
    """Where application servers are."""

    async def route_to(self, server_uri: str) -> str | None:
        """The Route to the server that a filter criterion names; None when there is none."""


class CallProcedure:
    """Routing decisions of one I-/S-CSCF; ``own_uri`` makes this node's URI with a given user part."""

    def __init__(
        self,
        settings: CscfSettings,
        home_domains: Collection[str],
        hss: HssClient,
        location: LocationService,
        tokens: RouteTokens,
        own: OwnNames,
        own_uri: Callable[[str], str],
        neighbours: Neighbours,
        servers: Servers,
    ) -> None:
        self._settings = settings
        self._home_domains = frozenset(home_domains)
        self._hss = hss
        self._location = location
        self._tokens = tokens
        self._own = own
        self._own_uri = own_uri
        self._neighbours = neighbours
        self._servers = servers

    async def route(self, original: SipRequest, peer: Peer) -> Forwarding | Local | RegEvent:
        """Decide the way of a request that came from ``peer``. Raises ``RejectionError``."""
        request = original.copy()
        check_required_options(request, (), "Proxy-Require")
        if not peer.trusted:
            strip_asserted(request)
        arrival = arrive(request, self._own, self._tokens, peer)
        if arrival.leg is Leg.IN_DIALOG:
            return self._on_route(request, arrival.token)
        if arrival.leg is Leg.LOCAL:
            return Local(request)
        if arrival.leg is Leg.ORIGINATING:
            registration = self._location.by_token(arrival.token)
            user = served_user(request, registration)
            if is_reg_event(request):
                impu, _ = dialled(request, self._home_domains)
                if registration is not None and registration.profile.holds(impu):
                    return RegEvent(request, registration, peer)
            return await self._originate(request, registration, user, 0)
        if arrival.leg is Leg.HANDED_BACK:
            assert arrival.handed_back is not None
            return replace(await self._go_on(request, arrival.handed_back), handed_back=True)
        if not peer.trusted and not self._settings.untrusted_terminating:
            raise RejectionError(403, "Not From Outside The Trust Domain")
        if is_reg_event(request):
            impu, domain = dialled(request, self._home_domains)
            if domain in self._home_domains:
                return RegEvent(request, self._location.by_impu(impu), peer)
        return await self._enter_home(request)

    def in_dialog(self, original: SipRequest, peer: Peer) -> Forwarding:
        """The way of an ACK to a 2xx. Raises ``RejectionError``; the caller drops the ACK then."""
        request = original.copy()
        if not peer.trusted:
            strip_asserted(request)
        arrival = arrive(request, self._own, self._tokens, peer)
        if arrival.leg is not Leg.IN_DIALOG:
            raise RejectionError(481, "No Such Dialog Here")
        return self._on_route(request, arrival.token)

    def _on_route(self, request: SipRequest, token: str) -> Forwarding:
        """A request inside a dialog goes to a neighbour the dialog was set up through, or to this node again (T7)."""
        target = self._target(request)
        own = self._own.match(next_route(request) or request_uri(request))
        if not own and not self._tokens.leads_to(token, request.call_id, target.hop):
            raise RejectionError(403, "Route Not Of This Dialog")
        return Forwarding(((target,),))

    # originating leg

    async def _originate(
        self, request: SipRequest, registration: Registration | None, user: str, start: int
    ) -> Forwarding:
        if registration is None:
            raise RejectionError(403, "Originator Not Registered")
        domain = registration.profile.home_domain
        if start == 0 and self._settings.add_tel_identity:
            assert_twin(request, registration.profile)
        vector = charging.stamp_request(request, domain, _new_icid)
        server = next_server(registration.profile.filter_criteria, request, SessionCase.ORIGINATING, start)
        if server is not None:

            async def onward() -> Forwarding:
                return await self._originate(request.copy(), registration, user, server.index + 1)

            return await self._to_server(request, server, SessionCase.ORIGINATING, user, onward)
        request.headers.remove("P-Served-User")
        _, target_domain = await self._resolve(request, domain)
        if target_domain in self._home_domains:
            return await self._terminate(request, 0)
        request.headers.remove("P-Access-Network-Info")
        hop = await self._neighbours.home_network(target_domain)
        if hop is None:
            raise RejectionError(404, "No Way To This Domain")
        return self._forward(request, hop=hop, vector=vector)

    async def _resolve(self, request: SipRequest, domain: str) -> tuple[str, str]:
        """Turn a number in the Request-URI into the SIP identity of its owner; returns identity and domain.

        The HSS of the own network is asked first, then those of the others: the stand-in for ENUM (testbed). Raises
        ``RejectionError`` 404 when nobody has the number.
        """
        impu, target_domain = dialled(request, self._home_domains)
        if not impu.startswith("tel:"):
            return impu, target_domain
        others = sorted(set(await self._neighbours.domains()) | self._home_domains - {domain})
        for candidate in (domain, *others):
            try:
                profile = await self._hss.profile(candidate, impu)
            except RejectionError as refusal:
                if refusal.status != 404:
                    raise
                continue
            sip = next((identity for identity in profile.usable if identity.startswith("sip:")), None)
            if sip is None:
                break
            request.uri = sip
            return sip, sip.rpartition("@")[2]
        raise RejectionError(404, "Number Not Known")

    # terminating leg

    async def _enter_home(self, request: SipRequest) -> Forwarding:
        """A request that came for one of our users; anything else would be relaying for a stranger."""
        _, domain = dialled(request, self._home_domains)
        if domain and domain not in self._home_domains:
            raise RejectionError(403, "Not Relayed For An Unregistered Originator")
        if not domain:
            _, domain = await self._resolve(request, min(self._home_domains))
            if domain not in self._home_domains:
                raise RejectionError(404, "Number Not Known Here")
        return await self._terminate(request, 0)

    async def _terminate(self, request: SipRequest, start: int) -> Forwarding:
        impu, domain = dialled(request, self._home_domains)
        registration = self._location.by_impu(impu)
        if registration is None:
            return await self._terminate_elsewhere(request, impu, domain, start)
        profile = registration.profile
        if impu not in profile.usable:
            raise RejectionError(404, "Identity Not Reachable")
        server = next_server(profile.filter_criteria, request, SessionCase.TERMINATING, start)
        if server is not None:
            return await self._to_server(
                request, server, SessionCase.TERMINATING, impu, self._terminate_onward(request, server)
            )
        request.headers.remove("P-Served-User")
        vector = charging.stamp_request(request, f"{charging.TYPE_1}{domain}", _new_icid)
        groups = tuple(
            tuple(self._target(toward_contact(request, binding)) for binding in group)
            for group in targets_of(registration, self._location.now)
        )
        if not groups:
            raise RejectionError(480, "Not Reachable")
        if self._settings.parallel_fork is False:
            groups = tuple((target,) for group in groups for target in group)
        return Forwarding(groups, callee=profile, term_ioi=domain, vector=vector)

    async def _terminate_elsewhere(self, request: SipRequest, impu: str, domain: str, start: int) -> Forwarding:
        """The user has no registration here: another S-CSCF, services of the unregistered, or 404/480."""
        found = await self._hss.locate(domain, impu)
        if found.flag is Flag.REGISTERED and found.server_name and found.server_name != self._own_uri(""):
            request.headers.prepend("Route", f"<{found.server_name}>")
            return self._forward(request)
        profile = await self._hss.profile(domain, impu)
        if impu not in profile.usable:
            raise RejectionError(404, "Identity Not Reachable")
        case = SessionCase.TERMINATING_UNREGISTERED
        server = next_server(profile.filter_criteria, request, case, start)
        if server is None:
            raise RejectionError(480, "Not Registered")
        return await self._to_server(request, server, case, impu, self._terminate_onward(request, server))

    def _terminate_onward(self, request: SipRequest, server: ServerHop) -> Callable[[], Awaitable[Forwarding]]:
        async def onward() -> Forwarding:
            return await self._terminate(request.copy(), server.index + 1)

        return onward

    # application servers

    async def _to_server(
        self,
        request: SipRequest,
        server: ServerHop,
        case: SessionCase,
        user: str,
        onward: Callable[[], Awaitable[Forwarding]],
    ) -> Forwarding:
        """Send a leg over ISC: the server and then this node, with the original dialog's token, as Route (5.5).

        A server that nobody knows has failed already: default handling (TS 23.218 6.4).
        """
        branch = request.copy()
        uri = await self._servers.route_to(server.server_uri)
        if uri is None:
            if server.terminate_on_failure:
                raise RejectionError(503, "Application Server Not Available")
            return await onward()
        token = self._tokens.handed_out(HandedBack(case, server.index + 1, user))
        branch.headers.set_values("Route", [f"<{uri}>", f"<{self._own_uri(token)}>"])
        branch.headers.set("P-Served-User", f"<{user}>;{case.served_user_parameters}")
        return Forwarding(((self._target(branch),),), server=server, onward=onward)

    async def _go_on(self, request: SipRequest, leg: HandedBack) -> Forwarding:
        """Continue a leg that a server handed back, from the next criterion."""
        request.headers.remove("Route")
        if leg.case in (SessionCase.ORIGINATING, SessionCase.ORIGINATING_UNREGISTERED):
            registration = self._location.by_impu(leg.served_user)
            if registration is not None:
                check_handed_back(request, registration)
            return await self._originate(request, registration, leg.served_user, leg.next_criterion)
        impu, domain = dialled(request, self._home_domains)
        if impu != leg.served_user:
            if domain in self._home_domains:
                return await self._terminate(request, 0)
            raise RejectionError(403, "Retargeting Outside Is Not Allowed")
        return await self._terminate(request, leg.next_criterion)

    # parts

    def _target(self, request: SipRequest) -> Target:
        hop = hop_of(request, self._own.transport)
        return Target(request, hop, self._record_route(request, hop))

    def _record_route(self, request: SipRequest, onward: Hop) -> str:
        if request.method not in DIALOG_FORMING or request.to_tag is not None:
            return ""
        back = way_back(request, self._own.transport)
        ways = [onward] if back is None else [back, onward]
        return self._own_uri(self._tokens.record_route(request.call_id, ways))

    def _forward(
        self, request: SipRequest, *, hop: Hop | None = None, vector: charging.ChargingVector | None = None
    ) -> Forwarding:
        target = self._target(request) if hop is None else Target(request, hop, self._record_route(request, hop))
        return Forwarding(((target,),), vector=vector)


def is_reg_event(request: SipRequest) -> bool:
    """Say whether a request subscribes to the registration event package (RFC 3680 4.1)."""
    event = request.headers.get("Event") or ""
    return request.method == "SUBSCRIBE" and event.partition(";")[0].strip().lower() == "reg"


def assert_twin(message: SipRequest | SipResponse, profile: Profile) -> None:
    """Add the tel identity beside an asserted SIP identity of the same user (RFC 3325 9.1)."""
    twin = tel_twin(asserted_identities(message.headers), profile.usable)
    if twin is not None:
        message.headers.add("P-Asserted-Identity", f"<{twin}>")


def dress_response(response: SipResponse, forwarding: Forwarding, *, add_tel_identity: bool) -> None:
    """What the serving S-CSCF writes into a response on its way back: identity twin and charging identifier."""
    if forwarding.callee is not None and add_tel_identity and 100 < response.status < 300:
        assert_twin(response, forwarding.callee)
    if forwarding.term_ioi and response.status > 100:
        charging.stamp_response(response, forwarding.vector, forwarding.term_ioi)


def _new_icid() -> str:
    return secrets.token_hex(16)
