"""The shape rules of offer and answer that do not depend on codecs or keys (RFC 3264 6, 8; RFC 4568 7.5)."""

from signalling.sdp.errors import SdpShapeError
from signalling.sdp.model import SessionDescription


def check_answer_shape(offer: SessionDescription, answer: SessionDescription) -> None:
    """Raise SdpShapeError unless `answer` has the offer's media lines (number, order, types, profiles) and time line.

    A stream with port 0 in the offer must stay refused, and the profile of an accepted stream must be the offered
    one (RFC 3264 6, RFC 5124 3.3.1).
    """
    if len(offer.media) != len(answer.media):
        raise SdpShapeError("answer has another number of media lines")
    if offer.line_values("t") != answer.line_values("t"):
        raise SdpShapeError("answer changes the time line")
    for offered, answered in zip(offer.media, answer.media, strict=True):
        if offered.media != answered.media:
            raise SdpShapeError("answer changes a media type")
        if offered.port == 0 and answered.port != 0:
            raise SdpShapeError("answer accepts a stream that was not offered")
        if answered.port != 0 and offered.proto != answered.proto:
            raise SdpShapeError("answer changes a transport profile")


def check_successor(previous: SessionDescription, current: SessionDescription) -> None:
    """Raise SdpShapeError unless `current` may follow `previous` of the same sender in one dialog (RFC 3264 8).

    Media lines are never dropped; the origin stays but for its version, which rises by one with any change.
    """
    old, new = previous.origin, current.origin
    if (old.username, old.session_id, old.nettype, old.addrtype, old.address) != (
        new.username,
        new.session_id,
        new.nettype,
        new.addrtype,
        new.address,
    ):
        raise SdpShapeError("origin changed within the dialog")
    if len(current.media) < len(previous.media):
        raise SdpShapeError("a media line was dropped")
    for before, after in zip(previous.media, current.media, strict=False):
        if before.media != after.media and before.port != 0 and after.port != 0:
            raise SdpShapeError("a media line changed its type")
    if new.version == old.version:
        if previous.to_bytes() != current.to_bytes():
            raise SdpShapeError("description changed under the same version")
    elif new.version != old.version + 1:
        raise SdpShapeError("version did not rise by one")
