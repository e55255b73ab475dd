"""What is checked on every request of a UE before it means anything (HOP-1..HOP-6, PC-16, 7.1.1-7)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nodes.pcscf import mediasec
from nodes.pcscf.bindings import Registration
from nodes.pcscf.config import RoutePolicy
from nodes.pcscf.dialogs import EdgeDialog, contact_uri
from nodes.pcscf.edge import GM_PROTECTED, Edge
from nodes.pcscf.flowtoken import FlowAddress, ForgedTokenError
from nodes.pcscf.identity import anonymous, assert_identity, clean_from_ue, clean_towards_ue, owner_of
from nodes.pcscf.media_plan import Side
from nodes.pcscf.mediasec import AgreementState, Verify
from nodes.pcscf.rejection import RejectionError
from nodes.pcscf.routing import domain_of, enforce_service_route, is_emergency, take_own_routes
from nodes.pcscf.session import Session
from signalling.secagree import parse_security_header, signalling_entries
from signalling.sip.flow import Flow
from signalling.sip.message import SipRequest, SipResponse

_LENIENT = frozenset({"ACK", "PRACK", "CANCEL"})
"""Methods for which RFC 3329 contradicts itself: Security-Verify is not looked at."""

_RECORDED = frozenset({"INVITE", "SUBSCRIBE", "REFER", "NOTIFY"})
"""Methods that make a dialog, whose responses repeat the Record-Route (RFC 3261 12.1.1)."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request of a UE that passed the first checks."""

    registration: Registration | None
    address: FlowAddress
    tokens: tuple[str, ...]
    """User parts of own URIs in its Route."""
    emergency: bool


class UeRequests:
    """The checks of one edge."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    async def accept(self, request: SipRequest, flow: Flow) -> Arrived:
        """Find out who sent a request, check the agreement, and clean it. Raises RejectionError."""
        address = self._edge.flows.seen(flow)
        emergency = is_emergency(request.uri)
        registration = self._sender(request, flow, address)
        if registration is None and request.to_tag is None and not emergency:
            raise RejectionError(403, "Forbidden")
        mediasec.check_proxy_require(request)
        if registration is not None and request.method not in _LENIENT:
            await self._verify(request, registration)
        mediasec.strip(request)
        clean_from_ue(request)
        taken = take_own_routes(request, self._edge.own)
        if registration is not None and request.to_tag is None:
            self._check_contact(request, registration, flow)
        return Arrived(registration, address, taken.tokens, emergency)

    def _sender(self, request: SipRequest, flow: Flow, address: FlowAddress) -> Registration | None:
        if flow.role == GM_PROTECTED:
            candidates = [
                one
                for one in self._edge.bindings
                if one.association is not None
                and self._edge.bindings.alive(one)
                and (one.association.ue_ip, one.association.ue_port_c) == flow.remote
            ]
        else:
            candidates = [one for one in self._edge.bindings.on_flow(address) if one.association is None]
        return owner_of(request, candidates) if candidates else None

    async def _verify(self, request: SipRequest, registration: Registration) -> None:
        """Compare Security-Verify with the list of the registration; an altered one is answered 494 (PC-16, T1)."""
        verify_list = mediasec.read_list(request, "Security-Verify")
        server = parse_security_header(registration.server) if registration.server else ()
        verify = mediasec.compare(verify_list, server)
        if verify is Verify.EQUAL and registration.agreement.state is AgreementState.ANNOUNCED:
            registration.agreement = replace(registration.agreement, state=AgreementState.CONFIRMED)
            await self._edge.bindings.save(registration)
        omitted = not verify_list and bool(signalling_entries(server))
        foreign = verify is Verify.UNEXPECTED and bool(server)
        if not omitted and not foreign and verify not in (Verify.ALTERED, Verify.MEDIA_ALTERED):
            return
        self._edge.recorder.record(
            "refused",
            call_id=request.call_id,
            mode="mediasec",
            subject=registration.impu,
            reason="Security-Verify is missing" if omitted else "Security-Verify was altered",
            verify=str(verify),
        )
        if omitted or verify is Verify.ALTERED or self._edge.settings.answer_altered_verify_with_494:
            raise mediasec.altered(server)
        registration.agreement = replace(registration.agreement, state=AgreementState.ALTERED)
        await self._edge.bindings.save(registration)

    def _check_contact(self, request: SipRequest, registration: Registration, flow: Flow) -> None:
        """The Contact leads to the registered address or is a GRUU of the home domain (HOP-4)."""
        if not self._edge.settings.check_via_address:
            return
        host = domain_of(contact_uri(request))
        home = domain_of(registration.impu)
        if host and host not in (domain_of(registration.contact), flow.remote[0].lower(), home):
            raise RejectionError(403, "Forbidden")

    def owned_session(self, found: object, request: SipRequest, arrived: Arrived) -> Session:
        """The session of an in-dialog request, when its sender is the UE of that session (HOP-4).

        A UE that lost its connection (restart of either side) goes on over a new one after a REGISTER of its own over
        it; until then it is a stranger there, whatever its address is and whatever tags it knows. The registered
        connection is then the session's. Raises RejectionError 481 or 403.
        """
        if not isinstance(found, Session) or found.dialog_for(request, Side.ACCESS) is None:
            raise RejectionError(481, "Call/Transaction Does Not Exist")
        if arrived.registration is not None and found.registration:
            own = found.registration == arrived.registration.id
        else:
            own = arrived.address == found.flow
        if not own:
            raise RejectionError(403, "Forbidden")
        found.flow = arrived.address
        return found

    def steer(self, dialog: EdgeDialog, request: SipRequest, subject: str) -> None:
        """Send a request of a UE by the route set of its dialog, not by what it wrote (HOP-2, TS 24.229 5.2.6.3).

        Raises RejectionError 400 when policy says so.
        """
        if not dialog.steer(request, Side.CORE):
            return
        if self._edge.settings.route_policy is RoutePolicy.REJECT:
            raise RejectionError(400, "Bad Route")
        self._edge.recorder.record(
            "replaced",
            call_id=request.call_id,
            mode="route",
            subject=subject,
            reason="Route was not the route set of the dialog",
        )

    def on_own_flow(self, session: Session, flow: Flow) -> bool:
        """The ACK came from where the session's UE is."""
        return FlowAddress.of(flow) == session.flow or any(
            one.id == session.registration for one in self._edge.bindings.on_flow(FlowAddress.of(flow))
        )

    def take_routes(self, request: SipRequest) -> tuple[str, ...]:
        """Remove own URIs from the Route of a request; their user parts."""
        return take_own_routes(request, self._edge.own).tokens

    def read_route_token(self, token: str) -> tuple[str, str]:
        """Kind and id a Record-Route of this node names; empty for something else."""
        try:
            kind, _, identifier = self._edge.tokens.open(token, "route").partition("|")
        except ForgedTokenError:
            return "", ""
        return kind, identifier

    def registration_of_path(self, tokens: tuple[str, ...]) -> Registration:
        """The UE a terminating request is for: by the flow token of the Path (PC-5, RFC 5626 5.3.1).

        Raises RejectionError: 403 for a forged or missing token, 430 for a flow that is gone, 480 for a UE that is.
        """
        if not tokens:
            raise RejectionError(403, "Forbidden")
        try:
            identifier, _, flow = self._edge.tokens.open(tokens[-1], "path").partition("|")
        except ForgedTokenError as error:
            raise RejectionError(403, "Forbidden") from error
        registration = self._edge.bindings.get(identifier)
        if registration is None or not self._edge.bindings.alive(registration):
            raise RejectionError(480, "Temporarily Unavailable")
        if registration.flow.text() != flow and registration.association is None:
            raise RejectionError(430, "Flow Failed")
        return registration

    async def prepare_initial(self, request: SipRequest, registration: Registration | None, *, emergency: bool) -> None:
        """Identity and route of a request outside a dialog (HOP-2, HOP-3)."""
        if registration is None:
            anonymous(request)
            request.headers.remove("Route")
            return
        settings = self._edge.settings
        assert_identity(request, registration, reject_unknown=settings.reject_unknown_identity and not emergency)
        changed = enforce_service_route(request, registration.service_route, settings.route_policy)
        if changed:
            self._edge.recorder.record(
                "replaced",
                call_id=request.call_id,
                mode="route",
                subject=registration.impu,
                reason="Route was not the Service-Route",
            )

    def clean_response(
        self, request: SipRequest, response: SipResponse, sender: Side, registration: Registration | None
    ) -> None:
        """A response leaves the side it came from: identity asserted, or what is internal hidden (5.2).

        The Record-Route of a UE's response is what `request` brought to it, not what it made of it (5.2.6.4).
        """
        if sender is Side.CORE:
            clean_towards_ue(response)
            return
        clean_from_ue(response)
        if request.method in _RECORDED and request.to_tag is None and 100 < response.status < 300:
            response.headers.set_values("Record-Route", request.headers.get_all("Record-Route"))
        for name in mediasec.SECURITY_HEADERS:
            response.headers.remove(name)
        if registration is not None and 100 < response.status < 300:
            assert_identity(response, registration, reject_unknown=False)
