"""Authentication of a REGISTER: choice of scheme, the challenge, and the judgement of the answer (SC-1, SC-6, SC-8).

TS 33.203 6.1, P.4.2, Annex N and X; RFC 3310, RFC 4169, RFC 8760.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from keying.secret import Secret
from nodes.cscf.hss import AkaVector, DigestVector
from nodes.cscf.rejection import RejectionError
from signalling.aka.digest import (
    AuthenticationInfo,
    DigestChallenge,
    DigestCredentials,
    aka_password,
    canonical_algorithm,
    compute_rspauth,
    verify,
)
from signalling.aka.nonces import NonceBook, NonceVerdict
from signalling.aka.vectors import MacFailure, format_nonce, parse_auts

QOP = ("auth",)
NONCE_OCTETS = 18


class Scheme(Enum):
    """How a user proves who he is; the value is kept with the registration."""

    AKA = "aka"
    """AKAv1-MD5 under IPsec: IK and CK go to the P-CSCF."""
    AKA_TLS = "aka-tls"
    """AKAv2-SHA-256 over TLS; no keys leave (DG-4)."""
    AKA_OPEN = "aka-open"
    """AKAv1-MD5 with neither SA nor AKAv2: nothing protects the signalling, so it is flagged (testbed)."""
    DIGEST = "digest"
    """SIP digest, for clients without a SIM."""
    TRUSTED = "auth-done"
    """A trusted node authenticated the user."""


ALGORITHM = {Scheme.AKA: "AKAv1-MD5", Scheme.AKA_OPEN: "AKAv1-MD5", Scheme.AKA_TLS: "AKAv2-SHA-256"}
PROTECTED = frozenset({"yes", "no"})
"""Values of integrity-protected that mean IMS AKA with a security association (TS 33.203 P.4.2)."""


class Verdict(Enum):
    """What the credentials of a REGISTER are worth."""

    GOOD = "good"
    WRONG = "wrong"
    STALE = "stale"
    NO_MATCH = "no-match"
    SYNCHRONISATION = "synchronisation"
    CHALLENGE_REFUSED = "challenge-refused"


@dataclass(frozen=True)
class Challenge:
    """An AKA challenge that waits for its answer; ``deadline`` in seconds of the node's clock (reg-await-auth)."""

    scheme: Scheme
    impi: str
    impu: str
    call_id: str
    realm: str
    nonce: str
    rand: bytes
    password: Secret
    deadline: float
    refused: int = 0


@dataclass(frozen=True)
class Issued:
    """WWW-Authenticate values to send, best first, and the AKA challenge to remember (None for digest)."""

    values: tuple[str, ...] = field(repr=False)
    challenge: Challenge | None = field(default=None, repr=False)


def select_scheme(flag: str, algorithm: str, vector: AkaVector | DigestVector, *, allow_open: bool) -> Scheme:
    """Choose the scheme by the P-CSCF's flag; without one the HSS decides (SC-1, TS 33.203 P.4.2).

    Raises ``RejectionError`` 403 when flag and subscription do not go together.
    """
    is_aka = isinstance(vector, AkaVector)
    if flag in PROTECTED:
        wanted = Scheme.AKA
    elif flag == "tls-connected" and canonical_algorithm(algorithm or None) == "AKAv2-SHA-256":
        wanted = Scheme.AKA_TLS
    elif not is_aka:
        return Scheme.DIGEST
    else:
        wanted = Scheme.AKA_OPEN
    if not is_aka or (wanted is Scheme.AKA_OPEN and not allow_open):
        raise RejectionError(403, "Authentication Scheme Not Allowed")
    return wanted


def scheme_proved(challenged: Scheme, flag: str, *, allow_open: bool) -> Scheme | None:
    """The scheme a right answer with this flag proves; None when the answer cannot belong to the challenge.

    An answer to an AKAv1 challenge that the P-CSCF does not vouch for ("no", or no flag) proves the user but protects
    nothing: it counts as ``AKA_OPEN`` where that is allowed (testbed), else as no answer (PC-17).
    """
    if challenged is Scheme.AKA_TLS:
        return challenged if flag == "tls-connected" else None
    if flag == "yes":
        return challenged if challenged is Scheme.AKA else None
    if flag == "tls-connected" and challenged is Scheme.AKA:
        return None
    return Scheme.AKA_OPEN if allow_open else None


def same_family(one: str, other: str) -> bool:
    """Say whether two schemes (by value) may follow each other in one registration (SC-1)."""
    first_version = {Scheme.AKA.value, Scheme.AKA_OPEN.value}
    return one == other or {one, other} == first_version


def challenge_aka(
    scheme: Scheme, vector: AkaVector, impi: str, impu: str, realm: str, call_id: str, deadline: float, refused: int = 0
) -> Issued:
    """Build the 401 for an AKA user; IK and CK are in it for ``Scheme.AKA`` alone (SC-6, DG-4)."""
    algorithm = ALGORITHM[scheme]
    nonce = format_nonce(vector.rand, vector.autn)
    with_keys = scheme is Scheme.AKA
    header = DigestChallenge(
        realm=realm,
        nonce=nonce,
        algorithm=algorithm,
        qop=QOP,
        ik=vector.ik if with_keys else None,
        ck=vector.ck if with_keys else None,
    )
    password = aka_password(algorithm, vector.xres, vector.ik, vector.ck)
    challenge = Challenge(scheme, impi, impu, call_id, realm, nonce, vector.rand, password, deadline, refused)
    return Issued((header.format(),), challenge)


def challenge_digest(realm: str, algorithms: Sequence[str], nonces: NonceBook, *, stale: bool = False) -> Issued:
    """Build the 401 for a digest user: one challenge per algorithm, best first, all with one fresh nonce (DG-7)."""
    nonce = base64.b64encode(secrets.token_bytes(NONCE_OCTETS)).decode()
    nonces.issue(nonce)
    return Issued(
        tuple(DigestChallenge(realm, nonce, algorithm, QOP, stale).format() for algorithm in algorithms),
    )


def judge_aka(
    challenge: Challenge | None, credentials: DigestCredentials, call_id: str, method: str, now: float
) -> Verdict:
    """Judge the answer to an AKA challenge (SC-8, E-1, E-4, E-5, E-8); the answered nonce is not accepted again."""
    if challenge is None or now >= challenge.deadline or credentials.nonce != challenge.nonce:
        return Verdict.NO_MATCH
    if call_id != challenge.call_id or credentials.username != challenge.impi:
        return Verdict.NO_MATCH
    if credentials.auts is not None:
        return Verdict.SYNCHRONISATION
    if len(credentials.response) == 0:
        return Verdict.CHALLENGE_REFUSED
    algorithm = ALGORITHM[challenge.scheme]
    if verify(credentials, algorithm=algorithm, method=method, password=challenge.password):
        return Verdict.GOOD
    return Verdict.WRONG


def judge_digest(
    ha1: Mapping[str, Secret],
    algorithms: Sequence[str],
    credentials: DigestCredentials | None,
    method: str,
    nonces: NonceBook,
) -> Verdict:
    """Judge a SIP digest answer: password first, then nonce and nonce count (TLS-6, E-9; RFC 7616 3.4).

    A right password with an unknown, old or used nonce is STALE: a recorded REGISTER is worth nothing. Credentials
    without qop may use a nonce once.
    """
    if credentials is None or not credentials.nonce or len(credentials.response) == 0:
        return Verdict.NO_MATCH
    algorithm = canonical_algorithm(credentials.algorithm)
    if algorithm is None or algorithm not in algorithms:
        return Verdict.NO_MATCH
    if not verify(credentials, algorithm=algorithm, method=method, ha1=ha1[algorithm]):
        return Verdict.WRONG
    count = credentials.nonce_count if credentials.qop else 1
    if nonces.use(credentials.nonce, count) is NonceVerdict.GOOD:
        return Verdict.GOOD
    return Verdict.STALE


def auts_of(credentials: DigestCredentials) -> bytes:
    """The AUTS of the credentials, 14 octets. Raises ``RejectionError`` 403 when it is none (RS-3)."""
    assert credentials.auts is not None
    try:
        return parse_auts(credentials.auts.reveal().decode("ascii", "replace"))
    except MacFailure:
        raise RejectionError(403, "Resynchronisation Refused") from None


def authentication_info(ha1: Mapping[str, Secret], credentials: DigestCredentials) -> str:
    """Authentication-Info with which the network proves the password to a digest user (TS 33.203 N.2)."""
    algorithm = canonical_algorithm(credentials.algorithm) or "MD5"
    proof = compute_rspauth(credentials, algorithm=algorithm, ha1=ha1[algorithm])
    return AuthenticationInfo(
        rspauth=Secret(proof.encode()), qop=credentials.qop, cnonce=credentials.cnonce, nc=credentials.nc
    ).format()
