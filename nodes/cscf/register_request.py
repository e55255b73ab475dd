"""What a REGISTER asks for, read and checked before any authentication (RFC 3261 10.3, RFC 3327 5.3, RFC 5626 6)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from nodes.cscf.charging import HEADER as CHARGING_VECTOR
from nodes.cscf.charging import parse_charging_vector
from nodes.cscf.config import CscfSettings
from nodes.cscf.identities import canonical, derived_impi
from nodes.cscf.registration import Parameters
from nodes.cscf.rejection import RejectionError
from signalling.aka.digest import DigestCredentials, DigestError
from signalling.sip.grammar import unquote
from signalling.sip.headers import GrammarError, NameAddr, parse_name_addr
from signalling.sip.message import SipRequest
from signalling.sip.uri import SipUri, UriError, parse_uri

SUPPORTED_OPTIONS = frozenset({"path", "outbound"})
"""Option tags of Require that the registrar understands."""
ONE_HOUR = 3600
MAX_DELTA = 2**32 - 1


@dataclass(frozen=True)
class ContactUpdate:
    """One Contact of a REGISTER: its URI, header parameters but for ``expires``, and the seconds asked for."""

    uri: SipUri
    params: Parameters
    expires: int
    q: float
    instance_id: str
    reg_id: int | None


@dataclass(frozen=True)
class RegisterRequest:
    """A REGISTER in the registrar's terms; identities are canonical.

    ``outbound`` tells whether the answer requires it (RFC 5626 6); ``credentials`` is the Digest header meant for
    this home domain, if any; ``brought_by`` is the NF instance id of the neighbour, "" without a certificate.
    """

    domain: str
    impi: str
    impu: str
    call_id: str
    cseq: int
    contacts: tuple[ContactUpdate, ...]
    wildcard: bool
    path: tuple[str, ...]
    path_supported: bool
    outbound: bool
    credentials: DigestCredentials | None
    request_uri: str
    icid: str
    orig_ioi: str
    visited_network: str
    brought_by: str = ""

    @property
    def deregisters(self) -> bool:
        """True when nothing but removals is asked for."""
        return self.wildcard or (bool(self.contacts) and all(contact.expires == 0 for contact in self.contacts))

    @property
    def flag(self) -> str:
        """Value of ``integrity-protected``, which the P-CSCF alone writes; "" without."""
        return ((self.credentials and self.credentials.integrity_protected) or "").lower()

    @property
    def algorithm(self) -> str:
        """Digest algorithm the UE named; "" without."""
        return (self.credentials and self.credentials.algorithm) or ""


def read_register(
    request: SipRequest, home_domains: Collection[str], settings: CscfSettings, brought_by: str = ""
) -> RegisterRequest:
    """Read a REGISTER whose syntax was checked, as the neighbour with that NF instance id brought it.

    Raises ``RejectionError``: 404 for a domain not served, 416 for a Request-URI that is no SIP URI, 420 for an unknown
    option (E-13), 400 for contacts that do not make sense, 423 (E-14), 439 (E-15).
    """
    domain = registrar_domain(request, home_domains)
    check_required_options(request, SUPPORTED_OPTIONS)
    address = _address_of_record(request)
    credentials = _credentials(request, domain)
    impi = credentials.username if credentials else ""
    contacts, wildcard = _contacts(request, settings)
    supported = _options(request, "Supported")
    path = tuple(request.headers.values("Path"))
    if len(path) > settings.max_path:
        raise RejectionError(400, "Too Many Path Entries")
    contacts, outbound = _outbound(contacts, path, "outbound" in supported)
    vector = parse_charging_vector(request.headers.get(CHARGING_VECTOR))
    call_id = request.call_id
    return RegisterRequest(
        domain=domain,
        impi=impi or derived_impi(address),
        impu=canonical(address),
        call_id=call_id,
        cseq=request.cseq[0],
        contacts=contacts,
        wildcard=wildcard,
        path=path,
        path_supported="path" in supported,
        outbound=outbound,
        credentials=credentials,
        request_uri=str(request.uri),
        icid=vector.icid if vector else "",
        orig_ioi=vector.orig_ioi if vector else "",
        visited_network=unquote(request.headers.get("P-Visited-Network-ID") or ""),
        brought_by=brought_by,
    )


def registrar_domain(request: SipRequest, domains: Collection[str]) -> str:
    """The home domain a REGISTER is for. Raises ``RejectionError`` 416 or, when it is none of ``domains``, 404."""
    try:
        uri = parse_uri(request.uri)
    except UriError:
        raise RejectionError(400, "Bad Request-URI") from None
    if not isinstance(uri, SipUri):
        raise RejectionError(416, "Unsupported URI Scheme")
    host = uri.host.lower()
    if host not in domains:
        raise RejectionError(404, "Domain Not Served")
    return host


def check_required_options(request: SipRequest, understood: Collection[str], header: str = "Require") -> None:
    """Answer 420 with Unsupported when an option tag is not understood (E-13, RFC 3261 8.2.2.3, 16.3)."""
    unknown = [tag for tag in request.headers.values(header) if tag.lower() not in understood]
    if unknown:
        raise RejectionError(420, "Bad Extension", [("Unsupported", ", ".join(unknown))])


def _options(request: SipRequest, header: str) -> frozenset[str]:
    return frozenset(tag.lower() for tag in request.headers.values(header))


def _address_of_record(request: SipRequest) -> SipUri:
    try:
        return request.to.sip_uri
    except GrammarError:
        raise RejectionError(400, "To Is Not A SIP URI") from None


def _credentials(request: SipRequest, domain: str) -> DigestCredentials | None:
    """The Digest credentials for this home domain. Raises ``RejectionError`` 400 for malformed ones and for several.

    The P-CSCF vouches for one header; a second one, of whatever realm, could only say what it did not read (T7).
    """
    values = request.headers.get_all("Authorization")
    if len(values) > 1:
        raise RejectionError(400, "Several Authorizations")
    if not values or values[0].split(" ", 1)[0].lower() != "digest":
        return None
    try:
        credentials = DigestCredentials.parse(values[0])
    except DigestError:
        raise RejectionError(400, "Malformed Authorization") from None
    return credentials if credentials.realm.lower() == domain else None


def _contacts(request: SipRequest, settings: CscfSettings) -> tuple[tuple[ContactUpdate, ...], bool]:
    values = request.headers.values("Contact")
    header_expires = _delta(request.headers.get("Expires"), settings.default_expires)
    if "*" in values:
        if len(values) > 1 or header_expires != 0 or request.headers.get("Expires") is None:
            raise RejectionError(400, "Contact * Needs Expires 0 And No Other Contact")
        return (), True
    return tuple(_contact(value, header_expires, settings) for value in values), False


def _contact(value: str, header_expires: int, settings: CscfSettings) -> ContactUpdate:
    try:
        address = parse_name_addr(value)
        uri = address.sip_uri
    except GrammarError:
        raise RejectionError(400, "Malformed Contact") from None
    asked = header_expires
    if "expires" in address.params:
        asked = _delta(address.params["expires"], settings.default_expires)
    if 0 < asked < min(settings.min_expires, ONE_HOUR):
        raise RejectionError(423, "Interval Too Brief", [("Min-Expires", str(settings.min_expires))])
    return ContactUpdate(
        uri=uri,
        params=tuple((name, text) for name, text in address.params.items() if name != "expires"),
        expires=min(asked, settings.max_expires),
        q=_preference(address),
        instance_id=unquote(address.params.get("+sip.instance") or "").strip("<>").lower(),
        reg_id=_reg_id(address),
    )


def _delta(text: str | None, default: int) -> int:
    """Seconds of an Expires value; one that is malformed or too large counts as the default (RFC 3261 20.19)."""
    if text is None:
        return default
    text = text.strip()
    if not text.isascii() or not text.isdigit():
        return default
    return min(int(text[:11]), MAX_DELTA)


def _preference(address: NameAddr) -> float:
    try:
        q = float(address.params.get("q") or "1")
    except ValueError:
        return 1.0
    return q if 0.0 <= q <= 1.0 else 1.0


def _reg_id(address: NameAddr) -> int | None:
    text = address.params.get("reg-id")
    if text is None or not text.isascii() or not text.isdigit():
        return None
    value = int(text[:11])
    return value if 1 <= value < 2**31 else None


def _outbound(
    contacts: tuple[ContactUpdate, ...], path: tuple[str, ...], supported: bool
) -> tuple[tuple[ContactUpdate, ...], bool]:
    """Apply RFC 5626 6: whether reg-id counts, 439 when the first hop cannot do outbound, 400 for two live contacts."""
    with_reg_id = [contact for contact in contacts if contact.reg_id is not None]
    if not with_reg_id:
        return contacts, False
    if not _first_hop_does_outbound(path):
        if supported:
            raise RejectionError(439, "First Hop Lacks Outbound Support")
        return tuple(_without_reg_id(contact) for contact in contacts), False
    if sum(contact.expires > 0 for contact in contacts) > 1:
        raise RejectionError(400, "Several Live Contacts With Reg-Id")
    kept = tuple(contact if contact.instance_id else _without_reg_id(contact) for contact in contacts)
    return kept, supported and any(contact.reg_id is not None for contact in kept)


def _first_hop_does_outbound(path: tuple[str, ...]) -> bool:
    """The Path URI nearest the UE, the bottom one, carries ``ob`` (RFC 5626 5.1: the first hop writes it first)."""
    if not path:
        return False
    try:
        return "ob" in parse_name_addr(path[-1]).sip_uri.params
    except GrammarError:
        return False


def _without_reg_id(contact: ContactUpdate) -> ContactUpdate:
    return replace(contact, reg_id=None)
