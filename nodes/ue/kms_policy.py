"""Local policy of a UE on keys from the KMS: for whom, with which tickets and far ends (TS 33.328 6.2.3.3, 6.2.3.6).

Pure decisions. The clauses' text was not seen; what they are taken to say is assumed and stands in ``KmsPolicy``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from keying.mikey.groups import Groups
from keying.mikey.identity import Identity, matches, normalise
from keying.mikey.payloads import TicketPolicy
from keying.mikey.policy import Wish, has, responders_of
from keying.mikey.registry import TicketFlag
from nodes.ue.config import KmsLevel, KmsPolicy
from nodes.ue.media_security import TOKEN_MIKEY, TOKEN_RESPONDER, MediaSecurityRefused


def level_towards(policy: KmsPolicy, peer: str, override: KmsLevel | str = "") -> str:
    """Return the level towards a user: `override`, else its own, else its domain's, else that of all (6.2.3.3)."""
    if override:
        return override
    levels = {normalise(name): level for name, level in policy.peers.items()}
    for wanted in (normalise(peer), _plain(peer)):
        domain = wanted.rpartition("@")[2]
        scheme = wanted.partition(":")[0]
        for name in (wanted, f"{scheme}:*@{domain}", f"*@{domain}"):
            if name in levels:
                return levels[name]
    return policy.level


def _plain(uri: str) -> str:
    """Return a SIP URI as people read it: no escapes, port, password or user parameters, never sips.

    Whoever spells a caller's name another way must not get around the level that policy has for it.
    """
    scheme, _, rest = unquote(uri).partition(":")
    user, at, host = rest.rpartition("@")
    if scheme.lower() not in {"sip", "sips"} or not at:
        return normalise(uri)
    name = re.split("[:;?]", user, maxsplit=1)[0]
    return normalise(f"sip:{name}@{re.sub(':[0-9]+$', '', re.split('[;?]', host, maxsplit=1)[0]).rstrip('.')}")


def identity_of(uri: str) -> Identity:
    """Return the KMS user identity of a SIP or tel URI: without parameters, host in lower case (6.2.3.2, assumed)."""
    return Identity.uri(normalise(uri))


def responders_for(policy: KmsPolicy, peer: str, named: Sequence[str] = ()) -> tuple[Identity, ...]:
    """Return whom a ticket names: those `named`, else who is called and whom policy names besides (7.2.3-1)."""
    found: dict[Identity, None] = {}
    for uri in named or (peer, *policy.also):
        found.setdefault(identity_of(uri))
    return tuple(found)


def wish_for(policy: KmsPolicy, responders: Sequence[Identity], *, made_here: bool = False) -> Wish:
    """Return the ticket that policy asks for; one that the initiator makes always lets it bring keys (flag L)."""
    return Wish(
        responders=tuple(responders),
        forking=policy.forking,
        reusable=policy.reusable,
        responder_rand=policy.responder_rand,
        initiator_keys=policy.session_keys or made_here,
        responder_keys=policy.session_keys,
        validity_s=float(policy.validity_s),
        rekey_interval_s=policy.rekey_s or None,
    )


def groups_of(policy: KmsPolicy, own: Iterable[Identity]) -> Groups:
    """Return the groups this user takes itself to be in."""
    members = [identity.text for identity in own]
    return Groups(dict.fromkeys(policy.groups, members))


def own_responder(ticket: TicketPolicy, own: Sequence[Identity], groups: Groups) -> Identity:
    """Return the own identity under which a ticket can be resolved, the first one when none matches."""
    match = groups.match(tuple(responders_of(ticket)), own)
    return match.responder if match is not None else own[0]


def judge_responder(
    ticket: TicketPolicy, responder: Identity, *, dialled: str, asserted: Sequence[str], allow_diverted: bool
) -> Identity:
    """Judge who answered an own e2e-kms offer, by the IDRr of its TRANSFER_RESP, and return whom to show (6.2.3.6).

    The one who was called, or whoever the KMS takes for it when the ticket names nobody else, is the right one. Another
    user was reached by diversion: the ticket has to name it, local policy has to allow it, and the network has to say
    the same (7.3.3-2). Without key forking IDRr is a claim that any of the ticket's responders can make: then nobody
    but the only one named is shown. Raises MediaSecurityRefused ``responder-not-allowed``.
    """
    wanted = identity_of(dialled)
    named = tuple(responders_of(ticket))
    alone = len(named) == 1 and not named[0].wildcard and named[0].same(wanted)
    if not has(ticket, TicketFlag.I):
        if alone:
            return wanted
        if not allow_diverted:
            raise MediaSecurityRefused(TOKEN_RESPONDER, "the keys do not tell which responder of the ticket answered")
    elif alone or responder.same(wanted):
        return responder
    if not any(matches(one, responder) for one in named):
        raise MediaSecurityRefused(TOKEN_RESPONDER, f"{responder.text} answered, whom the ticket does not name")
    if not allow_diverted:
        raise MediaSecurityRefused(TOKEN_RESPONDER, f"{responder.text} answered in place of {wanted.text}")
    if asserted and not _is_among(responder, asserted):
        raise MediaSecurityRefused(TOKEN_RESPONDER, f"the KMS says {responder.text} answered, the network another")
    return responder


def judge_ticket(policy: KmsPolicy, ticket: TicketPolicy, own: Sequence[Identity], *, forked: bool = True) -> None:
    """Judge the kind of ticket that an offer of the far end rests on (6.2.3.3, RFC 6043 12.4; assumed).

    Without key forking every responder of a ticket has all its keys and could pose as its initiator; a ticket like that
    is taken only when it names this user (`own`) and nobody else, no group either, unless policy says otherwise.
    `forked` False: the keys in use are the same for all responders although the ticket forks. Raises
    MediaSecurityRefused.
    """
    named = tuple(responders_of(ticket))
    shared = len(named) != 1 or not any(named[0].same(each) for each in own)
    if shared and not (forked and has(ticket, TicketFlag.I)) and not policy.shared_tickets:
        raise MediaSecurityRefused(TOKEN_MIKEY, "a ticket of several responders without key forking")


def judge_initiator(
    initiator: Identity, *, asserted: Sequence[str], dialled: str = "", allow_diverted: bool = False
) -> None:
    """Judge whose ticket an offer of the far end rests on: IDRi against what the network asserts (6.2.3.6, assumed).

    Where the network asserts nobody (privacy) the ticket alone says who it is. `dialled` is who this side called, when
    the far end makes the first offer. Raises MediaSecurityRefused.
    """
    if asserted and not _is_among(initiator, asserted):
        raise MediaSecurityRefused(TOKEN_MIKEY, f"the ticket is of {initiator.text}, the call of {asserted[0]}")
    if dialled and not initiator.same(identity_of(dialled)) and not allow_diverted:
        raise MediaSecurityRefused(TOKEN_RESPONDER, f"{initiator.text} answered in place of {dialled}")


def _is_among(identity: Identity, uris: Sequence[str]) -> bool:
    return any(identity.same(identity_of(uri)) for uri in uris)
