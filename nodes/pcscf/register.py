"""REGISTER at the access edge: what is checked, what goes on to the core, what comes back (PC-1..PC-18; 3.3-3.9)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nodes.pcscf import mediasec, satable
from nodes.pcscf.bindings import Bindings, Registration
from nodes.pcscf.config import MediaPolicy, PcscfSettings
from nodes.pcscf.flowtoken import FlowAddress, FlowTokens
from nodes.pcscf.mediasec import Agreement, Verify
from nodes.pcscf.pending import Procedure, Procedures
from nodes.pcscf.rejection import RejectionError
from nodes.pcscf.satable import SaTable, SecurityAssociation
from nodes.pcscf.scheme import Scheme, Standing, choose_scheme, credentials_of, integrity_flag, vouch
from nodes.pcscf.trust import hide_from_ue, take_from_ue
from signalling.secagree import MechanismEntry, format_entries, parse_security_header, same_list, signalling_entries
from signalling.sip.flow import Flow
from signalling.sip.headers import Credentials, GrammarError, NameAddr, parse_challenge, parse_name_addr
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.uri import SipUri, UriError, parse_uri

DEFAULT_EXPIRES_S: Final = 3600
CORE_SESSIONS: Final = "P-Imslab-Max-Sessions"
"""Header by which the S-CSCF may tell how many sessions a subscriber may have at once; Mw only (testbed)."""
CORE_POLICY: Final = "P-Imslab-Media-Security"
"""Header by which the S-CSCF may tell a subscriber's policy in a 200 to REGISTER; Mw only (testbed)."""


@dataclass(frozen=True, slots=True)
class EdgePorts:
    """Protected ports of this node for ipsec-3gpp; 0: not offered."""

    client: int = 0
    server: int = 0


@dataclass(slots=True)
class RegisterAttempt:
    """One REGISTER on its way to the core, and what is to be done with the answer."""

    registration: Registration
    procedure: Procedure
    client: tuple[MechanismEntry, ...]
    server: tuple[MechanismEntry, ...]
    """The list this node announces with the answer."""
    verify: Verify
    scheme: Scheme
    response_given: bool
    flag: str | None
    icid: str
    encrypted: bool
    flow: FlowAddress
    wildcard: bool
    call_id: str
    impu: str
    contact: str
    traced: bool = False
    association: SecurityAssociation | None = None
    """The SA the REGISTER came under."""


@dataclass(frozen=True, slots=True)
class RegisterOutcome:
    """What an answer from the core changed."""

    registered: bool = False
    removed: tuple[Registration, ...] = ()
    agreement: Agreement | None = None


class RegisterEdge:
    """The registration procedures of one P-CSCF. `now`: seconds since the epoch; `policy`: media policy of an IMPU."""

    def __init__(
        self,
        settings: PcscfSettings,
        bindings: Bindings,
        tokens: FlowTokens,
        associations: SaTable,
        *,
        network: str,
        now: Callable[[], float],
        policy: Callable[[str], MediaPolicy],
    ) -> None:
        self._settings = settings
        self._bindings = bindings
        self._tokens = tokens
        self._sas = associations
        self._network = network
        self._now = now
        self._policy = policy
        self.procedures = Procedures(now, self._given_up)
        self.ports = EdgePorts()
        self.path_uri = "sip:127.0.0.1"
        """URI of this node in Path, without user part."""

    # -- towards the core ---------------------------------------------------------------------------------------------

    def accept(self, request: SipRequest, flow: Flow, *, under_sa: bool) -> RegisterAttempt:
        """Check a REGISTER of a UE and turn `request` into what goes to the core.

        Raises RejectionError with the answer of PC-7: 400, 403, 420, 421, 494, 502.
        """
        mediasec.check_first_hop(request)
        mediasec.check_proxy_require(request)
        client = mediasec.read_list(request, "Security-Client")
        verify_list = mediasec.read_list(request, "Security-Verify")
        credentials = _credentials(request)
        impu = _address_of_record(request)
        impi = (credentials.get("username") if credentials else None) or impu.partition(":")[2]
        contact, instance, wildcard = _contact(request)
        ipsec = self._settings.ipsec_enabled and bool(self.ports.server)
        scheme = choose_scheme(client, credentials, flow.transport, ipsec=ipsec)
        encrypted = flow.transport == "TLS"
        server_media = mediasec.own_media_entries(
            self._settings.mediasec_mechanisms,
            client,
            gm_encrypted=encrypted,
            policy=self._policy(impu),
            on_clear_gm=self._settings.announce_on_clear_gm,
            unsolicited=self._settings.announce_unsolicited,
        )
        address = FlowAddress.of(flow)
        held = self._held_association(flow, impi) if under_sa else None
        generic = self._signalling_entries(scheme, None) + list(server_media)
        mediasec.check_present(request, generic, required=self._settings.require_security_client)
        if self._settings.require_path_support and not request.supports("path"):
            raise RejectionError(421, "Extension Required", [("Require", "path")])
        registration = self._record(request.call_id, impi, impu, contact, instance, address, scheme)
        self._check_user(address, flow, impi)
        response_given = bool(credentials and (credentials.get("response") or credentials.get("auts")))
        proves = under_sa or bool(credentials and credentials.get("response") and not credentials.get("auts"))
        running = self.procedures.find(impi, address.remote[0], request.call_id)
        procedure, server, verify = self._verify(
            running, registration, request, client, verify_list, server_media, must_verify=proves
        )
        standing = self._standing(registration, procedure, address, held, response=response_given)
        flag = integrity_flag(scheme, standing, response=response_given)
        attempt = RegisterAttempt(
            registration, procedure, client, tuple(server), verify, scheme, response_given, flag,
            icid=secrets.token_hex(12), encrypted=encrypted, flow=address, wildcard=wildcard, call_id=request.call_id,
            impu=impu, contact=contact, association=held,
        )  # fmt: skip
        self._towards_core(request, attempt)
        return attempt

    def _record(
        self, call_id: str, impi: str, impu: str, contact: str, instance: str, flow: FlowAddress, scheme: Scheme
    ) -> Registration:
        found = self._bindings.of_device(call_id, impi, contact, instance)
        if found is None and not contact:  # `Contact: *` under a new Call-ID names no device: the one it came from
            found = next((one for one in self._bindings.on_flow(flow) if one.impi == impi), None)
        return found or Registration(impi, impu, contact, instance, flow, scheme, call_id=call_id)

    def _check_user(self, address: FlowAddress, flow: Flow, impi: str) -> None:
        """A TLS session or SA belongs to one user (PC-18, TLS-4): somebody else on it is answered 403."""
        if flow.transport == "TLS":
            others = [one for one in self._bindings.on_flow(address) if one.impi != impi]
            if others:
                raise RejectionError(403, "Forbidden")

    def _held_association(self, flow: Flow, impi: str) -> SecurityAssociation:
        row = self._sas.find(*flow.remote)
        if row is None:
            raise RejectionError(0, "no security association")  # dropped silently (PC-14)
        if row.impi != impi:
            raise RejectionError(403, "Forbidden")
        return row

    def _verify(
        self,
        running: Procedure | None,
        registration: Registration,
        request: SipRequest,
        client: Sequence[MechanismEntry],
        verify_list: Sequence[MechanismEntry],
        server_media: Sequence[MechanismEntry],
        *,
        must_verify: bool,
    ) -> tuple[Procedure, Sequence[MechanismEntry], Verify]:
        """Compare Security-Verify and Security-Client with what was said before (PC-15, PC-16).

        `running`: the challenged procedure the request belongs to.
        `must_verify`: the request proves the user or comes under a security association. When a signalling mechanism
        was agreed, leaving Security-Verify out of it is no way around the comparison (RFC 3329 2.3.1).
        """
        known = running.server if running else registration.server
        expected = parse_security_header(known) if known else ()
        verify = mediasec.compare(verify_list, expected)
        if must_verify and not verify_list and signalling_entries(expected):
            raise mediasec.altered(expected)
        if verify in (Verify.ALTERED, Verify.MEDIA_ALTERED, Verify.UNEXPECTED):
            correct = expected or tuple(server_media)
            signalling = verify is Verify.ALTERED and bool(signalling_entries(expected))
            if correct and (signalling or self._settings.answer_altered_verify_with_494):
                raise mediasec.altered(correct)
        if running is not None and running.challenged and verify is Verify.EQUAL:
            before = parse_security_header(running.client) if running.client else ()
            if not same_list(before, client):
                raise mediasec.altered(expected)
        if running is not None:
            return running, expected, verify
        procedure = Procedure(
            request.call_id,
            client=format_entries(client),
            expires_at=self._now() + self._settings.pending_registration_s,
        )
        return procedure, tuple(server_media), verify

    def _given_up(self, procedure: Procedure) -> None:
        """A procedure ended: what was temporary goes with it; `drop` leaves an association alone that is lasting."""
        if procedure.association is not None:
            self._sas.drop(procedure.association)

    def _standing(
        self,
        registration: Registration,
        procedure: Procedure,
        address: FlowAddress,
        held: SecurityAssociation | None,
        *,
        response: bool,
    ) -> Standing:
        expected = procedure.association if response else registration.association
        under_sa = held is not None and expected is not None and held.spi_s == expected.spi_s
        bound = registration.registered and self._bindings.alive(registration) and registration.flow == address
        return Standing(under_sa=under_sa, tls=address.transport == "TLS", bound=bound)

    def _signalling_entries(self, scheme: Scheme, association: SecurityAssociation | None) -> list[MechanismEntry]:
        if scheme is Scheme.AKA_IPSEC:
            return satable.server_entries(self._settings.ipsec_algorithms, association)
        if scheme is Scheme.DIGEST_TLS_AGREED:
            return [MechanismEntry("tls", (("q", "0.9"),))]
        return []

    def _towards_core(self, request: SipRequest, attempt: RegisterAttempt) -> None:
        vouch(request, attempt.flag)
        mediasec.strip(request)
        take_from_ue(request)
        drop_network_provided(request)
        if "Max-Forwards" not in request.headers:
            request.headers.set("Max-Forwards", "70")
        token = self._tokens.seal(f"{attempt.registration.id}|{attempt.flow.text()}", "path")
        request.headers.prepend("Path", f"<{with_user(self.path_uri, token)};lr>")
        tags = request.headers.values("Require")
        if "path" not in [tag.lower() for tag in tags]:
            request.headers.set("Require", ", ".join([*tags, "path"]))
        request.headers.set("P-Visited-Network-ID", f'"{self._network}"')
        request.headers.set("P-Charging-Vector", charging_vector(attempt.icid, self._network))

    # -- towards the UE -----------------------------------------------------------------------------------------------

    async def answered(self, attempt: RegisterAttempt, response: SipResponse) -> RegisterOutcome:
        """Take an answer of the core and turn `response` into what the UE gets (PC-8..PC-13, 3.5).

        Raises RejectionError instead when the challenge cannot be passed on (E-11, E-22).
        """
        told_policy = response_policy(response) if self._settings.accept_core_policy else ""
        told_sessions = response_sessions(response)
        hide_from_ue(response)
        self._advise_keep_alive(response)
        if response.status == 401:
            self._challenged(attempt, response)
            return RegisterOutcome()
        if 200 <= response.status < 300:
            return await self._succeeded(attempt, response, told_policy, told_sessions)
        if response.status >= 300:
            self._end(attempt)
        return RegisterOutcome()

    def _challenged(self, attempt: RegisterAttempt, response: SipResponse) -> None:
        strip_session_keys(response)
        procedure = Procedure(
            attempt.call_id,
            client=format_entries(attempt.client),
            challenged=True,
            expires_at=self._now() + self._settings.pending_registration_s,
        )
        if attempt.scheme is Scheme.AKA_IPSEC:
            procedure.association = self._new_association(attempt)
        media = [entry for entry in attempt.server if entry.is_media]
        entries = [*self._signalling_entries(attempt.scheme, procedure.association), *media]
        if entries:
            procedure.server = format_entries(entries)
            response.headers.set("Security-Server", procedure.server)
        self.procedures.put(attempt.registration.impi, attempt.flow.remote[0], procedure)

    def _new_association(self, attempt: RegisterAttempt) -> SecurityAssociation:
        proposal = satable.read_proposal(attempt.client)
        algorithm = None
        if proposal is not None:
            algorithm = satable.select_algorithm(
                self._settings.ipsec_algorithms, proposal, allow_null=self._settings.ipsec_allow_null_encryption
            )
        if proposal is None or algorithm is None:
            raise mediasec.altered([*self._signalling_entries(attempt.scheme, None), *attempt.server])
        return self._sas.create(
            attempt.registration.impi,
            attempt.flow.remote[0],
            proposal,
            algorithm,
            (self.ports.client, self.ports.server),
            self._settings.pending_registration_s,
        )

    async def _succeeded(
        self, attempt: RegisterAttempt, response: SipResponse, told_policy: str, told_sessions: int
    ) -> RegisterOutcome:
        registration = attempt.registration
        if not attempt.contact and not attempt.wildcard:
            return RegisterOutcome()  # a query for the bindings changes none
        expires = granted_expires(response, attempt.contact)
        if attempt.wildcard or expires == 0:
            return await self._deregistered(attempt)
        challenged = attempt.procedure.challenged
        if not challenged:
            server = attempt.server
            if server and attempt.verify is not Verify.EQUAL:
                response.headers.set("Security-Server", format_entries(server))
        else:
            server = tuple(parse_security_header(attempt.procedure.server)) if attempt.procedure.server else ()
        registration.agreement = mediasec.agreement_after(
            attempt.client, server, attempt.verify, challenged=challenged or attempt.verify is not Verify.ABSENT
        )
        registration.server = format_entries(server)
        registration.flow = attempt.flow
        registration.scheme = attempt.scheme
        registration.impu = attempt.impu
        registration.contact = attempt.contact
        registration.call_id = attempt.call_id
        registration.encrypted = attempt.encrypted
        registration.traced = attempt.traced
        registration.icid = attempt.icid
        registration.expires_at = self._now() + expires
        registration.identities = associated_identities(response)
        registration.service_route = tuple(response.headers.values("Service-Route"))
        registration.core_policy = told_policy
        registration.core_sessions = told_sessions
        self._promote(attempt, registration, expires)
        self._end(attempt)
        await self._drop_twins(registration)
        await self._bindings.save(registration)
        return RegisterOutcome(registered=True, agreement=registration.agreement)

    def _promote(self, attempt: RegisterAttempt, registration: Registration, expires: int) -> None:
        """The SA of the procedure becomes the one of the registration; lifetimes never decrease (3.5)."""
        new = attempt.procedure.association or registration.association
        if attempt.scheme is not Scheme.AKA_IPSEC or new is None:
            return
        until = max(new.expires_at, self._now() + expires + 30)
        old = registration.association
        self._sas.drop(new)
        lasting = SecurityAssociation(**{**new.to_dict(), "expires_at": until, "temporary": False})  # type: ignore[arg-type]
        if old is not None and old.spi_s != new.spi_s:
            self._sas.drop(old)
        self._sas.put(lasting)
        registration.association = lasting

    async def _drop_twins(self, registration: Registration) -> None:
        """One device has one record: an older one of the same user and contact goes."""
        for other in self._bindings.of_impi(registration.impi):
            same_device = (registration.instance and other.instance == registration.instance) or (
                other.contact == registration.contact
            )
            if other.id != registration.id and same_device:
                await self._bindings.remove(other)

    async def _deregistered(self, attempt: RegisterAttempt) -> RegisterOutcome:
        """One binding ended, or with `Contact: *` all that the identity has here (RFC 3261 10.2.2)."""
        self._end(attempt)
        ended = [attempt.registration]
        if attempt.wildcard:
            of_user = self._bindings.of_impi(attempt.registration.impi)
            same_set = [one for one in of_user if attempt.impu in (one.impu, *one.identities)]
            ended += [one for one in same_set if one is not attempt.registration]
        for one in ended:
            if one.association:
                self._sas.drop(one.association)
            await self._bindings.remove(one)
        return RegisterOutcome(removed=tuple(ended))

    def _end(self, attempt: RegisterAttempt) -> None:
        """Delete what was temporary; a registration that exists stays (E-1, 3.13)."""
        self.procedures.drop(attempt.registration.impi, attempt.flow.remote[0], attempt.call_id)

    def _advise_keep_alive(self, response: SipResponse) -> None:
        """Put a value into the UE's `keep` (RFC 6223 4.4): the response has the UE's Via on top."""
        if not 200 <= response.status < 300:
            return
        via = response.top_via
        if via.params.get("keep", "") is None:
            value = str(via).replace(";keep", f";keep={self._settings.keep_alive_s}", 1)
            response.headers.remove_first_value("Via")
            response.headers.prepend("Via", value)


# -- small parts, also used by the session edge -----------------------------------------------------------------------


def with_user(uri: str, user: str) -> str:
    """`sip:host` with a user part."""
    scheme, _, rest = uri.partition(":")
    return f"{scheme}:{user}@{rest}"


def charging_vector(icid: str, network: str) -> str:
    """A P-Charging-Vector of this edge; type 1 orig-ioi (PC-6)."""
    return f'icid-value="{icid}";orig-ioi="Type 1{network}"'


def drop_network_provided(request: SipRequest) -> None:
    """Take out P-Access-Network-Info values that only the network may say (HOP-5, RFC 7315 4.4.2)."""
    values = request.headers.values("P-Access-Network-Info")
    kept = [value for value in values if "network-provided" not in value.lower()]
    if len(kept) == len(values):
        return
    if kept:
        request.headers.set("P-Access-Network-Info", ", ".join(kept))
    else:
        request.headers.remove("P-Access-Network-Info")


def strip_session_keys(response: SipResponse) -> None:
    """Take ik and ck out of every challenge; without SA backend they are not kept either (PC-8, T8)."""
    for name in ("WWW-Authenticate", "Proxy-Authenticate"):
        values = []
        for value in response.headers.get_all(name):
            try:
                challenge = parse_challenge(value)
            except GrammarError:
                continue
            kept = {key: text for key, text in challenge.params.items() if key.lower() not in ("ik", "ck")}
            if len(kept) != len(challenge.params):
                challenge.params = kept
                values.append(str(challenge))
            else:
                values.append(value)
        if values:
            response.headers.set_values(name, values)
        else:
            response.headers.remove(name)


def response_policy(response: SipResponse) -> str:
    """The subscriber's policy an S-CSCF told, before the header is hidden."""
    value = (response.headers.get(CORE_POLICY) or "").strip().lower()
    return value if value in set(MediaPolicy) else ""


def response_sessions(response: SipResponse) -> int:
    """The number of sessions an S-CSCF allows, before the header is hidden; 0: it named none."""
    value = (response.headers.get(CORE_SESSIONS) or "").strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 9 else 0


def associated_identities(response: SipResponse) -> tuple[str, ...]:
    """The URIs of P-Associated-URI, default first (3.5)."""
    found: list[str] = []
    for value in response.headers.values("P-Associated-URI"):
        try:
            found.append(str(parse_name_addr(value).uri))
        except GrammarError:
            continue
    return tuple(found)


def granted_expires(response: SipResponse, contact: str) -> int:
    """Seconds granted for `contact` in a 200: its `expires`, else Expires; 0 when the contact is not listed."""
    values = response.headers.values("Contact")
    if not values:
        return 0
    fallback = _seconds(response.headers.get("Expires"), DEFAULT_EXPIRES_S)
    for value in values:
        try:
            address = parse_name_addr(value)
        except GrammarError:
            continue
        if _same_contact(str(address.uri), contact):
            return _seconds(address.params.get("expires"), fallback)
    return 0


def _same_contact(one: str, other: str) -> bool:
    try:
        left, right = parse_uri(one), parse_uri(other)
    except UriError:
        return one == other
    return one == other or (isinstance(left, SipUri) and left.equivalent(right))


def _seconds(text: str | None, default: int) -> int:
    value = (text or "").strip()
    return min(int(value), 2**31) if value.isascii() and value.isdigit() and len(value) < 12 else default


def _credentials(request: SipRequest) -> Credentials | None:
    """The Digest credentials for the registrar's domain; others are taken out of the request.

    The S-CSCF looks at no others, so a user name among them would make this node and that one think of two users.
    """
    try:
        credentials = credentials_of(request)
    except GrammarError as error:
        raise RejectionError(400, "Bad Authorization") from error
    if credentials is None:
        return None
    if credentials.scheme.lower() == "digest" and (credentials.get("realm") or "").lower() == _domain(request):
        return credentials
    request.headers.remove("Authorization")
    return None


def _domain(request: SipRequest) -> str:
    """The home domain a REGISTER is for."""
    try:
        uri = parse_uri(request.uri)
    except UriError as error:
        raise RejectionError(400, "Bad Request-URI") from error
    return uri.host.lower() if isinstance(uri, SipUri) else ""


def _address_of_record(request: SipRequest) -> str:
    try:
        uri = request.to.uri
    except GrammarError as error:
        raise RejectionError(400, "Bad To") from error
    return uri.address_of_record if isinstance(uri, SipUri) else str(uri)


def _contact(request: SipRequest) -> tuple[str, str, bool]:
    """Contact URI, instance and whether it is `*`. The first binding names the device."""
    values = request.headers.values("Contact")
    if not values:
        return "", "", False
    if values[0].strip() == "*":
        return "", "", True
    try:
        address: NameAddr = parse_name_addr(values[0])
    except GrammarError as error:
        raise RejectionError(400, "Bad Contact") from error
    return str(address.uri), (address.params.get("+sip.instance") or "").strip('"'), False
