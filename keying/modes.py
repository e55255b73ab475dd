"""Media security modes: those of TS 33.328 that are built in, and what one of a package has to bring.

A mode of a package is end to end, between UEs that both have it. It decides how the SDES lines of an offer and an
answer travel: not as ``a=crypto``, which every SIP node on the way can read, but sealed in an attribute of its own. The
keys themselves, their negotiation (tags, suites, no key twice) and SRTP stay those of SDES (RFC 4568). The IMS-ALG of a
P-CSCF that knows the mode passes such a stream as it is, like other end-to-end security (TS 33.328 7.2.2, assumed); one
that does not refuses it, for nothing that it understands protects the stream.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Final

from keying.secret import Secret

MODE_NAME: Final = re.compile(r"e2e-[a-z][a-z0-9-]{1,20}")
"""Form of the name of a mode that a package brings; what follows ``e2e-`` is how it keys."""
ATTRIBUTE_NAME: Final = re.compile(r"[a-z][a-z0-9.-]{2,40}")
"""Form of the SDP attribute of such a mode."""
WORD: Final = re.compile(r"[a-z][a-z0-9-]{2,40}")
"""Form of a word that a refusal carries in its Warning."""
_TAKEN_ATTRIBUTES: Final = re.compile(
    r"3ge2ae|acap|candidate|cap|cat|charset|conf|crypto|csup|curr|des|direction|fingerprint|fmtp|framerate|"
    r"group|ice-lite|ice-options|ice-pwd|ice-ufrag|inactive|key-mgmt|keywds|lang|maxptime|mid|orient|pcfg|"
    r"ptime|quality|recvonly|rtcp|rtcp-fb|rtcp-mux|rtpmap|sdplang|sendonly|sendrecv|setup|ssrc|tcap|tool|"
    r"type"
)


@dataclass(frozen=True)
class ModeFacts:
    """What a mode is called and how it is shown."""

    name: str
    """As in ``imslab call --security``."""
    title: str
    """A line for people: from where to where, which keys."""
    keying: str = ""
    """Where the keys come from, as a leg of a verdict names it, e.g. ``SDES``; empty without protection."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Words that a refusal may carry (``media-sec:WORD``), with what each means to a person."""


NONE: Final = ModeFacts("none", "not protected")
E2AE_SDES: Final = ModeFacts("e2ae-sdes", "UE to access gateway, keys in SDP (SDES)", "SDES")
E2E_SDES: Final = ModeFacts("e2e-sdes", "UE to UE, keys in SDP (SDES)", "SDES")
E2E_KMS: Final = ModeFacts("e2e-kms", "UE to UE, keys from a KMS (MIKEY-TICKET)", "MIKEY-TICKET")
BUILT_IN: Final[Mapping[str, ModeFacts]] = MappingProxyType(
    {mode.name: mode for mode in (NONE, E2AE_SDES, E2E_SDES, E2E_KMS)}
)
"""The modes of TS 33.328 that this testbed has, and none at all."""


class ModeRefused(Exception):  # noqa: N818 - a decision, not a malfunction
    """What a mode received does not hold: altered, replayed, sealed with another key. ``word`` is one of its words."""

    def __init__(self, word: str, reason: str) -> None:
        super().__init__(reason)
        self.word = word
        self.reason = reason


class ModeError(ValueError):
    """A mode of a package is not one, or stands in the way of another."""


class SecurityMode(ABC):
    """An end-to-end mode that a package brings by an entry point of ``imslab.security_modes``; a UE has one instance.

    ``shared_key`` is a key of ``key_octets`` that the lab gave every user of the mode; None where ``key_octets`` is 0.
    ``now`` gives Unix seconds. What the methods return goes into SDP, where the network can read, alter, repeat and
    swap it; what the ``open`` methods are given may come from anybody.
    """

    facts: ClassVar[ModeFacts]
    attribute: ClassVar[str]
    """Name of the SDP attribute of the media line that carries it."""
    key_octets: ClassVar[int] = 0
    """Octets of the key that the lab makes for the users of the mode; 0 for none."""

    def __init__(self, shared_key: Secret | None, now: Callable[[], float] = time.time) -> None:
        self.shared_key = shared_key
        self.now = now

    @abstractmethod
    def seal_offer(self, lines: Sequence[str]) -> str:
        """Return the attribute's value for the crypto lines of an offer (RFC 4568 9.1, without ``a=crypto:``)."""

    @abstractmethod
    def open_offer(self, value: str) -> tuple[str, ...]:
        """Return the crypto lines of an offer received. Raises :class:`ModeRefused`."""

    @abstractmethod
    def seal_answer(self, line: str, offer: str) -> str:
        """Return the value for the crypto line of the answer to the offer with the value ``offer``."""

    @abstractmethod
    def open_answer(self, value: str, offer: str) -> str:
        """Return the crypto line of the answer to the own offer ``offer``. Raises :class:`ModeRefused`."""


def check_mode(name: str, offered: object) -> type[SecurityMode]:
    """Return the class of a mode as an entry point ``name`` offers it.

    Raises :class:`ModeError` when it is no mode, is called otherwise, or takes a name or attribute that has a meaning.
    """
    if not isinstance(offered, type) or not issubclass(offered, SecurityMode):
        raise ModeError(f"{name}: {offered!r} is no SecurityMode")
    missing = sorted(getattr(offered, "__abstractmethods__", ()))
    if missing:
        raise ModeError(f"{name} lacks {', '.join(missing)}")
    facts, attribute = getattr(offered, "facts", None), getattr(offered, "attribute", None)
    if not isinstance(facts, ModeFacts) or facts.name != name:
        raise ModeError(f"{name}: its facts do not give it that name")
    if name in BUILT_IN or MODE_NAME.fullmatch(name) is None:
        raise ModeError(f"{name} cannot be the name of a mode: e2e- and lower-case letters, none that is built in")
    if (
        not isinstance(attribute, str)
        or ATTRIBUTE_NAME.fullmatch(attribute) is None
        or _TAKEN_ATTRIBUTES.fullmatch(attribute)
    ):
        raise ModeError(f"{name}: {attribute!r} cannot be its attribute in SDP")
    texts = (facts.title, facts.keying, *facts.words.values())
    if not facts.keying or not all(text.isprintable() for text in texts):
        raise ModeError(f"{name}: its title, keying and words are lines of text, and its keying has a name")
    if any(WORD.fullmatch(word) is None for word in facts.words):
        raise ModeError(f"{name}: a word of it is no word in lower case")
    return offered


def check_modes(modes: Mapping[str, type[SecurityMode]]) -> None:
    """Raise :class:`ModeError` when two modes have the same attribute."""
    owners: dict[str, str] = {}
    for name, mode in modes.items():
        first = owners.setdefault(mode.attribute, name)
        if first != name:
            raise ModeError(f"{first} and {name} both write the attribute {mode.attribute}")


__all__ = [
    "BUILT_IN",
    "E2AE_SDES",
    "E2E_KMS",
    "E2E_SDES",
    "NONE",
    "ModeError",
    "ModeFacts",
    "ModeRefused",
    "SecurityMode",
    "check_mode",
    "check_modes",
]
