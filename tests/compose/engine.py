"""A lab of real containers for tests: the engine, the project, and what is asked of both."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose" / "compose.yaml"
SERVES_S = 240.0
"""How long a lab of containers may take until every node serves, with two cores for all of them."""
RETURNS_S = 90.0
"""How long a container that was killed may take to serve again."""


def unavailable(reason: str) -> None:
    """What is missing fails in CI and skips elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def docker(*arguments: str, host: str, check: bool = True, timeout: float = 120.0) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, "DOCKER_HOST": host},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def engine() -> Iterator[str]:
    """The DOCKER_HOST of an engine: one that runs, else one that is started here and ended with the tests."""
    for tool, package in (
        ("docker", "docker.io"),
        ("docker-compose", "docker-compose"),
        ("debootstrap", "debootstrap"),
    ):
        if shutil.which(tool) is None:
            unavailable(f"{tool} is not installed (Debian package {package})")
    script = str(ROOT / "compose" / "engine.sh")
    ran = subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0
    folder = os.environ.get("IMSLAB_ENGINE") or "/var/tmp/imslab-engine"
    ran = ran or Path(folder, "docker.sock").exists()
    started = subprocess.run([script, "start"], capture_output=True, text=True, check=False)
    if started.returncode != 0:
        unavailable(f"no container engine: {started.stderr.strip()}")
    try:
        yield started.stdout.strip()
    finally:
        if not ran:
            subprocess.run([script, "stop"], check=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_prefix(host: str) -> str:
    """Two octets of which no network of this machine or of the engine has any address."""
    ids = docker("network", "ls", "-q", host=host).split()
    taken = docker("network", "inspect", *ids, host=host) if ids else ""
    taken += subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, check=False).stdout
    return next(prefix for number in range(90, 250) if f"{(prefix := f'10.{number}')}." not in taken)


@dataclass
class Lab:
    """One project. ``environment`` is what the compose file is read with."""

    host: str
    project: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def compose(self, *arguments: str, timeout: float = 300.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker-compose", *arguments],
            cwd=COMPOSE.parent,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"docker-compose {' '.join(arguments)}\n{done.stdout}\n{done.stderr}")
        return done

    def shell(self, line: str, timeout: float = 300.0) -> str:
        """Type a line in the checkout, with the names of this project; whichever Compose there is answers."""
        if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
            line = line.replace("docker compose ", "docker-compose ")
        done = subprocess.run(
            ["bash", "-ec", line],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def docker(self, *arguments: str, check: bool = True, timeout: float = 120.0) -> str:
        return docker(*arguments, host=self.host, check=check, timeout=timeout)

    def containers(self, service: str = "", *, ended: bool = False) -> list[str]:
        wanted = ["--filter", f"label=com.docker.compose.project={self.project}"]
        wanted += ["--filter", f"label=com.docker.compose.service={service}"] if service else []
        return self.docker("ps", "-q", "--no-trunc", *(["-a"] if ended else []), *wanted).split()

    def inspect(self, *containers: str) -> list[dict[str, Any]]:
        found = json.loads(self.docker("inspect", *containers))
        assert isinstance(found, list)
        return found

    def inspected(self) -> dict[str, dict[str, Any]]:
        """The first container of each service that is there, ended ones too, by service."""
        found = self.inspect(*self.containers(ended=True))
        labels = {one["Id"]: one["Config"]["Labels"] for one in found}
        found.sort(
            key=lambda one: int(labels[one["Id"]].get("com.docker.compose.container-number", "99")), reverse=True
        )
        return {labels[one["Id"]]["com.docker.compose.service"]: one for one in found}

    def inside(self, service: str, *command: str, check: bool = True, timeout: float = 120.0) -> str:
        """Run a command in the first container of a service."""
        return self.docker("exec", self.containers(service)[0], *command, check=check, timeout=timeout)

    def python(self, service: str, code: str) -> Any:
        """Run Python in a container and read the JSON it prints."""
        return json.loads(self.inside(service, "python", "-I", "-c", code))

    def imslab(self, *arguments: str, check: bool = True, timeout: float = 120.0) -> str:
        """Run the command line beside the console: the same state folder, without the start of a container."""
        return self.inside("console", "imslab", *arguments, check=check, timeout=timeout)

    def status(self) -> dict[str, dict[str, Any]]:
        text = self.imslab("status", "--json", check=False)
        return {row["instance"]: row for row in json.loads(text)["nodes"]} if text else {}

    def call(self, *arguments: str, seconds: float = 1.0) -> dict[str, Any]:
        text = self.imslab("call", *arguments, "--seconds", str(seconds), "--json", check=False, timeout=110.0)
        verdict = json.loads(text) if text else {"result": "failed", "reason": "no verdict"}
        assert isinstance(verdict, dict)
        return verdict

    def kill(self, service: str) -> None:
        """End what runs in the container with SIGKILL, as a crash would; the engine is to start it again."""
        self.docker("exec", self.containers(service)[0], "sh", "-c", "kill -9 -1", check=False)

    def starts(self, service: str) -> str:
        """When the container of a service was started last."""
        return str(self.inspect(self.containers(service, ended=True)[0])[0]["State"]["StartedAt"])


def until(wanted: Callable[[], object], patience_s: float, what: str) -> float:
    """Look until something is so; returns the seconds it took."""
    began = time.monotonic()
    while not wanted():
        assert time.monotonic() - began < patience_s, f"{what}: not within {patience_s:g} s"
        time.sleep(0.5)
    return time.monotonic() - began


def services() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml."""
    found = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    assert isinstance(found, dict)
    return found


def nodes() -> list[str]:
    """The services that are nodes."""
    return [name for name, entry in services().items() if "sba.container" in entry.get("command", ())]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Lab]:
    """A lab of containers, taken down whatever happens."""
    with engine() as host:
        project = f"imslab-test-{os.getpid()}"
        secrets = folder / "secrets"
        for name in yaml.safe_load(COMPOSE.read_text("utf-8"))["secrets"]:
            (secrets / name).mkdir(parents=True)
        folder.chmod(0o755)
        environment = {
            "DOCKER_HOST": host,
            "COMPOSE_PROJECT_NAME": project,
            "IMSLAB_IMAGE": "imslab-test",
            "IMSLAB_SECRETS": str(secrets),
            "IMSLAB_PREFIX": free_prefix(host),
            "IMSLAB_CONSOLE_PORT": str(free_port()),
            "COMPOSE_HTTP_TIMEOUT": "300",
        }
        lab = Lab(host, project, folder, environment)
        try:
            yield lab
        finally:
            lab.compose("down", "-v", "--remove-orphans", "-t", "2", check=False)
            assert not lab.containers(ended=True)


def everyone(lab: Lab, wanted: Sequence[str]) -> bool:
    """Tell whether all of these nodes serve."""
    rows = lab.status()
    return all(rows.get(name, {}).get("state") == "serving" for name in wanted)
