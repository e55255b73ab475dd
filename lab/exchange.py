"""The MIKEY messages of one call and the keys to check them with, as one JSON file for offline work.

The file opens every message in it: it is written only under the switch that puts media keys into captures, and for its
owner alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keying.secret import Secret
    from protos import ue_control_pb2

MESSAGES = ("REQUEST_INIT", "REQUEST_RESP", "TRANSFER_INIT", "RESOLVE_INIT", "RESOLVE_RESP", "TRANSFER_RESP")
"""Messages of a mode 1 exchange in their order (RFC 6043 4.1)."""
KEYS = ("psk_i", "psk_r", "tpk")
"""Keys of the file: what the initiator and the responder share with their KMS, and what protects the ticket."""


def document(
    caller: ue_control_pb2.MikeyExchange, callee: ue_control_pb2.MikeyExchange, ticket_key: Secret | None
) -> dict[str, str]:
    """Join what the two ends of a call report: messages in base64 by name, keys in hexadecimal.

    A message or key that nobody had is an empty text: the request of a ticket that the caller made itself (mode 3),
    the resolve where the responder needed none.
    """
    found = {name: getattr(caller, name.lower()) or getattr(callee, name.lower()) for name in MESSAGES}
    keys = {"psk_i": caller.psk, "psk_r": callee.psk, "tpk": ticket_key.reveal() if ticket_key else b""}
    return {
        **{name: base64.b64encode(octets).decode("ascii") for name, octets in found.items()},
        **{name: octets.hex() for name, octets in keys.items()},
    }


def write(path: Path, content: Mapping[str, str]) -> None:
    """Write the file, readable for its owner alone (0600). Raises ``OSError``."""
    from sba.pki import write_private

    write_private(path, json.dumps(content, indent=1).encode())
