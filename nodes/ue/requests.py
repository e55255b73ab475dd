"""The requests of a UE, header by header (TS 24.229 5.1, TS 33.203)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from nodes.ue.registration import Registration
from signalling.aka.digest import DigestCredentials
from signalling.secagree import MechanismEntry, format_entries, signalling_entries
from signalling.sip.grammar import GrammarError, format_host
from signalling.sip.headers import parse_name_addr
from signalling.sip.message import Headers, SipRequest, SipResponse

MMTEL_FEATURE = '+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"'
MMTEL_SERVICE = "urn:urn-7:3gpp-service.ims.icsi.mmtel"
ALLOW = "INVITE, ACK, CANCEL, BYE, PRACK, UPDATE, OPTIONS"
ACCEPT = "application/sdp"
ACCESS_NETWORK = "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010000001"
"""The testbed's one cell."""


@dataclass(frozen=True)
class Identity:
    """Who the UE is on the wire. `contact_port` is where the P-CSCF sends requests when no flow stands."""

    impu: str
    domain: str
    ip: str
    contact_port: int
    transport: str
    user_agent: str
    instance_urn: str

    @property
    def contact_uri(self) -> str:
        """The Contact URI."""
        user = self.impu.partition(":")[2].partition("@")[0]
        tail = "" if self.transport == "UDP" else f";transport={self.transport.lower()}"
        return f"sip:{user}@{format_host(self.ip)}:{self.contact_port}{tail}"

    @property
    def registrar(self) -> str:
        """Request-URI of REGISTER: the home domain without user part."""
        return f"sip:{self.domain}"


@dataclass
class RegisterDialog:
    """Call-ID, From tag and CSeq of one registration; kept for its refreshes (RFC 3261 10.2.4)."""

    call_id: str
    tag: str
    cseq: int = 0

    @classmethod
    def fresh(cls, ip: str) -> RegisterDialog:
        """Begin anew."""
        return cls(f"{secrets.token_hex(12)}@{ip}", secrets.token_hex(8))


def register_request(
    identity: Identity,
    dialog: RegisterDialog,
    credentials: DigestCredentials,
    *,
    expires: int,
    client: tuple[MechanismEntry, ...],
    verify: tuple[MechanismEntry, ...],
    supported: tuple[str, ...] = ("path",),
    protected: bool = False,
) -> SipRequest:
    """Build the next REGISTER of `dialog`; `expires` 0 deregisters (DR-1).

    sec-agree is required exactly when a signalling mechanism is negotiated (RFC 3329 2.3.1, TLS-0 assumed).
    """
    dialog.cseq += 1
    contact = f'<{identity.contact_uri}>;expires={expires};+sip.instance="<{identity.instance_urn}>";{MMTEL_FEATURE}'
    headers = Headers(
        [
            ("Max-Forwards", "70"),
            ("From", f"<{identity.impu}>;tag={dialog.tag}"),
            ("To", f"<{identity.impu}>"),
            ("Call-ID", dialog.call_id),
            ("CSeq", f"{dialog.cseq} REGISTER"),
            ("Contact", contact),
            ("Expires", str(expires)),
            ("Authorization", credentials.format()),
        ]
    )
    agreeing = bool(signalling_entries(client))
    tags = [*supported, "sec-agree"] if agreeing else list(supported)
    if tags:
        headers.add("Supported", ", ".join(tags))
    if agreeing:
        headers.add("Require", "sec-agree")
        headers.add("Proxy-Require", "sec-agree")
    if client:
        headers.add("Security-Client", format_entries(client))
    if verify:
        headers.add("Security-Verify", format_entries(verify))
    if protected:
        headers.add("P-Access-Network-Info", ACCESS_NETWORK)
    headers.add("Allow", ALLOW)
    headers.add("User-Agent", identity.user_agent)
    return SipRequest("REGISTER", identity.registrar, headers)


def agreement_headers(registration: Registration) -> list[tuple[str, str]]:
    """Return Security-Verify, and sec-agree where the signalling plane negotiated, for a later request (7.1.1-6)."""
    verify = registration.verify_entries()
    headers = [("Security-Verify", format_entries(verify))] if verify else []
    if signalling_entries(registration.server_list):
        headers += [("Require", "sec-agree"), ("Proxy-Require", "sec-agree")]
    return headers


def initial_headers(
    identity: Identity,
    registration: Registration,
    route: tuple[str, ...],
    target: str,
    call_id: str,
    *,
    preferred_identity: str = "",
    privacy: str = "",
) -> Headers:
    """Return the headers of a request outside any dialog but CSeq, Contact and body (RFC 3261 8.1.1)."""
    own = preferred_identity or (registration.associated[0] if registration.associated else identity.impu)
    headers = Headers([("Max-Forwards", "70")])
    for value in (*route, *registration.service_route):
        headers.add("Route", value)
    headers.add("From", f"<{identity.impu}>;tag={secrets.token_hex(8)}")
    headers.add("To", f"<{target}>")
    headers.add("Call-ID", call_id)
    headers.add("P-Preferred-Identity", f"<{own}>")
    headers.add("P-Access-Network-Info", ACCESS_NETWORK)
    if privacy:
        headers.add("Privacy", privacy)
    for name, value in agreement_headers(registration):
        headers.add(name, value)
    headers.add("User-Agent", identity.user_agent)
    return headers


def invite_headers(identity: Identity, *, reliable: str) -> list[tuple[str, str]]:
    """Return what an INVITE has beyond :func:`initial_headers`."""
    headers = [
        ("Contact", f"<{identity.contact_uri}>;{MMTEL_FEATURE}"),
        ("Accept", ACCEPT),
        ("Allow", ALLOW),
        ("Accept-Contact", f"*;{MMTEL_FEATURE}"),
        ("P-Preferred-Service", MMTEL_SERVICE),
        ("P-Early-Media", "supported"),
    ]
    if reliable == "require":
        headers.append(("Require", "100rel"))
    if reliable != "off":
        headers.append(("Supported", "100rel"))
    return headers


def uris_in(values: Iterable[str]) -> tuple[str, ...]:
    """Return the URIs of name-addr values (RFC 3261 20.10); what cannot be read is left out."""
    found = []
    for value in values:
        try:
            found.append(str(parse_name_addr(value).uri))
        except GrammarError:
            continue
    return tuple(found)


def told_reason(response: SipResponse) -> str:
    """Return the reason of a response with its warnings (RFC 3261 20.43)."""
    warnings = ", ".join(response.headers.values("Warning"))
    return f"{response.reason} ({warnings})" if warnings else response.reason
