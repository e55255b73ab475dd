"""The database in the lab description: what is wrong is said with its line, and what is right reaches ``lab.json``."""

import json
from pathlib import Path

import pytest

from lab.config import parse
from lab.config_problems import ConfigError
from lab.database import tenants
from lab.resolve import resolve
from lab.state import StateFolder
from sba.config import NodeEnvironment
from sba.database import DatabaseAccess
from sba.database_setup import Tenant
from tests.e2e.lab import ROOT

DESCRIPTION = (ROOT / "config" / "lab.yaml").read_text()
URL = "postgresql+asyncpg://db.test/lab"


def with_database(*lines):
    return DESCRIPTION + "\ndatabase:\n" + "".join(f"  {line}\n" for line in lines)


def problems(*lines):
    with pytest.raises(ConfigError) as found:
        parse(with_database(*lines))
    first = DESCRIPTION.count("\n") + 3
    return [(problem.line - first, problem.where, problem.found, problem.right) for problem in found.value.problems]


@pytest.mark.attack("T8")
def test_a_password_in_the_url_is_refused_and_not_shown():
    ((line, where, found, right),) = problems("url: postgresql://nf:hidden@db.test/lab")
    assert (line, where) == (0, "database.url")
    assert "names a user" in found
    assert "hidden" not in found + right


def test_every_fault_of_the_section_at_once():
    found = problems(f"url: {URL}", "password_file: files/one", "ca_file: /nowhere/ca.pem", "wait_s: 1.5")
    assert [(line, where) for line, where, *_ in found] == [
        (1, "database.password_file"),
        (1, "database.password_file"),
        (2, "database.ca_file"),
    ]
    assert [right for *_, right in found] == [
        "an absolute path",
        "a path with {nf} in it: each NF has a password of its own",
        "the absolute path of a PEM file",
    ]
    (alone,) = problems("ca_file: /nowhere/ca.pem")
    assert alone[1:3] == ("database.ca_file", "says nothing without a url")
    (kind,) = problems("url: sqlite:///x")
    assert kind[2] == "is no URL of a PostgreSQL database"
    unknown, number = problems("user: lab", f"url: {URL}", "wait_s: long")
    assert unknown[1:3] == ("database.user", "is unknown")
    assert number[1:] == ("database.wait_s", "'long' does not fit", "a number")


def resolved(folder: Path, *lines, more=""):
    folder = StateFolder.at(folder)
    text = with_database(*lines)
    if more:
        text = text.replace("instances: {}", more)
        assert more in text
    resolve(parse(text), folder)
    return folder, json.loads(folder.lab_json.read_text())


def test_a_resolved_lab_names_the_database_and_has_a_password_for_every_network_function(tmp_path):
    folder, lab = resolved(tmp_path / "state", f"url: {URL}", "wait_s: 3", more="instances: {kms: 2, pcscf-a: 2}")
    found = {tenant.nf: tenant for tenant in tenants(lab)}
    assert found["kms.ims.test"].stores == ("kms.ims.test",)
    assert found["pcscf-a"].stores == ("pcscf-a", *(f"pcscf-a-{number}" for number in range(2, 9)))
    assert found["hss"].stores == ("hss",)
    assert "lab" not in found
    passwords = {name: tenant.password_file.read_text() for name, tenant in found.items()}
    assert len(set(passwords.values())) == len(found)
    for name, entry in lab["nodes"].items():
        if entry["kind"] == "lab":
            continue
        environment = NodeEnvironment.load(folder.lab_json, name)
        access = DatabaseAccess.of(environment)
        (tenant,) = [tenant for tenant in found.values() if access.password_file == tenant.password_file]
        assert access.schema.removeprefix("imslab-") in tenant.stores, name
        assert environment.lab.database_wait_s == 3
    again, _ = resolved(tmp_path / "state", f"url: {URL}")
    assert {name: (again.database / f"{name}.password").read_text() for name in passwords} == passwords


def test_without_a_database_nothing_is_said_of_one(tmp_path):
    folder = StateFolder.at(tmp_path / "state")
    resolve(parse(DESCRIPTION), folder)
    assert not any(name.startswith("database") for name in json.loads(folder.lab_json.read_text()))
    assert not folder.database.exists()


def test_password_files_of_the_operator_are_used_and_not_made(tmp_path):
    _, lab = resolved(tmp_path / "state", f"url: {URL}", f"password_file: {tmp_path}/{{nf}}")
    assert tenants(lab)[0] == Tenant("nrf", ("nrf",), tmp_path / "nrf")
    assert not (tmp_path / "nrf").exists()
