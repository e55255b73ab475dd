"""What the one-shot service ``init`` does: lay the lab out for containers, give each service its secrets and no other.

``python -m lab.containers [--config lab.yaml]`` resolves the description into the authority's state folder (a volume
that ``init`` and ``lab`` alone have: the CA's key, the sealing key, the subscribers' keys) and writes one folder a
service: ``lab.json`` with its own entries, its certificates, the sealed files meant for it, the key of its own store.
Again it changes nothing but what is due: a certificate that was issued anew, a longer revocation list. (What is sealed
is sealed anew.)
"""

from __future__ import annotations

import json
import os
import secrets as random_text
import shutil
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from lab.config import LabConfig
from lab.config_database import DatabaseSection
from lab.instances import MOST
from lab.layout_containers import DATABASE_SERVICE, DEFAULT_PREFIX, OPERATOR_SERVICE, ContainerLayout, Service
from lab.resolve import OPERATOR, resolve
from lab.state import StateFolder
from sba.config import NodeEntry
from sba.pki import LabCa, write_private
from sba.sealing import hand_out

INSIDE: Final = Path("/run/secrets/imslab")
"""Where a container finds its folder."""
STATE: Final = Path("/var/lib/imslab")
"""State folder of the operator; nodes keep what is theirs below ``state``."""
DATABASE_URL: Final = f"postgresql+asyncpg://{DATABASE_SERVICE}:5432/imslab"
DATABASE_WAIT_S: Final = 120.0
"""How long a node waits for the database: it starts while the server does."""
COLLECTOR: Final = "collector:4317"
"""Where the console passes telemetry on to unless the description says otherwise; there with profile observability."""
USER: Final = 10001
"""User and group of every container of the lab's image (compose/Dockerfile)."""
DATABASE_USER: Final = 999
"""User and group of the database server (image postgres)."""
GRAFANA_USER: Final = 472
"""User of Grafana (image grafana/grafana)."""
_PASSWORD_OCTETS: Final = 24
_SUPERUSER_PASSWORD: Final = "superuser.password"  # noqa: S105 - a file's name
_KEPT: Final = ".gitignore"


@dataclass
class Handout:
    """The files of one service; ``user`` owns them, nobody else reads them."""

    service: str
    user: int = USER
    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, root: Path) -> None:
        """Make the service's folder hold these files and no others; a file that is as it should be stays."""
        folder = root / self.service
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(0o755)  # names may be read; what is in the files is their user's alone
        for path in folder.iterdir():
            if path.name not in self.files and path.name != _KEPT:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, content in self.files.items():
            path = folder / name
            if not _is(path, content, self.user):
                fresh = _fresh(path, content, 0o400)
                _give(fresh, self.user)
                fresh.replace(path)


def _is(path: Path, content: bytes, user: int) -> bool:
    try:
        status = path.lstat()
        owned = os.geteuid() != 0 or status.st_uid == user
        return not path.is_symlink() and owned and status.st_mode & 0o777 == 0o400 and path.read_bytes() == content
    except OSError:
        return False


def _give(path: Path, user: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, user, user, follow_symlinks=False)


def hand_outs(
    config: LabConfig, authority: StateFolder, prefix: str = DEFAULT_PREFIX, packages: Sequence[str] = ()
) -> list[Handout]:
    """Resolve the description in the authority's folder and return what each service gets.

    Raises ``lab.layout.ResolveError`` for a description that cannot run in containers, and what
    :func:`lab.resolve.resolve` raises.
    """
    layout = ContainerLayout(config, prefix)
    several = {service.name: MOST for service in layout.services if service.scales}
    database = DatabaseSection(url=DATABASE_URL, wait_s=DATABASE_WAIT_S)
    forward = config.otlp_forward or COLLECTOR
    described = config.model_copy(update={"database": database, "otlp_forward": forward})
    lab = cast("dict[str, Any]", resolve(described, authority, layout=layout, instances=several))
    lab["package_path"] = [*packages]
    common = {name: (authority.pki / name).read_bytes() for name in ("ca.crt", "ca.crl")}
    found = [_of_service(service, lab, authority, common) for service in layout.services]
    return [*found, _of_operator(authority, common), *_of_database(lab, authority, common)]


def _inside(value: Any, authority: StateFolder) -> Any:
    """Put the place of a file inside the container where a setting names one of the authority's."""
    if isinstance(value, str):
        path = Path(value)
        return str(INSIDE / path.name) if path.is_absolute() and path.is_relative_to(authority.root) else value
    if isinstance(value, Mapping):
        return {key: _inside(item, authority) for key, item in value.items()}
    return [_inside(item, authority) for item in value] if isinstance(value, list) else value


def _files_of(value: Any, authority: StateFolder) -> Iterable[Path]:
    if isinstance(value, str):
        path = Path(value)
        if path.is_absolute() and path.is_relative_to(authority.secrets):
            yield path
    elif isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _files_of(item, authority)


def _description(lab: Mapping[str, Any], nodes: Mapping[str, Any], authority: StateFolder) -> dict[str, Any]:
    """``lab.json`` for one service: what all may know, and these nodes."""
    left_out = ("users", "layout", "instance_ids", "nodes", "database_url", "database_password_file")
    kept = {key: value for key, value in lab.items() if key not in left_out}
    return {
        **kept,
        "pki_dir": str(INSIDE),
        "state_dir": str(STATE / "state"),
        "sealing_key_file": str(INSIDE),
        "nodes": _inside(nodes, authority),
    }


def _text(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _certificates(authority: StateFolder, instances: Iterable[str]) -> dict[str, bytes]:
    names = [f"{instance}.{ending}" for instance in instances for ending in ("crt", "key")]
    return {name: (authority.pki / name).read_bytes() for name in names}


def _of_service(
    service: Service, lab: Mapping[str, Any], authority: StateFolder, common: Mapping[str, bytes]
) -> Handout:
    nodes = {name: lab["nodes"][name] for name in service.instances}
    made = Handout(service.name, files={**common, **_certificates(authority, service.instances)})
    description = _description(lab, nodes, authority)
    for entry in nodes.values():
        sealed_for = NodeEntry.model_validate(entry).sealed_for
        key = hand_out(authority.sealing_key, sealed_for, authority.root / "seals")
        made.files[key.name] = key.read_bytes()
        made.files |= {path.name: path.read_bytes() for path in _files_of(entry["settings"], authority)}
    if service.kind != "ue":  # a phone keeps what is its own
        first = nodes[service.name]
        owner = first["nf_set"] or first["nf"]
        made.files["database.password"] = (authority.database / f"{owner}.password").read_bytes()
        description |= {
            "database_url": lab["database_url"],
            "database_password_file": str(INSIDE / "database.password"),
            "database_ca_file": str(INSIDE / "ca.crt"),
        }
    made.files["lab.json"] = _text(description)
    return made


def _of_operator(authority: StateFolder, common: Mapping[str, bytes]) -> Handout:
    return Handout(OPERATOR_SERVICE, files={**common, **_certificates(authority, [OPERATOR])})


def operators_description(authority: StateFolder) -> bytes:
    """Return ``lab.json`` as the operator reads it: every node and user, nothing secret."""
    lab = json.loads(authority.lab_json.read_text("utf-8"))
    whole = _description(lab, lab["nodes"], authority)
    for name in whole["nodes"]:
        whole["nodes"][name]["settings"].pop("static_psk_file", None)
    return _text({**whole, "users": lab["users"], "layout": lab["layout"], "containers": True})


def _of_database(lab: Mapping[str, Any], authority: StateFolder, common: Mapping[str, bytes]) -> list[Handout]:
    pki = LabCa.open(authority.pki)
    if not (authority.pki / f"{DATABASE_SERVICE}.crt").exists():
        pki.issue(DATABASE_SERVICE, ("DATABASE",), str(uuid.uuid4()), dns=[DATABASE_SERVICE])
    own = {"ca.crt": common["ca.crt"], _SUPERUSER_PASSWORD: _password(authority, f"{DATABASE_SERVICE}.password")}
    stores = {name: entry for name, entry in lab["nodes"].items() if entry["kind"] not in {"ue", "lab"}}
    nodes = {name: {**entry, "settings": {}} for name, entry in stores.items()}
    description = {
        **_description(lab, nodes, authority),
        "database_url": lab["database_url"],
        "database_password_file": str(INSIDE / "{nf}.password"),
        "database_ca_file": str(INSIDE / "ca.crt"),
    }
    owners = {entry["nf_set"] or entry["nf"] for entry in nodes.values()}
    grafana = _password(authority, "grafana.password")
    passwords = {f"{owner}.password": (authority.database / f"{owner}.password").read_bytes() for owner in owners}
    return [
        Handout(DATABASE_SERVICE, DATABASE_USER, {**own, **_certificates(authority, [DATABASE_SERVICE])}),
        Handout("database", files={**own, **passwords, "lab.json": _text(description)}),
        Handout("grafana", GRAFANA_USER, {"admin.password": grafana}),
    ]


def _password(authority: StateFolder, name: str) -> bytes:
    """A password that the lab made for somebody who is no network function; the same each time."""
    path = authority.database / name
    if not path.exists():
        write_private(path, random_text.token_urlsafe(_PASSWORD_OCTETS).encode("ascii"))
    return path.read_bytes()


def initialise(
    config: LabConfig,
    authority: StateFolder,
    operator: StateFolder,
    secrets: Path,
    prefix: str,
    packages: Sequence[str] = (),
) -> int:
    """Write every service's folder below ``secrets`` and the operator's state folder; return the number of services.

    ``packages`` are folders at the end of every node's ``sys.path``.
    As root it gives each file to the user of its container. Raises what :func:`hand_outs` raises, ``OSError``.
    """
    made = hand_outs(config, authority, prefix, packages)
    for handout in made:
        handout.write(secrets)
    wanted = {handout.service for handout in made}
    for path in secrets.iterdir():
        if path.is_dir() and path.name not in wanted:
            Handout(path.name).write(secrets)  # of a service that is no more: nothing
    operator.root.mkdir(parents=True, exist_ok=True)
    _replace(operator.lab_json, operators_description(authority))
    _replace(operator.packages, _text({"folders": [], "path": [*packages]}))
    for name in ("pki", "secrets"):  # whoever has the authority's volume too can use the commands about these
        link = operator.root / name
        if not link.is_symlink():
            link.symlink_to(authority.root / name)
    for folder in (authority.root, operator.root):
        _give(folder, USER)
        for path in folder.rglob("*"):
            _give(path, USER)
    return len(made)


def _fresh(path: Path, content: bytes, mode: int) -> Path:
    """Write a file beside ``path``, for ``init`` is root and whoever owns the folder must not lead it elsewhere."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return fresh


def _replace(path: Path, content: bytes) -> None:
    _fresh(path, content, 0o600).replace(path)


def main() -> int:
    """Run ``init``; return the exit status."""
    import argparse

    from lab.config import load
    from lab.config_problems import ConfigError
    from lab.launch import default_config
    from lab.layout import ResolveError
    from lab.with_packages import with_nodes
    from sba.errors import ConfigurationError
    from sba.packages import NODES, Package, PackageError, extend_path

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--authority", type=Path, default=STATE / "authority")
    parser.add_argument("--operator", type=Path, default=STATE)
    parser.add_argument("--secrets", type=Path, default=Path("/secrets"))
    parser.add_argument("--package", action="append", default=[], help="folder at the end of every node's sys.path")
    parser.add_argument("--kind", action="append", default=[], help="kind of node that a package brings")
    parser.add_argument("--prefix", default=os.environ.get("IMSLAB_PREFIX") or DEFAULT_PREFIX)
    given = parser.parse_args()
    os.umask(0o077)
    config = given.config if given.config is not None and given.config.is_file() else default_config()
    extend_path(given.package)
    try:
        brought = Package("mounted", "0", Path("/"), Path("/"), {NODES: dict.fromkeys(given.kind, "")})
        described = with_nodes(load(config), [brought])
        count = initialise(
            described,
            StateFolder.at(given.authority),
            StateFolder.at(given.operator),
            given.secrets,
            given.prefix,
            given.package,
        )
    except (ConfigError, ResolveError, ConfigurationError, PackageError, OSError) as error:
        sys.stderr.write(f"the lab of {config} cannot be laid out for containers\n{error}\n")
        return 2
    sys.stdout.write(f"{count} services have their secrets\n")
    return 0


__all__ = ["Handout", "hand_outs", "initialise"]

if __name__ == "__main__":
    raise SystemExit(main())
