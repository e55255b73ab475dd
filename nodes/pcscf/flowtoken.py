"""Flow tokens in Path: the flow is recovered from the token, and nobody else can make one (RFC 5626 5.2, PC-5)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from keying.secret import Secret
from signalling.sip.flow import Flow

MAC_OCTETS: Final = 10
"""HMAC-SHA1-80 of RFC 5626 5.2; SHA-256 cut to 80 bits here."""
MAX_TOKEN: Final = 256


class ForgedTokenError(Exception):
    """The token was not made by this node (403)."""


@dataclass(frozen=True, slots=True)
class FlowAddress:
    """What names a flow: transport, both ends and, over TLS and TCP, the very connection (TS 33.203 Annex O, TLS-4).

    Two connections with the same ends are two flows: whoever gets the address of a UE next is not that UE. A connection
    lives no longer than the process, so what was stored and read again equals no live one.
    """

    transport: str
    local: tuple[str, int]
    remote: tuple[str, int]
    connection: str = field(default="", kw_only=True)
    """Id of the connection in this process; empty for UDP, and for a connection that is gone."""

    @classmethod
    def of(cls, flow: Flow) -> FlowAddress:
        """The address of a live flow."""
        return cls(flow.transport, flow.local, flow.remote, connection=flow.id if flow.reliable else "")

    def text(self) -> str:
        """One line without the connection; the inverse of `read`."""
        return "|".join((self.transport, self.local[0], str(self.local[1]), self.remote[0], str(self.remote[1])))

    @classmethod
    def read(cls, text: str) -> FlowAddress:
        """The inverse of `text`. Raises ValueError."""
        transport, local_ip, local_port, remote_ip, remote_port = text.split("|")
        return cls(transport, (local_ip, int(local_port)), (remote_ip, int(remote_port)))


class FlowTokens:
    """Makes and reads tokens with a key only this node knows; `key` is kept sealed so that tokens outlive a restart."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def make(self, address: FlowAddress, purpose: str = "path") -> str:
        """The token of a flow: base64url of MAC and address, legal in the user part of a SIP URI."""
        return self.seal(address.text(), purpose)

    def read(self, token: str, purpose: str = "path") -> FlowAddress:
        """The flow of a token. Raises ForgedTokenError."""
        try:
            return FlowAddress.read(self.open(token, purpose))
        except ValueError:
            raise ForgedTokenError("token names no flow") from None

    def seal(self, text: str, purpose: str) -> str:
        """A token that carries any short text."""
        octets = text.encode()
        return base64.urlsafe_b64encode(self._mac(octets, purpose) + octets).decode().rstrip("=")

    def open(self, token: str, purpose: str) -> str:
        """The text of a token. Raises ForgedTokenError."""
        if len(token) > MAX_TOKEN:
            raise ForgedTokenError("token too long")
        try:
            octets = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            mac, text = octets[:MAC_OCTETS], octets[MAC_OCTETS:]
            if hmac.compare_digest(mac, self._mac(text, purpose)):
                return text.decode()
        except (binascii.Error, UnicodeError, ValueError):
            pass
        raise ForgedTokenError("token was not made here")

    def _mac(self, text: bytes, purpose: str) -> bytes:
        material = purpose.encode() + b"\0" + text
        return hmac.new(self._key.reveal(), material, hashlib.sha256).digest()[:MAC_OCTETS]


def address_to_dict(address: FlowAddress) -> Mapping[str, object]:
    """A JSON form for the store."""
    return {"flow": address.text()}
