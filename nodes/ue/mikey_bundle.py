"""What MIKEY-TICKET means for SRTP streams: crypto sessions by m-line, and the keys a bundle gives to each.

TS 33.328 7.2.3-6, RFC 4567 7.1, RFC 6043 5.1.3, 6.1.1. One message at session level serves every m-line: the k-th line
(from 0, those with port 0 too) has the crypto sessions 2k+1, from the bundle's initiator to its responder, and 2k+2,
the other way (directions assumed). A message that a peer put at media level has the crypto sessions 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from keying.mikey.errors import AuthenticationFailure, MikeyError
from keying.mikey.kdf import SUITES as ALGORITHMS
from keying.mikey.origin import check_sdp_ids
from keying.mikey.payloads import CryptoSession, GeneralExtension, KeyData, TicketPolicy
from keying.mikey.policy import has
from keying.mikey.profile import Profile
from keying.mikey.registry import TicketFlag
from keying.mikey.sessions import CryptoSessionKeys, SessionKeys
from keying.mikey.update import Association
from keying.sdes import CryptoAttribute, InlineKey
from keying.secret import Secret
from keying.suites import DEFAULT_SUITES, SUITES
from nodes.ue.media_security import TOKEN_MIKEY, TOKEN_SUITE, MediaSecurityRefused, StreamKeys
from signalling.sdp import SdpError, SessionDescription
from signalling.sdp.keymgmt import identifiers, identifiers_at

Level = int | None
"""Where a message stands: None for the session, else the index of its m-line."""
Lines = Mapping[int, int]
"""Streams by index with the SSRC this side sends with."""


def refused(error: MikeyError | SdpError) -> MediaSecurityRefused:
    """Return the decision that a message which cannot be used leads to: 488 with Warning 306 (RFC 4567 4.1.2)."""
    return MediaSecurityRefused(TOKEN_MIKEY, f"{type(error).__name__}: {error}")


def usable_suites(suites: Iterable[str], profile: Profile) -> tuple[str, ...]:
    """Return the SRTP suites whose keys the profile's algorithms may protect: none longer than its own keys.

    RFC 6043 12.1: no algorithm of a MIKEY message may be weaker than what it brings keys for. Suites of packages have
    no number in MIKEY.
    """
    bits = ALGORITHMS[profile.suite].key_bits
    return tuple(name for name in suites if name in DEFAULT_SUITES and 8 * SUITES[name].key_length <= bits)


def too_strong(suites: Iterable[str], profile: Profile) -> MediaSecurityRefused:
    """Return the decision that no key can be made for any of the suites that an offer was to have."""
    bits = ALGORITHMS[profile.suite].key_bits
    asked = ", ".join(f"{name} ({8 * SUITES[name].key_length}-bit keys)" for name in suites)
    reason = f"the {bits}-bit MIKEY profile protects no keys for {asked}, RFC 6043 12.1"
    return MediaSecurityRefused(TOKEN_SUITE, reason)


def cs_pair(level: Level, index: int) -> tuple[int, int]:
    """Return the two CS IDs of an m-line under a message at `level` (RFC 4567 7.1)."""
    first = 1 if level is not None else 2 * index + 1
    return first, first + 1


def crypto_of(keys: CryptoSessionKeys) -> CryptoAttribute:
    """Return the keys of a crypto session as the media end takes them, with the SPI as MKI (RFC 3830 6.13, 7.2.3-6).

    They never stand in SDP. Raises MediaSecurityRefused when they do not fit the suite.
    """
    suite = DEFAULT_SUITES.get(keys.suite)
    if suite is None or len(keys.tek) != suite.key_length or len(keys.salt) < suite.salt_length:
        raise MediaSecurityRefused(TOKEN_MIKEY, f"the keys of crypto session {keys.cs_id} do not fit SRTP")
    key_salt = keys.tek.joined(keys.salt.part(0, suite.salt_length))
    mki = int.from_bytes(keys.spi, "big") if keys.spi else None
    return CryptoAttribute(keys.cs_id, suite, (InlineKey(key_salt, mki=mki, mki_length=len(keys.spi)),))


@dataclass
class Exchange:
    """The messages of one call as this end saw them; `psk` only where the lab exports keys."""

    request_init: bytes = b""
    request_resp: bytes = b""
    transfer_init: bytes = b""
    resolve_init: bytes = b""
    resolve_resp: bytes = b""
    transfer_resp: bytes = b""
    psk: Secret | None = None
    ticket: bytes = b""
    issuer: str = ""


@dataclass(frozen=True)
class Bundle:
    """An established bundle. `began`: this side is its initiator. `swapped`: lines whose CS IDs run the other way."""

    level: Level
    association: Association
    policy: TicketPolicy
    began: bool
    swapped: frozenset[int] = frozenset()

    @property
    def may_bring_keys(self) -> bool:
        """Whether this side may send new keys in an update (flags L and M, RFC 6043 5.2)."""
        return has(self.policy, TicketFlag.L if self.began else TicketFlag.M)

    def own_and_peer(self, index: int) -> tuple[int, int]:
        """Return the CS ID this side sends under, and the one it receives under."""
        first, second = cs_pair(self.level, index)
        return (first, second) if self.began != (index in self.swapped) else (second, first)

    def keys_of(self, keys: SessionKeys, index: int) -> StreamKeys:
        """Return the keys of a stream. Raises MediaSecurityRefused when the bundle has none for it."""
        own, peer = self.own_and_peer(index)
        if own not in keys.by_cs_id or peer not in keys.by_cs_id:
            raise MediaSecurityRefused(TOKEN_MIKEY, f"no crypto session for m-line {index + 1}")
        send, receive = crypto_of(keys[own]), crypto_of(keys[peer])
        if send.keys[0].key_salt == receive.keys[0].key_salt:  # a TEK that was carried: own packets could come back
            raise MediaSecurityRefused(TOKEN_MIKEY, f"one key for both directions of m-line {index + 1}")
        return StreamKeys(send, receive, "e2e", "kms")


def all_forked(forked: Sequence[KeyData], sessions: Sequence[CryptoSession]) -> bool:
    """Tell whether each session is under a TGK that the KMS forked: no other responder of the ticket knows it.

    TEKs, GTGKs and what a TRANSFER_INIT brings are the same for all of them (RFC 6043 5.1.1).
    """
    own = {key.spi for key in forked if key.key_type.is_tgk}
    return all(session.spi in own for session in sessions)


def swapped_lines(level: Level, sessions: Sequence[CryptoSession]) -> frozenset[int]:
    """Return the lines whose second crypto session is the sender's: that is the one with its SSRC filled in."""
    by_id = {session.cs_id: session for session in sessions}
    lines = range((max(by_id, default=0) + 1) // 2) if level is None else (level,)
    found = set()
    for index in lines:
        first, second = (by_id.get(cs_id) for cs_id in cs_pair(level, index))
        if first is not None and second is not None and second.session_data and not first.session_data:
            found.add(index)
    return frozenset(found)


def own_ssrcs(bundle: Bundle, sessions: Sequence[CryptoSession], lines: Lines) -> dict[int, int]:
    """Return the SSRCs to fill in where the peer's update left them out."""
    ssrcs = {session.cs_id: 0 for session in sessions if not session.session_data}
    for index, ssrc in lines.items():
        own, _ = bundle.own_and_peer(index)
        if own in ssrcs:
            ssrcs[own] = ssrc
    return ssrcs


def check_identifiers(sdp: SessionDescription, level: Level, extensions: Sequence[GeneralExtension]) -> None:
    """Compare the authenticated list of protocols with the offer's, where there is one (7.2.3-5, RFC 4567 4.1.4).

    The list may be that of the whole description or that of the message's level (assumed). Raises
    MediaSecurityRefused: somebody took an offered protocol away.
    """
    section = sdp if level is None else sdp.media[level]
    try:
        check_sdp_ids(extensions, identifiers(sdp), identifiers_at(section))
    except AuthenticationFailure:
        reason = "the offered key management protocols are not those of its sender"
        raise MediaSecurityRefused(TOKEN_MIKEY, reason) from None
