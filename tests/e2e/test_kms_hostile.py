"""Threat row T5 on real processes: MIKEY-TICKET under attack between two phones, at the KMS and between two KMSs.

Each attempt ends as a refusal with its reason, nothing of the call's media flows, and no key leaves the KMS. What every
octet does is proven without processes in `tests/keying/mikey` and `tests/kms`; here the same attempts pass SIP, HTTPS
and gRPC of a whole lab.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from keying.mikey.codec import decode_ticket
from keying.mikey.payloads import IdRoled
from keying.mikey.registry import IdRole, IdType
from tests.e2e.lab import Lab
from tests.e2e.live import behaving

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180), pytest.mark.attack("T5")]

CALL = ("--security", "e2e-kms", "--seconds", "1")
ENDS_WITHIN_S = 15.0


def refused(lab: Lab, *arguments: str) -> dict[str, Any]:
    """A call from alice to bob that must come to nothing; its verdict."""
    began = time.monotonic()
    result = lab.call("alice", "bob", *CALL, *arguments, status=1)
    assert time.monotonic() - began < ENDS_WITHIN_S
    assert result["result"] in {"refused", "failed"}, result
    assert result["security"] == "none"
    assert result["audio"] == {}
    assert not any(leg["packets_in"] for leg in result["legs"]), result["legs"]
    return result


def established(lab: Lab) -> None:
    result = lab.call("alice", "bob", *CALL)
    assert (result["result"], result["security"]) == ("established", "e2e-kms"), result


def grants(lab: Lab) -> int:
    """How many tickets the KMSs have given out or opened so far."""
    entries = lab.json("kms", "audit", "-n", "10000")["entries"]
    return sum(entry["outcome"] == "granted" for entry in entries)


@pytest.mark.clause("TS 33.328", "7.3.3-1", "7.3.3-3", "7.3.3-4")
@pytest.mark.parametrize(
    ("how", "word", "reason"),
    [
        ("flip-mac", "mikey-invalid", "MAC"),
        ("truncate", "mikey-invalid", ""),
        ("replay", "mikey-invalid", "seen before"),
        ("old-timestamp", "mikey-invalid", "T"),
        ("expired", "mikey-invalid", ""),
        ("wrong-ticket", "kms-refused", ""),
        ("wrong-responder", "mikey-invalid", ""),
        ("strip-sdp-ids", "mikey-invalid", ""),
        ("garbage", "mikey-invalid", ""),
    ],
)
def test_an_altered_offer_is_refused_with_its_reason_and_nothing_is_said_in_the_clear(
    lab: Lab, how: str, word: str, reason: str
) -> None:
    """Fields and MAC altered, truncated, replayed, expired, a ticket that is not the KMS's, for somebody else."""
    established(lab)
    result = refused(lab, "--option", f"tamper_mikey={how}")
    assert result["sip_status"] == 488, result
    assert word in result["reason"], result
    decisions = [line for line in lab.run("flow", result["call_id"]).stdout.splitlines() if word in line]
    assert decisions
    assert any(reason in line for line in decisions), decisions
    established(lab)


@pytest.mark.clause("TS 33.328", "7.2.3-5")
@pytest.mark.attack("T1")
def test_an_offer_that_lost_its_key_management_on_the_way_is_no_call_in_the_clear(lab: Lab) -> None:
    assert refused(lab, "--option", "tamper_mikey=strip")["sip_status"] == 488


@pytest.mark.clause("TS 33.328", "D-9")
@pytest.mark.parametrize("how", ["flip-mac", "truncate", "strip", "reflect", "garbage", "with-crypto"])
def test_an_altered_answer_ends_the_call_without_media(lab: Lab, how: str) -> None:
    with behaving(lab, "bob", tamper_mikey=how):
        refused(lab)
    established(lab)


@pytest.mark.clause("TS 33.328", "6.2.3.5-1", "D-8", "D-11")
@pytest.mark.parametrize(
    ("option", "cause"),
    [
        ("tamper=flip-mac", "AUTH_FAILURE"),
        ("tamper=wrong-psk", "AUTH_FAILURE"),
        ("tamper=truncate", ""),
        ("tamper=replay", "INVALID_TS"),
        ("tamper=old-timestamp", "INVALID_TS"),
        ("initiator=sip:bob@ims.test", "INVALID_ID"),
        ("initiator=sip:erin@partner.test", "INVALID_ID"),
        ("initiator=sip:ALICE@ims.test", "INVALID_ID"),
    ],
)
def test_a_forged_request_gets_no_ticket(lab: Lab, option: str, cause: str) -> None:
    """Altered, replayed, late, under another key, or in the name of somebody else."""
    lab.json("ticket", "request", "alice", "bob")
    before = {each["ticket_id"] for each in lab.json("ticket", "show", "alice")["tickets"]}
    granted = grants(lab)
    answer = lab.json("ticket", "request", "alice", "bob", "--option", option, status=1)
    assert answer["result"] == "refused", answer
    assert cause in json.dumps(answer), answer
    assert {each["ticket_id"] for each in lab.json("ticket", "show", "alice")["tickets"]} == before
    assert grants(lab) == granted


@pytest.fixture(scope="module")
def unforked(lab: Lab) -> dict[str, Any]:
    """A ticket of alice for bob that anybody who may can resolve by hand."""
    return lab.json("ticket", "request", "alice", "bob", "--reusable", "--no-forking")


@pytest.mark.clause("TS 33.328", "5.4.3-1", "D-10")
@pytest.mark.parametrize(
    ("option", "cause"),
    [
        ("tamper=flip-mac", "AUTH_FAILURE"),
        ("tamper=wrong-psk", "AUTH_FAILURE"),
        ("tamper=truncate", ""),
        ("tamper=replay", "INVALID_TS"),
        ("tamper=old-timestamp", "INVALID_TS"),
        ("tamper=wrong-ticket", "INVALID_TICKET"),
        ("responder=sip:alice@ims.test", "INVALID_ID"),
    ],
)
def test_a_forged_resolve_gets_no_keys(lab: Lab, unforked: dict[str, Any], option: str, cause: str) -> None:
    assert lab.json("ticket", "resolve", "bob", unforked["ticket"])["responder"] in {"", "sip:bob@ims.test"}
    granted = grants(lab)
    answer = lab.json("ticket", "resolve", "bob", unforked["ticket"], "--option", option, status=1)
    assert answer["result"] == "refused", answer
    assert cause in json.dumps(answer), answer
    assert grants(lab) == granted


@pytest.mark.clause("TS 33.328", "5.4.3-1", "B.2.3-1", "6.2.3.8-1")
@pytest.mark.parametrize(
    ("user", "option"),
    [("erin", ""), ("erin", "responder=sip:bob@ims.test"), ("alice", ""), ("alice", "responder=sip:bob@ims.test")],
)
def test_a_ticket_opens_for_nobody_that_it_does_not_name(
    lab: Lab, unforked: dict[str, Any], user: str, option: str
) -> None:
    """Not for a user of the other domain, not for its own initiator, not in the name of who it is for."""
    more = ("--option", option) if option else ()
    answer = lab.json("ticket", "resolve", user, unforked["ticket"], *more, status=1)
    assert answer["result"] == "refused", answer
    assert "INVALID_ID" in json.dumps(answer), answer


@pytest.mark.clause("TS 33.328", "B.2.3-1")
@pytest.mark.parametrize("issuer", ["kms.partner.test", "kms.nowhere.test"])
def test_a_ticket_that_names_another_issuer_is_opened_by_neither_kms(
    lab: Lab, unforked: dict[str, Any], issuer: str
) -> None:
    """IDRkms of the policy altered, lengths kept right: relayed or refused, but never resolved."""
    octets = base64.b64decode(unforked["ticket"])
    old, new = b"kms.ims.test", issuer.encode()
    at = octets.index(old)
    grown = len(new) - len(old)
    name = octets[at - 2 : at]
    assert int.from_bytes(name) == len(old)
    data = int.from_bytes(octets[7:9]) + grown  # TP Data length: behind type, subtype, version and the flags
    forged = octets[:7] + data.to_bytes(2) + octets[9 : at - 2] + len(new).to_bytes(2) + new + octets[at + len(old) :]
    assert decode_ticket(forged).policy.payloads[0] == IdRoled(IdRole.KMS, IdType.URI, new)
    granted = grants(lab)
    answer = lab.json("ticket", "resolve", "bob", base64.b64encode(forged).decode(), status=1)
    assert answer["result"] == "refused", answer
    assert grants(lab) == granted
