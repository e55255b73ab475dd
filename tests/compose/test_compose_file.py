"""compose.yaml says of every node what config/lab.yaml says, and gives no container more than it needs."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from lab.cli import imslab
from lab.config import LabConfig, load, parse
from lab.layout import ResolveError
from lab.layout_containers import MANAGEMENT, PORTS, ContainerLayout

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "compose" / "compose.yaml").read_text("utf-8")
HELD = yaml.safe_load(re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", TEXT))
CONFIG = load(ROOT / "config" / "lab.yaml")
EDGE = {"pcscf", "imsagw", "kms", "bsf"}


def _services() -> dict[str, Any]:
    services = HELD["services"]
    assert isinstance(services, dict)
    return services


def _networks(name: str) -> set[str]:
    return set(_services()[name].get("networks", ()))


def test_the_file_is_what_the_command_makes_of_the_description() -> None:
    made = CliRunner().invoke(imslab, ["compose-file", "--config", "config/lab.yaml"], catch_exceptions=False)
    assert made.exit_code == 0
    assert made.output == TEXT, "write it anew: imslab compose-file -o compose/compose.yaml"


def test_every_node_of_the_description_is_a_service_and_nothing_else_runs_a_node() -> None:
    wanted = {CONFIG.nrf}
    for home in CONFIG.home_domains:
        wanted |= {name for name in (home.cscf, home.hss, home.kms, home.bsf) if name}
    for access in CONFIG.access_networks:
        wanted |= {access.pcscf, access.gateway}
    wanted |= {user.name for user in CONFIG.users if user.software_ue}
    assert {name for name, entry in _services().items() if "sba.container" in entry.get("command", ())} == wanted


def test_nodes_are_on_the_networks_of_their_role() -> None:
    access = {item.name for item in CONFIG.access_networks}
    for service in ContainerLayout(CONFIG).services:
        on = _networks(service.name)
        if service.kind == "ue":
            user = CONFIG.user(service.name)
            assert on == {user.access, "management"}
        else:
            assert "sba" in on
            assert bool(on & access) == (service.kind in EDGE), service.name
            assert ("management" in on) == (service.kind == "nrf"), service.name
            assert ("core" in on) == (service.kind in {"pcscf", "imsagw", "cscf"}), service.name


def test_only_what_is_published_is_on_the_network_that_leads_outside() -> None:
    assert [name for name, entry in HELD["networks"].items() if not entry.get("internal")] == ["outside"]
    for name, entry in _services().items():
        assert ("outside" in _networks(name)) == bool(entry.get("ports")), name
        assert all(str(port).startswith("127.0.0.1:") for port in entry.get("ports", ())), name


def test_a_service_has_the_secrets_of_its_own_name_alone() -> None:
    for name, entry in _services().items():
        sources = [secret["source"] for secret in entry.get("secrets", ())]
        assert sources in ([], [name]), name
        assert {secret["target"] for secret in entry.get("secrets", ())} <= {"imslab"}
    for name, entry in HELD["secrets"].items():
        assert entry["file"] == f"./secrets/{name}"
        kept = ROOT / "compose" / "secrets" / name / ".gitignore"
        assert kept.read_text() == "*\n!.gitignore\n"


def test_every_container_is_guarded() -> None:
    for name, entry in _services().items():
        assert entry["cap_drop"] == ["ALL"], name
        assert entry["security_opt"] == ["no-new-privileges:true"], name
        assert entry["read_only"] is True, name
        assert entry["init"] is True, name
        assert entry["mem_limit"], name
        assert entry["cpus"] > 0, name
        assert entry["pids_limit"] > 0, name
        assert entry["stop_grace_period"], name
        assert not entry.get("privileged"), name
        assert ("cap_add" in entry) == (name == "init"), name
    assert _services()["init"]["network_mode"] == "none"


def test_every_node_and_the_database_and_the_console_tell_their_health() -> None:
    for name, entry in _services().items():
        if entry.get("profiles") == ["observability"]:
            continue
        ends = entry["restart"] == "no"
        assert ("healthcheck" in entry) != ends, name
        assert ends == (name in {"init", "database", "lab"}), name


def test_both_versions_of_compose_read_the_file() -> None:
    assert "version" not in HELD
    assert "name" not in HELD
    assert "deploy" not in TEXT


def test_fixed_addresses_are_in_their_subnets_apart_from_those_of_the_engine() -> None:
    seen: set[str] = set()
    for name, entry in _services().items():
        fixed = entry.get("networks")
        for network, given in fixed.items() if isinstance(fixed, dict) else ():
            ipam = HELD["networks"][network]["ipam"]["config"][0]
            address = ipaddress.ip_address(given["ipv4_address"])
            assert address in ipaddress.ip_network(ipam["subnet"]), name
            assert address not in ipaddress.ip_network(ipam["ip_range"]), name
            assert str(address) not in seen
            seen.add(str(address))
    for service in ContainerLayout(CONFIG).services:
        assert isinstance(_services()[service.name]["networks"], dict) != service.scales


OTHER = """
name: other
home_domains: [{name: one.test}]
access_networks: [{name: wifi, pcscf: edge, gateway: media}]
users: [{name: ann, domain: one.test, impi: ann@one.test, access: wifi, announces: [sdes-srtp]}]
"""


def test_any_description_becomes_a_file_with_its_folders(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(OTHER)
    output = tmp_path / "there" / "compose.yaml"
    arguments = ["compose-file", "--config", str(tmp_path / "lab.yaml"), "-o", str(output)]
    made = CliRunner().invoke(imslab, arguments, catch_exceptions=False)
    assert made.exit_code == 0, made.output
    held = yaml.safe_load(output.read_text())
    assert {"nrf", "hss", "cscf", "edge", "media", "ann", "postgres", "console", "lab", "init"} <= set(held["services"])
    assert not {"kms", "bsf", "alice"} & set(held["services"])
    assert "${IMSLAB_CONFIG:-../lab.yaml}:/config/lab.yaml:ro" in held["services"]["init"]["volumes"]
    assert (output.parent / held["services"]["nrf"]["build"]["context"]).resolve() == ROOT
    assert {folder.name for folder in (output.parent / "secrets").iterdir()} == set(held["secrets"])


def test_a_package_is_mounted_read_only_in_every_container_of_the_lab(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(OTHER)
    package = tmp_path / "watcher"
    (package / "watcher").mkdir(parents=True)
    (package / "watcher" / "__init__.py").write_text("")
    (package / "watcher" / "node.py").write_text(
        "from sba.nf import NetworkFunction\n\n\nclass Watcher(NetworkFunction):\n    nf_types = ('WATCHER',)\n"
    )
    (package / "pyproject.toml").write_text(
        '[project]\nname = "watcher"\nversion = "1"\n[project.entry-points."imslab.nodes"]\nwatcher = "watcher.node:Watcher"\n'
    )
    output = tmp_path / "compose.yaml"
    arguments = ["compose-file", "--config", str(tmp_path / "lab.yaml"), "--with", str(package), "-o", str(output)]
    made = CliRunner().invoke(imslab, arguments, catch_exceptions=False)
    assert made.exit_code == 0, made.output
    held = yaml.safe_load(output.read_text())
    services = held["services"]
    assert services["watcher"]["secrets"] == [{"source": "watcher", "target": "imslab"}]
    assert {"--kind=watcher", "--package=/packages/watcher"} <= set(services["init"]["command"])
    for name in ("init", "console", "watcher", "ann", "hss", "edge"):
        mounts = [mount for mount in services[name]["volumes"] if ":/packages/" in mount]
        assert len(mounts) == 2, name
        assert all(mount.endswith(":ro") for mount in mounts), name
        assert all(Path(mount.split(":")[0]).is_dir() for mount in mounts), name


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (OTHER.replace("wifi", "core"), "cannot be called core"),
        (OTHER.replace("wifi", "outside"), "cannot be called outside"),
        (OTHER + "mw_transport: tcp\n", "has to be tls"),
        (OTHER.replace("edge", "postgres"), "postgres is the name of a service"),
        (OTHER.replace("name: ann", "name: console"), "console is the name of a service"),
    ],
)
def test_what_cannot_run_in_containers_is_told(changed: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(changed)
    made = CliRunner().invoke(imslab, ["compose-file", "--config", str(tmp_path / "lab.yaml")])
    assert made.exit_code == 2
    assert words in made.output


def test_a_wrong_beginning_of_addresses_is_refused() -> None:
    with pytest.raises(ResolveError, match="is not the beginning of an IPv4 address"):
        ContainerLayout(CONFIG, "10.89.0")


def test_two_hundred_users_have_addresses() -> None:
    users = [
        {"name": f"user-{number}", "domain": "one.test", "impi": f"user-{number}@one.test", "access": "wifi"}
        for number in range(200)
    ]
    described = LabConfig.model_validate({**parse(OTHER).model_dump(), "users": users})
    layout = ContainerLayout(described)
    given = [address for own in layout.fixed.values() for network, address in own.items() if network == MANAGEMENT]
    assert len(set(given)) == len(given) == 201
    assert layout.port("user-7", "gm") == PORTS["gm"]
