"""Several instances of one network function: which functions have them, how many, and what each is called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lab.config import LabConfig

SCALABLE: Final = ("pcscf", "imsagw", "kms")
"""Kinds of node that may have several instances."""
MOST: Final = 8
"""Most instances of one network function."""


def instance_name(nf: str, number: int) -> str:
    """Return the name of instance ``number`` (from 1) of a network function: ``kms``, ``kms-2`` ..."""
    return nf if number == 1 else f"{nf}-{number}"


def instance_names(nf: str, count: int) -> list[str]:
    """Return the names of the first ``count`` instances."""
    return [instance_name(nf, number) for number in range(1, count + 1)]


def scalable(config: LabConfig) -> dict[str, str]:
    """Return the network functions of a description that may have several instances, with their kind."""
    found = {access.pcscf: "pcscf" for access in config.access_networks if access.pcscf is not None}
    found |= {access.gateway: "imsagw" for access in config.access_networks if access.gateway is not None}
    return found | {home.kms: "kms" for home in config.home_domains if home.kms is not None}


def counts(config: LabConfig, chosen: Mapping[str, int]) -> dict[str, int]:
    """Return how many instances each scalable function has: as chosen, else as described, else one."""
    return {nf: max(1, min(MOST, chosen.get(nf, config.instances.get(nf, 1)))) for nf in scalable(config)}


def kept(path: Path) -> dict[str, int]:
    """Return the counts that ``imslab scale`` left in the state folder; none where there is no usable file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {str(nf): count for nf, count in content.items() if isinstance(count, int) and 1 <= count <= MOST}


def keep(path: Path, chosen: Mapping[str, int]) -> None:
    """Write the counts that hold from now on, over restarts of the lab."""
    from sba.pki import write_private

    write_private(path, json.dumps(dict(sorted(chosen.items()))).encode())
