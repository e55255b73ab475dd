"""An instance that is added at run time is the one the lab would have laid out from its description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from lab import cli
from lab.cloning import add_instance, remove_instance
from lab.config import LabConfig, parse
from lab.instances import keep, kept
from lab.resolve import resolve
from lab.state import StateFolder
from nodes.imsagw.config import ImsAgwSettings
from nodes.kms.config import KmsSettings
from nodes.pcscf.config import PcscfSettings
from sba.config import NodeEnvironment
from sba.errors import StoreError
from sba.sealing import Sealer

LAB = Path(__file__).resolve().parents[2] / "config" / "lab.yaml"


def description(**changes: Any) -> LabConfig:
    return parse(yaml.safe_dump({**yaml.safe_load(LAB.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder.at(tmp_path / "state")


def laid_out(folder: StateFolder, **changes: Any) -> dict[str, Any]:
    resolve(description(**changes), folder)
    content: dict[str, Any] = json.loads(folder.lab_json.read_text())
    return content


@pytest.mark.parametrize(
    ("nf", "settings"), [("pcscf-a", PcscfSettings), ("imsagw-b", ImsAgwSettings), ("kms", KmsSettings)]
)
def test_a_clone_is_what_the_lab_makes_of_its_description(folder: StateFolder, nf: str, settings: Any) -> None:
    lab = laid_out(folder)
    assert add_instance(lab, nf, 2) == f"{nf}-2"
    clone = lab["nodes"][f"{nf}-2"]
    settings.model_validate(clone["settings"])
    folder.lab_json.write_text(json.dumps(lab))
    keep(folder.instances, {nf: 2})
    again = laid_out(folder)
    assert again["nodes"][f"{nf}-2"] == clone
    assert list(again["nodes"]) == list(lab["nodes"]), "in the same place"


def test_a_clone_shares_no_address_with_anybody(folder: StateFolder) -> None:
    lab = laid_out(folder)
    add_instance(lab, "pcscf-a", 2)
    add_instance(lab, "imsagw-a", 2)
    addresses = list(lab["layout"]["addresses"].values())
    assert len(addresses) == len(set(addresses))
    first, second = (lab["nodes"][name]["settings"] for name in ("pcscf-a", "pcscf-a-2"))
    assert {spot["host"] for spot in first["gm"]}.isdisjoint(spot["host"] for spot in second["gm"])
    assert first["mw"][0]["host"] != second["mw"][0]["host"]
    gateway = lab["nodes"]["imsagw-a-2"]["settings"]
    assert gateway["access_ip"] == lab["layout"]["addresses"]["imsagw-a-2"]
    assert gateway["core_ip"] == lab["layout"]["addresses"]["imsagw-a-2/core"]


def test_who_went_is_the_same_when_he_comes_back(folder: StateFolder) -> None:
    lab = laid_out(folder)
    add_instance(lab, "kms", 2)
    before = json.loads(json.dumps(lab["nodes"]["kms-2"]))
    remove_instance(lab, "kms-2")
    assert "kms-2" not in lab["nodes"]
    add_instance(lab, "kms", 2)
    assert lab["nodes"]["kms-2"] == before


def test_over_tcp_the_core_knows_the_addresses_of_instances_that_may_come(folder: StateFolder) -> None:
    lab = laid_out(folder, mw_transport="tcp")
    add_instance(lab, "pcscf-a", 8)
    trusted = lab["nodes"]["cscf"]["settings"]["trusted_peers"]
    assert lab["nodes"]["pcscf-a-8"]["settings"]["mw"][0]["host"] in trusted


@pytest.mark.attack("T6", "T8")
def test_a_node_outside_the_set_opens_nothing_of_its_store(folder: StateFolder) -> None:
    laid_out(folder, instances={"kms": 2})
    nodes = {name: NodeEnvironment.load(folder.lab_json, name).node for name in ("kms", "kms-2", "kms-p", "bsf")}
    sealed = Sealer(folder.sealing_key, nodes["kms"].sealed_for).seal(b"a ticket key", b"place")
    assert Sealer(folder.sealing_key, nodes["kms-2"].sealed_for).unseal(sealed, b"place") == b"a ticket key"
    strangers = [nodes["kms-p"].sealed_for, nodes["bsf"].sealed_for, nodes["kms"].nf_instance_id, "kms.ims.test"]
    for name in strangers:
        with pytest.raises(StoreError):
            Sealer(folder.sealing_key, name).unseal(sealed, b"place")
    stores = {NodeEnvironment.load(folder.lab_json, name).node_dir for name in ("kms", "kms-2")}
    assert len(stores) == 1
    assert not stores & {NodeEnvironment.load(folder.lab_json, name).node_dir for name in ("kms-p", "bsf")}


@pytest.mark.parametrize("content", ["", "5", '{"kms": "3"}', '{"kms": 99}', '{"kms": true}'])
def test_a_spoilt_file_of_counts_is_none(folder: StateFolder, content: str) -> None:
    folder.create()
    folder.instances.write_text(content)
    assert {nf: count for nf, count in kept(folder.instances).items() if count > 1} == {}


@pytest.mark.parametrize("argument", ["kms", "=2", "kms=", "kms=two", "kms=-1", "kms=0", "kms=9", "kms=²"])
def test_a_count_is_a_number_from_one_to_eight(tmp_path: Path, argument: str) -> None:
    ended = CliRunner().invoke(cli.imslab, ["scale", argument, "--state", str(tmp_path)])
    assert ended.exit_code == 2
    assert "NF=N with N from 1 to 8" in ended.output


def test_without_a_lab_there_is_nothing_to_scale(tmp_path: Path) -> None:
    ended = CliRunner().invoke(cli.imslab, ["scale", "kms=2", "--state", str(tmp_path)])
    assert ended.exit_code == 1
    assert "imslab up" in ended.output
