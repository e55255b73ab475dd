"""Challenges and credentials of the authentication headers as scheme plus parameters (RFC 3261 25.1, RFC 7616 3).

What the parameters mean is :mod:`signalling.aka.digest`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from signalling.sip.grammar import GrammarError, is_token, quote, quoted_string_end, split_outside, unquote

_BARE = frozenset({"algorithm", "stale", "qop", "nc"})
"""Parameters written without quotes; qop is bare in credentials and quoted in challenges."""


@dataclass(slots=True)
class _Auth:
    """Scheme and parameters: lower-case names, values without their quotes, in the order they came."""

    scheme: str = "Digest"
    params: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        """Return a parameter by lower-case name."""
        return self.params.get(name)


class Challenge(_Auth):
    """WWW-Authenticate or Proxy-Authenticate."""

    def __str__(self) -> str:
        return format_auth(self.scheme, self.params, bare=_BARE - {"qop"})


class Credentials(_Auth):
    """Authorization or Proxy-Authorization."""

    def __str__(self) -> str:
        return format_auth(self.scheme, self.params, bare=_BARE)

    def __repr__(self) -> str:
        return f"<Credentials {self.scheme}>"


def parse_auth_params(text: str) -> dict[str, str]:
    """Parse ``name=value, name="value"``; GrammarError when malformed or a name comes twice."""
    params: dict[str, str] = {}
    for piece in split_outside(text, ","):
        if not piece:
            continue
        name, equals, value = piece.partition("=")
        name = name.strip(" \t").lower()
        value = value.strip(" \t")
        if not equals or not is_token(name):
            raise GrammarError("malformed authentication parameter")
        if name in params:
            raise GrammarError(f"authentication parameter {name[:40]!r} given twice")
        if value.startswith('"'):
            if quoted_string_end(value, 0) != len(value):
                raise GrammarError("text after a quoted authentication parameter")
            value = unquote(value)
        elif not value or '"' in value:
            raise GrammarError("malformed authentication parameter value")
        params[name] = value
    return params


def format_auth(scheme: str, params: dict[str, str], *, bare: frozenset[str] = _BARE) -> str:
    """Write a challenge or credentials; every value is quoted but tokens of the parameters named in ``bare``.

    A value that came in quotes may hold a comma: written bare it would become a parameter of its own.
    """
    texts = (f"{name}={value if name in bare and is_token(value) else quote(value)}" for name, value in params.items())
    return f"{scheme} " + ", ".join(texts)


def _split_scheme(text: str) -> tuple[str, str]:
    scheme, _, rest = text.strip(" \t").partition(" ")
    if not is_token(scheme):
        raise GrammarError("malformed authentication scheme")
    return scheme, rest


def parse_challenge(text: str) -> Challenge:
    """Parse a WWW-Authenticate or Proxy-Authenticate value."""
    scheme, rest = _split_scheme(text)
    return Challenge(scheme, parse_auth_params(rest))


def parse_credentials(text: str) -> Credentials:
    """Parse an Authorization or Proxy-Authorization value."""
    scheme, rest = _split_scheme(text)
    return Credentials(scheme, parse_auth_params(rest))
