"""Security modes of packages in a call: crypto lines leave sealed and arrive opened (:mod:`keying.modes`).

What is inside is SDES: here the lines change their form, and all the rules for them stand where they stood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keying.modes import ModeRefused, SecurityMode
from nodes.ue.media_security import TOKEN_DOWNGRADE, TOKEN_PROFILE, MediaSecurityRefused
from signalling.sdp import MediaDescription, SessionDescription

MOST_OCTETS = 4096
"""Longest value of an attribute that is opened, octets."""
BAD_SEAL = "bad-key"


@dataclass(frozen=True)
class Seal:
    """How a media line's keys came or went: the mode, and the value of its attribute in the offer."""

    mode: str
    offer: str


class SealedKeys:
    """The modes that a user has, with what a call needs of them."""

    def __init__(self, modes: Mapping[str, SecurityMode] | None = None) -> None:
        self._modes = modes or {}

    def __contains__(self, mode: object) -> bool:
        return mode in self._modes

    def seal_offer(self, media: MediaDescription, mode: str) -> str:
        """Put the crypto lines of an own offer under the seal; return the attribute's value."""
        sealer = self._modes[mode]
        value = sealer.seal_offer(media.crypto)
        _replace(media, sealer.attribute, value)
        return value

    def mode_of(self, media: MediaDescription) -> str:
        """Return the mode of this user that a media line is sealed with; empty without one."""
        return next((name for name, mode in self._modes.items() if media.has(mode.attribute)), "")

    def open_offer(self, sdp: SessionDescription, media: MediaDescription) -> Seal | None:
        """Put the crypto lines of an offer received in place of its seal; None when it has none that this user knows.

        Raises MediaSecurityRefused for a seal that does not hold, and for one beside other key management.
        """
        mode = self.mode_of(media)
        if not mode or media.port == 0:
            return None
        opener = self._modes[mode]
        value = _value(sdp, media, opener)
        media.crypto = _opened(opener, lambda: opener.open_offer(value))
        media.remove(opener.attribute)
        return Seal(mode, value)

    def seal_answer(self, media: MediaDescription, seal: Seal) -> None:
        """Put the crypto line of an own answer under the seal of its offer's mode."""
        sealer = self._modes[seal.mode]
        if media.crypto:
            _replace(media, sealer.attribute, sealer.seal_answer(media.crypto[0], seal.offer))

    def open_answer(self, sdp: SessionDescription, media: MediaDescription, seal: Seal) -> None:
        """Put the crypto line of an answer received in place of its seal.

        Raises MediaSecurityRefused for an answer without the seal that was offered, with another one, or with more.
        """
        opener = self._modes[seal.mode]
        if not media.has(opener.attribute):
            raise MediaSecurityRefused(TOKEN_DOWNGRADE, f"sealed keys ({seal.mode}) were answered without a seal")
        value = _value(sdp, media, opener)
        media.crypto = _opened(opener, lambda: (opener.open_answer(value, seal.offer),))
        media.remove(opener.attribute)


def _value(sdp: SessionDescription, media: MediaDescription, mode: SecurityMode) -> str:
    values = media.get_all(mode.attribute)
    if len(values) != 1 or media.crypto or sdp.key_mgmt_of(media):
        raise MediaSecurityRefused(TOKEN_PROFILE, f"other key management beside {mode.facts.name}")
    if len(values[0]) > MOST_OCTETS:
        raise MediaSecurityRefused(BAD_SEAL, f"the value of {mode.attribute} is too long")
    return values[0]


def _opened(mode: SecurityMode, work: Callable[[], Sequence[str]]) -> list[str]:
    """Run a mode on what somebody sent; whatever goes wrong in it, the stream is refused."""
    try:
        return list(work())
    except ModeRefused as refused:
        word = refused.word if refused.word in mode.facts.words else BAD_SEAL
        raise MediaSecurityRefused(word, refused.reason) from None
    except Exception as fault:  # noqa: BLE001 - code of a package on octets of a stranger: no fault of it lets media go plain
        raise MediaSecurityRefused(BAD_SEAL, f"{mode.facts.name} failed: {type(fault).__name__}") from None


def _replace(media: MediaDescription, attribute: str, value: str) -> None:
    media.crypto = []
    media.remove(attribute)
    media.add(attribute, value)
