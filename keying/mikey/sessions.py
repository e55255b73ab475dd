"""Crypto sessions: SRTP policies by suite name, and the keys of each session (RFC 6043 5.1.3, 6.1.1; RFC 3830 6.10.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keying.mikey.payloads import CryptoSession, SecurityPolicy
from keying.secret import Secret


@dataclass(frozen=True, slots=True)
class CryptoSessionKeys:
    """The keys of one crypto session. `tek` is the SRTP master key, `salt` the master salt, `spi` the MKI.

    `ssrc` is None where the session is not SRTP; `salt` is empty where the protocol has none. `suite` names the SRTP
    suite as :data:`keying.suites.SUITES` does, empty for other protocols.
    """

    cs_id: int
    prot_type: int
    ssrc: int | None
    spi: bytes
    tek: Secret
    salt: Secret
    policy: SecurityPolicy | None
    suite: str = ""
    roc: int | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The keys of a crypto session bundle by CS ID."""

    csb_id: int
    by_cs_id: Mapping[int, CryptoSessionKeys]

    def __getitem__(self, cs_id: int) -> CryptoSessionKeys:
        return self.by_cs_id[cs_id]


def srtp_policy(suite: str, policy_no: int) -> SecurityPolicy:
    """Return the SP payload of a suite of :data:`keying.suites.SUITES`. Raises KeyError for one without code points."""
    raise NotImplementedError


def suite_of(policy: SecurityPolicy) -> str:
    """Return the suite that an SRTP policy describes, defaults applied (RFC 3711 8.2).

    Raises InvalidPolicy for another protocol, InvalidPolicyParameter for a combination that is no known suite.
    """
    raise NotImplementedError


def srtp_session(cs_id: int, policies: tuple[int, ...], ssrc: int | None, spi: bytes = b"") -> CryptoSession:
    """Return a GENERIC-ID entry for an SRTP stream; `ssrc` None leaves Session Data to the responder."""
    raise NotImplementedError
