"""The headers of a 200 to REGISTER (RFC 3261 10.3, 3327 5.3, 3608 6.1, 7315 4.1.2 and 4.6, 5626 6)."""

from __future__ import annotations

from email.utils import formatdate

from nodes.cscf.charging import HEADER as CHARGING_VECTOR
from nodes.cscf.charging import TYPE_1, ChargingVector
from nodes.cscf.register_request import RegisterRequest
from nodes.cscf.registrar import contact_value
from nodes.cscf.registration import Registration

MEDIA_SECURITY_POLICY = "P-Imslab-Media-Security"
"""Tells the P-CSCF the subscriber's own policy, ``off`` or ``required``; Mw only (testbed)."""

MAX_SESSIONS = "P-Imslab-Max-Sessions"
"""Tells the P-CSCF how many sessions the subscriber may have at once, if the profile limits them; Mw only (testbed)."""


def registered_headers(
    register: RegisterRequest, registration: Registration, service_route: str, now: float
) -> list[tuple[str, str]]:
    """Headers that tell the P-CSCF and the UE what stands registered; ``now`` is seconds since the epoch.

    Path comes back in its order. Service-Route and P-Associated-URI, default identity first and barred ones left out,
    stand only while there is a binding: their absence clears what the UE kept.
    """
    headers = [("Path", value) for value in register.path]
    live = registration.live(now)
    headers += [("Contact", contact_value(binding, now)) for binding in live]
    if live:
        headers.append(("Service-Route", f"<{service_route}>"))
        usable = registration.profile.usable
        if usable:
            headers.append(("P-Associated-URI", ", ".join(f"<{uri}>" for uri in usable)))
        if registration.profile.media_security != "preferred":
            headers.append((MEDIA_SECURITY_POLICY, registration.profile.media_security))
        if registration.profile.max_sessions:
            headers.append((MAX_SESSIONS, str(registration.profile.max_sessions)))
    if register.outbound:
        headers.append(("Require", "outbound"))
    if register.icid:
        vector = ChargingVector(register.icid, register.orig_ioi, f"{TYPE_1}{register.domain}")
        headers.append((CHARGING_VECTOR, vector.format()))
    headers.append(("Date", formatdate(now, usegmt=True)))
    return headers
