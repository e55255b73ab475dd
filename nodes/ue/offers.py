"""What a session description of the far end comes to: accepted streams, or a refusal with its SIP status."""

from __future__ import annotations

from dataclasses import dataclass

from keying.sdes import KeyChange
from nodes.ue.media_security import KMS, MediaSecurityRefused, OfferJudgement, StreamKeys
from nodes.ue.sealed_keys import Seal, SealedKeys
from nodes.ue.stream import ChosenCodec, Stream
from signalling.sdp import MediaDescription, SdpError, SessionDescription, parse_sdp


class OfferRefused(Exception):  # noqa: N818 - a decision
    """An offer or answer cannot be used; `status` is the SIP code, `warning` the text of Warning 399 or empty."""

    def __init__(
        self, status: int, reason: str, warning: str = "", token: str = "", *, attribute: bool = False
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.warning = warning
        self.token = token
        self.attribute = attribute
        """Warning 306 goes with it (RFC 4567 4.1.2)."""

    @property
    def told(self) -> str:
        """What this side's user is told: the warning, which is all that the far end gets, and why."""
        return f"{self.warning}: {self.reason}" if self.warning else self.reason

    @classmethod
    def of(cls, refused: MediaSecurityRefused) -> OfferRefused:
        """Make the SIP answer of a security decision (SEC-1)."""
        return cls(refused.status, refused.reason, refused.warning, refused.token, attribute=refused.attribute)


@dataclass
class Accepted:
    """A stream of an offer that is taken: `change` is what the far end did to its key, `keys` those of the answer."""

    stream: Stream
    offer: MediaDescription
    judgement: OfferJudgement
    change: KeyChange
    codec: ChosenCodec
    keys: StreamKeys
    seal: Seal | None = None
    """Its keys came sealed, and those of the answer go so."""


def offered_mode(body: bytes, sealed: SealedKeys | None = None) -> str:
    """Return the security that the first active stream of an offer has, whether or not it can be taken."""
    try:
        sdp = parse_sdp(body)
    except SdpError:
        return "none"
    media = next((media for media in sdp.media if media.port != 0), None)
    if media is None:
        return "none"
    if sealed is not None and (mode := sealed.mode_of(media)):
        return mode
    if sdp.key_mgmt_of(media):
        return KMS
    if not (media.crypto or media.is_secure_rtp):
        return "none"
    return "e2ae-sdes" if media.get("3ge2ae") is not None else "e2e-sdes"


def read_body(body: bytes) -> SessionDescription:
    """Read a description. Raises OfferRefused 400."""
    try:
        return parse_sdp(body)
    except SdpError as error:
        raise OfferRefused(400, f"Bad SDP, {error}") from None
