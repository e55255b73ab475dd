"""The built package holds what an installed `imslab` needs without a checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.wheel import ROOT, WITHOUT_COMPILER, build, install, source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("package")


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    return build("sdist", source(folder / "source"), folder)


@pytest.fixture(scope="module")
def wheel(folder: Path, archive: Path) -> zipfile.ZipFile:
    """Built of the source archive: what that lacks is missing here."""
    with tarfile.open(archive) as packed:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.4
            packed.extraction_filter = tarfile.data_filter
        packed.extractall(folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return zipfile.ZipFile(build("wheel", unpacked, folder))


def test_wheel_holds_the_default_lab_the_contracts_and_their_code(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert wheel.read("lab/lab.yaml") == (ROOT / "config" / "lab.yaml").read_bytes()
    for proto in (ROOT / "protos").glob("*.proto"):
        assert f"protos/{proto.name}" in names
        assert f"protos/{proto.stem}_pb2.py" in names
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert b"imslab = " in wheel.read(entry)


def test_wheel_holds_the_migrations_of_every_kind_and_what_runs_and_writes_them(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    steps = {str(path.relative_to(ROOT)) for path in (ROOT / "nodes").glob("*/migrations/*.py")}
    assert len(steps) >= 2 * 7
    assert steps <= names
    assert {"sba/migrations/env.py", "sba/migrations/run.py", "sba/migrations/script.py.mako"} <= names


def test_wheel_holds_no_tests_and_no_build_leftovers(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/", 1)[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "keying",
        "lab",
        "media",
        "nodes",
        "protos",
        "sba",
        "signalling",
    }


def test_archive_and_wheel_hold_what_the_packet_loop_is_built_of(archive: Path, wheel: zipfile.ZipFile) -> None:
    with tarfile.open(archive) as packed:
        packed_names = {name.split("/", 1)[1] for name in packed.getnames() if "/" in name}
    for part in ("packet_loop.c", "packet_loop.h", "compiled_build.py"):
        assert f"media/relay/{part}" in packed_names
        assert f"media/relay/{part}" in wheel.namelist()
    assert not [name for name in packed_names if name.startswith("build/")], "what is generated is no source"


@pytest.mark.peer("gcc")
def test_wheel_holds_the_compiled_packet_loop(wheel: zipfile.ZipFile) -> None:
    assert any(name.startswith("media/relay/_packet_loop.") for name in wheel.namelist())


RUN = """
import asyncio, json
import media
from media.relay import RelayProcess
from media.relay.compiled import why_not_compiled

async def run():
    relay = await RelayProcess.start()
    kind = relay.loop
    await relay.close()
    return kind

print(json.dumps({"from": media.__file__, "why": why_not_compiled(), "loop": asyncio.run(run())}))
"""


def test_an_installation_without_a_compiler_relays_with_the_interpreted_loop_and_says_why(tmp_path: Path) -> None:
    wheel = build("wheel", source(tmp_path / "source"), tmp_path, WITHOUT_COMPILER)
    target = tmp_path / "installed"
    environment = install(wheel, target)
    assert not list(target.rglob("*.so"))
    environment.pop("IMSLAB_PACKET_LOOP", None)
    ran = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert Path(said["from"]).is_relative_to(target)
    assert said["why"].startswith("not built at installation")
    assert said["loop"] == f"interpreted: {said['why']}"
