"""What the lab description says about KMSs, seen in calls: groups, numbers of other domains, profile, mode 3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lab.mikey_cli import mikey
from tests.e2e.lab import Lab, running
from tests.e2e.test_kms import assert_end_to_end, halted, kms_call

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

GROUP = "sip:sales@ims.test"


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a group over two domains, 256-bit algorithms, 3GPP tickets, and users who may make tickets."""

    def change(description: dict[str, Any]) -> None:
        description["kms"] = {
            "max_validity_s": 7200,
            "groups": [{"uri": GROUP, "members": ["bob", "erin"], "requesters": ["alice"]}],
            "user_made_tickets": True,
            "profile": {"suite": "256", "ticket_kind_issued": [2, 1, 1], "suites_accepted": ["256"]},
        }
        description["users"][1]["kms_policy"] = {"also": [GROUP]}
        description["users"][1]["kms_rights"] = {"max_validity_s": 60, "reusable": False}

    with running(tmp_path_factory.mktemp("described"), change) as lab:
        yield lab


@pytest.mark.parametrize("callee", ["bob", "erin"])
def test_a_member_of_a_group_takes_a_call_whose_ticket_names_the_group_alone(described: Lab, callee: str) -> None:
    result = kms_call(described, "alice", callee, "--option", f"responders={GROUP}")
    assert_end_to_end(result, "alice", callee)
    used = [each for each in described.json("ticket", "show", "alice")["tickets"] if each["uses"]]
    assert [GROUP] in [each["responders"] for each in used]


@pytest.mark.attack("T5")
def test_who_is_in_no_group_does_not_take_its_calls(described: Lab) -> None:
    result = kms_call(described, "alice", "carol", "--option", f"responders={GROUP}", status=1)
    assert (result["result"], result["sip_status"]) == ("refused", 488)


def test_a_group_stands_beside_who_is_called_where_policy_names_it(own_folder: Path) -> None:
    def change(description: dict[str, Any]) -> None:
        description["kms"] = {"groups": [{"uri": GROUP, "members": ["erin"], "requesters": ["alice"]}]}
        description["users"][0]["kms_policy"] = {"also": [GROUP], "reusable": True}

    with running(own_folder, change) as lab:
        for callee in ("bob", "erin"):
            assert_end_to_end(kms_call(lab, "alice", callee), "alice", callee)
        tickets = lab.json("ticket", "show", "alice")["tickets"]
        assert {tuple(each["responders"]) for each in tickets} == {
            ("sip:bob@ims.test", GROUP),
            ("sip:erin@partner.test", GROUP),
        }


def test_a_group_alone_is_requested_and_who_may_not_name_it_is_told_why(described: Lab) -> None:
    assert described.json("ticket", "request", "alice", "--group", GROUP)["responders"] == [GROUP]
    refused = described.json("ticket", "request", "bob", "--group", GROUP, status=1)
    assert (refused["result"], refused["cause"]) == ("refused", "MIKEY_INVALID_TP_PAR")
    assert "the policy of the ticket is not allowed" in refused["reason"]
    assert any(step["label"] == "request refused" for step in described.flow(refused["trace_id"])["steps"])
    said = described.run("ticket", "request", "bob", "--group", GROUP, check=False)
    assert said.returncode == 1
    assert "imslab kms audit --user bob" in said.stderr


@pytest.mark.clause("TS 33.328", "6.2.3.8-1")
@pytest.mark.parametrize(("caller", "number", "callee"), [("alice", "104", "erin"), ("erin", "101", "bob")])
def test_a_user_of_another_domain_is_called_by_number_under_keys_of_the_kms(
    lab: Lab, caller: str, number: str, callee: str
) -> None:
    assert_end_to_end(kms_call(lab, caller, f"tel:+15550{number}"), caller, callee)


@pytest.mark.clause("TS 33.328", "6.2.3.4.1-1")
def test_the_profile_of_the_description_holds_for_tickets_messages_and_media(described: Lab, tmp_path: Path) -> None:
    file = tmp_path / "exchange.json"
    arguments = ("--suite", "AEAD_AES_256_GCM", "--with-keys", "--exchange", str(file))
    result = kms_call(described, "alice", "erin", *arguments)
    assert_end_to_end(result, "alice", "erin")
    assert {leg["suite"] for leg in result["legs"] if leg["side"] == "end"} == {"AEAD_AES_256_GCM"}
    followed = CliRunner().invoke(mikey, ["follow", str(file)])
    assert followed.exit_code == 0, followed.output
    decoded = CliRunner().invoke(mikey, ["decode", str(file), "--message", "TRANSFER_INIT"])
    assert "PRF_HMAC_SHA_256" in decoded.output
    ticket = described.json("ticket", "request", "alice", "bob")
    assert (ticket["ticket_type"], ticket["subtype"], ticket["version"]) == (2, 1, 1)


def test_a_ticket_that_a_user_makes_serves_the_next_call(described: Lab) -> None:
    made = described.json("ticket", "request", "alice", "bob", "--mode-3")
    assert "D" not in made["flags"]
    assert made["REQUEST_INIT"] == ""
    assert_end_to_end(kms_call(described, "alice", "bob"), "alice", "bob")
    uses = {each["ticket_id"]: each["uses"] for each in described.json("ticket", "show", "alice")["tickets"]}
    assert uses.get(made["ticket_id"], 1) == 1


def test_where_no_kms_resolves_tickets_of_users_none_is_made(lab: Lab) -> None:
    refused = lab.run("ticket", "request", "alice", "bob", "--mode-3", check=False)
    assert refused.returncode == 2
    assert "kms.user_made_tickets: true" in refused.stderr


def test_what_a_kms_altered_is_said_in_words(described: Lab) -> None:
    wish = ("--reusable", "--validity", "600")
    ticket = described.json("ticket", "request", "bob", "alice", *wish)
    assert ticket["altered"] == ["validity: asked 600 s, granted 60 s", "reuse: asked for, not granted"]
    shown = described.run("ticket", "show", "bob", "--explain").stdout
    assert "altered    reuse: asked for, not granted" in shown
    assert "K: the KMS altered what was asked for" in shown


def test_a_forked_ticket_by_hand_is_not_sent_to_be_resolved(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "ticket.json"
    file.write_text(json.dumps(lab.json("ticket", "request", "alice", "bob")))
    before = lab.json("kms", "audit", "-n", "1")["entries"]
    refused = lab.run("ticket", "resolve", "bob", str(file), check=False)
    assert refused.returncode == 2
    assert "--exchange FILE" in refused.stderr
    assert lab.json("kms", "audit", "-n", "1")["entries"] == before
    exchange = tmp_path / "exchange.json"
    kms_call(lab, "alice", "bob", "--with-keys", "--exchange", str(exchange))
    # the called UE has resolved it for the same TRANSFER_INIT already: a ticket for one use is still the same use
    assert lab.json("ticket", "resolve", "bob", str(exchange))["forked"] is True


@pytest.mark.attack("T9")
def test_a_kms_that_is_silent_is_named_and_neither_the_ue_nor_the_other_kms_is_blamed(lab: Lab) -> None:
    lab.json("ticket", "request", "alice", "bob")
    with halted(lab, "kms"):
        failed = lab.json("ticket", "request", "alice", "bob", status=1)
        assert "kms.ims.test did not answer" in failed["reason"]
        assert failed["cause"] == "KMS_UNREACHABLE"
        audit = lab.json("kms", "audit", status=1)
        assert audit["failed"] == {"kms": "kms does not answer"}
        told = lab.run("kms", "rotate", check=False)
        assert told.returncode == 1
        assert "kms-p seals tickets with key" in told.stdout
        assert told.stderr == "imslab: kms does not answer\n"


def test_the_audit_of_a_call_between_domains_reads_the_same_way_at_both_kmss(lab: Lab) -> None:
    kms_call(lab, "alice", "erin", "--option", "fresh_ticket=true")
    lines = lab.run("kms", "audit", "-n", "3").stdout.splitlines()
    assert lines[0].split()[:4] == ["time", "KMS", "what", "outcome"]
    assert len(lines) == 4
    text = "\n".join(lines)
    assert "kms-p  asked kms to resolve" in text
    assert "kms    resolve for kms-p" in text
    assert all("sip:erin@partner.test" in line for line in lines[1:])
    moments = [line[:19] for line in lines[1:]]
    assert moments == sorted(moments, reverse=True)


def test_a_call_that_its_own_ue_refuses_has_the_status_it_would_have_answered_and_sends_nothing(lab: Lab) -> None:
    with halted(lab, "kms"):
        result = kms_call(lab, "alice", "bob", "--option", "fresh_ticket=true", status=1)
    assert (result["result"], result["sip_status"], result["setup_ms"]) == ("refused", 488, 0)
    assert "kms-unreachable: kms.ims.test" in result["reason"]
    assert not any(step["kind"] == "sip" for step in lab.flow(result["trace_id"])["steps"])
