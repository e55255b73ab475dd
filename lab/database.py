"""The database of a lab: passwords of its network functions, and what an administrator has to make for them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.control import Json
from lab.instances import MOST, SCALABLE, instance_names
from lab.state import StateFolder
from sba.database_setup import Tenant
from sba.pki import write_private

if TYPE_CHECKING:
    from lab.config import LabConfig

_PASSWORD_OCTETS = 24


def entries(config: LabConfig, folder: StateFolder, nodes: Mapping[str, Json]) -> dict[str, Json]:
    """Return what ``lab.json`` says of the database, and make the passwords that the lab itself is to keep."""
    section = config.database
    if not section.url:
        return {}
    pattern = section.password_file
    if not pattern:
        folder.database.mkdir(mode=0o700, exist_ok=True)
        pattern = str(folder.database / "{nf}.password")
        for tenant in tenants({"nodes": nodes, "database_password_file": pattern}):
            if tenant.password_file is not None and not tenant.password_file.exists():
                write_private(tenant.password_file, secrets.token_urlsafe(_PASSWORD_OCTETS).encode("ascii"))
    return {
        "database_url": section.url,
        "database_password_file": pattern,
        "database_ca_file": section.ca_file,
        "database_wait_s": section.wait_s,
    }


def tenants(lab: Mapping[str, Any]) -> list[Tenant]:
    """Return every NF of a resolved lab with its stores, those of instances that may come included."""
    stores: dict[str, list[str]] = {}
    for entry in lab["nodes"].values():
        if entry["kind"] == "lab":
            continue
        nf_set, nf = entry.get("nf_set", ""), entry.get("nf") or entry["instance"]
        several = entry["kind"] in SCALABLE and not nf_set
        names = [nf_set or entry["instance"], *(instance_names(nf, MOST) if several else ())]
        stores.setdefault(nf_set or nf, []).extend(names)
    pattern = str(lab.get("database_password_file", ""))
    return [
        Tenant(nf, tuple(dict.fromkeys(names)), Path(pattern.replace("{nf}", nf)) if pattern else None)
        for nf, names in stores.items()
    ]
