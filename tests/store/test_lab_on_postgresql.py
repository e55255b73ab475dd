"""Every kind of node with its store on one PostgreSQL server: a lab, its nodes killed, its server killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.e2e.lab import Lab, variant
from tests.postgresql import Postgres, own_server
from tests.store.page import COMMANDS, FILES
from tests.store.test_store_doc import run

pytestmark = [pytest.mark.lab, pytest.mark.peer("pg_ctlcluster"), pytest.mark.timeout(300)]


class LabOnPostgres(Lab):
    """A lab whose description names a PostgreSQL server, which stands beside it."""

    server: Postgres

    def stores(self) -> dict[str, dict[str, Any]]:
        """The row of each store, by name."""
        return {row["store"]: row for row in self.json("database", "status")["stores"]}

    def ticket(self) -> str:
        """A ticket of alice for bob that any later KMS process can resolve."""
        asked = self.json("ticket", "request", "alice", "bob", "--no-forking", "--reusable")
        return str(asked["ticket"])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabOnPostgres]:
    """The lab of docs/store.md, brought up by the commands of the page."""
    folder = tmp_path_factory.mktemp("lab")
    with own_server() as server:

        def on_postgresql(description: dict[str, Any]) -> None:
            description |= yaml.safe_load(FILES["database.yaml"].replace("127.0.0.1:5432", server.address))

        config = variant(folder / "lab.yaml", on_postgresql)
        (folder / "administrator.password").write_bytes(server.password_file.read_bytes())
        made = LabOnPostgres(folder / "state", config)
        made.server = server
        try:
            said = run(COMMANDS["prepare"], folder)
            assert f"{server.address}/imslab is prepared: 17 roles, " in said
            assert "pcscf-a-8" not in run(COMMANDS["up"], folder)
            yield made
        finally:
            made.run("down", check=False)


def test_every_node_keeps_its_state_in_a_schema_of_its_own(lab: LabOnPostgres) -> None:
    assert lab.call("alice", "erin", "--security", "e2e-kms", "--seconds", "1")["result"] == "established"
    assert list(lab.state.rglob("store.sqlite")) == []
    rows = lab.stores()
    kinds = {row["kind"] for row in rows.values()}
    assert kinds == {"nrf", "hss", "cscf", "pcscf", "bsf", "kms", "ue"}, "the gateway keeps nothing"
    for name, row in rows.items():
        assert row["revision"] == row["known"], row
        assert row["where"] == f"{lab.server.address}/imslab as imslab-{name}"
        assert not row["fault"]


@pytest.mark.attack("T9")
def test_every_node_returns_from_kill_9_with_what_it_kept(lab: LabOnPostgres) -> None:
    lab.run("register", "alice")
    lab.run("register", "bob")
    ticket = lab.ticket()
    before, registered = lab.nodes(), lab.json("status")["registrations"]
    for node in before.values():
        os.kill(int(node["pid"]), signal.SIGKILL)
    for name, node in before.items():
        lab.wait_back(name, int(node["pid"]))
    lab.wait(lambda: lab.json("status")["registrations"] == registered, 60, "a registration is lost")
    resolved = lab.json("ticket", "resolve", "bob", ticket)
    assert resolved["responder"] == "sip:bob@ims.test"
    assert lab.call("bob", "alice", "--security", "e2ae-sdes", "--seconds", "1")["result"] == "established"


@pytest.mark.attack("T9")
def test_without_the_server_requests_fail_with_a_reason_and_nobody_dies(lab: LabOnPostgres) -> None:
    assert lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1")["result"] == "established"
    ticket, before = lab.ticket(), lab.nodes()
    lab.server.kill()
    began = time.monotonic()
    refused = lab.json("ticket", "request", "alice", "bob", status=1)
    assert (refused["result"], refused["cause"]) == ("failed", "KMS_UNREACHABLE"), refused
    assert refused["reason"], refused
    failed = lab.call("alice", "carol", "--security", "e2e-kms", status=1)
    assert failed["result"] != "established", failed
    assert failed["reason"], failed
    assert time.monotonic() - began < 40
    lab.server.start()
    resolved = lab.json("ticket", "resolve", "bob", ticket)
    assert resolved["responder"] == "sip:bob@ims.test"
    for security in ("e2ae-sdes", "e2e-kms"):
        result = lab.call("alice", "bob", "--security", security, "--seconds", "1")
        assert result["result"] == "established", result
    assert {name: node["pid"] for name, node in lab.nodes().items()} == {
        name: node["pid"] for name, node in before.items()
    }


@pytest.mark.attack("T8")
def test_passwords_stand_in_their_files_and_nowhere_else(lab: LabOnPostgres) -> None:
    folder = lab.state / "secrets" / "database"
    passwords = [path.read_bytes() for path in folder.iterdir()]
    assert len(passwords) == len(set(passwords)) == 17
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert all(len(password) == 32 for password in passwords)
    looked = [path.read_bytes() for path in lab.files() if folder not in path.parents]
    looked.append(lab.server.log.read_bytes())
    for pid in {int(node["pid"]) for node in lab.nodes().values()}:
        for file in ("cmdline", "environ"):
            with open(f"/proc/{pid}/{file}", "rb") as stream:  # noqa: PTH123 - no path of the lab
                looked.append(stream.read())
    for content in looked:
        assert not any(password in content for password in passwords)


def test_preparing_again_leaves_the_lab_running(lab: LabOnPostgres) -> None:
    run(COMMANDS["prepare"], lab.config.parent)
    assert lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1")["result"] == "established"
