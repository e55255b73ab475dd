"""What the letters and error names of MIKEY tickets mean, in words (RFC 6043 6.9, 6.10)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from keying.mikey.codec import decode
from keying.mikey.errors import MikeyError
from keying.mikey.ntp import to_unix
from keying.mikey.payloads import Payload, TicketPolicy, TicketPolicyPayload, Timestamp
from keying.mikey.policy import has, rekey_interval, responders_of, validity
from keying.mikey.registry import TicketFlag

FLAGS = {
    "D": "the KMS made the ticket (without D: the user did, mode 3)",
    "E": "whoever is called has the ticket resolved by a KMS",
    "F": "the called side answers with TRANSFER_RESP",
    "G": "the called side contributes to the keys (RANDRr)",
    "H": "the caller's RANDRi enters the keys",
    "I": "keys are forked: they differ for everyone who answers",
    "J": "the ticket serves several calls (without J: one)",
    "K": "the KMS altered what was asked for",
    "L": "the caller may bring session keys of its own, for re-keying",
    "M": "the called side may bring session keys of its own, for re-keying",
    "N": "a caller that knows RFC 6043 alone can use the ticket",
    "O": "a called side that knows RFC 6043 alone can use the ticket",
}
"""The flags D to O of a ticket policy, by letter."""
ERRORS = {
    "AUTH_FAILURE": "a MAC did not hold: the message was altered, or made with another key",
    "INVALID_TS": "the message is too old, ahead of its time or was seen before (clocks, clock_skew_s)",
    "INVALID_PRF": "its algorithms are not accepted (suites_accepted of the MIKEY profile)",
    "INVALID_MAC": "its MAC algorithm is not accepted (suites_accepted of the MIKEY profile)",
    "INVALID_EA": "its encryption algorithm is not accepted (suites_accepted of the MIKEY profile)",
    "INVALID_HA": "its hash function is not accepted",
    "INVALID_DH": "its Diffie-Hellman group is not accepted",
    "INVALID_ID": "an identity in it is not one the asking user has, or not one the KMS serves",
    "INVALID_CERT": "its certificate is unreadable or not trusted",
    "INVALID_SP": "its security policy is of a protocol that is not done",
    "INVALID_SP_PAR": "a parameter of its security policy is not accepted",
    "INVALID_DT": "its kind of message is not accepted",
    "UNSPECIFIED": "the message or something in it cannot be used",
    "UNSUPPORTED_MESSAGE_TYPE": "its kind of message is not supported",
    "INVALID_TICKET": "the ticket is of a kind that is not accepted, is altered, has ended, was used already, or is not"
    " for this user",
    "INVALID_TP_PAR": "the policy of the ticket is not allowed: a responder, a group or a time that this user may not"
    " have (kms_rights, kms.groups), or flags that contradict each other",
}
"""MIKEY error names as a KMS answers them."""


def error_meaning(cause: str) -> str:
    """Return what the MIKEY error in a cause such as ``MIKEY_INVALID_TP_PAR`` means, empty for another cause."""
    return ERRORS.get(cause.removeprefix("MIKEY_"), "")


def alterations(request: bytes, response: bytes, granted: TicketPolicy) -> list[str]:
    """Say what a KMS altered: the policy asked for in the REQUEST_INIT ``request`` against the one ``granted``.

    ``response`` is the REQUEST_RESP, which tells when it was granted. Empty where nothing was altered (flag K is not
    set) or a message cannot be read.
    """
    if not has(granted, TicketFlag.K):
        return []
    try:
        payloads = decode(request).payloads
        asked = next(each.policy for each in payloads if isinstance(each, TicketPolicyPayload))
        return list(_changes(asked, granted, _moment(payloads), _moment(decode(response).payloads))) or [
            "the keys in the ticket: number, length or SPI"
        ]
    except (MikeyError, StopIteration):
        return []


def _moment(payloads: Iterable[Payload]) -> float:
    return next(to_unix(each) for each in payloads if isinstance(each, Timestamp))


def _changes(asked: TicketPolicy, granted: TicketPolicy, asked_at: float, granted_at: float) -> Iterator[str]:
    """Yield one text a change; the ticket was asked for and granted at these moments, Unix seconds."""
    wanted, had = validity(asked), validity(granted)
    if wanted.end != had.end:
        lives = _life(wanted.end, wanted.start or asked_at), _life(had.end, had.start or granted_at)
        yield f"validity: asked {lives[0]}, granted {lives[1]}"
    if wanted.start != had.start:
        yield "begin of validity: another than asked for"
    if rekey_interval(asked) != rekey_interval(granted):
        yield f"re-keying: asked every {rekey_interval(asked)} s, granted {rekey_interval(granted)} s"
    for flag in sorted(TicketFlag, reverse=True):
        if flag is not TicketFlag.K and has(asked, flag) is not has(granted, flag):
            word = "reuse" if flag is TicketFlag.J else f"{flag.name}: {FLAGS[flag.name or '']}"
            said = ("asked for", "not granted") if has(asked, flag) else ("not asked for", "granted")
            yield f"{word}: {said[0]}, {said[1]}"
    missing = [each.text for each in responders_of(asked) if each not in responders_of(granted)]
    if missing:
        yield f"responders: {', '.join(missing)} not granted"


def _life(end: float | None, begin: float) -> str:
    # an end is written in whole seconds, cut off
    return "no end" if end is None else f"{math.ceil(end - begin)} s"
