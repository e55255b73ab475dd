"""A node whose store cannot be had says so, and nothing that happens afterwards hides it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sba.errors import MigrationError
from sba.nf import NetworkFunction
from sba.testing import LabFixture, async_test, free_port


class Careless(NetworkFunction):
    """Closes what only ``open_node`` makes."""

    nf_types = ("AF",)
    opened = False

    async def open_node(self):
        self.opened = True
        self.read("sealed-key-of-alice")

    def read(self, key):
        try:
            json.loads(key)
        except ValueError as error:
            raise LookupError("half open") from error

    async def drain_node(self):
        raise AssertionError(self.opened)

    close_node = drain_node


@async_test
async def test_what_was_never_opened_is_not_closed(tmp_path):
    lab = LabFixture(tmp_path, nrf=False)
    env = lab.add("bsf", "bsf-1", {"ub": {"host": "127.0.0.1", "port": 0}}, nf_types=("BSF",))
    env.node_dir.mkdir(parents=True)
    (env.node_dir / "store.sqlite").write_bytes(b"no database, and longer than the head of one would be" * 10)
    from nodes.bsf.node import Bsf

    class CarelessBsf(Bsf):
        async def close_node(self):
            raise AssertionError("never opened")

    node = CarelessBsf.from_environment(env)
    node.startService()
    with pytest.raises(MigrationError, match="cannot be read"):
        await node.ready()
    await node.stop()


def run(lab, instance, code):
    done = subprocess.run(
        [sys.executable, "-c", code, str(lab.path), instance], capture_output=True, text=True, check=False, timeout=100
    )
    assert "sealed-key" not in done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return done.returncode, {event["event"]: event for event in events}


CARELESS = """
import sys
from sba import runtime
runtime.install()
from sba.config import NodeEnvironment
from sba.nf import run_node
from tests.store.test_start import Careless
sys.exit(run_node(Careless, NodeEnvironment.load(sys.argv[1], sys.argv[2])))
"""


def test_a_node_that_falls_half_open_says_why_it_could_not_start(tmp_path):
    lab = LabFixture(tmp_path, nrf=False)
    lab.add("watch", "watch-1", {}, nf_types=("AF",))
    status, events = run(lab, "watch-1", CARELESS)
    assert status == 1
    assert events["start-failed"]["error"] == "half open"
    assert events["start-failed"]["kind"] == "LookupError"
    assert re.fullmatch(r".*/tests/store/test_start\.py:\d+ in read", events["start-failed"]["at"])
    frames = events["start-traceback"]["frames"]
    assert events["start-failed"]["at"] == frames[0]
    assert frames[1].endswith(" in open_node")
    assert frames[frames.index("from JSONDecodeError") + 1].endswith(" in raw_decode")
    assert events["stop-failed"]["level"] == "warning"


def test_a_node_without_its_database_ends_with_the_status_that_says_so(tmp_path):
    lab = LabFixture(tmp_path, nrf=False)
    lab.document |= {"database_url": f"postgresql+asyncpg://127.0.0.1:{free_port()}/lab", "database_wait_s": 0.5}
    lab.add("nrf", "nrf")
    done = subprocess.run(
        [sys.executable, "-m", "sba.run", "nrf", "--instance", "nrf", "--config", str(lab.path)],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert done.returncode == 69
    assert [event["event"] for event in events if event["event"].startswith(("store-", "start-"))] == [
        "store-waiting",
        "start-failed",
    ]
    assert "Traceback" not in done.stderr


class Unmade(Careless):
    """Fails before it is a node."""

    def __init__(self, settings, environment):
        super().__init__(settings, environment)
        self.nothing.here()


class Fileless(Careless):
    """Misses a file of its own."""

    def read(self, key):
        Path(key.replace("sealed-key", "no-file")).read_text()


def test_a_node_that_cannot_be_made_says_where(tmp_path):
    lab = LabFixture(tmp_path, nrf=False)
    lab.add("watch", "watch-1", {}, nf_types=("AF",))
    code = CARELESS.replace("Careless", "Unmade")
    done = subprocess.run(
        [sys.executable, "-c", code, str(lab.path), "watch-1"], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 1
    said = r"AttributeError: 'Unmade' object has no attribute 'nothing' \(.*test_start\.py:\d+ in __init__\)"
    assert re.fullmatch(said, done.stderr.splitlines()[-1])


def test_a_file_that_a_node_misses_is_a_fault_of_its_code(tmp_path):
    lab = LabFixture(tmp_path, nrf=False)
    lab.add("watch", "watch-1", {}, nf_types=("AF",))
    status, events = run(lab, "watch-1", CARELESS.replace("Careless", "Fileless"))
    assert (status, events["start-failed"]["kind"]) == (1, "FileNotFoundError")
    assert events["start-failed"]["at"].endswith(" in read")
