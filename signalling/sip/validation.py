"""Checks every receiver of a request makes before its own procedures (RFC 3261 8.2, 10.3, 16.3; RFC 4475)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from signalling.sip.grammar import GrammarError, is_token, split_outside
from signalling.sip.headers import parse_name_addr
from signalling.sip.model import SipRequest, SipResponse
from signalling.sip.responses import make_response
from signalling.sip.uri import SipUri, UriError, parse_uri

Role = Literal["uas", "proxy", "registrar"]
SDP_TYPE = "application/sdp"
DEFAULT_BODIES = frozenset({SDP_TYPE, "multipart/mixed", "message/sipfrag", "text/plain", "application/reginfo+xml"})
_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4} "
    r"[0-9]{2}:[0-9]{2}:[0-9]{2} GMT\Z"
)
_CONTROL = re.compile(r"[\x00\r\n]")
_EXEMPT_FROM_REQUIRE = frozenset({"ACK", "CANCEL"})


def check_request(
    request: SipRequest,
    *,
    role: Role,
    methods: Collection[str],
    extensions: Collection[str],
    schemes: Collection[str],
    bodies: Collection[str] = DEFAULT_BODIES,
    domains: Collection[str] = (),
) -> SipResponse | None:
    """Return the refusal of a request this element cannot take, None when it can.

    ``methods`` a UAS or registrar implements, ``extensions`` it (or the proxy) understands, Request-URI ``schemes`` it
    can resolve, media types of ``bodies`` it reads. In the order of RFC 3261 8.2 and 16.3: 416, 483, 420 for a proxy;
    400, 405 or 501, 416, 420, 415, 406 for a user agent or registrar. ACK and CANCEL are never refused for Require.
    ``domains`` a registrar is responsible for: others are answered 404.
    """
    if role == "proxy":
        return _check_for_proxy(request, extensions, schemes)
    malformed = _malformed(request)
    if malformed is not None:
        return _refuse(request, 400, malformed)
    if request.method not in methods:
        allow = ("Allow", ", ".join(methods))
        return make_response(request, 405 if _is_registered_method(request.method) else 501, headers=[allow])
    refusal = _check_scheme(request, schemes) or _check_require(request, "require", extensions)
    if refusal is not None:
        return refusal
    if role == "registrar":
        return _check_register(request, domains)
    return _check_body(request, bodies) or _check_accept(request)


def _is_registered_method(method: str) -> bool:
    return method in {
        *("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "REGISTER", "PRACK"),
        *("UPDATE", "MESSAGE", "SUBSCRIBE", "NOTIFY", "PUBLISH", "REFER", "INFO"),
    }


def _refuse(request: SipRequest, status: int, why: str) -> SipResponse:
    text = "".join(mark if " " <= mark <= "~" and mark not in '"\\' else "?" for mark in why)[:100]
    return make_response(request, status, headers=[("Warning", f'399 imslab "{text}"')])


def _check_for_proxy(request: SipRequest, extensions: Collection[str], schemes: Collection[str]) -> SipResponse | None:
    refusal = _check_scheme(request, schemes)
    if refusal is not None:
        return refusal
    if (request.headers.get("max-forwards") or "").strip("0") == "" and request.headers.get("max-forwards"):
        return make_response(request, 483)
    return _check_require(request, "proxy-require", extensions)


def _check_scheme(request: SipRequest, schemes: Collection[str]) -> SipResponse | None:
    scheme = request.uri.partition(":")[0].lower()
    return None if scheme in schemes else make_response(request, 416)


def _check_require(request: SipRequest, header: str, extensions: Collection[str]) -> SipResponse | None:
    if request.method in _EXEMPT_FROM_REQUIRE:
        return None
    known = {extension.lower() for extension in extensions}
    unknown = [tag for tag in request.headers.values(header) if tag.lower() not in known]
    if not unknown:
        return None
    return make_response(request, 420, headers=[("Unsupported", ", ".join(unknown))])


def _malformed(request: SipRequest) -> str | None:
    """Say what is wrong in the headers an endpoint uses; a proxy leaves them alone (RFC 3261 16.3 step 1)."""
    for one in request.headers:
        if _has_stray_control(one.value):
            return f"control character in {one.name}"
    for name in ("contact", "route", "record-route", "reply-to"):
        for line in request.headers.get_all(name):
            for value in split_outside(line, ","):
                fault = _address_fault(name, value)
                if fault is not None:
                    return fault
    date = request.headers.get("date")
    if date is not None and request.method == "REGISTER" and _DATE.match(date) is None:
        request.headers.remove("date")
    return None


def _has_stray_control(value: str) -> bool:
    """Find NUL, CR or LF that no quoted-pair covers (assumed, PR-7)."""
    return any(match.start() == 0 or value[match.start() - 1] != "\\" for match in _CONTROL.finditer(value))


def _address_fault(name: str, value: str) -> str | None:
    if name == "contact" and value == "*":
        return None
    try:
        parse_name_addr(value)
    except GrammarError as error:
        return f"{name}: {error}"
    return None


def _check_register(request: SipRequest, domains: Collection[str]) -> SipResponse | None:
    """Check what a registrar uses: a SIP or SIPS To (RFC 3261 10.3), a domain it serves, and Contact ``*`` alone."""
    to = request.to.uri
    if not isinstance(to, SipUri):
        return _refuse(request, 400, "To is no SIP URI")
    contacts = request.headers.values("contact")
    if "*" in contacts and (len(contacts) > 1 or (request.headers.get("expires") or "").strip("0") != ""):
        return _refuse(request, 400, "Contact * needs Expires 0 and no other Contact")
    try:
        host = parse_uri(request.uri)
    except UriError as error:
        return _refuse(request, 400, str(error))
    if domains and isinstance(host, SipUri) and host.host.lower() not in domains:
        return make_response(request, 404)
    return None


def _check_body(request: SipRequest, bodies: Collection[str]) -> SipResponse | None:
    """Refuse a body of unknown type or encoding that is not marked optional (RFC 3261 8.2.3)."""
    if not request.body:
        return None
    disposition = request.headers.get("content-disposition") or ""
    optional = "handling=optional" in disposition.replace(" ", "").lower()
    encodings = [one for one in request.headers.values("content-encoding") if one.lower() != "identity"]
    if optional:
        return None
    if encodings:
        return make_response(request, 415, headers=[("Accept-Encoding", "identity")])
    kind = request.content_type
    if kind is None or "/" not in kind or not all(is_token(part) for part in kind.split("/", 1)):
        return _refuse(request, 400, "body without Content-Type")
    if kind not in bodies:
        return make_response(request, 415, headers=[("Accept", ", ".join(sorted(bodies)))])
    return None


def _check_accept(request: SipRequest) -> SipResponse | None:
    """Refuse an INVITE whose Accept leaves no room for SDP (RFC 4475 3.3.15)."""
    if request.method not in ("INVITE", "OPTIONS") or request.headers.get("accept") is None:
        return None
    ranges = {value.partition(";")[0].strip(" \t").lower() for value in request.headers.values("accept")}
    if ranges & {SDP_TYPE, "application/*", "*/*"}:
        return None
    return make_response(request, 406, headers=[("Warning", '399 imslab "no SDP in Accept"')])
