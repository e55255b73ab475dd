"""Binding updates of the registrar as a pure function (RFC 3261 10.3 steps 6-8, RFC 5626 6, SC-5, E-14, E-15, E-18)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from nodes.cscf.register_request import ContactUpdate, RegisterRequest
from nodes.cscf.registration import Binding
from nodes.cscf.rejection import RejectionError
from signalling.sip.uri import UriError, parse_uri


class ContactEvent(Enum):
    """What moved a contact to its state (RFC 3680 4.7.1)."""

    CREATED = "created"
    REGISTERED = "registered"
    REFRESHED = "refreshed"
    SHORTENED = "shortened"
    EXPIRED = "expired"
    DEACTIVATED = "deactivated"
    UNREGISTERED = "unregistered"
    REJECTED = "rejected"


@dataclass(frozen=True)
class BindingChange:
    """Bindings after a REGISTER and what happened to each contact that changed."""

    bindings: tuple[Binding, ...]
    events: tuple[tuple[Binding, ContactEvent], ...]


def _new_contact_id() -> str:
    return secrets.token_hex(6)


def apply_register(
    bindings: tuple[Binding, ...],
    request: RegisterRequest,
    now: float,
    max_contacts: int,
    new_contact_id: Callable[[], str] = _new_contact_id,
) -> BindingChange:
    """Work out the bindings after a REGISTER; ``now`` is seconds since the epoch.

    All updates succeed or none. Raises ``RejectionError``: 500 when the CSeq of a Call-ID does not rise, 481 when a
    binding to remove is unknown (E-18), 403 above ``max_contacts``.
    """
    current = [binding for binding in bindings if binding.expires_at > now]
    if request.wildcard:
        if not current:
            raise RejectionError(481, "No Binding")
        for binding in current:
            _check_order(binding, request)
        return BindingChange((), tuple((binding, ContactEvent.UNREGISTERED) for binding in current))
    events: list[tuple[Binding, ContactEvent]] = []
    for update in request.contacts:
        found = _find(current, update)
        if found is not None:
            _check_order(found, request)
        if update.expires == 0:
            if found is None:
                raise RejectionError(481, "No Such Binding")
            current.remove(found)
            events.append((found, ContactEvent.UNREGISTERED))
            continue
        bound = _bind(found, update, request, now, new_contact_id)
        if found is None:
            events.append((bound, ContactEvent.REGISTERED))
        else:
            current.remove(found)
            events.append((bound, ContactEvent.REFRESHED))
        current.append(bound)
        _retire_older_contact_of_instance(current, bound, events)
    if len(current) > max_contacts:
        raise RejectionError(403, "Too Many Contacts")
    return BindingChange(tuple(current), tuple(events))


def expire(bindings: tuple[Binding, ...], now: float) -> BindingChange:
    """Drop bindings whose time is over."""
    over = tuple((binding, ContactEvent.EXPIRED) for binding in bindings if binding.expires_at <= now)
    return BindingChange(tuple(binding for binding in bindings if binding.expires_at > now), over)


def contact_value(binding: Binding, now: float) -> str:
    """A binding as Contact value of a 200, with ``expires`` (RFC 3261 10.3 step 8)."""
    params = "".join(f";{name}" if value is None else f";{name}={value}" for name, value in binding.params)
    return f"<{binding.contact}>{params};expires={binding.remaining(now)}"


def _check_order(binding: Binding, request: RegisterRequest) -> None:
    if binding.call_id == request.call_id and request.cseq <= binding.cseq:
        raise RejectionError(500, "CSeq Out Of Order")


def _find(current: list[Binding], update: ContactUpdate) -> Binding | None:
    if update.reg_id is not None:
        wanted = (update.instance_id, update.reg_id)
        return next((binding for binding in current if (binding.instance_id, binding.reg_id) == wanted), None)
    for binding in current:
        try:
            if binding.reg_id is None and parse_uri(binding.contact).equivalent(update.uri):
                return binding
        except UriError:
            continue
    return None


def _bind(
    found: Binding | None, update: ContactUpdate, request: RegisterRequest, now: float, new_id: Callable[[], str]
) -> Binding:
    fresh = Binding(
        contact=str(update.uri),
        params=update.params,
        path=request.path,
        call_id=request.call_id,
        cseq=request.cseq,
        registered_at=now,
        expires_at=now + update.expires,
        contact_id=new_id(),
        instance_id=update.instance_id,
        reg_id=update.reg_id,
        q=update.q,
        brought_by=request.brought_by,
    )
    if found is None:
        return fresh
    return replace(fresh, registered_at=found.registered_at, contact_id=found.contact_id)


def _retire_older_contact_of_instance(
    current: list[Binding], bound: Binding, events: list[tuple[Binding, ContactEvent]]
) -> None:
    """A UE without multiple registrations has one contact: its new address replaces the old (TS 24.229, assumed)."""
    if not bound.instance_id or bound.reg_id is not None:
        return
    for binding in list(current):
        if binding is not bound and binding.instance_id == bound.instance_id and binding.reg_id is None:
            current.remove(binding)
            events.append((binding, ContactEvent.DEACTIVATED))
