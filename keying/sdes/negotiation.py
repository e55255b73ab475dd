"""Offer and answer with SDES: which line is taken, what the answer says, whether an answer fits (RFC 4568 5.1, 7.1)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final

from keying.sdes.attribute import CryptoAttribute, InlineKey, parse_crypto
from keying.sdes.errors import (
    AnswerMismatch,
    BadTag,
    DuplicateTag,
    KeyReuse,
    MissingCrypto,
    NoAcceptableCrypto,
    ProtectionWeakened,
    SdesError,
    SessionParameterRefused,
    SuiteNotAcceptable,
    TooManyKeys,
    UnknownSuite,
)
from keying.secret import Secret
from keying.suites import DEFAULT_SUITES, SUITES, CryptoSuite, find_suite

MAX_LINES: Final = 32
"""Lines read per media description."""


@dataclass(frozen=True, slots=True)
class SdesPolicy:
    """What this side accepts from a peer; the defaults refuse what weakens protection (TS 33.328 Annex E, assumed)."""

    suites: tuple[str, ...] = tuple(DEFAULT_SUITES)
    """Suites that may be chosen; the order is that of an own offer, never that of a choice (RFC 4568 5.1.2)."""
    allow_null_protection: bool = False
    """Accept UNENCRYPTED_SRTP, UNENCRYPTED_SRTCP and UNAUTHENTICATED_SRTP."""
    allow_key_derivation_rate: bool = False
    """Accept a KDR other than 0 (Annex C keeps it at 0, assumed)."""
    allow_separate_fec: bool = False
    """Accept FEC_KEY and FEC_ORDER=SRTP_FEC."""
    max_keys_per_line: int = 1
    """Master keys accepted on one line; more than one is legal with an MKI each (RFC 4568 6.1)."""
    max_lines: int = MAX_LINES
    """Lines looked at per media description; those behind are refused unread."""


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line of an offer that cannot be used; `index` is its place, from 0, among the stream's ``a=crypto`` lines."""

    index: int
    error: SdesError


@dataclass(frozen=True, slots=True)
class OfferEvaluation:
    """An offer's lines sorted into usable ones, in the offerer's order of preference, and refused ones."""

    acceptable: tuple[CryptoAttribute, ...]
    refused: tuple[RefusedLine, ...]


class KeyChange(Enum):
    """What a new offer or answer does to the crypto context of one direction (RFC 4568 7.1.4, RFC 3711 3.3.1)."""

    UNCHANGED = "unchanged"
    """Same line, same place: context, roll-over counter and replay list stay."""
    REKEYED = "rekeyed"
    """New key on the same address and port: the roll-over counter goes on."""
    NEW_CONTEXT = "new-context"
    """New key on a new address or port: everything starts from zero."""


def evaluate_offer(values: Sequence[str], policy: SdesPolicy, *, other_keys: Iterable[Secret] = ()) -> OfferEvaluation:
    """Judge the ``a=crypto`` values of one media description of an offer (RFC 4568 5.1.2).

    A faulty line is refused and the others stand, but a bad or repeated tag makes them all unusable (RFC 4568 4.1).
    `other_keys` are the master keys of the SDP's other media descriptions; none may be shared (RFC 4568 6.1).
    """
    parsed: dict[int, CryptoAttribute] = {}
    errors: dict[int, SdesError] = {}
    tag_fault: BadTag | None = None
    for index, value in enumerate(values):
        if index >= policy.max_lines:
            errors[index] = NoAcceptableCrypto("more lines than this side reads")
            continue
        try:
            parsed[index] = parse_crypto(value)
        except BadTag as error:
            tag_fault = tag_fault or error
        except SdesError as error:
            errors[index] = error
    tags = [number for number in map(_tag_number, values[: policy.max_lines]) if number is not None]
    if len(tags) != len(set(tags)):
        tag_fault = DuplicateTag("two lines have the same tag")
    if tag_fault is not None:
        return OfferEvaluation((), tuple(RefusedLine(index, tag_fault) for index in range(len(values))))
    seen = list(other_keys)
    acceptable: list[CryptoAttribute] = []
    for index, attribute in parsed.items():
        try:
            check_policy(attribute, policy)
            _check_fresh(attribute, seen)
        except SdesError as error:
            errors[index] = error
        else:
            acceptable.append(attribute)
        seen.extend(attribute.all_keys)
    return OfferEvaluation(tuple(acceptable), tuple(RefusedLine(index, errors[index]) for index in sorted(errors)))


def choose(values: Sequence[str], policy: SdesPolicy, *, other_keys: Iterable[Secret] = ()) -> CryptoAttribute:
    """Return the first usable line of an offer, the offerer's most preferred one (RFC 4568 5.1.2).

    Raises NoAcceptableCrypto; when every line failed, its cause is the first line's fault.
    """
    evaluation = evaluate_offer(values, policy, other_keys=other_keys)
    if evaluation.acceptable:
        return evaluation.acceptable[0]
    cause = evaluation.refused[0].error if evaluation.refused else None
    raise NoAcceptableCrypto("no line of the offer can be used") from cause


def check_policy(attribute: CryptoAttribute, policy: SdesPolicy) -> None:
    """Raise the SdesError that says why `policy` does not take a well-formed line; return None when it does."""
    if attribute.suite.name not in policy.suites or attribute.suite.name not in SUITES:
        raise SuiteNotAcceptable("crypto suite is not supported or excluded by policy")
    if attribute.negotiated_params and not policy.allow_null_protection:
        raise ProtectionWeakened("the line asks for packets without encryption or authentication")
    if len(attribute.keys) > policy.max_keys_per_line:
        raise TooManyKeys("more master keys on one line than accepted")
    for param in attribute.session_params:
        if param.startswith("KDR=") and param != "KDR=0" and not policy.allow_key_derivation_rate:
            raise SessionParameterRefused("a key derivation rate is not supported")
        if param == "FEC_ORDER=SRTP_FEC" and not policy.allow_separate_fec:
            raise SessionParameterRefused("FEC behind SRTP is not supported")
    if attribute.fec_keys and not policy.allow_separate_fec:
        raise SessionParameterRefused("a separate FEC stream is not supported")


def generate(suite: str | CryptoSuite, tag: int, *, session_params: tuple[str, ...] = ()) -> CryptoAttribute:
    """Make a line with a fresh random key for an own offer.

    Raises UnknownSuite, or SuiteNotAcceptable for a suite that is only recognised.
    """
    row = find_suite(suite) if isinstance(suite, str) else suite
    if row is None:
        raise UnknownSuite("crypto suite is not registered")
    if row.name not in SUITES:
        raise SuiteNotAcceptable("crypto suite is recognised but not implemented")
    return CryptoAttribute(tag, row, (InlineKey(Secret.random(row.key_salt_length)),), session_params)


def answer_for(chosen: CryptoAttribute) -> CryptoAttribute:
    """Make the answer's line: tag, suite and negotiated parameters as chosen, an own key (RFC 4568 5.1.2, 7.1.2)."""
    return generate(chosen.suite, chosen.tag, session_params=chosen.negotiated_params)


def verify_answer(
    offered: Sequence[CryptoAttribute],
    values: Sequence[str],
    policy: SdesPolicy,
    *,
    other_keys: Iterable[Secret] = (),
) -> CryptoAttribute:
    """Check the ``a=crypto`` values of an accepted stream of an answer and return the line (RFC 4568 5.1.3, 7.1.3).

    Raises MissingCrypto, AnswerMismatch, KeyReuse when a key of the offer (or of `other_keys`) comes back, or the
    fault of the line itself. Any of them means that the negotiation has failed.
    """
    if not values:
        raise MissingCrypto("the stream was accepted without a crypto line")
    if len(values) > 1:
        raise AnswerMismatch("an answer has exactly one crypto line")
    answer = parse_crypto(values[0])
    offer = next((line for line in offered if line.tag == answer.tag), None)
    if offer is None:
        raise AnswerMismatch("the answer's tag was not offered")
    if offer.suite.name != answer.suite.name:
        raise AnswerMismatch("the answer's suite is not the one offered under its tag")
    if sorted(offer.negotiated_params) != sorted(answer.negotiated_params):
        raise AnswerMismatch("the negotiated session parameters differ from the offer's")
    check_policy(answer, policy)
    _check_fresh(answer, [*(key for line in offered for key in line.all_keys), *other_keys])
    return answer


def keys_in(values: Iterable[str], *, max_lines: int = MAX_LINES) -> list[Secret]:
    """The master keys of every readable line of one media description, usable or not; no line may share one."""
    keys: list[Secret] = []
    for value in islice(values, max_lines):
        try:
            keys.extend(parse_crypto(value).all_keys)
        except SdesError:
            continue
    return keys


def check_unique_keys(streams: Sequence[Sequence[CryptoAttribute]]) -> None:
    """Raise KeyReuse when a master key stands twice in one SDP, in whichever media descriptions (RFC 4568 6.1)."""
    seen: list[Secret] = []
    for lines in streams:
        for line in lines:
            _check_fresh(line, seen)
            seen.extend(line.all_keys)


def key_change(previous: CryptoAttribute, current: CryptoAttribute, *, moved: bool) -> KeyChange:
    """Tell what a later offer or answer does to its sender's key; `moved`: the sender's address or port changed.

    Raises KeyReuse for a sender that moved and kept its key (RFC 4568 7.1.4).
    """
    same = previous.suite.name == current.suite.name and any(
        key == previous.keys[0].key_salt for key in current.all_keys
    )
    if moved:
        if same:
            raise KeyReuse("address or port changed and the key did not")
        return KeyChange.NEW_CONTEXT
    return KeyChange.UNCHANGED if same else KeyChange.REKEYED


def _check_fresh(attribute: CryptoAttribute, seen: Iterable[Secret]) -> None:
    for key in attribute.all_keys:
        if any(key == other for other in seen):
            raise KeyReuse("a master key is used in more than one place")


def _tag_number(value: str) -> int | None:
    tag = value.replace("\t", " ").strip(" ").partition(" ")[0]
    return int(tag) if tag.isascii() and tag.isdigit() and len(tag) <= 9 else None
