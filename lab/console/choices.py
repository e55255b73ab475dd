"""What a call may be placed with: the security modes and crypto suites of the lab, those of packages included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from keying.modes import BUILT_IN, ModeFacts
from keying.suites import SUITES


class Choices:
    """Modes and suites of the lab that ``lab.json`` describes, read anew when it changed."""

    def __init__(self, lab_json: Path) -> None:
        self._path = lab_json
        self._changed = 0
        self._modes: Mapping[str, ModeFacts] = BUILT_IN
        self._suites: tuple[str, ...] = tuple(SUITES)

    def _read(self) -> None:
        try:
            changed = self._path.stat().st_mtime_ns
            if changed == self._changed:
                return
            lab = json.loads(self._path.read_text("utf-8"))
            more = [
                ModeFacts(str(each["name"]), str(each["title"]), str(each["keying"]))
                for each in lab.get("mode_facts", [])
            ]
            suites = [str(each) for each in lab.get("crypto_suites", [])]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        self._changed = changed
        self._modes = {**BUILT_IN, **{mode.name: mode for mode in more}}
        self._suites = tuple(dict.fromkeys((*SUITES, *suites)))

    @property
    def modes(self) -> Mapping[str, ModeFacts]:
        """Security modes by name, those built in first."""
        self._read()
        return self._modes

    @property
    def suites(self) -> tuple[str, ...]:
        """Names of crypto suites."""
        self._read()
        return self._suites
