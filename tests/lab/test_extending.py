"""docs/extending.md as a reader follows it: its files, its compile step, its lab, its call."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.config import ConfigError, parse
from lab.resolve import ResolveError, nf_types
from tests.e2e.lab import ROOT

pytest.importorskip("grpc_tools", reason="the contract compiler is the build extra")
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = dict(re.findall(r"<!-- command: (\S+) -->\n```sh\n(.*?)```", PAGE, re.DOTALL))
DESCRIPTION = FILES["lab.yaml"]


class Reader:
    """A folder with the page's files, and an environment in which its distribution is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        for name, text in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        (folder / "watcher" / "__init__.py").touch()
        path = os.pathsep.join((str(folder), str(ROOT)))
        programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        self.environment = {**os.environ, "PYTHONPATH": path, "PATH": programs}

    def install(self) -> None:
        """What ``pip install -e .`` leaves behind: metadata with the entry points of pyproject.toml."""
        project = tomllib.loads(FILES["pyproject.toml"])["project"]
        info = self.folder / f"watcher_nf-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
        groups = project["entry-points"].items()
        lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups]
        (info / "entry_points.txt").write_text("\n".join(lines))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def imslab(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "lab.cli", *arguments, "--state", str(self.state))

    def ask(self, impu: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "ask.py", str(self.state), impu)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    compiled = reader.run("sh", "-c", COMMANDS["compile"])
    assert compiled.returncode == 0, compiled.stderr
    yield reader
    reader.imslab("down")


@pytest.mark.lab
def test_the_page_makes_a_node_that_the_lab_starts_and_the_operator_calls(reader: Reader) -> None:
    reader.install()
    up = reader.imslab("up", "--config", "lab.yaml")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "watcher-1" in up.stdout
    answers = [reader.ask("sip:alice@ims.test") for _ in range(2)]
    assert [answer.stdout for answer in answers] == ["sip:alice@ims.test 1\n", "sip:alice@ims.test 2\n"], answers
    refused = reader.ask("sip:eve@elsewhere.test")
    assert refused.returncode == 1
    assert "IDENTITY_NOT_WATCHED" in refused.stderr
    assert "node-ready" in reader.imslab("logs", "watcher-1").stdout


def test_a_kind_that_is_not_installed_is_named(reader: Reader) -> None:
    up = reader.imslab("up", "--config", "lab.yaml")
    assert up.returncode == 1
    assert "no network function of kind 'watcher' is installed" in up.stderr
    assert "Traceback" not in up.stderr
    with pytest.raises(ResolveError, match="kind 'nothing' is installed"):
        nf_types("nothing")


def test_a_contract_may_not_take_the_name_of_another_service(reader: Reader) -> None:
    contract = reader.folder / "watcher" / "watcher.proto"
    contract.write_text(contract.read_text().replace('service_name: "nwatcher"', 'service_name: "nnrf-disc"'))
    assert reader.run("sh", "-c", COMMANDS["compile"]).returncode == 0
    reader.install()
    asked = reader.run(sys.executable, "-c", "from sba.contracts import all_contracts; all_contracts()")
    assert "ContractError: the contract watcher (watcher.watcher_pb2): nnrf-disc is taken" in asked.stderr


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
