"""The engine that `compose/engine.sh` begins keeps nothing of its caller, and leaves nothing mounted behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "compose" / "engine.sh"
DOCKERD = """#!/usr/bin/env bash
while (($#)); do [[ $1 != --pidfile ]] || echo $$ >"$2"; shift; done
sleep 60 &
trap 'kill $!; exit' TERM
wait
"""
"""Stands in for the engine: notes its process id and stays until it is told to end."""
DOCKER = """#!/usr/bin/env bash
[[ -s $(dirname "${DOCKER_HOST#unix://}")/docker.pid && $DOCKER_HOST != */var/run/* ]]
"""
"""Stands in for the client: the engine answers once it has noted its process id."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starting an engine needs root")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of an engine whose programs are stand-ins."""
    for name, text in (("dockerd", DOCKERD), ("docker", DOCKER)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    folder = tmp_path / "an engine"
    yield folder
    engine(folder, "stop")


def engine(folder: Path, command: str, *before: str, pass_fds: tuple[int, ...] = ()) -> str:
    environment = {**os.environ, "PATH": f"{folder.parent / 'bin'}:{os.environ['PATH']}"}
    environment.pop("DOCKER_HOST", None)
    done = subprocess.run(
        [*before, str(SCRIPT), command, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        pass_fds=pass_fds,
    )
    return done.stdout.strip()


def test_a_lock_of_the_caller_is_not_held_by_the_engine(folder: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert engine(folder, "start", pass_fds=(held.fileno(),)) == f"unix://{folder}/docker.sock"
    with lock.open("w") as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("running", [True, False])
def test_nothing_below_the_folder_stays_mounted_after_the_end(folder: Path, running: bool) -> None:
    own_mounts = ["unshare", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*own_mounts, "true"], check=False).returncode != 0:
        pytest.skip("no mount namespace can be made here")
    namespace = folder / "exec" / "netns"
    namespace.mkdir(parents=True)
    if running:
        engine(folder, "start")
    then_stop_and_look = f'mount -t tmpfs none "{namespace}" && "$@" && rm -r "{folder}"'
    engine(folder, "stop", *own_mounts, "bash", "-ec", then_stop_and_look, "bash")
    assert not folder.exists()
