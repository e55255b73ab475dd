"""The registration event package: who may watch, and the reginfo document (RFC 3680)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from xml.etree.ElementTree import Element, SubElement, tostring

from nodes.cscf.identities import asserted_identities, canonical
from nodes.cscf.registrar import ContactEvent
from nodes.cscf.registration import Binding, Registration
from nodes.cscf.trust import Peer
from signalling.sip.message import SipRequest
from signalling.sip.uri import SipUri

CONTENT_TYPE = "application/reginfo+xml"
NAMESPACE = "urn:ietf:params:xml:ns:reginfo"
STANDARD_PARAMETERS = frozenset({"q", "expires", "methods"})
"""Contact parameters that are no ``unknown-param`` (RFC 3680 5.1)."""
ACTIVE = frozenset(
    {
        ContactEvent.CREATED,
        ContactEvent.REGISTERED,
        ContactEvent.REFRESHED,
        ContactEvent.SHORTENED,
    }
)


def may_watch(request: SipRequest, registration: Registration, peer: Peer, home_domains: Collection[str]) -> bool:
    """Say whether a subscriber may see a registration: the user himself, or the P-CSCF in its own name (RFC 3680 4.6).

    The subscriber is known by P-Asserted-Identity, which means something from the trust domain only.
    """
    if not peer.trusted:
        return False
    if watches_himself(request, registration):
        return True
    asserted = asserted_identities(request.headers)
    foreign = all(isinstance(uri, SipUri) and uri.host.lower() not in home_domains for uri in asserted)
    return bool(asserted) and foreign and "PCSCF" in peer.nf_types


def watches_himself(request: SipRequest, registration: Registration) -> bool:
    """Say whether an identity asserted for the subscriber is one of the registration."""
    asserted = asserted_identities(request.headers)
    return any(canonical(identity) in registration.profile.usable for identity in asserted)


def reginfo(
    registration: Registration, events: dict[str, tuple[Binding, ContactEvent]], version: int, now: float
) -> bytes:
    """Write the full state of a registration set, one ``registration`` per identity (RFC 3680 5.1).

    ``events`` holds, by contact id, what happened last to a contact; contacts that ended appear as terminated once.
    """
    root = Element("reginfo", {"xmlns": NAMESPACE, "version": str(version), "state": "full"})
    live = {binding.contact_id: binding for binding in registration.live(now)}
    for identity in registration.profile.identities:
        if identity.barred:
            continue
        element = SubElement(
            root,
            "registration",
            {"aor": identity.uri, "id": _identifier(identity.uri), "state": "active" if live else "terminated"},
        )
        for binding in live.values():
            event = events.get(binding.contact_id, (binding, ContactEvent.REGISTERED))[1]
            _contact(element, binding, event if event in ACTIVE else ContactEvent.REGISTERED, now)
        for contact_id, (binding, event) in events.items():
            if contact_id not in live and event not in ACTIVE:
                _contact(element, binding, event, now)
    document: bytes = tostring(root, encoding="utf-8")
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + document


def _contact(parent: Element, binding: Binding, event: ContactEvent, now: float) -> None:
    active = event in ACTIVE
    attributes = {
        "id": binding.contact_id,
        "state": "active" if active else "terminated",
        "event": event.value,
        "callid": binding.call_id,
        "cseq": str(binding.cseq),
        "duration-registered": str(max(0, round(now - binding.registered_at))),
    }
    if active:
        attributes["expires"] = str(binding.remaining(now))
    contact = SubElement(parent, "contact", attributes)
    SubElement(contact, "uri").text = binding.contact
    for name, value in binding.params:
        if name not in STANDARD_PARAMETERS:
            SubElement(contact, "unknown-param", {"name": name}).text = (value or "").strip('"')


def _identifier(uri: str) -> str:
    return "r" + hashlib.sha256(uri.encode("utf-8", "surrogateescape")).hexdigest()[:12]
