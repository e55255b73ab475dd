"""The headers of digest: challenge, credentials and the server's proof (RFC 7616 3.3 to 3.5, RFC 8760)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from keying.secret import Secret

MAX_HEADER = 8192
"""Longest digest header value that is read, in characters."""

_PARAM = re.compile(r'\s*([!#$%&\'*+\-.0-9A-Z^_`a-z|~]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))\s*(,|$)')
_NC = re.compile(r"[0-9a-fA-F]{8}")


class DigestError(ValueError):
    """A digest header is malformed, or asks for what cannot be computed."""


def parse_digest_params(value: str) -> dict[str, str]:
    """Read the parameters of a ``Digest ...`` header value, names in lower case, quotes and escapes removed.

    Raises DigestError for another scheme, a malformed or a repeated parameter.
    """
    scheme, _, rest = value.strip().partition(" ")
    if len(value) > MAX_HEADER or scheme.lower() != "digest":
        raise DigestError("not a digest header")
    return parse_params(rest)


def parse_params(text: str) -> dict[str, str]:
    """Read a comma list of ``name=value``. Raises DigestError for a malformed or repeated parameter."""
    params: dict[str, str] = {}
    place = 0
    text = text.strip()
    while place < len(text):
        match = _PARAM.match(text, place)
        if match is None or match.end() == place:
            raise DigestError("parameter is malformed")
        name = match[1].lower()
        if name in params:
            raise DigestError("parameter is repeated")
        params[name] = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        place = match.end()
    if text.endswith(","):
        raise DigestError("parameter is missing")
    return params


def _quoted(text: str) -> str:
    if any(ord(char) < 32 for char in text):
        raise DigestError("value cannot be quoted")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _render(pairs: Iterable[tuple[str, str | None, bool]]) -> str:
    return ",".join(f"{name}={_quoted(value) if quote else value}" for name, value, quote in pairs if value is not None)


@dataclass(frozen=True, slots=True)
class DigestChallenge:
    """``WWW-Authenticate`` or ``Proxy-Authenticate`` of the digest scheme (RFC 7616 3.3).

    `ik` and `ck` (hexadecimal, TS 33.203) travel from S-CSCF to P-CSCF alone.
    """

    realm: str
    nonce: str
    algorithm: str | None = None
    qop: tuple[str, ...] = ()
    stale: bool = False
    opaque: str | None = None
    ik: Secret | None = None
    ck: Secret | None = None

    @classmethod
    def parse(cls, value: str) -> "DigestChallenge":
        """Read a header value. Raises DigestError when it is not digest or lacks realm or nonce."""
        params = parse_digest_params(value)
        if "realm" not in params or "nonce" not in params:
            raise DigestError("challenge lacks realm or nonce")
        return cls(
            realm=params["realm"],
            nonce=params["nonce"],
            algorithm=params.get("algorithm"),
            qop=tuple(part.strip().lower() for part in params.get("qop", "").split(",") if part.strip()),
            stale=params.get("stale", "").lower() == "true",
            opaque=params.get("opaque"),
            ik=_key_octets(params.get("ik")),
            ck=_key_octets(params.get("ck")),
        )

    def format(self) -> str:
        """Return the header value, keys included when they are set."""
        pairs = [
            ("realm", self.realm, True),
            ("nonce", self.nonce, True),
            ("algorithm", self.algorithm, False),
            ("qop", ",".join(self.qop) or None, True),
            ("stale", "true" if self.stale else None, False),
            ("opaque", self.opaque, True),
            ("ik", self.ik.reveal().hex() if self.ik else None, True),
            ("ck", self.ck.reveal().hex() if self.ck else None, True),
        ]
        return f"Digest {_render(pairs)}"

    def without_keys(self) -> "DigestChallenge":
        """Return the challenge as it may go to the UE (TS 33.203 6.1.1: IK and CK stay at the P-CSCF)."""
        return DigestChallenge(self.realm, self.nonce, self.algorithm, self.qop, self.stale, self.opaque)


def _key_octets(text: str | None) -> Secret | None:
    if text is None:
        return None
    try:
        return Secret(bytes.fromhex(text))
    except ValueError:
        raise DigestError("IK or CK is not hexadecimal") from None


@dataclass(frozen=True, slots=True)
class DigestCredentials:
    """``Authorization`` or ``Proxy-Authorization`` of the digest scheme (RFC 7616 3.4).

    `response` proves knowledge of the password, so it never shows in repr. `extra` keeps parameters without a field.
    """

    username: str
    realm: str
    uri: str
    nonce: str = ""
    response: Secret = field(default_factory=lambda: Secret(b""))
    algorithm: str | None = None
    qop: str | None = None
    nc: str | None = None
    cnonce: str | None = None
    opaque: str | None = None
    auts: Secret | None = None
    integrity_protected: str | None = None
    extra: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, value: str) -> "DigestCredentials":
        """Read a header value. Raises DigestError when it is not digest or lacks username, realm or uri."""
        params = parse_digest_params(value)
        if not {"username", "realm", "uri"} <= params.keys():
            raise DigestError("credentials lack username, realm or uri")
        known = {name: params.pop(name, None) for name in _CREDENTIAL_NAMES}
        nc = known["nc"]
        if nc is not None and not _NC.fullmatch(nc):
            raise DigestError("nonce count is not eight hexadecimal digits")
        auts = known["auts"]
        return cls(
            username=known["username"] or "",
            realm=known["realm"] or "",
            uri=known["uri"] or "",
            nonce=known["nonce"] or "",
            response=Secret((known["response"] or "").encode()),
            algorithm=known["algorithm"],
            qop=known["qop"].lower() if known["qop"] is not None else None,
            nc=nc,
            cnonce=known["cnonce"],
            opaque=known["opaque"],
            auts=None if auts is None else Secret(auts.encode()),
            integrity_protected=known["integrity-protected"],
            extra=tuple(params.items()),
        )

    def format(self) -> str:
        """Return the header value; algorithm, qop and nc stand without quotes (RFC 7616 3.4)."""
        pairs = [
            ("username", self.username, True),
            ("realm", self.realm, True),
            ("uri", self.uri, True),
            ("nonce", self.nonce, True),
            ("algorithm", self.algorithm, False),
            ("qop", self.qop, False),
            ("nc", self.nc, False),
            ("cnonce", self.cnonce, True),
            ("opaque", self.opaque, True),
            ("response", self.response.reveal().decode("utf-8", "replace"), True),
            ("auts", self.auts.reveal().decode("utf-8", "replace") if self.auts is not None else None, True),
            ("integrity-protected", self.integrity_protected, True),
            *((name, value, True) for name, value in self.extra),
        ]
        return f"Digest {_render(pairs)}"

    @property
    def nonce_count(self) -> int:
        """The nonce count as a number, 0 without one."""
        return int(self.nc, 16) if self.nc else 0


_CREDENTIAL_NAMES = (
    "username",
    "realm",
    "uri",
    "nonce",
    "response",
    "algorithm",
    "qop",
    "nc",
    "cnonce",
    "opaque",
    "auts",
    "integrity-protected",
)


@dataclass(frozen=True, slots=True)
class AuthenticationInfo:
    """``Authentication-Info`` (RFC 7616 3.5)."""

    rspauth: Secret | None = None
    nextnonce: str | None = None
    qop: str | None = None
    cnonce: str | None = None
    nc: str | None = None

    @classmethod
    def parse(cls, value: str) -> "AuthenticationInfo":
        """Read a header value. Raises DigestError."""
        if len(value) > MAX_HEADER:
            raise DigestError("header longer than this side reads")
        params = parse_params(value)
        rspauth = params.get("rspauth")
        proof = None if rspauth is None else Secret(rspauth.encode())
        return cls(proof, params.get("nextnonce"), params.get("qop"), params.get("cnonce"), params.get("nc"))

    def format(self) -> str:
        """Return the header value."""
        proof = self.rspauth.reveal().decode("utf-8", "replace") if self.rspauth is not None else None
        return _render(
            [
                ("qop", self.qop, False),
                ("rspauth", proof, True),
                ("cnonce", self.cnonce, True),
                ("nc", self.nc, False),
                ("nextnonce", self.nextnonce, True),
            ]
        )
