"""`imslab up` on a lab that cannot come up: which node, why, the line of its log; and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sba.pki import LabCa
from sba.testing import free_port
from tests.e2e.lab import Lab

pytestmark = pytest.mark.lab

SMALL: dict[str, Any] = {
    "name": "small",
    "home_domains": [{"name": "ims.test"}],
    "access_networks": [{"name": "access-a", "pcscf": "pcscf-a", "gateway": "imsagw-a"}],
}


def described(folder: Path, **more: object) -> Path:
    file = folder / "lab.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **more}, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that was up once, so that it has addresses, certificates and stores; each test leaves it whole and down."""
    folder = tmp_path_factory.mktemp("small")
    lab = Lab(folder / "state", described(folder))
    try:
        lab.run("up", "--config", str(lab.config), "--no-console")
        lab.run("down")
        yield lab
    finally:
        lab.run("down", check=False)


def failing(lab: Lab, *more: str) -> tuple[dict[str, Any], str]:
    """What `up` says of its failure, as JSON and on the screen; afterwards no process of the lab is left."""
    done = lab.run("up", "--config", str(lab.config), "--json", "--no-console", *more, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert lab.run("status", check=False).returncode == 1
    assert not (lab.state / "supervisor.pid").exists()
    return json.loads(done.stdout), done.stderr


def assert_told(said: tuple[dict[str, Any], str], node: str, *words: str) -> None:
    facts, text = said
    assert facts["node"] == node, facts
    assert facts["log"].endswith(f"/logs/{node}.log")
    for word in words:
        assert word in facts["error"], facts
    assert facts["log_line"], facts
    assert f"the lab did not come up\n{node}: {facts['error']}\n" in text
    assert facts["log"] in text


def address_of(lab: Lab, node: str) -> tuple[str, int]:
    sbi = lab.node(node)["sbi"]
    return sbi["host"], sbi["port"]


@pytest.mark.parametrize("node", ["nrf", "cscf"])
def test_a_port_that_is_taken(laid_out: Lab, node: str) -> None:
    host, port = address_of(laid_out, node)
    with socket.create_server((host, port)):
        said = failing(laid_out)
    assert_told(said, node, "ended with exit code 1", f"cannot listen on {host}:{port}: another program listens there")
    assert said[1].count("cannot listen on") == 1


def test_a_sip_port_that_is_taken(laid_out: Lab) -> None:
    mw = laid_out.node("cscf")["settings"]["mw"]
    with socket.create_server((mw["host"], mw["port"])):
        said = failing(laid_out)
    assert_told(said, "cscf", str(mw["port"]), "in use")


def test_a_key_file_that_is_missing_or_another_nodes(laid_out: Lab) -> None:
    key = laid_out.state / "pki" / "hss.key"
    kept = key.read_bytes()
    try:
        key.unlink()
        assert_told(failing(laid_out), "hss", "ended with exit code 2: hss has no usable key", "No such file", str(key))
        key.write_bytes((laid_out.state / "pki" / "nrf.key").read_bytes())
        assert_told(failing(laid_out), "hss", f"{key} is not the key of {key.with_suffix('.crt')}")
    finally:
        key.write_bytes(kept)
        key.chmod(0o600)


def test_a_certificate_of_another_authority(laid_out: Lab, tmp_path: Path) -> None:
    pki, entry = laid_out.state / "pki", laid_out.node("hss")
    kept = {name: (pki / name).read_bytes() for name in ("hss.crt", "hss.key")}
    foreign = LabCa.create(tmp_path / "foreign")
    foreign.issue("hss", ("HSS",), entry["nf_instance_id"], dns=[entry["fqdn"]], ips=[entry["sbi"]["host"]])
    try:
        for name in kept:
            (pki / name).write_bytes((tmp_path / "foreign" / name).read_bytes())
        assert_told(failing(laid_out), "hss", f"{pki / 'hss.crt'} was not issued by {pki / 'ca.crt'}")
    finally:
        for name, content in kept.items():
            (pki / name).write_bytes(content)


def test_an_authority_without_its_key_is_not_replaced_by_another(laid_out: Lab) -> None:
    key = laid_out.state / "pki" / "ca.key"
    kept, certificate = key.read_bytes(), key.with_suffix(".crt").read_bytes()
    try:
        key.unlink()
        done = laid_out.run("up", "--config", str(laid_out.config), check=False)
        assert done.returncode == 1
        assert "holds no usable certificate authority" in done.stderr
        assert str(key) in done.stderr
        assert key.with_suffix(".crt").read_bytes() == certificate
    finally:
        key.write_bytes(kept)
        key.chmod(0o600)


def test_an_nrf_that_cannot_live_is_named_and_not_those_who_wait_for_it(laid_out: Lab) -> None:
    store = laid_out.state / "nodes" / "nrf" / "store.sqlite"
    kept = store.read_bytes()
    for beside in store.parent.glob("store.sqlite-*"):
        beside.unlink()
    try:
        store.write_bytes(b"no database at all, and longer than the head of one" * 10)
        assert_told(failing(laid_out), "nrf", "ended with exit code 2", f"the store {store} cannot be read")
    finally:
        store.write_bytes(kept)


def test_a_store_of_a_newer_release(laid_out: Lab) -> None:
    import sqlite3

    store = laid_out.state / "nodes" / "hss" / "store.sqlite"
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0815'")
    try:
        assert_told(failing(laid_out), "hss", "at revision 0815", "use the release that wrote it")
    finally:
        with sqlite3.connect(store) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '0001'")
        connection.close()


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    where = f"127.0.0.1:{free_port()}"
    database = {"url": f"postgresql+asyncpg://{where}/lab", "wait_s": 3}
    lab = Lab(tmp_path / "state", described(tmp_path, database=database))
    done = lab.run("up", "--config", str(lab.config), check=False)
    assert done.returncode == 1
    waits = f"nrf waits for the database {where}/lab: Connection refused"
    assert waits in done.stderr.splitlines()
    assert f"nrf: ended with exit code 69: the database {where}/lab as imslab-nrf cannot be used" in done.stderr


PACKAGE = """
[project]
name = "{name}"
version = "0.1.0"
[project.entry-points."imslab.nodes"]
{name} = "{name}.node:Node"
"""
NODE = """
from pydantic import Field
from sba.nf import NetworkFunction, NodeSettings
class Settings(NodeSettings):
    most: int = Field(ge=1)
    mode: str = "watch"
class Node(NetworkFunction):
    nf_types = ("AF",)
    settings_class = Settings
    async def open_node(self):
        {body}
"""


def package(folder: Path, name: str, code: str) -> Path:
    home = folder / name
    (home / name).mkdir(parents=True)
    (home / "pyproject.toml").write_text(PACKAGE.format(name=name))
    (home / name / "__init__.py").touch()
    (home / name / "node.py").write_text(code)
    return home


def lines_of(lab: Lab, *more: str) -> list[str]:
    """The faults of a description, which `up` finds before it starts anything."""
    done = lab.run("up", "--config", str(lab.config), *more, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert not lab.state.exists() or not (lab.state / "lab.json").exists()
    return done.stderr.splitlines()


def with_node(folder: Path, kind: str, settings: dict[str, Any]) -> Lab:
    return Lab(folder / "state", described(folder, extra_nodes=[{"name": "mine", "kind": kind, "settings": settings}]))


def place(lab: Lab, text: str) -> str:
    number = next(n for n, line in enumerate(lab.config.read_text().splitlines(), 1) if text in line)
    return f"{lab.config}:{number}"


def test_a_node_that_ends_at_its_start(tmp_path: Path) -> None:
    home = package(tmp_path, "falls", NODE.format(body="raise LookupError('no such table of mine')"))
    lab = with_node(tmp_path, "falls", {"most": 3})
    said = failing(lab, "--with", str(home))
    assert_told(said, "mine", "ended with exit code 1: LookupError: no such table of mine (")
    assert re.search(r"/falls/node\.py:\d+ in \w+\)", said[0]["error"])
    assert json.loads(said[0]["log_line"])["kind"] == "LookupError"


def test_a_node_that_ends_without_a_word_or_by_a_signal(tmp_path: Path) -> None:
    home = package(tmp_path, "mute", NODE.format(body="import os; os.kill(os.getpid(), 9)"))
    facts, _ = failing(with_node(tmp_path, "mute", {"most": 3}), "--with", str(home))
    assert (facts["node"], facts["error"]) == ("mine", "ended by SIGKILL")


def test_wrong_settings_of_a_node_are_found_before_anything_starts(tmp_path: Path) -> None:
    home = package(tmp_path, "picky", NODE.format(body="pass"))
    lab = with_node(tmp_path, "picky", {"most": 0, "mode": 7, "moode": "x", "heartbeat_s": "soon"})
    found = lines_of(lab, "--with", str(home))
    assert found[0] == "imslab: the lab description has 4 faults"
    assert found[1:] == [
        f"{place(lab, 'most:')}: extra_nodes[0].settings.most: 0 does not fit; right would be: at least 1",
        f"{place(lab, 'mode:')}: extra_nodes[0].settings.mode: 7 does not fit; right would be: text; write numbers in quotes",
        f"{place(lab, 'moode:')}: extra_nodes[0].settings.moode: is unknown; right would be: mode, or no such entry",
        f"{place(lab, 'heartbeat_s:')}: extra_nodes[0].settings.heartbeat_s: 'soon' does not fit; right would be: a whole number",
    ]
    missing = lines_of(with_node(tmp_path, "picky", {}), "--with", str(home))
    assert missing[1].endswith("extra_nodes[0].settings.most: is missing; right would be: this entry is needed")


def test_a_kind_that_nobody_brings(tmp_path: Path) -> None:
    lab = with_node(tmp_path, "absent", {})
    (_, found) = lines_of(lab)
    assert found.startswith(
        f"{place(lab, 'kind:')}: extra_nodes[0].kind: no network function of kind 'absent' is installed;"
    )
    assert found.endswith("or imslab up --with its folder")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("limit = 1 / 0\n", "ZeroDivisionError: division by zero ({home}/broken/node.py:1)"),
        ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def node(:\n", "SyntaxError: invalid syntax"),
        ("Node = 3\n", "broken.node:Node is not a NetworkFunction"),
    ],
)
def test_a_node_whose_module_cannot_be_imported(tmp_path: Path, code: str, why: str) -> None:
    home = package(tmp_path, "broken", code)
    lab = with_node(tmp_path, "broken", {})
    (found,) = lines_of(lab, "--with", str(home))
    assert found.startswith("imslab: the package broken cannot be loaded: ")
    assert why.format(home=home) in found
    assert found.endswith(f", named in {home}/pyproject.toml")


def test_every_fault_of_a_description_at_once(tmp_path: Path) -> None:
    lab = Lab(
        tmp_path / "state",
        described(
            tmp_path,
            trace_sampling=7,
            access_networks=[{**SMALL["access_networks"][0], "suites": ["AES_CM_128_HMAC_SHA1_80", "AES_CM_64"]}],
            database={"url": "postgresql://me:hidden@db/lab"},
            instances={"pcscf-a": 0, "hss": 2, "nobody": 1},
            extra_nodes=[{"name": "mine", "kind": "absent"}, {"name": "nrf", "kind": "hss"}],
        ),
    )
    found = lines_of(lab)
    text = "\n".join(found)
    assert found[0] == f"imslab: the lab description has {len(found) - 1} faults"
    for where in (
        "trace_sampling: 7 does not fit",
        "access_networks[0].suites[1]: AES_CM_64 is no suite; right would be: one of AES_CM_128_HMAC_SHA1_80, ",
        "database.url: names a user",
        "instances.pcscf-a: 0 does not fit; right would be: at least 1",
        "instances.hss: hss is no P-CSCF, gateway or KMS of this lab",
        "instances.nobody: nobody is no P-CSCF",
        "extra_nodes[0].kind: no network function of kind 'absent' is installed",
        "extra_nodes[1].kind: hss is a kind of the lab itself",
        "extra_nodes[1].name: the name nrf is already the nrf",
    ):
        assert where in text, where
    assert "hidden" not in text
    lines = [int(line.removeprefix(f"{lab.config}:").partition(":")[0]) for line in found[1:]]
    assert lines == sorted(lines)


def test_progress_on_a_terminal_names_what_is_waited_for(laid_out: Lab) -> None:
    """The line that changes, as a terminal sees it."""
    leader, follower = os.openpty()
    command = ["up", "--config", str(laid_out.config), "--no-console", "--state", str(laid_out.state)]
    from tests.e2e.lab import COMMAND, ROOT

    process = subprocess.Popen(
        [*COMMAND, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=follower, env={**os.environ, "TERM": "xterm"}
    )
    os.close(follower)
    seen = b""
    try:
        while chunk := os.read(leader, 4096):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert process.wait(60) == 0
    laid_out.run("down")
    text = seen.decode()
    assert "certificates, keys and addresses" in text
    assert "waits for" in text
    assert "/5" in text
