"""The security modes of a lab: the one list that the command line, the console and the verdict go by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keying.modes import BUILT_IN, ModeFacts, SecurityMode
from keying.suites import DEFAULT_SUITES
from lab.control import Json
from lab.layout import ResolveError
from sba.errors import ConfigurationError

if TYPE_CHECKING:
    from lab.config import LabConfig


def facts_to_json(modes: Mapping[str, type[SecurityMode]]) -> Json:
    """Return the facts of the modes of packages as ``lab.json`` holds them."""
    return [
        {
            "name": name,
            "title": mode.facts.title,
            "keying": mode.facts.keying,
            "words": dict(mode.facts.words),
        }
        for name, mode in modes.items()
    ]


def facts_from_json(content: object) -> tuple[ModeFacts, ...]:
    """Read :func:`facts_to_json`; raises ``TypeError`` or ``KeyError`` for anything else."""
    if not isinstance(content, list):
        raise TypeError("the facts of security modes are a list")
    return tuple(
        ModeFacts(str(item["name"]), str(item["title"]), str(item["keying"]), dict(item["words"])) for item in content
    )


def all_modes(more: Sequence[ModeFacts] = ()) -> dict[str, ModeFacts]:
    """Return every mode by name, those built in first."""
    return {**BUILT_IN, **{mode.name: mode for mode in more}}


def modes_of_lab(lab_json: Path) -> dict[str, ModeFacts]:
    """Return the modes of the lab that ``lab.json`` describes; those built in where there is none."""
    try:
        content = json.loads(lab_json.read_text("utf-8"))
        return all_modes(facts_from_json(content.get("mode_facts", [])))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return all_modes()


def suites_of_lab(lab_json: Path) -> tuple[str, ...]:
    """Return the crypto suites of the lab, those of packages that it enables included."""
    try:
        more = json.loads(lab_json.read_text("utf-8")).get("crypto_suites", [])
        return (*DEFAULT_SUITES, *(str(name) for name in more))
    except (OSError, ValueError, TypeError, AttributeError):
        return tuple(DEFAULT_SUITES)


def enabled_modes(config: LabConfig) -> Mapping[str, type[SecurityMode]]:
    """Return the classes of the modes that a description enables; raises ``lab.layout.ResolveError`` for a bad one.

    Suites are looked at too: what a node could not use keeps the lab from being laid out.
    """
    extensions = config.extensions
    if not extensions.security_modes and not extensions.crypto_suites:
        return {}
    from nodes.extensions import load_modes, load_suites

    try:
        load_suites(extensions.crypto_suites)
        return load_modes(mode.name for mode in extensions.security_modes)
    except ConfigurationError as error:
        raise ResolveError(str(error)) from None
