"""What the control service does with tickets by hand: ask for one, show them, resolve one (TS 33.328 6.2.3)."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager

from keying.mikey.codec import decode_ticket
from keying.mikey.errors import MikeyError
from keying.mikey.identity import Identity
from keying.mikey.policy import flags_text
from nodes.ue import mikey_tamper
from nodes.ue.agent import UserAgent
from nodes.ue.config import ResolveOptions, TicketOptions
from nodes.ue.key_management import KeyManagement
from nodes.ue.kms_client import KmsError, KmsUnreachable, error_word
from nodes.ue.kms_policy import groups_of, identity_of, own_responder, wish_for
from nodes.ue.ticket_store import HeldTicket
from protos import ue_control_pb2
from sba.errors import ProblemError
from sba.telemetry import remote_context, trace_id_of, within

MAX_RESPONDERS = 64
MAX_TICKET = 32_768
"""Octets of a ticket that is taken by hand."""


def _keys_of(agent: UserAgent) -> KeyManagement:
    if agent.keys is None:
        raise ProblemError(409, "KMS_NOT_CONFIGURED", "this UE has no KMS, or no way to a key with it")
    return agent.keys


def problem_of(error: KmsError) -> ProblemError:
    """Return a refusal as the control service tells it: the MIKEY error is the cause where there is one."""
    if isinstance(error, KmsUnreachable):
        return ProblemError(504, "KMS_UNREACHABLE", error.reason)
    cause = f"MIKEY_{error_word(error.numbers[0]).replace(' ', '_').upper()}" if error.numbers else "KMS_REFUSED"
    return ProblemError(403, cause, error.reason)


def _traced(traceparent: str) -> AbstractContextManager[None]:
    """Work under the trace of the key press, where it has one."""
    return within(remote_context(traceparent) if traceparent else None)


async def request_ticket(agent: UserAgent, order: ue_control_pb2.TicketOrder) -> ue_control_pb2.TicketInfo:
    """Get a ticket and keep it for calls to come. Raises ProblemError."""
    keys, options = _keys_of(agent), TicketOptions.read(order.options)
    if not 0 < len(order.responders) <= MAX_RESPONDERS:
        raise ProblemError(400, "INVALID_PARAM", invalid_params=[("responders", f"1 to {MAX_RESPONDERS} identities")])
    wish = dataclasses.replace(
        wish_for(keys.policy, [identity_of(uri) for uri in order.responders], made_here=order.mode_3),
        forking=keys.policy.forking and not order.no_forking,
        reusable=order.reusable,
        validity_s=float(order.validity_s or keys.policy.validity_s),
    )
    initiator = Identity.uri(options.initiator or agent.default_identity)
    with _traced(order.traceparent):
        try:
            held = await keys.obtain(initiator, wish, mode_3=order.mode_3, tamper=options.tamper)
        except KmsError as error:
            raise problem_of(error) from None
        except MikeyError as error:
            raise ProblemError(400, "INVALID_PARAM", str(error)) from None
    return ticket_info(held)


def list_tickets(agent: UserAgent) -> ue_control_pb2.TicketList:
    """Return the tickets at hand, those that are spent among them until they are dropped. Raises ProblemError."""
    return ue_control_pb2.TicketList(tickets=[ticket_info(held) for held in _keys_of(agent).store])


def ticket_info(held: HeldTicket) -> ue_control_pb2.TicketInfo:
    """Return what a ticket says, but for its keys."""
    ticket = held.ticket
    policy, validity = ticket.policy, ticket.validity
    return ue_control_pb2.TicketInfo(
        ticket_id=held.ticket_id,
        kms=held.kms,
        initiator=ticket.initiator.text if ticket.initiator is not None else "",
        responders=[responder.text for responder in ticket.responders],
        ticket_type=policy.ticket_type,
        subtype=policy.subtype,
        version=policy.version,
        flags=flags_text(policy),
        not_before=validity.start or 0.0,
        not_after=validity.end or 0.0,
        ticket=held.octets,
        key_spis=[key.spi.hex() for key in ticket.keys if key.spi],
        uses=held.uses,
        request_init=held.request_init,
        request_resp=held.request_resp,
        trace_id=held.trace_id,
    )


async def resolve_ticket(agent: UserAgent, order: ue_control_pb2.ResolveOrder) -> ue_control_pb2.ResolveInfo:
    """Have the KMS resolve a ticket, as an answer to a call would. Raises ProblemError; no key is told."""
    keys, options = _keys_of(agent), ResolveOptions.read(order.options)
    if len(order.ticket) > MAX_TICKET:
        raise ProblemError(400, "INVALID_PARAM", invalid_params=[("ticket", "too long")])
    try:
        ticket = decode_ticket(order.ticket)
    except MikeyError as error:
        raise ProblemError(400, "INVALID_PARAM", invalid_params=[("ticket", str(error))]) from None
    if options.tamper == "wrong-ticket":
        ticket = mikey_tamper.spoil_ticket_data(ticket)
    own = tuple(Identity.uri(uri) for uri in (agent.default_identity, *agent.registration.associated))
    responder = own_responder(ticket.policy, own, groups_of(keys.policy, own))
    if options.responder:
        responder = Identity.uri(options.responder)
    with _traced(order.traceparent):
        trace_id = trace_id_of()
        try:
            resolution, asked = await keys.client.resolve(ticket, responder, options.tamper)
        except KmsError as error:
            raise problem_of(error) from None
        except MikeyError as error:
            raise ProblemError(400, "INVALID_PARAM", str(error)) from None
    return ue_control_pb2.ResolveInfo(
        kms=keys.client.identity.text,
        responder=(resolution.responder or responder).text,
        forked=resolution.forked_mpkr is not None,
        key_spis=[key.spi.hex() for key in resolution.keys if key.spi],
        resolve_init=asked.request,
        resolve_resp=asked.response,
        trace_id=trace_id,
    )
