"""Nodes of other kinds in the lab description: what they may be called, and what is said when something is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab.config import ConfigError, parse
from lab.resolve import ResolveError, nf_types
from tests.extending.package import imslab, run, small_package

DESCRIPTION = """
home_domains: [{name: ims.test}]
access_networks: [{name: access-a, pcscf: pcscf-a, gateway: imsagw-a}]
extra_nodes:
  - name: watcher-1
    kind: watcher
    settings: {impu_suffix: "@ims.test"}
"""
CONTRACT = """
syntax = "proto3";
package ims.odd.v1;
import "protos/options.proto";
message Empty {}
service Odd {
  option (ims.options.v1.producer) = { nf_type: "AF" service_name: "nnrf-disc" };
  rpc Ask(Empty) returns (Empty) {
    option (ims.options.v1.authorization) = { scope: "nodd" consumers: "LAB" token: TOKEN_REQUIRED };
  }
}
"""
PROFILES = """
service_profiles:
  - name: screened
    filter_criteria:
      - {server: watcher-1, triggers: [{method: INVITE, session_case: term}]}
users:
  - {name: bob, domain: ims.test, impi: bob@ims.test, access: access-a, service_profile: screened}
"""


def test_a_kind_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(DESCRIPTION)
    up = imslab("up", "--config", str(tmp_path / "lab.yaml"), "--state", str(tmp_path / "state"))
    assert up.returncode == 2
    assert "no network function of kind 'watcher' is installed" in up.stderr
    assert "Traceback" not in up.stderr
    with pytest.raises(ResolveError, match="kind 'nothing' is installed"):
        nf_types("nothing")


@pytest.mark.attack("T6")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "nnrf-disc is taken"),
        (
            {"nnrf-disc": "nodd", '"AF"': '"HSS"', '"nodd"': '"nhss-ims-ueau"', '"LAB"': '"*"'},
            "the scope nhss-ims-ueau is",
        ),
        (
            {"nnrf-disc": "nodd", '"AF"': '"*"', '"nodd"': '"nkms-control"', '"LAB"': '"AF"'},
            "the scope nkms-control is",
        ),
    ],
)
def test_a_contract_may_not_take_the_name_of_another_service_nor_say_who_may_call_it(
    tmp_path: Path, change: dict[str, str], said: str
) -> None:
    pytest.importorskip("grpc_tools", reason="the contract compiler is the build extra")
    folder = small_package(tmp_path / "odd", '[project.entry-points."imslab.contracts"]\nodd = "odd_nf.odd_pb2"\n')
    (folder / "odd_nf" / "odd.proto").write_text(_changed(CONTRACT, change))
    program = f"""
from pathlib import Path
from sba.testing import use_packages
use_packages([{str(folder)!r}], Path({str(tmp_path / "metadata")!r}))
from sba.contracts import all_contracts
all_contracts()
"""
    asked = run(sys.executable, "-c", program)
    assert f"ContractError: the contract odd (odd_nf.odd_pb2): {said}" in asked.stderr


def _changed(text: str, change: dict[str, str]) -> str:
    for before, after in reversed(change.items()):
        text = text.replace(before, after)
    return text


@pytest.mark.parametrize(
    ("name", "kind", "where", "found"),
    [
        ("cscf", "watcher", "extra_nodes[0].name", "the name cscf is already the cscf"),
        ("lab", "watcher", "extra_nodes[0].name", "the name lab is the operator's"),
        ("nrf-2", "nrf", "extra_nodes[0].kind", "nrf is a kind of the lab itself"),
    ],
)
def test_an_extra_node_takes_no_place_of_the_lab(name: str, kind: str, where: str, found: str) -> None:
    text = DESCRIPTION.replace("watcher-1", name).replace("kind: watcher", f"kind: {kind}")
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert [(problem.where, problem.found) for problem in caught.value.problems] == [(where, found)]


def test_a_service_profile_leads_to_a_server() -> None:
    config = parse(DESCRIPTION + PROFILES)
    assert config.users[0].service_profile == "screened"
    [criterion] = config.service_profiles[0].filter_criteria
    assert (criterion.server, criterion.default_handling) == ("watcher-1", "continue")


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        (("service_profile: screened", "service_profile: other"), "users[0].service_profile", "other is no service"),
        (
            ("server: watcher-1", "server: watcher-2"),
            "service_profiles[0].filter_criteria[0].server",
            "is no extra node",
        ),
        (("server: watcher-1", "server: 'http://x'"), "service_profiles[0].filter_criteria[0].server", "does not fit"),
        (("method: INVITE", "method: invite"), "service_profiles[0].filter_criteria[0].triggers[0].method", "not fit"),
        (("session_case: term", "session_case: both"), "[0].triggers[0].session_case", "'both' does not fit"),
        (("session_case: term", "header_pattern: '('"), "[0].triggers[0].header_pattern", "does not fit"),
        (("name: screened", "title: screened"), "service_profiles[0].name", "is missing"),
    ],
)
def test_what_is_wrong_in_a_service_profile_is_named(change: tuple[str, str], where: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(DESCRIPTION + PROFILES.replace(*change))
    found = [problem for problem in caught.value.problems if where in problem.where]
    assert found, caught.value
    assert said in found[0].found
    assert found[0].line > 1


def test_all_faults_of_a_profile_and_its_users_come_at_once() -> None:
    text = DESCRIPTION + PROFILES.replace("INVITE", "invite").replace("bob@ims.test", "bob")
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert len(caught.value.problems) == 2
