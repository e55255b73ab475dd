"""Which scheme a REGISTER uses and what the P-CSCF vouches for (TS 33.203 P.3, PC-1, PC-2, PC-17)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from signalling.secagree import MechanismEntry, signalling_entries
from signalling.sip.headers import Credentials, GrammarError, parse_credentials
from signalling.sip.message import SipRequest

INTEGRITY = "integrity-protected"


class Scheme(StrEnum):
    """The schemes of TS 33.203 P.3."""

    AKA_IPSEC = "aka-ipsec"
    AKA_TLS = "aka-tls"
    AKA_PLAIN = "aka-plain"
    """AKAv1 without SA: a testbed profile for clients without IPsec, never integrity protected."""
    DIGEST_TLS_AGREED = "digest-tls-agreed"
    DIGEST_TLS = "digest-tls"
    DIGEST = "digest"


@dataclass(frozen=True, slots=True)
class Standing:
    """What this node knows about the channel of a REGISTER."""

    under_sa: bool = False
    """Under the SA of this procedure (with a response) or of the last success (without one)."""
    tls: bool = False
    """It came over TLS."""
    bound: bool = False
    """The channel (TLS session, IP address and port) belongs to a registration of the same IMPI."""


def credentials_of(request: SipRequest) -> Credentials | None:
    """The Digest credentials of a REGISTER, None without. Raises GrammarError when malformed or given more than once.

    A registration has one realm: a second Authorization could only carry past this node what the first hides (T7).
    """
    values = request.headers.get_all("Authorization")
    if len(values) > 1:
        raise GrammarError("Authorization given more than once")
    if not values or not values[0].strip():
        return None
    return parse_credentials(values[0])


def choose_scheme(
    client: Sequence[MechanismEntry], credentials: Credentials | None, transport: str, *, ipsec: bool
) -> Scheme:
    """Pick the scheme as PC-2 orders it; `ipsec`: this node answers ipsec-3gpp proposals."""
    names = [entry.name.lower() for entry in signalling_entries(client)]
    algorithm = (credentials.get("algorithm") or "").upper() if credentials else ""
    if ipsec and "ipsec-3gpp" in names:
        return Scheme.AKA_IPSEC
    if "tls" in names:
        return Scheme.DIGEST_TLS_AGREED
    if transport == "TLS" and algorithm.startswith("AKAV2"):
        return Scheme.AKA_TLS
    if algorithm.startswith("AKAV1"):
        return Scheme.AKA_PLAIN
    return Scheme.DIGEST_TLS if transport == "TLS" else Scheme.DIGEST


def integrity_flag(scheme: Scheme, standing: Standing, *, response: bool) -> str | None:
    """The value of `integrity-protected`, None for none (PC-6, PC-17). `response`: a challenge is answered."""
    if scheme is Scheme.AKA_IPSEC:
        return "yes" if standing.under_sa else "no"
    if scheme is Scheme.AKA_TLS:
        return "tls-connected"
    if scheme is Scheme.AKA_PLAIN:
        return "no"
    if scheme in (Scheme.DIGEST_TLS, Scheme.DIGEST_TLS_AGREED):
        if not standing.tls:
            return None  # agreed upon, not done yet: nothing to vouch for
        if standing.bound:
            return "tls-yes"
        return "tls-pending" if response else None
    if standing.bound:
        return "ip-assoc-yes"
    return "ip-assoc-pending" if response else None


def vouch(request: SipRequest, flag: str | None) -> None:
    """Write `integrity-protected`, or only delete what the UE wrote (PC-1). Raises GrammarError for a malformed header.

    The header is written anew in any case: what this node did not read does not reach the S-CSCF.
    """
    credentials = credentials_of(request)
    if credentials is None:
        request.headers.remove("Authorization")
        return
    for name in [name for name in credentials.params if name.lower() == INTEGRITY]:
        del credentials.params[name]
    if flag is not None:
        credentials.params[INTEGRITY] = flag
    request.headers.set("Authorization", str(credentials))
