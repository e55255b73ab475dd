"""Public and private identities as the CSCF compares them (TS 23.228 4.3.3, RFC 3261 10.3 step 5, RFC 3966)."""

from __future__ import annotations

from collections.abc import Iterable

from signalling.sip.headers import GrammarError, parse_name_addr
from signalling.sip.message import Headers
from signalling.sip.uri import SipUri, TelUri, Uri, UriError, parse_uri


def canonical(uri: Uri) -> str:
    """The text a public identity is found by: no port, parameters or headers; tel without separators; sips as sip."""
    if isinstance(uri, TelUri):
        return f"tel:{uri.digits}"
    if isinstance(uri, SipUri):
        return "sip:" + uri.address_of_record.partition(":")[2]
    return str(uri)


def canonical_text(uri: str) -> str:
    """``canonical`` of a URI given as text. Raises ``UriError``."""
    return canonical(parse_uri(uri))


def derived_impi(impu: Uri) -> str:
    """The private identity of a UE that sent none: the public one without scheme, port and parameters (SC-2)."""
    return canonical(impu).partition(":")[2]


def telephone_identity(uri: Uri) -> str | None:
    """The tel identity a URI stands for: a tel URI, or a SIP URI with ``user=phone`` and a global number."""
    if isinstance(uri, TelUri):
        return canonical(uri)
    if (
        isinstance(uri, SipUri)
        and (uri.params.get("user") or "").lower() == "phone"
        and (uri.user or "").startswith("+")
    ):
        try:
            number = parse_uri(f"tel:{uri.user}")
        except UriError:
            return None
        return canonical(number)
    return None


def asserted_identities(headers: Headers, name: str = "P-Asserted-Identity") -> list[Uri]:
    """URIs of an identity header, in order; values that do not parse are left out (RFC 3325 9.1)."""
    found: list[Uri] = []
    for value in headers.values(name):
        try:
            found.append(parse_name_addr(value).uri)
        except GrammarError:
            continue
    return found


def tel_twin(identities: Iterable[Uri], known: Iterable[str]) -> str | None:
    """The tel URI to add beside an asserted SIP identity, when the set has one and none is asserted (RFC 3325 9.1).

    ``known`` holds the non-barred identities of the registration set that ``identities`` must belong to.
    """
    known = list(known)
    asserted = list(identities)
    if len(asserted) != 1 or not isinstance(asserted[0], SipUri) or canonical(asserted[0]) not in known:
        return None
    return next((identity for identity in known if identity.startswith("tel:")), None)
