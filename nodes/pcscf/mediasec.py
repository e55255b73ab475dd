"""The agreement on media plane security at registration (TS 33.328 7.1.1, 7.1.2; FLOW-1, FLOW-2; RFC 3329)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from nodes.pcscf.config import MediaPolicy
from nodes.pcscf.rejection import RejectionError
from signalling.secagree import (
    MechanismEntry,
    SecurityHeaderError,
    announce,
    format_entries,
    media_entries,
    media_mechanisms,
    parse_security_header,
    same_list,
    signalling_entries,
)
from signalling.sip.message import SipMessage, SipRequest

SDES = "sdes-srtp"
OPTION_TAGS = ("sec-agree", "mediasec")
"""Tags that end at this node (7.1.1-5, PC-3, ID-2)."""
SECURITY_HEADERS = ("Security-Client", "Security-Verify", "Security-Server")


class Verify(StrEnum):
    """How a Security-Verify compares with the list this node sent (PC-16, 7.1.1-7)."""

    EQUAL = "equal"
    ABSENT = "absent"
    ALTERED = "altered"
    MEDIA_ALTERED = "media-altered"
    UNEXPECTED = "unexpected"
    """The UE verifies a list this node never sent."""


class AgreementState(StrEnum):
    """What came of the announcement."""

    NONE = "not-announced"
    ANNOUNCED = "announced"
    """Both announced; the list went out in the 200, so there was nothing to verify yet."""
    CONFIRMED = "confirmed"
    NOT_CONFIRMED = "not-confirmed"
    ALTERED = "altered"


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of one registration; it lives as long as the binding (7.1.1-8)."""

    state: AgreementState = AgreementState.NONE
    client: tuple[str, ...] = ()
    """Media mechanisms the UE announced."""
    server: tuple[str, ...] = ()
    """Media mechanisms this node announced."""

    def agreed(self, mechanism: str = SDES) -> bool:
        """Both sides announced the mechanism and nobody altered the lists (GE-3, 5.4.1-3, PC-16)."""
        usable = self.state in (AgreementState.ANNOUNCED, AgreementState.CONFIRMED)
        return usable and mechanism in self.client and mechanism in self.server

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What may be used."""
        return tuple(name for name in self.server if self.agreed(name))


def read_list(request: SipRequest, name: str) -> tuple[MechanismEntry, ...]:
    """The entries of a Security-* header, in order, over all its lines (7.1-1). Raises RejectionError 400."""
    values = request.headers.get_all(name)
    if not values:
        return ()
    try:
        return parse_security_header(values)
    except SecurityHeaderError as error:
        raise RejectionError(400, f"Bad {name}") from error


def own_media_entries(
    mechanisms: Sequence[str],
    client: Sequence[MechanismEntry],
    *,
    gm_encrypted: bool,
    policy: MediaPolicy,
    on_clear_gm: bool = False,
    unsolicited: bool = False,
) -> tuple[MechanismEntry, ...]:
    """The media entries of Security-Server: the whole own list, whatever the UE announced (RFC 3329 2.3.1, PC-11).

    Nothing without any media entry from the UE (unless `unsolicited`), when policy is off, and no `sdes-srtp` where Gm
    is not encrypted (GE-5, 5.4.1-4).
    """
    if policy is MediaPolicy.OFF or not (unsolicited or media_entries(client)):
        return ()
    usable = [name for name in mechanisms if name != SDES or gm_encrypted or on_clear_gm]
    return announce(usable)


def compare(verify: Sequence[MechanismEntry], server: Sequence[MechanismEntry]) -> Verify:
    """Compare what the UE echoes with what it was sent (RFC 3329 2.3.1, PC-15, PC-16)."""
    if not verify:
        return Verify.ABSENT
    if not server:
        return Verify.UNEXPECTED
    if same_list(verify, server):
        return Verify.EQUAL
    if same_list(signalling_entries(verify), signalling_entries(server)):
        # a UE that knows nothing of media entries echoes its own list alone: accepted, not confirmed (PC-16)
        if signalling_entries(server) and not media_entries(verify):
            return Verify.ABSENT
        return Verify.MEDIA_ALTERED
    return Verify.ALTERED


def agreement_after(
    client: Sequence[MechanismEntry], server: Sequence[MechanismEntry], verify: Verify, *, challenged: bool
) -> Agreement:
    """The agreement once the registration succeeded. `challenged`: a 401 carried the list and could be verified."""
    ours, theirs = media_mechanisms(server), media_mechanisms(client)
    if not theirs or not ours:
        return Agreement(AgreementState.NONE, theirs, ours)
    states = {
        Verify.EQUAL: AgreementState.CONFIRMED,
        Verify.ABSENT: AgreementState.NOT_CONFIRMED if challenged else AgreementState.ANNOUNCED,
        Verify.UNEXPECTED: AgreementState.ALTERED,
        Verify.ALTERED: AgreementState.ALTERED,
        Verify.MEDIA_ALTERED: AgreementState.ALTERED,
    }
    return Agreement(states[verify], theirs, ours)


def altered(server: Sequence[MechanismEntry]) -> RejectionError:
    """The 494 with the unmodified list (RFC 3329 2.3.1, E-12)."""
    return RejectionError(494, "Security Agreement Required", agreement_headers(server))


def agreement_headers(server: Sequence[MechanismEntry]) -> list[tuple[str, str]]:
    """Require and Security-Server of a 421 or 494 (RFC 3329 2.3)."""
    headers = [("Require", "sec-agree")]
    if server:
        headers.append(("Security-Server", format_entries(server)))
    return headers


def check_present(request: SipRequest, server: Sequence[MechanismEntry], *, required: bool) -> None:
    """Refuse a REGISTER without Security-Client where policy needs one (E-10, RFC 3329 2.3.2).

    The tag only in Supported, or demanded without a list: 494; no tag at all: 421.
    """
    if "Security-Client" in request.headers:
        return
    demanded = has_tag(request, "Require", "sec-agree") or has_tag(request, "Proxy-Require", "sec-agree")
    if demanded or (required and has_tag(request, "Supported", "sec-agree")):
        raise RejectionError(494, "Security Agreement Required", agreement_headers(server))
    if required:
        raise RejectionError(421, "Extension Required", agreement_headers(server))


def check_first_hop(request: SipRequest) -> None:
    """sec-agree works with the first hop alone: several Via values are answered 502 (RFC 3329 2.3.2, PC-7a)."""
    agreeing = any(has_tag(request, name, "sec-agree") for name in ("Require", "Proxy-Require"))
    if len(request.headers.values("Via")) > 1 and (agreeing or "Security-Client" in request.headers):
        raise RejectionError(502, "Bad Gateway")


def check_proxy_require(request: SipRequest) -> None:
    """An option this node does not know in Proxy-Require: 420 (RFC 3261 16.3 step 5, E-13). Not for ACK and CANCEL."""
    unknown = [tag for tag in request.headers.values("Proxy-Require") if tag.lower() not in OPTION_TAGS]
    if unknown:
        raise RejectionError(420, "Bad Extension", [("Unsupported", ", ".join(unknown))])


def has_tag(message: SipMessage, header: str, tag: str) -> bool:
    """Whether an option tag stands in a header, in any case."""
    return any(value.lower() == tag for value in message.headers.values(header))


def strip(request: SipRequest) -> None:
    """Remove the agreement from a request that goes into the core (7.1.1-5, PC-3); headers left empty are dropped."""
    for name in SECURITY_HEADERS:
        request.headers.remove(name)
    for name in ("Require", "Proxy-Require", "Supported"):
        values = request.headers.values(name)
        tags = OPTION_TAGS if name != "Supported" else ("sec-agree", "mediasec")
        kept = [value for value in values if value.lower() not in tags]
        if len(kept) == len(values):
            continue
        if kept:
            request.headers.set(name, ", ".join(kept))
        else:
            request.headers.remove(name)
