"""Every check on a request before anything looks at what it wants. A request that fails one is answered and forgotten.

Against whom: a page of another origin in the same browser (Host, Origin, Sec-Fetch-Site, no CORS, a header that needs
it), a name of its own that it lets point to 127.0.0.1 (Host), another user of the machine (token, session halves), and
whoever makes the browser guess at the port.
"""

from __future__ import annotations

from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from typing import Final

from lab.console.access import Access, AccessError
from lab.console.answers import Problem
from nodes.httpmessage import HttpRequest

PAGE_KEY_FIELD: Final = "X-Imslab"
_SECRET_NAMES: Final = frozenset({"token", "access_token", "page_key", "key", "session"})
_OWN_SITES: Final = frozenset({"same-origin", "none"})
_BEARER: Final = "bearer "


def check_target(request: HttpRequest) -> str:
    """Return the path as it was sent. Raises ``Problem`` for one that is no path, and for secrets in the query.

    A query ends up in histories and logs; a token in one is refused even when it is right.
    """
    path, mark, _ = request.target.partition("?")
    if not path.startswith("/") or "\\" in path or not path.isascii() or not path.isprintable():
        raise Problem(400, "BAD_REQUEST", "the target of the request is no path")
    query = request.query
    if mark and not query:
        raise Problem(400, "BAD_REQUEST", "the query is not readable")
    if _SECRET_NAMES & {name.lower() for name in query}:
        raise Problem(400, "BAD_REQUEST", "a secret has no place in a query; it goes into a header")
    return path


def check_host(request: HttpRequest, hosts: Collection[str]) -> str:
    """Return the Host. Raises ``Problem`` 421 for a name the console does not go by (DNS rebinding)."""
    named = request.headers_named("Host")
    host = named[0].strip().lower() if len(named) == 1 else ""
    if host not in hosts:
        raise Problem(421, "FOREIGN_HOST", "the console does not go by this name")
    return host


def check_origin(request: HttpRequest, host: str, *, page: bool) -> None:
    """Raises ``Problem`` 403 for a request that a page of another origin made.

    ``page`` is for what a link may lead to: the page itself, which shows nothing without a session.
    """
    origins = request.headers_named("Origin")
    if origins and [origin.lower() for origin in origins] != [f"http://{host}"]:
        raise Problem(403, "FOREIGN_ORIGIN", "a page of another origin may not use the console")
    site = request.header("Sec-Fetch-Site")
    if site is None or site in _OWN_SITES:
        return
    if not page or request.header("Sec-Fetch-Mode") != "navigate":
        raise Problem(403, "FOREIGN_ORIGIN", "a page of another origin may not use the console")


def bearer(request: HttpRequest) -> str | None:
    """Return the token of an ``Authorization: Bearer``, ``None`` without one."""
    given = request.headers_named("Authorization")
    if len(given) != 1 or given[0][: len(_BEARER)].lower() != _BEARER:
        return None
    return given[0][len(_BEARER) :].strip()


def cookie(request: HttpRequest, name: str) -> str | None:
    """Return the cookie of that name, ``None`` without it or when it is there twice."""
    found = []
    for line in request.headers_named("Cookie"):
        for part in line.split(";"):
            try:
                pair = SimpleCookie(part.strip()).get(name)
            except CookieError:
                continue
            if pair is not None:
                found.append(pair.value)
    return found[0] if len(found) == 1 else None


def check_access(request: HttpRequest, access: Access, cookie_name: str) -> float | None:
    """Return the seconds the session has left, ``None`` for a program with the token. Raises ``Problem`` 401 or 429."""
    token = bearer(request)
    try:
        if token is not None:
            access.check_token(token)
            return None
        return access.check_session(cookie(request, cookie_name) or "", request.header(PAGE_KEY_FIELD) or "")
    except AccessError as refused:
        raise refusal(refused) from None


def check_token_alone(request: HttpRequest, access: Access) -> None:
    """Raises ``Problem`` unless the request brings the token as a program does: not for pages."""
    token = bearer(request)
    if token is None:
        raise refusal(AccessError())
    try:
        access.check_token(token)
    except AccessError as refused:
        raise refusal(refused) from None


def refusal(refused: AccessError) -> Problem:
    """Return the answer to somebody who may not come in."""
    if refused.retry_after_s:
        return Problem(
            429,
            "TOO_MANY_TRIES",
            f"too many wrong tokens; try again in {refused.retry_after_s} s",
            (("Retry-After", str(refused.retry_after_s)),),
        )
    return Problem(
        401,
        "NO_SESSION",
        "no session; open the console with the link that imslab console prints",
        (("WWW-Authenticate", 'Bearer realm="imslab console"'),),
    )
