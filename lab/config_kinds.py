"""Nodes of kinds that others bring, and suites: what a description says of them held against what is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from lab.config_problems import Fault, Location, faults_of

if TYPE_CHECKING:
    from lab.config import ExtraNode, LabConfig


_HOW = "one that is installed, or imslab up --with its folder"
_ENABLE = "its name under extensions.crypto_suites as well"


def installed_faults(config: LabConfig) -> Iterator[Fault]:
    """Yield what nothing installed fits: unknown suites, kinds nobody brings, settings their kind does not take.

    Packages that are used from their folders have to be on the path.
    """
    yield from _suite_faults(config)
    yield from _mode_faults(config)
    for index, node in enumerate(config.extra_nodes):
        yield from _node_faults(node, ("extra_nodes", index))


def _suite_faults(config: LabConfig) -> Iterator[Fault]:
    from importlib.metadata import entry_points

    from keying.suites import RECOGNISED_SUITES, SUITES
    from sba.packages import CRYPTO_SUITES

    brought = {entry.name for entry in entry_points(group=CRYPTO_SUITES)}
    enabled = set(config.extensions.crypto_suites)
    for position, name in enumerate(config.extensions.crypto_suites):
        if name not in brought:
            yield ("extensions", "crypto_suites", position), f"{name} is no suite that a package brings", _HOW
    entries = [(("access_networks", index), access.suites) for index, access in enumerate(config.access_networks)]
    entries += [(("users", index), user.suites) for index, user in enumerate(config.users)]
    for where, suites in entries:
        for position, name in enumerate(suites):
            place: Location = (*where, "suites", position)
            if name in suites[:position]:
                yield place, f"{name} is listed twice", "each suite once"
            elif name in enabled:
                continue
            elif name in brought and name not in SUITES:
                yield place, f"{name} is a suite of a package that this lab does not enable", _ENABLE
            elif name in RECOGNISED_SUITES:
                yield place, f"{name} is known and never used", f"one of {', '.join(SUITES)}"
            elif name not in SUITES:
                yield place, f"{name} is no suite", f"one of {', '.join(SUITES)}"


def _mode_faults(config: LabConfig) -> Iterator[Fault]:
    from importlib.metadata import entry_points

    from sba.packages import SECURITY_MODES

    brought = {entry.name for entry in entry_points(group=SECURITY_MODES)}
    for position, mode in enumerate(config.extensions.security_modes):
        if mode.name not in brought:
            place: Location = ("extensions", "security_modes", position, "name")
            yield place, f"{mode.name} is no security mode that a package brings", _HOW


def _node_faults(node: ExtraNode, where: Location) -> Iterator[Fault]:
    from sba.errors import ConfigurationError
    from sba.run import kinds, node_class

    if node.kind is None or node.kind in _own_kinds():
        return  # said where entries are held against each other
    try:
        offered = node_class(node.kind)
    except ConfigurationError as error:
        known = kinds()
        brought = ", ".join(sorted(set(known) - _own_kinds())) or "(none is installed)"
        right = "a module that can be imported" if node.kind in known else f"a kind that is installed: {brought}"
        yield (*where, "kind"), str(error), f"{right}, or imslab up --with its folder"
        return
    if not offered.nf_types:
        yield (*where, "kind"), f"the class of {node.kind} states no NF type", "nf_types in its class"
    try:
        offered.settings_class.model_validate(node.settings)
    except ValidationError as error:
        yield from faults_of(error, (*where, "settings"), offered.settings_class)


def _own_kinds() -> frozenset[str]:
    from lab.config import OWN_KINDS

    return OWN_KINDS
