"""Who a request is from: asserted identities, privacy, and what a UE may not say (HOP-3, HOP-5; RFC 3325, RFC 3323)."""

from __future__ import annotations

import contextlib
from typing import Final

from nodes.pcscf.bindings import Registration
from nodes.pcscf.register import drop_network_provided
from nodes.pcscf.rejection import RejectionError
from nodes.pcscf.trust import hide_from_ue, take_from_ue
from signalling.sip.headers import GrammarError, parse_name_addr
from signalling.sip.message import SipMessage, SipRequest, SipResponse
from signalling.sip.uri import SipUri, TelUri, Uri

ASSERTED: Final = "P-Asserted-Identity"
PREFERRED: Final = "P-Preferred-Identity"
_UNREGISTERED_EMERGENCY: Final = "sip:anonymous@anonymous.invalid"


def clean_from_ue(message: SipMessage) -> None:
    """Delete what a UE may not set (HOP-5, T7)."""
    take_from_ue(message)
    if isinstance(message, SipRequest):
        drop_network_provided(message)


def assert_identity(message: SipMessage, registration: Registration, *, reject_unknown: bool) -> list[str]:
    """Replace whatever identity the UE wrote by one this node vouches for; returns what was asserted (HOP-3).

    A P-Preferred-Identity counts when it is registered, else the default identity is asserted, or, with
    `reject_unknown`, RejectionError 403 raised. At most one SIP and one tel URI (RFC 3325 9.2).
    """
    wanted = _preferred(message)
    message.headers.remove(ASSERTED)
    message.headers.remove(PREFERRED)
    known = registration.identities or (registration.impu,)
    chosen: list[str] = []
    for uri in wanted:
        found = next((one for one in known if same_identity(one, uri)), None)
        if found is None:
            if reject_unknown:
                raise RejectionError(403, "Forbidden")
            continue
        if not any(one.startswith("tel:") == found.startswith("tel:") for one in chosen):
            chosen.append(found)
    if not chosen:
        chosen = [registration.default_identity]
    for identity in chosen:
        message.headers.add(ASSERTED, f"<{identity}>")
    return chosen


def _preferred(message: SipMessage) -> list[Uri]:
    found: list[Uri] = []
    for value in message.headers.values(PREFERRED):
        try:
            found.append(parse_name_addr(value).uri)
        except GrammarError:
            continue
    return found


def same_identity(known: str, claimed: Uri) -> bool:
    """Compare a registered identity with a claimed one (RFC 3261 10.3 step 5 form)."""
    if isinstance(claimed, SipUri):
        return known == claimed.address_of_record
    if isinstance(claimed, TelUri):
        return known.partition(";")[0] == str(claimed).partition(";")[0]
    return known == str(claimed)


def owner_of(message: SipRequest, candidates: list[Registration]) -> Registration | None:
    """Which of several users behind one address sent a request: the preferred identity, else From, names one."""
    if len(candidates) == 1:
        return candidates[0]
    claims = _preferred(message)
    with contextlib.suppress(GrammarError):
        claims.append(message.from_.uri)
    for claim in claims:
        for one in candidates:
            if any(same_identity(identity, claim) for identity in (*one.identities, one.impu)):
                return one
    return None


def anonymous(message: SipMessage) -> None:
    """The asserted identity of an emergency caller who is not registered."""
    message.headers.remove(ASSERTED)
    message.headers.remove(PREFERRED)
    message.headers.add(ASSERTED, f"<{_UNREGISTERED_EMERGENCY}>")


def apply_privacy(message: SipMessage) -> None:
    """Towards a UE, outside the trust domain: with `Privacy: id` the asserted identity stays here (RFC 3325 7, 9.1)."""
    values = {value.strip().lower() for line in message.headers.get_all("Privacy") for value in line.split(";")}
    if "id" in values and "none" not in values:
        message.headers.remove(ASSERTED)


def clean_towards_ue(message: SipRequest | SipResponse) -> None:
    """Remove what stays inside the trust domain, and apply privacy."""
    hide_from_ue(message)
    message.headers.remove("P-Access-Network-Info")
    apply_privacy(message)
