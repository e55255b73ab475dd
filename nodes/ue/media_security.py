"""Media security of a stream as the UE decides it: what to offer, what to accept (UO-1 to UO-5, TS 33.328 7.2, 7.3).

Keys come in SDP (SDES, modes e2ae-sdes and e2e-sdes) or from the KMS (MIKEY-TICKET, mode e2e-kms); the latter are made
in ``mikey_media`` and judged here like the former.

Pure: session descriptions and keys in, decisions out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from keying.modes import BUILT_IN, E2E_KMS
from keying.sdes import (
    CryptoAttribute,
    KeyChange,
    SdesError,
    SdesPolicy,
    answer_for,
    choose,
    generate,
    key_change,
    parse_crypto,
    verify_answer,
)
from keying.secret import Secret
from signalling.sdp import MediaDescription, SdpError

SDES = "sdes-srtp"
PLAIN_PROFILES = frozenset({"RTP/AVP", "RTP/AVPF"})
SECURE_PROFILES = frozenset({"RTP/SAVP", "RTP/SAVPF"})
TOKEN_UNANNOUNCED = "e2ae-not-announced"  # noqa: S105 - a word of a Warning header
TOKEN_PROFILE = "profile-refused"  # noqa: S105
TOKEN_DOWNGRADE = "downgrade-refused"  # noqa: S105
TOKEN_REQUIRED = "protection-required"  # noqa: S105
TOKEN_KMS_REFUSED = "kms-refused"  # noqa: S105
TOKEN_KMS_UNREACHABLE = "kms-unreachable"  # noqa: S105
TOKEN_MIKEY = "mikey-invalid"  # noqa: S105
TOKEN_RESPONDER = "responder-not-allowed"  # noqa: S105
TOKEN_SUITE = "suite-too-strong"  # noqa: S105
TOKEN_MODE = "mode-unknown"  # noqa: S105
KEY_MANAGEMENT_TOKENS = frozenset({TOKEN_KMS_REFUSED, TOKEN_KMS_UNREACHABLE, TOKEN_MIKEY, TOKEN_RESPONDER})
"""Failures of ``a=key-mgmt``."""
KMS = E2E_KMS.name
SDES_KEYING, KMS_KEYING = "sdes", "kms"
EMERGENCY = "urn:service:sos"


class MediaSecurityRefused(Exception):  # noqa: N818 - a decision, not a malfunction
    """The security of a stream is not acceptable; 488 towards the peer, `token` for ``Warning: 399`` (SEC-1)."""

    status = 488

    def __init__(self, token: str, reason: str, *, attribute: bool = False) -> None:
        super().__init__(reason)
        self.token = token
        self.reason = reason
        self.attribute = attribute or token in KEY_MANAGEMENT_TOKENS
        """``a=key-mgmt`` was not understood or failed: ``Warning: 306`` as well (RFC 4567 4.1.2).

        The whole offer fails with it, as 4.1.2 has it; RFC 4567 4.1.1 would rather negotiate again, which is left to
        the side that offered.
        """

    @property
    def warning(self) -> str:
        """Text of the warning."""
        return f"media-sec:{self.token}"

    @property
    def told(self) -> str:
        """What this side's user is told: the warning, which is all that the far end gets, and why."""
        return f"{self.warning}: {self.reason}"


@dataclass(frozen=True)
class SecurityContext:
    """What a decision rests on, of the registration and of the configuration."""

    level: str
    """off, preferred or required."""
    announced: bool
    """Whether this UE announced sdes-srtp."""
    agreed: bool
    """Whether the P-CSCF announced it too."""
    confidential: bool
    """Whether Gm is encrypted, so that keys may pass (RFC 4568 8.3)."""
    suites: tuple[str, ...]
    kms: str = "off"
    """Keys from the KMS towards this far end: off (also without a KMS), allowed, preferred or required (6.2.3.3)."""
    beside_sdes: bool = False
    """Offer SDES beside MIKEY: either may be answered (7.2.3-4)."""
    modes: frozenset[str] = frozenset()
    """Modes of packages that this user has (:mod:`keying.modes`)."""

    @property
    def policy(self) -> SdesPolicy:
        """What is accepted from a peer."""
        return SdesPolicy(suites=self.suites)


@dataclass(frozen=True)
class StreamKeys:
    """The security of one agreed stream; both None: plain RTP."""

    send: CryptoAttribute | None = None
    receive: CryptoAttribute | None = None
    scope: str = ""
    """e2ae, e2e or empty."""
    keying: str = "sdes"
    """sdes, or kms: then `send` and `receive` hold what MIKEY made, under their MKIs, and never stand in SDP.

    Else that of a mode of a package: then they stand in SDP under a seal.
    """

    @property
    def from_kms(self) -> bool:
        """True with keys of MIKEY-TICKET."""
        return self.protected and self.keying == KMS_KEYING

    @property
    def sealed(self) -> bool:
        """True with keys of a mode that a package brought."""
        return self.protected and self.keying not in {SDES_KEYING, KMS_KEYING}

    @property
    def protected(self) -> bool:
        """True with SRTP."""
        return self.send is not None

    @property
    def security(self) -> str:
        """The mode as the control service names it."""
        return f"{self.scope}-{self.keying}" if self.scope else "none"


def choose_mode(wanted: str, context: SecurityContext, *, force: bool = False, target: str = "") -> str:
    """Return the mode of an own offer for the `wanted` one (empty: the best that policy and agreement allow).

    Raises MediaSecurityRefused when the wish and the policy or the agreement do not go together (GE-3, GE-5, SDES-22,
    TS 33.328 6.2.3.3). No end-to-end security towards an emergency `target` (7.5-1).
    """
    emergency = target.lower().startswith(EMERGENCY)
    kms = "off" if emergency else context.kms
    if not wanted:
        if kms in {"preferred", "required"} and context.level != "off":
            return KMS
        wanted = "e2ae-sdes" if context.agreed and context.level != "off" else "none"
    if kms == "required" and wanted != KMS:
        raise MediaSecurityRefused(TOKEN_REQUIRED, "policy requires keys from the KMS towards this user")
    if wanted == "none":
        if context.level == "required":
            raise MediaSecurityRefused(TOKEN_REQUIRED, "policy requires protected media")
        return wanted
    if context.level == "off":
        raise MediaSecurityRefused(TOKEN_PROFILE, "policy excludes media security")
    if emergency and wanted.startswith("e2e-"):
        raise MediaSecurityRefused(TOKEN_PROFILE, "no end-to-end security in an emergency call")
    if wanted not in BUILT_IN:
        return _mode_of_package(wanted, context)
    if wanted == KMS:
        if kms == "off":
            raise MediaSecurityRefused(TOKEN_PROFILE, "policy excludes keys from a KMS, or there is no KMS")
        return wanted
    if force:
        return wanted
    if not context.confidential:
        raise MediaSecurityRefused(TOKEN_PROFILE, "signalling is not encrypted, no key may pass")
    if wanted == "e2ae-sdes" and not context.agreed:
        raise MediaSecurityRefused(TOKEN_UNANNOUNCED, "e2ae is not agreed with the P-CSCF")
    return wanted


def _mode_of_package(wanted: str, context: SecurityContext) -> str:
    if wanted not in context.modes:
        raise MediaSecurityRefused(TOKEN_MODE, f"{wanted} is no mode of this user")
    return wanted


def lines_of_mode(mode: str, context: SecurityContext) -> tuple[CryptoAttribute, ...]:
    """Return fresh SDES lines for an own offer: none in the plain, with MIKEY only where policy lets them stand beside.

    Beside MIKEY they need encrypted signalling like any other key in SDP (RFC 4568 8.3).
    """
    if mode == "none" or (mode == KMS and not (context.beside_sdes and context.confidential)):
        return ()
    return offer_lines(context.suites)


def offer_lines(suites: Sequence[str]) -> tuple[CryptoAttribute, ...]:
    """Return fresh lines for an offer, tags from 1 on (RFC 4568 5.1.1)."""
    return tuple(generate(suite, tag) for tag, suite in enumerate(suites, 1))


def secure_offer(media: MediaDescription, mode: str, lines: Sequence[CryptoAttribute], *, shape: str = "savp") -> None:
    """Write the security of an own offer into a plain media description (UO-1, FLOW-5 step 1, 7.2.2)."""
    if mode == "none":
        return
    if shape == "savp":
        media.proto = media.proto.replace("RTP/AVP", "RTP/SAVP")
    if mode == "e2ae-sdes":
        media.add("3ge2ae", "requested")
    media.crypto = [line.encode() for line in lines]


def judge_answer(
    mode: str,
    lines: Sequence[CryptoAttribute],
    answer: MediaDescription,
    context: SecurityContext,
    *,
    other_keys: Iterable[Secret] = (),
    managed: StreamKeys | None = None,
) -> StreamKeys:
    """Judge the security of an accepted stream of an answer (UO-3, FLOW-5 step 8).

    `other_keys` are those of the offer's and the answer's other streams; none may come again (RFC 4568 6.1).
    `managed` are the keys that MIKEY made for the stream.

    Raises MediaSecurityRefused: the negotiation has failed and the call must end.
    """
    if mode == "none":
        if answer.proto in SECURE_PROFILES:
            raise MediaSecurityRefused(TOKEN_PROFILE, "a plain offer was answered with a secure profile")
        return StreamKeys()
    if mode == KMS:
        if managed is not None and answer.crypto:
            raise MediaSecurityRefused(TOKEN_MIKEY, "the answer has a crypto line beside MIKEY (RFC 4568 7.5)")
        if answer.proto in PLAIN_PROFILES:
            raise MediaSecurityRefused(TOKEN_DOWNGRADE, "protected media was answered in the plain")
        if managed is not None:
            return managed
        if not lines or not answer.crypto:
            raise MediaSecurityRefused(TOKEN_DOWNGRADE, "the answer has no key management")
        if context.kms == "required":
            raise MediaSecurityRefused(TOKEN_DOWNGRADE, "policy requires keys from the KMS towards this user")
        mode = "e2e-sdes"
    if mode in context.modes and (answer.proto in PLAIN_PROFILES or not answer.crypto):
        raise MediaSecurityRefused(TOKEN_DOWNGRADE, "protected media was answered without protection")
    if answer.proto in PLAIN_PROFILES and not answer.crypto:
        if context.level == "required":
            raise MediaSecurityRefused(TOKEN_DOWNGRADE, "protected media was answered in the plain")
        return StreamKeys()
    try:
        receive = verify_answer(lines, answer.crypto, context.policy, other_keys=other_keys)
    except SdesError as error:
        raise MediaSecurityRefused(error.media_sec_token, str(error)) from None
    send = next(line for line in lines if line.tag == receive.tag)
    scope, _, keying = mode.partition("-")
    return StreamKeys(send, receive, scope, keying)


@dataclass(frozen=True)
class OfferJudgement:
    """A received offer that can be accepted: `chosen` None is plain, else the line taken."""

    chosen: CryptoAttribute | None = None
    scope: str = ""
    managed: bool = False
    """The keys are those of MIKEY."""
    keying: str = SDES_KEYING
    """As in :class:`StreamKeys`."""

    @property
    def protected(self) -> bool:
        """True when the stream will be SRTP."""
        return self.managed or self.chosen is not None


def judge_offer(
    media: MediaDescription,
    context: SecurityContext,
    *,
    other_keys: Iterable[Secret] = (),
    managed: bool = False,
    ignored: bool = False,
    sealed: str = "",
) -> OfferJudgement:
    """Judge the security of an offered stream (UO-4, UO-5, FLOW-6 step 5, 7.3.2, 7.3.3).

    `managed`: MIKEY has keys for it. `ignored`: it came with key management that this UE does not process. `sealed`:
    its crypto lines came under the seal of that mode, which a package brought.
    Raises MediaSecurityRefused for what a 488 answers.
    """
    try:
        applied = media.e2ae == "applied"
    except SdpError as error:
        raise MediaSecurityRefused(TOKEN_PROFILE, str(error)) from None
    if managed:
        return _judge_managed(media, context, applied=applied)
    if context.kms == "required":
        raise MediaSecurityRefused(TOKEN_REQUIRED, "policy requires keys from the KMS towards this user")
    if sealed:
        return _judge_sealed(media, context, sealed, other_keys, applied=applied)
    if media.proto in PLAIN_PROFILES and not (applied or media.crypto):
        if context.level == "required":
            raise MediaSecurityRefused(TOKEN_REQUIRED, "plain media was offered and policy requires protection")
        return OfferJudgement()
    if media.proto in PLAIN_PROFILES and not applied:
        raise MediaSecurityRefused(TOKEN_PROFILE, "keys beside a plain profile")
    if media.proto not in SECURE_PROFILES | PLAIN_PROFILES:
        raise MediaSecurityRefused(TOKEN_PROFILE, "transport profile is not supported")
    if context.level == "off":
        raise MediaSecurityRefused(TOKEN_PROFILE, "policy excludes media security")
    if applied and not context.announced:
        raise MediaSecurityRefused(TOKEN_UNANNOUNCED, "e2ae was applied and this UE did not announce it")
    if not media.crypto and ignored:
        raise MediaSecurityRefused(TOKEN_PROFILE, "no key management is available to this user", attribute=True)
    if not media.crypto:
        raise MediaSecurityRefused(TOKEN_REQUIRED, "a secure stream without a key")
    if not context.confidential:
        raise MediaSecurityRefused(TOKEN_PROFILE, "a key came over unencrypted signalling")
    return OfferJudgement(_chosen(media, context, other_keys), "e2ae" if applied else "e2e")


def _chosen(media: MediaDescription, context: SecurityContext, other_keys: Iterable[Secret]) -> CryptoAttribute:
    try:
        return choose(media.crypto, context.policy, other_keys=other_keys)
    except SdesError as error:
        cause = error.__cause__
        token = cause.media_sec_token if isinstance(cause, SdesError) else error.media_sec_token
        raise MediaSecurityRefused(token, str(error)) from None


def _judge_sealed(
    media: MediaDescription, context: SecurityContext, mode: str, other_keys: Iterable[Secret], *, applied: bool
) -> OfferJudgement:
    """Judge a stream whose keys came sealed: signalling need not be confidential, everything else is as with SDES."""
    if media.proto not in SECURE_PROFILES:
        raise MediaSecurityRefused(TOKEN_PROFILE, "sealed keys beside a profile that is not secure RTP")
    if context.level == "off":
        raise MediaSecurityRefused(TOKEN_PROFILE, "policy excludes media security")
    if applied:
        raise MediaSecurityRefused(TOKEN_PROFILE, "end-to-end keys on a stream that the network says it protects")
    return OfferJudgement(_chosen(media, context, other_keys), "e2e", keying=mode.removeprefix("e2e-"))


def _judge_managed(media: MediaDescription, context: SecurityContext, *, applied: bool) -> OfferJudgement:
    if media.proto not in SECURE_PROFILES:
        raise MediaSecurityRefused(TOKEN_PROFILE, "key management beside a profile that is not secure RTP")
    if context.level == "off":
        raise MediaSecurityRefused(TOKEN_PROFILE, "policy excludes media security")
    if applied:
        raise MediaSecurityRefused(TOKEN_PROFILE, "end-to-end keys on a stream that the network says it protects")
    return OfferJudgement(scope="e2e", managed=True)


def answer_keys(judgement: OfferJudgement, current: StreamKeys | None, *, moved: bool) -> StreamKeys:
    """Return the keys of an own answer: the ones in use when nothing changed, else fresh ones (SDES-16, SDES-17).

    `moved`: this side's address or port for the stream changed.
    """
    if judgement.chosen is None:
        return StreamKeys()
    chosen = judgement.chosen
    kept = current.send if current is not None and not current.from_kms else None
    if kept is not None and not moved and kept.suite.name == chosen.suite.name and kept.tag == chosen.tag:
        return StreamKeys(kept, chosen, judgement.scope, judgement.keying)
    return StreamKeys(answer_for(chosen), chosen, judgement.scope, judgement.keying)


def check_remote_change(
    current: StreamKeys, new: CryptoAttribute | None, *, moved: bool, managed: bool = False
) -> KeyChange:
    """Judge the peer's key in a later offer or answer against the one in use (SDES-17, PS-8).

    `managed`: the new one is of MIKEY. Raises MediaSecurityRefused when protection would be dropped or weakened, or the
    peer moved and kept its key.
    """
    if current.receive is None:
        return KeyChange.UNCHANGED if new is None else KeyChange.NEW_CONTEXT
    if new is None:
        raise MediaSecurityRefused(TOKEN_DOWNGRADE, "a protected stream cannot become plain")
    if current.from_kms and not managed:
        raise MediaSecurityRefused(TOKEN_DOWNGRADE, "keys of the KMS cannot become keys in SDP (RFC 4567 4.1.2)")
    try:
        return key_change(current.receive, new, moved=moved)
    except SdesError as error:
        raise MediaSecurityRefused(error.media_sec_token, str(error)) from None


_SPOILT: dict[str, Callable[[str], str]] = {
    "unknown-suite": lambda text: text.replace(text.split(" ")[1], "FROM_MARS_HMAC_1"),
    "short-key": lambda text: text.rstrip("=")[:-4],
    "unencrypted": lambda text: f"{text} UNENCRYPTED_SRTP",
    "unauthenticated": lambda text: f"{text} UNAUTHENTICATED_SRTP",
    "long-lifetime": lambda text: f"{text}|2^49",
    "bad-mki": lambda text: f"{text}|256:1",
}


def spoil_offer(media: MediaDescription, how: str) -> None:
    """Break the crypto lines of an own offer as a negative test asks (CallOptions.tamper_offer)."""
    values = media.crypto
    if not how or not values:
        return
    if how == "strip-crypto":
        media.crypto = []
    elif how == "same-key":
        first = parse_crypto(values[0])
        media.crypto = [values[0], CryptoAttribute(2, first.suite, first.keys).encode()]
    elif how == "same-tag":
        media.crypto = [values[0], generate(parse_crypto(values[0]).suite, parse_crypto(values[0]).tag).encode()]
    else:
        media.crypto = [_SPOILT[how](value) for value in values]


def spoil_answer(media: MediaDescription, how: str, judgement: OfferJudgement) -> None:
    """Break the crypto line of an own answer as a negative test asks (Behaviour.tamper_answer)."""
    values, chosen = media.crypto, judgement.chosen
    if not how or not values or chosen is None:
        return
    if how == "strip-crypto":
        media.crypto = []
    elif how == "plain-profile":
        media.crypto = []
        media.proto = media.proto.replace("RTP/SAVP", "RTP/AVP")
    elif how == "wrong-tag":
        media.crypto = [generate(chosen.suite, chosen.tag + 7).encode()]
    elif how == "wrong-suite":
        other = "AES_CM_128_HMAC_SHA1_32" if chosen.suite.name != "AES_CM_128_HMAC_SHA1_32" else "AEAD_AES_128_GCM"
        media.crypto = [generate(other, chosen.tag).encode()]
    elif how == "reflect-key":
        media.crypto = [CryptoAttribute(chosen.tag, chosen.suite, chosen.keys).encode()]
    elif how == "two-lines":
        media.crypto = [values[0], generate(chosen.suite, chosen.tag + 1).encode()]
    elif how == "short-key":
        media.crypto = [values[0].rstrip("=")[:-4]]
