"""Key management messages in a session description: ``a=key-mgmt`` (RFC 4567 3.1, 4.1)."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field

from signalling.sdp.errors import SdpAttributeError, SdpError
from signalling.sdp.model import Section, SessionDescription
from signalling.sdp.values import is_token

ATTRIBUTE = "key-mgmt"
MIKEY = "mikey"
"""KMPID of MIKEY; case counts (RFC 4567 3.1)."""
MAX_DATA = 65_535
"""Octets of one key management message that are read."""
SESSION: int | None = None
"""Level of a message that serves every m-line without a message of its own."""


@dataclass(frozen=True, slots=True)
class KeyManagement:
    """One ``a=key-mgmt`` line: the protocol and its message."""

    protocol: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"{self.protocol} {base64.b64encode(self.data).decode('ascii')}"

    @classmethod
    def parse(cls, value: str) -> "KeyManagement":
        """Read the attribute's value; one space behind the colon is taken. Raises SdpAttributeError."""
        protocol, _, text = value.removeprefix(" ").partition(" ")
        if not is_token(protocol) or not text:
            raise SdpAttributeError("key-mgmt is not a protocol and its message")
        if len(text) > 4 * (MAX_DATA // 3 + 1):
            raise SdpAttributeError("key-mgmt message is longer than this side reads")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise SdpAttributeError("key-mgmt message is not base64") from None
        if not data:
            raise SdpAttributeError("key-mgmt message is empty")
        return cls(protocol, data)


def identifiers(sdp: SessionDescription) -> tuple[str, ...]:
    """Return every protocol that a description offers, in its order; a message authenticates it (RFC 4567 4.1.4)."""
    return tuple(name for section in (sdp, *sdp.media) for name in identifiers_at(section))


def identifiers_at(section: Section) -> tuple[str, ...]:
    """Return the protocols that stand at one level, in order; the message itself need not be readable."""
    return tuple(value.removeprefix(" ").partition(" ")[0] for value in section.key_mgmt)


def messages(sdp: SessionDescription, protocol: str = MIKEY) -> Mapping[int | None, bytes]:
    """Return the messages of a protocol that are to be processed, by level: SESSION, or the index of an m-line.

    A message for the session that every active m-line overrides is left out, and those of m-lines with port 0 too.
    Raises SdpAttributeError for a line that is malformed, or two of one protocol at one level: either fails the whole
    description (RFC 4567 4.1.2).
    """
    found: dict[int | None, bytes] = {}
    active = [(index, media) for index, media in enumerate(sdp.media) if media.port != 0]
    if any(not media.key_mgmt for _, media in active):
        _read(found, SESSION, sdp, protocol)
    for index, media in active:
        _read(found, index, media, protocol)
    return found


def _read(found: dict[int | None, bytes], level: int | None, section: Section, protocol: str) -> None:
    for value in section.key_mgmt:
        line = KeyManagement.parse(value)
        if line.protocol != protocol:
            continue
        if level in found:
            raise SdpAttributeError("two key-mgmt lines of one protocol at one level")
        found[level] = line.data


def place(sdp: SessionDescription, level: int | None, data: bytes, protocol: str = MIKEY) -> None:
    """Write a message at its level. Raises SdpError for a level that the description does not have."""
    if level is not None and level >= len(sdp.media):
        raise SdpError("no such media description")
    section: Section = sdp if level is None else sdp.media[level]
    section.add(ATTRIBUTE, str(KeyManagement(protocol, data)))
