"""HTTP digest as SIP and IMS AKA use it (RFC 7616, RFC 8760, RFC 3310, RFC 4169, TS 33.203 Annex N and X)."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence

from keying.secret import Secret
from signalling.aka.digest_headers import AuthenticationInfo, DigestChallenge, DigestCredentials, DigestError

ALGORITHMS: dict[str, str] = {
    "MD5": "md5",
    "SHA-256": "sha256",
    "SHA-512-256": "sha512_256",
    "AKAv1-MD5": "md5",
    "AKAv2-MD5": "md5",
    "AKAv2-SHA-256": "sha256",
}
"""Algorithm name to hash (RFC 8760 2.1, RFC 3310 3.1, RFC 4169 2.1, TS 33.203 Annex X)."""
AKA_ALGORITHMS = ("AKAv2-SHA-256", "AKAv2-MD5", "AKAv1-MD5")
"""The AKA ones, best first (RFC 4169 4.1: version 2 before version 1)."""
__all__ = [
    "AKA_ALGORITHMS",
    "ALGORITHMS",
    "AuthenticationInfo",
    "DigestChallenge",
    "DigestCredentials",
    "DigestError",
    "aka_password",
    "akav2_password",
    "answer_challenge",
    "canonical_algorithm",
    "choose_challenge",
    "compute_ha1",
    "compute_response",
    "compute_rspauth",
    "is_aka",
    "server_proved",
    "verify",
]

AKAV2_PASSWORD_LABEL = b"http-digest-akav2-password"


def canonical_algorithm(name: str | None) -> str | None:
    """Return the registered spelling of an algorithm name, MD5 for none, None for an unknown one (RFC 3310 3.1)."""
    if name is None:
        return "MD5"
    return next((known for known in ALGORITHMS if known.lower() == name.lower()), None)


def is_aka(algorithm: str | None) -> bool:
    """Tell whether the algorithm takes its password from AKA."""
    return canonical_algorithm(algorithm) in AKA_ALGORITHMS


def _hash_of(algorithm: str) -> Callable[[bytes], str]:
    name = canonical_algorithm(algorithm)
    if name is None:
        raise DigestError("digest algorithm is unknown")
    # MD5 stays because AKAv1-MD5 and older digest clients are defined with it (RFC 3310).
    return lambda octets: hashlib.new(ALGORITHMS[name], octets, usedforsecurity=False).hexdigest()


def akav2_password(res: Secret, ik: Secret, ck: Secret, algorithm: str = "AKAv2-SHA-256") -> Secret:
    """Return the AKAv2 password, base64 of a keyed hash over a fixed label (RFC 4169 2.1).

    The hash is that of `algorithm`, for AKAv2-SHA-256 by the general rule there. Raises DigestError for others.
    """
    name = canonical_algorithm(algorithm)
    if name is None or not name.startswith("AKAv2-"):
        raise DigestError("not an AKAv2 algorithm")
    key = res.joined(ik, ck).reveal()
    return Secret(base64.b64encode(hmac.digest(key, AKAV2_PASSWORD_LABEL, ALGORITHMS[name])))


def aka_password(algorithm: str, res: Secret, ik: Secret, ck: Secret) -> Secret:
    """Return the password that goes with an AKA algorithm: RES itself (RFC 3310 3.3) or the AKAv2 one."""
    name = canonical_algorithm(algorithm)
    if name not in AKA_ALGORITHMS:
        raise DigestError("not an AKA algorithm")
    return res if name == "AKAv1-MD5" else akav2_password(res, ik, ck, name)


def compute_ha1(algorithm: str, username: str, realm: str, password: Secret) -> Secret:
    """Return HA1 as lower-case hexadecimal text (RFC 7616 3.4.2). A password is taken as raw octets (RFC 4169 3)."""
    octets = b":".join((username.encode(), realm.encode(), password.reveal()))
    return Secret(_hash_of(algorithm)(octets).encode("ascii"))


def compute_response(
    *,
    algorithm: str,
    username: str,
    realm: str,
    password: Secret | None = None,
    ha1: Secret | None = None,
    method: str,
    uri: str,
    nonce: str,
    qop: str | None = None,
    nc: str = "",
    cnonce: str = "",
    body: bytes = b"",
) -> str:
    """Return the ``response`` value, lower-case hexadecimal (RFC 7616 3.4.1, without qop RFC 2617 3.2.2.1).

    Either `password` or a stored `ha1` is given. ``rspauth`` is the same with an empty `method` (RFC 2617 3.2.3).
    Raises DigestError for an unknown algorithm or qop.
    """
    digest = _hash_of(algorithm)
    if ha1 is None:
        if password is None:
            raise DigestError("neither password nor HA1 given")
        ha1 = compute_ha1(algorithm, username, realm, password)
    a2 = f"{method}:{uri}"
    if qop == "auth-int":
        a2 += f":{digest(body)}"
    elif qop not in {None, "auth"}:
        raise DigestError("quality of protection is unknown")
    middle = [nonce] if qop is None else [nonce, nc, cnonce, qop]
    return digest(b":".join((ha1.reveal(), *(part.encode() for part in (*middle, digest(a2.encode()))))))


def choose_challenge(values: Sequence[str], supported: Sequence[str]) -> DigestChallenge | None:
    """Return the challenge to answer: the topmost supported one, AKAv2 before AKAv1 (RFC 8760 2.4, RFC 4169 4.1).

    Other schemes, unknown algorithms and malformed challenges are passed over; None when nothing is left.
    """
    found: list[DigestChallenge] = []
    for value in values:
        try:
            challenge = DigestChallenge.parse(value)
        except DigestError:
            continue
        if canonical_algorithm(challenge.algorithm) in supported:
            found.append(challenge)
    aka = [challenge for challenge in found if is_aka(challenge.algorithm)]
    if len(aka) > 1:
        return min(aka, key=lambda challenge: AKA_ALGORITHMS.index(canonical_algorithm(challenge.algorithm) or ""))
    return found[0] if found else None


def answer_challenge(
    challenge: DigestChallenge,
    *,
    username: str,
    password: Secret,
    method: str,
    uri: str,
    cnonce: str,
    nc: int = 1,
    body: bytes = b"",
    auts: bytes | None = None,
) -> DigestCredentials:
    """Return the credentials for a challenge; with `auts` (14 octets) pass an empty password (RFC 3310 3.4).

    qop ``auth`` is taken when offered, else ``auth-int``, else none (RFC 7616 3.4). Raises DigestError for an unknown
    algorithm or when only unknown qops are offered.
    """
    algorithm = canonical_algorithm(challenge.algorithm)
    if algorithm is None:
        raise DigestError("digest algorithm is unknown")
    qop = next((known for known in ("auth", "auth-int") if known in challenge.qop), None)
    if qop is None and challenge.qop:
        raise DigestError("quality of protection is unknown")
    count = f"{nc:08x}"
    response = compute_response(
        algorithm=algorithm,
        username=username,
        realm=challenge.realm,
        password=password,
        method=method,
        uri=uri,
        nonce=challenge.nonce,
        qop=qop,
        nc=count,
        cnonce=cnonce,
        body=body,
    )
    return DigestCredentials(
        username=username,
        realm=challenge.realm,
        uri=uri,
        nonce=challenge.nonce,
        response=Secret(response.encode()),
        algorithm=challenge.algorithm,
        qop=qop,
        nc=count if qop else None,
        cnonce=cnonce if qop else None,
        opaque=challenge.opaque,
        auts=None if auts is None else Secret(base64.b64encode(auts)),
    )


def verify(
    credentials: DigestCredentials,
    *,
    algorithm: str,
    method: str,
    password: Secret | None = None,
    ha1: Secret | None = None,
    body: bytes = b"",
) -> bool:
    """Tell, in constant time, whether `credentials` prove the password under the `algorithm` that was challenged.

    Nonce and nonce count are the business of :class:`signalling.aka.nonces.NonceBook`; a client that names another
    algorithm than the challenge fails (RFC 7616 3.4).
    """
    if canonical_algorithm(credentials.algorithm) != canonical_algorithm(algorithm):
        return False
    try:
        expected = compute_response(
            algorithm=algorithm,
            username=credentials.username,
            realm=credentials.realm,
            password=password,
            ha1=ha1,
            method=method,
            uri=credentials.uri,
            nonce=credentials.nonce,
            qop=credentials.qop,
            nc=credentials.nc or "",
            cnonce=credentials.cnonce or "",
            body=body,
        )
    except DigestError:
        return False
    return Secret(expected.encode()) == credentials.response


def compute_rspauth(
    credentials: DigestCredentials,
    *,
    algorithm: str,
    password: Secret | None = None,
    ha1: Secret | None = None,
    body: bytes = b"",
) -> str:
    """Return ``rspauth``, with which the server proves the same password (RFC 7616 3.5, RFC 3310 3.5)."""
    return compute_response(
        algorithm=algorithm,
        username=credentials.username,
        realm=credentials.realm,
        password=password,
        ha1=ha1,
        method="",
        uri=credentials.uri,
        nonce=credentials.nonce,
        qop=credentials.qop,
        nc=credentials.nc or "",
        cnonce=credentials.cnonce or "",
        body=body,
    )


def server_proved(
    info: AuthenticationInfo,
    credentials: DigestCredentials,
    *,
    algorithm: str,
    password: Secret,
    body: bytes = b"",
) -> bool:
    """Tell whether the server proved the password to the sender of `credentials` (rspauth of the same cnonce)."""
    if info.rspauth is None or (credentials.qop is not None and info.cnonce not in {None, credentials.cnonce}):
        return False
    expected = compute_rspauth(credentials, algorithm=algorithm, password=password, body=body)
    return Secret(expected.encode()) == info.rspauth
