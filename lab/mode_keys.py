"""Keys that security modes of packages share among their users: made at random once for each lab, kept sealed."""

from __future__ import annotations

import json
from collections.abc import Mapping

from keying.modes import SecurityMode
from keying.secret import Secret
from lab.state import StateFolder
from nodes.ue.card import MODE_KEY
from sba.pki import write_private
from sba.store import Sealer

_KEEPER = "lab security modes"


def mode_keys(folder: StateFolder, modes: Mapping[str, type[SecurityMode]]) -> dict[str, Secret]:
    """Return the key of every mode that has one, the same at every start; makes and keeps those that are missing.

    Raises ``sba.errors.StoreError`` when the file of keys was altered.
    """
    path = folder.secrets / "modes.sealed"
    sealer = Sealer(folder.sealing_key, _KEEPER)
    kept: dict[str, str] = json.loads(sealer.unseal(path.read_bytes())) if path.exists() else {}
    keys = {name: Secret(bytes.fromhex(text)) for name, text in kept.items()}
    for name, mode in modes.items():
        if mode.key_octets and (name not in keys or len(keys[name]) != mode.key_octets):
            keys[name] = Secret.random(mode.key_octets)
    if keys:
        content = {name: key.reveal().hex() for name, key in keys.items()}
        write_private(path, sealer.seal(json.dumps(content).encode()))
    return {name: keys[name] for name, mode in modes.items() if mode.key_octets}


def on_card(keys: Mapping[str, Secret], modes: list[str]) -> dict[str, str]:
    """Return what the card of a user with these modes holds of the keys, in hexadecimal."""
    return {f"{MODE_KEY}{name}": keys[name].reveal().hex() for name in modes if name in keys}
