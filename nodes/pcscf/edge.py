"""What the procedures of one P-CSCF share: stack, tables, addresses, ways to UEs and into the core."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from keying.sdes import SdesPolicy
from nodes.pcscf.admission import Admission
from nodes.pcscf.bindings import Bindings, Registration
from nodes.pcscf.config import MediaPolicy, PcscfSettings
from nodes.pcscf.decisions import DecisionRecorder
from nodes.pcscf.flowtoken import FlowAddress, FlowTokens
from nodes.pcscf.iq import IqClient
from nodes.pcscf.media_plan import AlgPolicy, Side
from nodes.pcscf.rejection import RejectionError
from nodes.pcscf.routing import OwnAddresses, OwnUri, domain_of, hop_of, next_hop
from nodes.pcscf.session import Sessions
from nodes.siptrace import SipTracer
from signalling.sip.flow import Flow, Hop
from signalling.sip.headers import parse_name_addr
from signalling.sip.message import SipRequest
from signalling.sip.stack import SipStack
from signalling.sip.uri import parse_sip_uri

GM: Final = "gm"
GM_PROTECTED: Final = "gm-sa"
MW: Final = "mw"
UE_ROLES: Final = frozenset({GM, GM_PROTECTED})


class LiveFlows:
    """Connections to UEs that are open now, by address and connection."""

    def __init__(self) -> None:
        self._flows: dict[FlowAddress, Flow] = {}

    def seen(self, flow: Flow) -> FlowAddress:
        """Note a flow a request came over."""
        address = FlowAddress.of(flow)
        if flow.reliable:
            self._flows[address] = flow
        return address

    def open(self, address: FlowAddress) -> Flow | None:
        """The connection of an address while it stands; None for UDP."""
        return self._flows.get(address)

    def closed(self, flow: Flow) -> None:
        """Forget a connection."""
        self._flows.pop(FlowAddress.of(flow), None)

    def hop(self, address: FlowAddress) -> Hop:
        """The hop over a flow. Raises RejectionError 430 for a connection that is gone (RFC 5626 5.3.1)."""
        if address.transport == "UDP":
            return Hop("UDP", *address.remote)
        flow = self._flows.get(address)
        if flow is None:
            raise RejectionError(430, "Flow Failed")
        return Hop.over(flow)


@dataclass(slots=True)
class Edge:
    """The shared parts. `core_entry` finds the I-CSCF of a home domain."""

    node: str
    domain: str
    network: str
    settings: PcscfSettings
    stack: SipStack
    bindings: Bindings
    sessions: Sessions
    tokens: FlowTokens
    iq: IqClient
    recorder: DecisionRecorder
    tracer: SipTracer
    now: Callable[[], float]
    core_entry: Callable[[str], Awaitable[Hop]]
    own: OwnAddresses = field(default_factory=lambda: OwnAddresses(()))
    mw: OwnUri = field(default_factory=lambda: OwnUri("TLS", "127.0.0.1", 5061))
    flows: LiveFlows = field(default_factory=LiveFlows)
    admission: Admission = field(init=False)
    media_addresses: dict[Side, str] = field(default_factory=dict)
    entries: set[Hop] = field(default_factory=set)
    """Entries of home domains found at the NRF."""
    sealed: frozenset[str] = frozenset()
    """SDP attributes of the security modes that the lab enables."""

    def __post_init__(self) -> None:
        self.admission = Admission(self.settings, self.sessions, self.node)

    @property
    def mw_encrypted(self) -> bool:
        """The hop into the core is encrypted and authenticated."""
        return self.mw.transport == "TLS"

    def media_policy(self, impu: str, told: str = "") -> MediaPolicy:
        """The policy that holds for a subscriber: by IMPU, by domain, else what S-CSCF and access say together (ID-6).

        Required by one of the two is required, so that neither weakens the other; off comes next.
        """
        by_subscriber = self.settings.e2ae_by_subscriber
        for name in (impu, domain_of(impu)):
            if name in by_subscriber:
                return by_subscriber[name]
        stated = {self.settings.e2ae, MediaPolicy(told) if told else self.settings.e2ae}
        order = (MediaPolicy.REQUIRED, MediaPolicy.OFF, MediaPolicy.PREFERRED)
        return next(policy for policy in order if policy in stated)

    def alg_policy(
        self, registration: Registration | None, *, encrypted: bool, emergency: bool, flow: FlowAddress
    ) -> AlgPolicy:
        """Everything an SDP decision depends on, as it stands now."""
        settings = self.settings
        policy = settings.e2ae
        if registration is not None:
            policy = self.media_policy(registration.impu, registration.core_policy)
        return AlgPolicy(
            e2ae=policy,
            agreed=registration is not None and registration.agreement.agreed(),
            gm_encrypted=encrypted,
            mw_encrypted=self.mw_encrypted,
            unannounced=settings.e2ae_unannounced,
            accept_osrtp_shape=settings.accept_osrtp_shape,
            e2e_sdes=settings.e2e_sdes,
            e2e_on_clear_hop=settings.e2e_sdes_on_clear_hop,
            sdes=SdesPolicy(suites=settings.accepted_suites),
            offer_suites=settings.suites,
            rekey_on_reoffer=settings.rekey_on_reoffer,
            emergency=emergency,
            max_lines=settings.max_media_lines,
            sealed=self.sealed,
            ue_ip="" if settings.trust_media_address else (registration.flow if registration else flow).remote[0],
        )

    @staticmethod
    def ue_role(registration: Registration | None) -> str:
        """Role of the listener a UE is reached from."""
        return GM_PROTECTED if registration is not None and registration.association is not None else GM

    def towards_core(
        self, request: SipRequest, registration: Registration | None, *, stored_route: bool = False
    ) -> Hop:
        """The hop of a request into the core; nothing a UE wrote opens a connection to anybody else (HOP-2, T7).

        `stored_route`: the core itself wrote the Route, in the Record-Route of the dialog. Raises RejectionError 403.
        """
        hop = next_hop(request, self.mw.transport)
        trusted = stored_route and "Route" in request.headers
        if hop.transport != self.mw.transport or not (
            trusted or (hop.host.lower(), hop.port) in self._near(registration)
        ):
            raise RejectionError(403, "Forbidden")
        return hop

    def _near(self, registration: Registration | None) -> set[tuple[str, int]]:
        """The neighbours on Mw: the S-CSCF of the user, configured and discovered entries of home domains."""
        routes = registration.service_route if registration is not None else ()
        uris = [parse_name_addr(route).sip_uri for route in routes]
        uris += [parse_sip_uri(route) for route in self.settings.core_routes.values()]
        hops = [hop_of(uri, self.mw.transport) for uri in uris]
        return {(hop.host.lower(), hop.port) for hop in [*hops, *self.entries]}

    def towards_ue(self, registration: Registration) -> tuple[Hop, str]:
        """Hop and role towards a UE. Raises RejectionError 430."""
        association = registration.association
        if association is not None:
            flow = registration.flow
            return Hop(flow.transport, association.ue_ip, association.ue_port_s), GM_PROTECTED
        return self.flows.hop(registration.flow), GM
