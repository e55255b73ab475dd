"""What an application server reads and answers on ISC (TS 23.218 9, TS 24.229 5.7, RFC 5502)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from signalling.sip.headers import GrammarError, parse_name_addr
from signalling.sip.message import SipRequest
from signalling.sip.uri import SipUri, TelUri, Uri, UriError, parse_uri

SERVED_USER = "P-Served-User"


class SessionCase(Enum):
    """Whose leg a request is on: that of the calling or of the called user."""

    ORIGINATING = "orig"
    TERMINATING = "term"


@dataclass(frozen=True)
class ServedUser:
    """The user whose service profile brought a request to the server (RFC 5502 6)."""

    uri: str
    """Public identity."""
    case: SessionCase
    registered: bool = True


@dataclass(frozen=True)
class Refusal:
    """The final answer of a server that lets a request go no further: SIP status (300 to 699), reason, headers.

    Raises ``ValueError`` for another status, and for text that would not stay in its line.
    """

    status: int
    reason: str | None = None
    """The phrase of the status when None."""
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not 300 <= self.status <= 699:
            raise ValueError(f"{self.status} is no final answer that refuses")
        texts = [self.reason or "", *(part for header in self.headers for part in header)]
        if any(not text.isprintable() for text in texts):
            raise ValueError("a control character in the answer")


def served_user(request: SipRequest) -> ServedUser | None:
    """Return whose leg a request on ISC is on; None when it does not say so, or says it in another way."""
    text = request.headers.first_value(SERVED_USER)
    if text is None:
        return None
    try:
        address = parse_name_addr(text)
        case = SessionCase((address.params.get("sescase") or "").lower())
    except (GrammarError, ValueError):
        return None
    registered = (address.params.get("regstate") or "").lower()
    if registered not in {"reg", "unreg"}:
        return None
    return ServedUser(str(address.uri), case, registered == "reg")


def asserted_identities(request: SipRequest) -> tuple[str, ...]:
    """Return who a request comes from, as the trust domain asserts it (RFC 3325 9.1).

    ``sip:user@domain`` without port and parameters, ``tel:+15550100`` without separators; what does not parse is left
    out.
    """
    found = []
    for value in request.headers.values("P-Asserted-Identity"):
        try:
            found.append(identity_of(parse_name_addr(value).uri))
        except GrammarError:
            continue
    return tuple(found)


def dialled(request: SipRequest) -> str:
    """Return whom a request is for, in the form of :func:`asserted_identities`; empty for a Request-URI in no form."""
    try:
        return identity_of(parse_uri(request.uri))
    except UriError:
        return ""


def identity_of(uri: Uri) -> str:
    """Return the public identity that a URI names: no port, parameters or headers, ``sips`` as ``sip``."""
    if isinstance(uri, TelUri):
        return f"tel:{uri.digits}"
    if isinstance(uri, SipUri):
        return "sip:" + uri.address_of_record.partition(":")[2]
    return str(uri)
