"""Which instance a container is: a lock that ends with its process, whatever ends it; its own address in a network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sba.container import own_node, write_whereabouts
from sba.errors import ConfigurationError
from sba.networks import own_address, placed
from sba.slots import claim

HOLD = """
import sys
from pathlib import Path
from sba.slots import claim
print(claim(Path(sys.argv[1]), sys.argv[2:]).instance, flush=True)
sys.stdin.read()
"""
NAMES = ("kms", "kms-2")


def _holder(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), *NAMES]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_each_process_is_another_instance_and_a_killed_ones_is_free_again(tmp_path: Path) -> None:
    first, second = _holder(tmp_path), _holder(tmp_path)
    try:
        assert {_said(first), _said(second)} == set(NAMES)
        with pytest.raises(ConfigurationError, match="all 2 instances are taken: kms, kms-2"):
            claim(tmp_path, NAMES)
        first.send_signal(signal.SIGKILL)
        first.wait()
        again = claim(tmp_path, NAMES)
        assert again.instance in NAMES
        os.close(again.descriptor)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_a_child_that_outlives_its_node_does_not_keep_the_instance(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; from pathlib import Path; from sba.slots import claim\n"
        f"claim(Path({str(tmp_path)!r}), ['kms'])\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        child = int(_said(parent))
        os.kill(child, 0)
        parent.kill()
        parent.wait()
        os.close(claim(tmp_path, ["kms"]).descriptor)
    finally:
        parent.kill()
        parent.communicate()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used: No such file"):
        claim(tmp_path / "missing", NAMES)


def test_a_link_in_the_place_of_a_lock_leads_nowhere_new(tmp_path: Path) -> None:
    """A replica that is hostile can take slots; it cannot have another file made or altered by the next one."""
    target = tmp_path / "elsewhere"
    (tmp_path / "kms.lock").symlink_to(target)
    with pytest.raises(ConfigurationError):
        claim(tmp_path, ["kms"])
    assert not target.exists()


def test_an_own_address_is_the_one_in_that_network() -> None:
    assert own_address("here", "127.0.0.0/8") == "127.0.0.1"
    with pytest.raises(ConfigurationError, match=r"has no address in the network core \(198.51.100.0/24\)"):
        own_address("core", "198.51.100.0/24")


def test_only_names_of_networks_are_replaced() -> None:
    given = {"host": "@here", "request_for": ["@lab", "*@ims.test", "@home"], "more": [{"ip": "@here"}], "port": 5060}
    made = placed(given, {"here": "127.0.0.0/8"})
    assert made == {
        "host": "127.0.0.1",
        "request_for": ["@lab", "*@ims.test", "@home"],
        "more": [{"ip": "127.0.0.1"}],
        "port": 5060,
    }


def _folder(path: Path, *instances: str) -> Path:
    nodes = {
        name: {
            "kind": "kms",
            "instance": name,
            "nf_instance_id": f"00000000-0000-4000-8000-00000000000{number}",
            "fqdn": f"{name}.ims.test",
            "nf": "kms",
            "sbi": {"host": "@here", "port": 7443},
        }
        for number, name in enumerate(instances)
    }
    nrf = {"host": "nrf", "port": 7443, "fqdn": "nrf.ims.test", "instance_id": "00000000-0000-4000-8000-000000000009"}
    lab = {
        "pki_dir": str(path),
        "state_dir": str(path),
        "sealing_key_file": str(path),
        "nrf": nrf,
        "nodes": nodes,
        "networks": {"here": "127.0.0.0/8"},
    }
    (path / "lab.json").write_text(json.dumps(lab))
    return path


def test_a_container_finds_out_which_node_it_is_and_where(tmp_path: Path) -> None:
    first = own_node(_folder(tmp_path, *NAMES), tmp_path)
    second = own_node(tmp_path, tmp_path)
    assert (first.instance, second.instance) == NAMES
    assert first.node.sbi.host == "127.0.0.1"
    write_whereabouts(second, tmp_path / "run")
    place = json.loads((tmp_path / "run" / "node.json").read_text())
    assert (place["instance"], place["host"], place["port"]) == ("kms-2", "127.0.0.1", 7443)
    assert place["key"] == str(tmp_path / "kms-2.key")


def test_a_container_of_one_instance_needs_no_folder_of_locks(tmp_path: Path) -> None:
    assert own_node(_folder(tmp_path, "hss"), tmp_path / "missing").instance == "hss"


def test_a_container_without_its_secrets_says_who_writes_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the service `init` writes it"):
        own_node(tmp_path, tmp_path)
