"""Writes SDP as it leaves the IMS-ALG: own addresses, profile, keys; nothing else is touched (PS-3, PS-4, SDP-2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nodes.pcscf.media_plan import LineRewrite, LocalStream
from signalling.sdp import Connection, MediaDescription, Origin, SessionDescription

MARKER: Final = "3ge2ae"
ICE_LINES: Final = ("candidate", "remote-candidates", "end-of-candidates", "ice-ufrag", "ice-pwd", "ice-options",
                    "ice-pacing", "ice-mismatch", "ice-lite")  # fmt: skip
"""Media goes through the IMS-AGW, which does no ICE: leaving these would lead media past it."""
CAPABILITY_LINES: Final = ("tcap", "acap", "pcfg", "acfg")
"""RFC 5939 lines; a potential configuration may hold keys."""
REJECTED_PORT: Final = 0


@dataclass(slots=True)
class OriginKeeper:
    """The o= line this node writes in one direction of a session: stable id, version +1 per change (RFC 3264 8)."""

    username: str
    session_id: str
    version: int = 0
    digest: str = ""

    def stamp(self, sdp: SessionDescription, address: str) -> None:
        """Write the o= line of `sdp`; same text as last time keeps the version."""
        kind = "IP6" if ":" in address else "IP4"
        sdp.origin = Origin(self.username, self.session_id, 0, address, "IN", kind)
        digest = hashlib.sha256(sdp.to_bytes()).hexdigest()
        if digest != self.digest:
            self.version += 1
            self.digest = digest
        sdp.origin = Origin(self.username, self.session_id, self.version, address, "IN", kind)

    def to_dict(self) -> dict[str, object]:
        """A JSON form for the store."""
        return {
            "username": self.username,
            "session_id": self.session_id,
            "version": self.version,
            "digest": self.digest,
        }


def rewrite(sdp: SessionDescription, lines: Sequence[LineRewrite], origin: OriginKeeper, fallback: str) -> bytes:
    """The SDP as it is sent on. `lines` match its m-lines; `fallback` is the c= address when no stream is active.

    Raises ValueError when the numbers of lines differ.
    """
    out = sdp.copy()
    addresses = [line.local.address.ip for line in lines if line.local is not None]
    session_address = addresses[0] if addresses else fallback
    for name in (MARKER, "crypto", *ICE_LINES, *CAPABILITY_LINES):
        out.remove(name)
    out.connection = Connection.for_address(session_address)
    for media, line in zip(out.media, lines, strict=True):
        _rewrite_line(media, line, session_address)
    origin.stamp(out, session_address)
    return out.to_bytes()


def _rewrite_line(media: MediaDescription, line: LineRewrite, session_address: str) -> None:
    for name in (MARKER, *ICE_LINES, *CAPABILITY_LINES):
        media.remove(name)
    if not line.keep_security:
        media.remove("crypto")
    media.proto = line.proto
    media.connection = None
    if line.local is None:
        media.port = REJECTED_PORT
        media.remove("rtcp")
        return
    _place(media, line.local, session_address)
    for crypto in line.crypto:
        media.add("crypto", crypto.encode())
    if line.marker:
        media.add(MARKER, line.marker)


def _place(media: MediaDescription, local: LocalStream, session_address: str) -> None:
    media.port = local.address.port
    if local.address.ip != session_address:
        media.connection = Connection.for_address(local.address.ip)
    media.remove("rtcp")
    if local.address.rtcp_port not in (0, local.address.port, local.address.port + 1):
        media.add("rtcp", str(local.address.rtcp_port))
