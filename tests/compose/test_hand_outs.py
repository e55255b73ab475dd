"""What `init` gives to whom: a node's certificate, its sealed files and the key of its own store, and no more."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lab.config import load, parse
from lab.containers import Handout, hand_outs, initialise
from lab.state import StateFolder
from sba.config import NodeEntry
from sba.errors import ConfigurationError
from sba.sealing import Sealer, hand_out
from tests.compose.test_compose_file import OTHER

CONFIG = load(Path(__file__).resolve().parents[2] / "config" / "lab.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Handout]:
    folder = tmp_path_factory.mktemp("authority")
    return {each.service: each for each in hand_outs(CONFIG, StateFolder.at(folder))}


def _lab(handout: Handout) -> dict[str, Any]:
    content = json.loads(handout.files["lab.json"])
    assert isinstance(content, dict)
    return content


def test_a_service_learns_of_its_own_instances_alone(made: dict[str, Handout]) -> None:
    assert list(_lab(made["hss"])["nodes"]) == ["hss"]
    assert set(_lab(made["kms"])["nodes"]) == {"kms", *(f"kms-{number}" for number in range(2, 9))}
    for name, handout in made.items():
        if name not in {"console", "postgres", "database", "grafana"}:
            assert not {"users", "instance_ids", "layout"} & set(_lab(handout))


def test_no_key_is_in_two_hands(made: dict[str, Handout]) -> None:
    owners: dict[bytes, str] = {}
    for name, handout in made.items():
        for file, content in handout.files.items():
            if file.endswith((".key", ".seal", ".sealed")):
                assert owners.setdefault(content, name) == name, (name, file)
    assert len(owners) > 60


def test_a_store_opens_with_the_key_that_was_handed_out_and_no_others_does(tmp_path: Path) -> None:
    authority = StateFolder.at(tmp_path / "authority")
    made = {each.service: each for each in hand_outs(parse(OTHER), authority)}
    for service in ("hss", "ann"):
        folder = tmp_path / service
        folder.mkdir()
        made[service].write(tmp_path)
        entry = NodeEntry.model_validate(_lab(made[service])["nodes"][service])
        own, whole = Sealer(folder, entry.sealed_for), Sealer(authority.sealing_key, entry.sealed_for)
        assert own.unseal(whole.seal(b"kept before"), b"") == b"kept before"
        with pytest.raises(ConfigurationError):
            Sealer(folder, "00000000-0000-4000-8000-000000000000")
    sealed = made["ann"].files["ann.sealed"]
    ann = NodeEntry.model_validate(_lab(made["ann"])["nodes"]["ann"])
    assert b'"k"' in Sealer(tmp_path / "ann", ann.sealed_for).unseal(sealed)


def test_the_lab_wide_key_cannot_be_taken_for_that_of_a_store(tmp_path: Path) -> None:
    master = tmp_path / "sealing.key"
    master.write_text("aa" * 32)
    assert hand_out(master, "one", tmp_path / "seals").read_text() != master.read_text()
    assert hand_out(master, "one", tmp_path / "seals") != hand_out(master, "two", tmp_path / "seals")


def test_the_operator_learns_of_everybody_and_holds_nobodys_secret(tmp_path: Path) -> None:
    authority, operator = StateFolder.at(tmp_path / "authority"), StateFolder.at(tmp_path / "operator")
    initialise(parse(OTHER), authority, operator, _made(tmp_path / "secrets"), "10.89")
    lab = json.loads(operator.lab_json.read_text())
    assert lab["containers"] is True
    assert {"nrf", "edge", "edge-8", "media", "ann", "lab"} <= set(lab["nodes"])
    assert (operator.root / "pki").resolve() == authority.pki.resolve()
    assert {path.name for path in operator.root.iterdir()} == {"lab.json", "packages.json", "pki", "secrets"}
    words = [path.read_text().strip() for path in (tmp_path / "secrets").rglob("*.password")]
    assert words
    assert not [word for word in words if word in operator.lab_json.read_text()]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _stamps(folder: Path) -> dict[str, int]:
    """When each file was written; what is sealed is sealed anew each time."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".sealed"]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def test_again_nothing_changes_but_what_is_due(tmp_path: Path) -> None:
    authority, operator = StateFolder.at(tmp_path / "authority"), StateFolder.at(tmp_path / "operator")
    secrets = _made(tmp_path / "secrets")
    described = parse(OTHER)
    initialise(described, authority, operator, secrets, "10.89")
    before = _stamps(secrets)
    initialise(described, authority, operator, secrets, "10.89")
    assert _stamps(secrets) == before
    from sba.pki import LabCa

    LabCa.open(authority.pki).revoke("edge-2")
    LabCa.open(authority.pki).reissue("edge")
    (secrets / "hss" / "left.key").write_text("of somebody who is gone")
    (secrets / "gone").mkdir()
    (secrets / "gone" / "gone.key").write_text("of a service that is no more")
    initialise(described, authority, operator, secrets, "10.89")
    after = _stamps(secrets)
    changed = {name for name, stamp in after.items() if before.get(name) != stamp}
    assert {"edge/edge.crt", "edge/edge.key", "edge/ca.crl", "hss/ca.crl"} <= changed
    assert all(name.endswith("ca.crl") or name.startswith("edge/edge.") for name in changed), changed
    assert set(after) == set(before)


@pytest.mark.parametrize("kept", [".gitignore"])
def test_the_file_that_git_wants_stays(kept: str, tmp_path: Path) -> None:
    (tmp_path / "hss").mkdir()
    (tmp_path / "hss" / kept).write_text("*\n")
    Handout("hss", os.geteuid(), {"a": b"1"}).write(tmp_path)
    assert {path.name for path in (tmp_path / "hss").iterdir()} == {kept, "a"}
    assert (tmp_path / "hss" / "a").stat().st_mode & 0o777 == 0o400


def test_a_link_in_the_place_of_a_secret_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    (tmp_path / "hss").mkdir()
    for name in ("a", ".a.new"):
        (tmp_path / "hss" / name).symlink_to(target)
    Handout("hss", os.geteuid(), {"a": b"secret"}).write(tmp_path)
    assert target.read_text() == "untouched"
    assert not (tmp_path / "hss" / "a").is_symlink()
    assert (tmp_path / "hss" / "a").read_bytes() == b"secret"


def test_an_application_server_of_a_package_is_laid_out_for_containers_too(tmp_path: Path, monkeypatch) -> None:
    from nodes import application_server
    from sba import run

    class Screening(application_server.ApplicationServer):
        nf_types = ("IMS_AS",)

    monkeypatch.setattr(run, "node_class", lambda _kind: Screening)
    described = parse(OTHER + "extra_nodes: [{name: screening, kind: screening}]\n")
    made = {each.service: each for each in hand_outs(described, StateFolder.at(tmp_path), packages=["/packages/a"])}
    lab = _lab(made["screening"])
    assert lab["nodes"]["screening"]["settings"]["isc"] == {"host": "@core", "port": 5063}
    assert lab["package_path"] == ["/packages/a"]


def test_a_port_that_nobody_thought_of_is_told_and_no_fault() -> None:
    from lab.layout import ResolveError
    from lab.layout_containers import ContainerLayout

    with pytest.raises(ResolveError, match="a port called msrp, which containers do not have"):
        ContainerLayout(CONFIG).port("alice", "msrp")


@pytest.mark.attack("T8")
def test_init_writes_through_no_link_of_the_operators_folder(tmp_path: Path) -> None:
    authority, operator = StateFolder.at(tmp_path / "authority"), StateFolder.at(tmp_path / "operator")
    (tmp_path / "secrets").mkdir()
    operator.root.mkdir()
    precious = tmp_path / "ca.key"
    precious.write_text("precious")
    for path in (operator.lab_json, operator.packages):
        path.with_name(f".{path.name}.new").symlink_to(precious)
        path.symlink_to(precious)
    initialise(parse(OTHER), authority, operator, tmp_path / "secrets", "10.89")
    assert precious.read_text() == "precious"
    assert not operator.lab_json.is_symlink()
    assert operator.lab_json.stat().st_mode & 0o777 == 0o600
