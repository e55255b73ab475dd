from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from lab import cli
from lab.config import ConfigError, load, parse

LAB = Path(__file__).resolve().parents[2] / "config" / "lab.yaml"


def faults(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "lab.yaml")
    return [(problem.line, problem.where, problem.right) for problem in caught.value.problems]


def line_of(text: str, start: str, nth: int = 1) -> int:
    found = [number for number, line in enumerate(text.splitlines(), 1) if line.strip().startswith(start)]
    return found[nth - 1]


def test_the_lab_of_the_repository_is_sound() -> None:
    config = load(LAB)
    assert [access.pcscf for access in config.access_networks] == ["pcscf-a", "pcscf-b"]
    assert [user.name for user in config.users] == ["alice", "bob", "carol", "dave", "erin"]
    assert {user.name: user.domain for user in config.users if user.domain != "ims.test"} == {"erin": "partner.test"}
    assert config.user("alice").announces == ["sdes-srtp"]
    assert config.user("carol").announces == []
    assert (config.user("dave").profile, config.user("dave").software_ue) == ("digest", False)
    assert config.user("alice").impu == "sip:alice@ims.test"


def test_every_fault_is_reported_with_its_line() -> None:
    text = (
        LAB.read_text()
        .replace("media_security: preferred", "media_security: prefered", 1)
        .replace('tel: "+15550101"', "tel: 15550101")
        .replace("access: access-b", "access: acess-b", 1)
        .replace("  - name: carol\n", "  - nam: carol\n")
        + "\nfoo: 1\n"
    )
    assert {(line, where) for line, where, _ in faults(text)} == {
        (line_of(text, "media_security: prefered"), "access_networks[0].media_security"),
        (line_of(text, "tel: 15550101"), "users[1].tel"),
        (line_of(text, "access: acess-b"), "users[1].access"),
        (line_of(text, "- nam: carol"), "users[2].name"),
        (line_of(text, "- nam: carol"), "users[2].nam"),
        (line_of(text, "foo:"), "foo"),
    }


def test_a_fault_says_what_would_be_right() -> None:
    text = LAB.read_text().replace("media_security: preferred", "media_security: prefered", 1)
    ((_, _, right),) = faults(text)
    assert "'off'" in right
    assert "'required'" in right


@pytest.mark.parametrize(
    ("before", "after", "where", "right"),
    [
        ("access: access-b", "access: acess-b", "users[1].access", "one of access-a, access-b"),
        ("impi: dave@ims.test", "impi: 001010000000001@ims.test", "users[3].impi", "an identity of its own"),
        ("gateway: imsagw-b", "gateway: pcscf-a", "access_networks[1].gateway", "a name of its own for every node"),
        ("domain: ims.test", "domain: other.test", "users[0].domain", "one of ims.test, partner.test"),
        ("name: access-b", "name: access-a", "access_networks[1].name", "each access network once"),
        ('mcc: "001"', 'mcc: "1"', "plmn.mcc", 'digits in quotes, such as "001"'),
    ],
)
def test_entries_that_do_not_fit_together_are_refused(before: str, after: str, where: str, right: str) -> None:
    found = faults(LAB.read_text().replace(before, after, 1))
    assert (where, right) in {(place, wanted) for _, place, wanted in found}


def test_an_entry_written_twice_is_refused() -> None:
    text = LAB.read_text() + "\nnrf: other\n"
    ((line, where, right),) = faults(text)
    assert (line, where, right) == (line_of(text, "nrf: other"), "nrf", "each entry once")


@pytest.mark.parametrize(
    ("text", "found", "right"),
    [
        ("[]", "is no table of entries", "a table of entries"),
        ("nmae: x\n", "is unknown", "name, or no such entry"),
        ("users: [{naem: x}]", "is unknown", "name, or no such entry"),
        ("kms: {statik_psk: true}", "is unknown", "static_psk, or no such entry"),
        (
            "access_networks: [{packet_workers: {prio: 1}}]",
            "is unknown",
            "one of count, cpus, priority, or no such entry",
        ),
        ("zzz: x\n", "is unknown", "no such entry here; remove it or correct its spelling"),
    ],
)
def test_an_entry_spelled_almost_right_is_told_what_it_was_meant_to_be(text: str, found: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert any(found in problem.found and right in problem.right for problem in caught.value.problems), caught.value


@pytest.mark.parametrize("text", ["", "[]", "a: [", "- x", "users: 3", "? [a]: b", "home_domains: [1]"])
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml")


def test_two_home_domains_may_share_their_nodes() -> None:
    description: dict[str, Any] = yaml.safe_load(LAB.read_text())
    description["home_domains"][1:] = [{"name": "other.test", "cscf": "cscf", "hss": "hss"}]
    del description["users"][4:]
    description["users"][3]["domain"] = "other.test"
    config = parse(yaml.safe_dump(description))
    assert [home.name for home in config.home_domains] == ["ims.test", "other.test"]


def changed(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load(LAB.read_text()), **changes}


def test_a_kms_needs_a_bsf_unless_users_share_keys_with_it_from_the_start() -> None:
    description = changed()
    del description["home_domains"][1]["bsf"]
    ((_, where, right),) = faults(yaml.safe_dump(description))
    assert (where, right) == ("home_domains[1].kms", "a bsf beside it, or kms.static_psk: true")
    description["kms"] = {"static_psk": True}
    assert parse(yaml.safe_dump(description)).kms.static_psk


def test_what_a_kms_allows_names_users_that_there_are() -> None:
    description = changed(kms={"groups": [{"uri": "sip:all@other.test", "members": ["alice", "zoe"]}]})
    description["users"][0] |= {
        "kms_rights": {"request_for": ["bob", "@home", "sip:x@elsewhere.test"], "resolve_from": ["yves"]},
        "kms_policy": {"peers": {"xaver": "required", "*@partner.test": "off"}, "also": ["ute"]},
    }
    assert {where for _, where, _ in faults(yaml.safe_dump(description))} == {
        "users[0].kms_rights.resolve_from[0]",
        "users[0].kms_policy.peers.xaver",
        "users[0].kms_policy.also[0]",
        "kms.groups[0].members[1]",
        "kms.groups[0].uri",
    }


@pytest.mark.parametrize(("home", "name"), [(0, "hss"), (1, "kms"), (0, "alice"), (0, "cscf-p")])
def test_a_kms_has_a_name_of_its_own(home: int, name: str) -> None:
    description = changed()
    description["home_domains"][home]["kms"] = name
    assert "a name of its own for every node" in {right for _, _, right in faults(yaml.safe_dump(description))}


@pytest.mark.attack("T6")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"kms": "kms-i"}, {"kms": "kms"}),
        ({"kms": "kms-i"}, {"pcscf": "kms"}),
        ({"bsf": "bsf-i"}, {"bsf": "bsf"}),
        ({"hss": "hss-i"}, {"hss": "hss"}),
        ({}, {"cscf": "scscf"}),
        ({"kms": None, "bsf": None}, {"kms": "kms"}),
    ],
)
def test_no_node_is_called_as_a_role_of_the_first_home_domain_that_it_does_not_have(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    description = changed()
    description["home_domains"][0] |= first
    description["access_networks" if "pcscf" in second else "home_domains"][1] |= second
    with pytest.raises(ConfigError, match="certificates show the name"):
        parse(yaml.safe_dump(description), "lab.yaml")


def kms_faults(kms: dict[str, Any], **user: Any) -> list[tuple[str, str]]:
    description = changed(kms=kms)
    description["users"][0] |= user
    return [(where, right) for _, where, right in faults(yaml.safe_dump(description))]


GROUP: dict[str, Any] = {"uri": "sip:sales@ims.test", "members": ["bob"]}


@pytest.mark.parametrize(
    ("groups", "where", "right"),
    [
        ([{**GROUP, "uri": "sales"}], "uri", "a SIP URI of a home domain, such as sip:sales@ims.test"),
        ([{**GROUP, "uri": "tel:+15550100"}], "uri", "a SIP URI of a home domain, such as sip:sales@ims.test"),
        ([{**GROUP, "uri": "sip:bob@ims.test"}], "uri", "a URI that is no user's"),
        ([{**GROUP, "members": []}], "members", "one or more users, URIs, *@domain, @home or @lab"),
        ([{"uri": "sip:sales@ims.test"}], "members", "one or more users, URIs, *@domain, @home or @lab"),
        ([{**GROUP, "members": ["Bob!"]}], "members[0]", "a user's name, a sip: or tel: URI, *@domain, @home or @lab"),
        ([{**GROUP, "members": ["*@else.test"]}], "members[0]", "*@ and one of ims.test, partner.test"),
        ([{**GROUP, "requesters": ["sip:*@else.test"]}], "requesters[0]", "*@ and one of ims.test, partner.test"),
    ],
)
def test_a_group_that_can_be_none_is_refused(groups: list[Any], where: str, right: str) -> None:
    assert kms_faults({"groups": groups}) == [(f"kms.groups[0].{where}", right)]


def test_a_group_is_listed_once_and_kept_by_a_kms() -> None:
    assert kms_faults({"groups": [GROUP, {**GROUP, "uri": "sip:sales@ims.test"}]}) == [
        ("kms.groups[1].uri", "each group once, with all its members")
    ]
    description = changed(kms={"groups": [GROUP]})
    for role in ("kms", "bsf"):
        del description["home_domains"][0][role]
    assert [(where, right) for _, where, right in faults(yaml.safe_dump(description))] == [
        ("kms.groups[0].uri", "a group of partner.test")
    ]


def test_patterns_of_users_name_domains_of_the_lab() -> None:
    rights = {"request_for": ["*@ims.test", "*@else.test"], "resolve_from": ["sip:*@else.test", "*"]}
    policy = {"peers": {"*@else.test": "off", "*@partner.test": "off"}}
    assert {where for where, _ in kms_faults({}, kms_rights=rights, kms_policy=policy)} == {
        "users[0].kms_rights.request_for[1]",
        "users[0].kms_rights.resolve_from[0]",
        "users[0].kms_policy.peers.*@else.test",
    }


def test_no_user_may_have_longer_tickets_than_the_kms_grants() -> None:
    found = kms_faults({"max_validity_s": 600}, kms_rights={"max_validity_s": 601})
    assert found == [("users[0].kms_rights.max_validity_s", "at most 600, or more in kms.max_validity_s")]
    assert parse(yaml.safe_dump(changed(kms={"max_validity_s": 600}))).kms.max_validity_s == 600


def test_a_bsf_without_a_kms_is_no_fault() -> None:
    description = changed()
    del description["home_domains"][1]["kms"]
    assert parse(yaml.safe_dump(description)).home_domains[1].bsf == "bsf-p"


@pytest.mark.parametrize(
    ("kms", "where", "right"),
    [
        ({"max_validity_s": 0}, "kms.max_validity_s", "at least 1"),
        ({"max_validity_s": 10**9}, "kms.max_validity_s", "at most 31536000"),
        ({"max_validity_s": "1h"}, "kms.max_validity_s", "a whole number"),
        ({"max_validity_s": 1.5}, "kms.max_validity_s", "a whole number"),
        ({"user_made_tickets": "yes"}, "kms.user_made_tickets", "true or false"),
        ({"profile": ["256"]}, "kms.profile", "a table of entries, each 'name: value'"),
        ({"profile": {"suite": 256}}, "kms.profile.suite", "one of 128, 256, in quotes"),
        ({"profile": {"clock_skew_s": -1}}, "kms.profile.clock_skew_s", "a number from 0 to 86400"),
        ({"profile": {"ts_types_accepted": ["CLOCK"]}}, "kms.profile.ts_types_accepted", "one of NTP_UTC (0)"),
        ({"profile": {"ticket_kind_issued": [9, 9, 9]}}, "kms.profile.ticket_kind_issued", "a kind that stands in"),
    ],
)
def test_what_is_right_is_said_in_our_own_words(kms: dict[str, Any], where: str, right: str) -> None:
    ((found, said),) = kms_faults(kms)
    assert found == where
    assert said.startswith(right)


def test_an_unknown_value_of_the_profile_is_named_with_its_line_beside_the_other_faults() -> None:
    kms = {"profile": {"sweet": "256", "send_sdp_ids": 1, "suite": "256"}, "groups": [{**GROUP, "members": ["zoe"]}]}
    text = yaml.safe_dump({**changed(kms=kms), "foo": 1})
    assert {(line, where) for line, where, _ in faults(text)} == {
        (line_of(text, "sweet:"), "kms.profile.sweet"),
        (line_of(text, "send_sdp_ids: 1"), "kms.profile.send_sdp_ids"),
        (line_of(text, "- zoe"), "kms.groups[0].members[0]"),
        (line_of(text, "foo:"), "foo"),
    }


def test_a_part_that_is_no_table_is_a_fault_like_others() -> None:
    found = {where for where, _ in kms_faults({}, kms_policy="off", kms_rights="all", access="nowhere")}
    assert found == {"users[0].kms_policy", "users[0].kms_rights", "users[0].access"}


def test_a_level_towards_somebody_who_can_be_nobody_says_who_could() -> None:
    ((where, right),) = kms_faults({}, kms_policy={"peers": {"B!": "off"}})
    assert (where, right) == (
        "users[0].kms_policy.peers.B!",
        "a user's name, a sip: or tel: URI, *@domain, @home or @lab",
    )


@pytest.mark.parametrize(("kms", "said"), [({"max_validity_s": 0}, "1 fault\n"), ({"a": 1, "b": 2}, "2 faults\n")])
def test_up_counts_the_faults(tmp_path: Path, kms: dict[str, Any], said: str) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(changed(kms=kms)))
    command = ["up", "--config", str(file), "--state", str(tmp_path / "state")]
    ended = CliRunner().invoke(cli.imslab, command)
    assert ended.exit_code == 2
    assert f"the lab description has {said}" in ended.output


@pytest.mark.parametrize(
    ("instances", "where", "right"),
    [
        ({"pcscf-c": 2}, "instances.pcscf-c", "one of imsagw-a, imsagw-b, kms, kms-p, pcscf-a, pcscf-b"),
        ({"cscf": 2}, "instances.cscf", "one of imsagw-a, imsagw-b, kms, kms-p, pcscf-a, pcscf-b"),
        ({"kms": 0}, "instances.kms", "at least 1"),
        ({"kms": 9}, "instances.kms", "at most 8"),
        ({"kms": "2"}, "instances.kms", "a whole number"),
        ({"kms": True}, "instances.kms", "a whole number"),
        ([], "instances", "a table of entries, each 'name: value'"),
    ],
)
def test_instances_are_counted_of_what_can_have_several(instances: Any, where: str, right: str) -> None:
    ((_, found, said),) = faults(yaml.safe_dump({**yaml.safe_load(LAB.read_text()), "instances": instances}))
    assert found == where
    assert said.startswith(right)


def test_no_user_has_the_name_of_a_further_instance() -> None:
    content = yaml.safe_load(LAB.read_text())
    content["users"][0]["name"] = "kms-2"
    assert [(where, right) for _, where, right in faults(yaml.safe_dump(content))] == [
        ("users[0].name", "a name of its own for every node")
    ]
    content["home_domains"][1]["bsf"] = content["users"][0]["name"] = "imsagw-b-8"
    assert {where for _, where, _ in faults(yaml.safe_dump(content))} == {"users[0].name", "home_domains[1].bsf"}
