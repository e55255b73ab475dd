"""What a KMS altered of a ticket, out of the request and the ticket themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keying.mikey.authority import Authority
from keying.mikey.identity import Identity
from keying.mikey.policy import Limits, Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.request import PskCredential, TicketRequest
from keying.mikey.ticket import TicketProtectionKey
from keying.secret import Secret
from lab.ticket_words import alterations

NOW = 1_800_000_000.0
ALICE, BOB, KMS = Identity.uri("sip:alice@ims.test"), Identity.uri("sip:bob@ims.test"), Identity.uri("kms.ims.test")
PSK = PskCredential(b"alice", Secret(b"p" * 32))


def altered(wish: Wish, limits: Limits) -> list[str]:
    request = TicketRequest(DEFAULT_PROFILE, PSK, initiator=ALICE, kms=KMS, wish=wish, now=NOW)
    pending = Authority(DEFAULT_PROFILE, KMS).read_request(request.message, NOW)
    tpk = TicketProtectionKey(b"tpk-id-1", Secret(b"t" * 16))
    granted = pending.authenticate(PSK.key, NOW, initiator=ALICE).grant(tpk, NOW, limits=limits)
    return alterations(request.message, granted.response, granted.ticket.policy)


WISH = Wish(responders=(BOB,), validity_s=7200.0, reusable=True)


@pytest.mark.parametrize(
    ("wish", "limits", "said"),
    [
        (WISH, Limits(max_validity_s=86_400.0), []),
        (WISH, Limits(max_validity_s=600.0), ["validity: asked 7200 s, granted 600 s"]),
        (replace(WISH, validity_s=None), Limits(max_validity_s=600.0), ["validity: asked no end, granted 600 s"]),
        (
            WISH,
            Limits(max_validity_s=600.0, reusable=False),
            ["validity: asked 7200 s, granted 600 s", "reuse: asked for, not granted"],
        ),
        (
            replace(WISH, forking=False),
            Limits(max_validity_s=86_400.0, forking_required=True),
            ["I: keys are forked: they differ for everyone who answers: not asked for, granted"],
        ),
    ],
)
def test_asked_and_granted_are_put_side_by_side(wish: Wish, limits: Limits, said: list[str]) -> None:
    assert altered(wish, limits) == said


def test_a_request_that_nobody_has_tells_nothing() -> None:
    request = TicketRequest(DEFAULT_PROFILE, PSK, initiator=ALICE, kms=KMS, wish=WISH, now=NOW)
    pending = Authority(DEFAULT_PROFILE, KMS).read_request(request.message, NOW)
    tpk = TicketProtectionKey(b"tpk-id-1", Secret(b"t" * 16))
    granted = pending.authenticate(PSK.key, NOW, initiator=ALICE).grant(tpk, NOW, limits=Limits(max_validity_s=600.0))
    assert alterations(b"", granted.response, granted.ticket.policy) == []
