"""Bidding down (T1) and spoilt keys (T2): refused, seen in the trace, and never carried in the clear."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab.state import StateFolder
from lab.tracestore import TraceStore
from tests.e2e.lab import Lab, running
from tests.e2e.live import behaving

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture
def alice_registered_anew(lab: Lab) -> Iterator[None]:
    """What a test did to alice's agreement ends with it."""
    lab.run("register", "bob")
    yield
    lab.run("register", "alice")


def trace_of(lab: Lab, trace_id: str) -> list[Any]:
    lab.run("flow", check=False)  # asks the lab to settle: every span has arrived
    store = TraceStore(StateFolder.at(lab.state).traces, read_only=True)
    try:
        return list(store.spans_of_trace(trace_id))
    finally:
        store.close()


def decisions(lab: Lab, trace_id: str) -> list[dict[str, Any]]:
    """The key decisions of a trace, without their prefix."""
    return [
        {name.removeprefix("imslab.decision."): value for name, value in span.attributes.items()}
        for span in trace_of(lab, trace_id)
        if span.name == "key.decision"
    ]


def assert_no_media(lab: Lab, refused: dict[str, Any]) -> None:
    """A refused call had no leg at any gateway: none in the verdict, none in the flow, none left behind."""
    assert refused["legs"] == []
    flow = lab.flow(refused["call_id"])
    assert [step for step in flow["steps"] if step["kind"] == "media"] == []
    assert lab.json("status")["media_streams"] == 0


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.1.1-6", "7.1.1-7")
@pytest.mark.clause("ims-signalling", "E-12")
def test_altered_security_verify_is_answered_494_and_the_trace_shows_it(lab: Lab, alice_registered_anew: None) -> None:
    lab.run("deregister", "alice")
    answer = lab.json("register", "alice", "--option", "tamper_verify=alter", status=1)
    assert (answer["registered"], answer["sip_status"]) == (False, 494)
    assert answer["media_mechanisms"] == []
    shown = [
        event.attributes.get("start_line", "")
        for span in trace_of(lab, answer["trace_id"])
        for event in span.events
        if event.name == "sip.message"
    ]
    assert any(str(line).startswith("SIP/2.0 494") for line in shown), shown


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.1-4", "7.2.1-6")
def test_register_stripped_of_mediasec_leaves_no_agreement_and_its_e2ae_call_is_never_carried_in_the_clear(
    lab: Lab, alice_registered_anew: None
) -> None:
    lab.run("deregister", "alice")
    answer = lab.json("register", "alice", "--option", "strip_mediasec=true")
    assert answer["registered"]
    assert answer["media_mechanisms"] == []
    agreement = [entry for entry in decisions(lab, answer["trace_id"]) if entry.get("mode") == "mediasec"]
    assert {entry["outcome"] for entry in agreement} == {"no-agreement"}
    refused = lab.call(
        "alice", "bob", "--security", "e2ae-sdes", "--seconds", "1", "--option", "force_offer=true", status=1
    )
    assert (refused["result"], refused["sip_status"]) == ("refused", 488)
    assert "e2ae-not-announced" in refused["reason"]
    assert_no_media(lab, refused)
    flow = lab.flow(refused["call_id"])
    assert [step["outcome"] for step in flow["steps"] if step["kind"] == "decision" and step["from"] == "pcscf-a"] == [
        "refused"
    ]
    assert not [step for step in flow["steps"] if step["kind"] == "rpc"], "the gateway was asked for nothing"


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.2.1-6")
def test_phone_without_agreement_does_not_even_offer_e2ae(lab: Lab, alice_registered_anew: None) -> None:
    lab.run("register", "alice", "--media-security", "none")
    refused = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1", status=1)
    assert (refused["result"], refused["sip_status"]) == ("refused", 488)
    assert refused["legs"] == []


@pytest.mark.attack("T1")
def test_register_that_lost_its_list_at_a_refresh_ends_the_agreement(lab: Lab, alice_registered_anew: None) -> None:
    assert lab.json("register", "alice")["media_mechanisms"] == ["sdes-srtp"]
    again = lab.run("register", "alice", "--option", "strip_mediasec=true", "--json", check=False)
    answer = json.loads(again.stdout)
    assert answer["sip_status"] == 494 or answer["media_mechanisms"] == []
    if answer["registered"]:
        refused = lab.call("alice", "bob", "--security", "e2ae-sdes", "--option", "force_offer=true", status=1)
        assert refused["sip_status"] == 488
        assert_no_media(lab, refused)


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.1.1-6")
@pytest.mark.parametrize("tampering", ["omit", "drop"])
def test_register_that_lost_its_security_verify_leaves_no_agreement_and_no_e2ae_call(
    lab: Lab, alice_registered_anew: None, tampering: str
) -> None:
    lab.run("deregister", "alice")
    answer = lab.json("register", "alice", "--option", f"tamper_verify={tampering}")
    agreement = [entry for entry in decisions(lab, answer["trace_id"]) if entry.get("mode") == "mediasec"]
    assert {entry["outcome"] for entry in agreement} == {"no-agreement"}
    refused = lab.call("alice", "bob", "--security", "e2ae-sdes", "--option", "force_offer=true", status=1)
    assert refused["sip_status"] in {488, 494}
    assert_no_media(lab, refused)


@pytest.mark.attack("T2")
@pytest.mark.clause("RFC 4568", "5.1.3", "6.1", "6.2", "6.3")
@pytest.mark.clause("TS 33.328", "5.5.1-2", "C-4")
@pytest.mark.parametrize(
    "spoilt",
    [
        "short-key",
        "unknown-suite",
        "unencrypted",
        "unauthenticated",
        "long-lifetime",
        "bad-mki",
        "same-key",
        "same-tag",
        "strip-crypto",
    ],
)
def test_offer_with_spoilt_crypto_lines_is_refused_488_without_media(lab: Lab, spoilt: str) -> None:
    lab.run("register", "alice")
    answer = lab.run(
        "call", "alice", "bob", "--security", "e2ae-sdes", "--seconds", "0.2", "--option", f"tamper_offer={spoilt}",
        "--json", check=False,
    )  # fmt: skip
    outcome = json.loads(answer.stdout)
    if spoilt in {"same-key", "same-tag"} and outcome["result"] == "established":
        # One good line may stay when the other is skipped; then the call is protected under it.
        assert outcome["security"] == "e2ae-sdes"
        protections = {leg["protection"] for leg in outcome["legs"] if (leg["node"], leg["side"]) == ("alice", "end")}
        assert protections == {"SRTP"}
        return
    assert (outcome["result"], outcome["sip_status"]) == ("refused", 488), outcome
    assert_no_media(lab, outcome)


@pytest.mark.attack("T1", "T2")
@pytest.mark.clause("RFC 4568", "5.1.2", "5.1.3")
@pytest.mark.parametrize(
    "spoilt", ["strip-crypto", "wrong-tag", "wrong-suite", "reflect-key", "two-lines", "short-key", "plain-profile"]
)
def test_answer_with_spoilt_crypto_line_ends_the_call_and_no_sound_passes_in_the_clear(lab: Lab, spoilt: str) -> None:
    with behaving(lab, "bob", tamper_answer=spoilt):
        process = lab.run("call", "alice", "bob", "--security", "e2ae-sdes", "--seconds", "0.6", "--json", check=False)
    outcome = json.loads(process.stdout)
    assert process.returncode == 1, outcome
    assert outcome["result"] in {"refused", "failed"}, outcome
    assert outcome["legs"] == []
    lab.wait(lambda: lab.json("status")["media_streams"] == 0, 10, "the gateways kept streams of the refused call")
    steps = lab.flow(outcome["call_id"])["steps"]
    # bob's leg was refused: whatever a gateway saw there before the BYE, it passed none of it to anybody.
    passed = [step for step in steps if step["kind"] == "media" and step["from"] == "imsagw-b" and step["to"] == "bob"]
    assert all(step["protection"] != "RTP" for step in passed), passed


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.2.1-6")
def test_phone_that_requires_protection_refuses_to_be_called_or_to_call_in_the_plain(lab: Lab) -> None:
    with behaving(lab, "alice", media_security="required"):
        # e2ae reaches alice only where her P-CSCF protects her access: carol's plain call arrives protected there.
        protected = lab.call("carol", "alice", "--security", "none", "--seconds", "0.6", status=None)
    if protected["result"] == "established":
        leg = next(leg for leg in protected["legs"] if (leg["node"], leg["side"]) == ("alice", "end"))
        assert leg["protection"] == "SRTP"
    else:
        assert protected["sip_status"] == 488
    refused = lab.call("alice", "carol", "--security", "none", "--option", "level=required", status=1)
    assert refused["sip_status"] == 488
    with behaving(lab, "carol", media_security="required"):
        refused = lab.call("alice", "carol", "--security", "e2ae-sdes", "--seconds", "0.6", status=1)
    assert (refused["result"], refused["sip_status"]) == ("refused", 488)
    assert refused["legs"] == []


@pytest.mark.clause("ims-signalling", "SEC-1")
@pytest.mark.clause("TS 33.328", "7.2.1-8")
def test_suite_the_gateway_does_not_carry_is_refused_by_name(own_folder: Any) -> None:
    with running(own_folder) as poor:
        described = json.loads((poor.state / "lab.json").read_text())
        described["nodes"]["imsagw-a"]["settings"]["suites"] = ["AES_CM_128_HMAC_SHA1_80"]
        (poor.state / "lab.json").write_text(json.dumps(described))
        poor.wait_back("imsagw-a", poor.kill("imsagw-a"))
        secure = ("alice", "bob", "--security", "e2ae-sdes", "--seconds", "0.6", "--suite")
        refused = poor.call(*secure, "AEAD_AES_256_GCM", status=1)
        assert (refused["result"], refused["sip_status"]) == ("refused", 488)
        assert 'pcscf-a "media-sec:no-common-suite"' in refused["reason"]
        assert poor.call(*secure, "AES_CM_128_HMAC_SHA1_80")["result"] == "established"


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.2.1-6")
def test_network_and_subscriber_policy_required_refuse_who_has_no_agreement(own_folder: Any) -> None:
    def change(description: dict[str, Any]) -> None:
        for user in description["users"]:
            if user["name"] == "carol":
                user["subscription"] = "required"

    with running(own_folder, change) as strict:
        called = strict.call("alice", "carol", "--security", "e2ae-sdes", "--seconds", "0.6", status=1)
        assert (called["result"], called["sip_status"]) == ("refused", 488)
        assert called["legs"] == []
        calling = strict.call("carol", "alice", "--security", "none", "--seconds", "0.6", status=1)
        assert (calling["result"], calling["sip_status"]) == ("refused", 488)
        assert strict.json("status")["media_streams"] == 0
