"""Ticket policy: what an initiator wishes, the rules of the flags, the validity, what is acceptable (RFC 6043 6.10)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keying.mikey.cipher import plain_kemac
from keying.mikey.codec import decode_key_data
from keying.mikey.errors import InvalidTicket, InvalidTicketPolicy, InvalidTimestamp
from keying.mikey.identity import Identity, identities
from keying.mikey.ntp import interval, interval_seconds, role_from_unix, to_unix
from keying.mikey.payloads import (
    IdRoled,
    Kemac,
    KeyData,
    Payload,
    TicketPolicy,
    TimestampRole,
)
from keying.mikey.profile import Profile
from keying.mikey.registry import EncrAlg, IdRole, KeyDataType, MacAlg, PrfFunc, TicketFlag, TsRole
from keying.secret import Secret


@dataclass(frozen=True, slots=True)
class WantedKey:
    """A session key asked for or granted: `length` and `salt_length` in octets; `spi` empty = the KMS chooses."""

    key_type: KeyDataType = KeyDataType.TGK
    length: int = 16
    spi: bytes = b""
    salt_length: int = 14


@dataclass(frozen=True, slots=True)
class Wish:
    """What an initiator wants of a ticket, in words; :func:`wished_policy` writes it as TP.

    The flags are local policy; their defaults are assumed (TS 33.328 6.2.3.4, D.2; RFC 6043 12.4 recommends forking).
    `validity_s` None leaves the end open; times are Unix seconds. `keys` empty leaves the keys to the KMS (one TGK).
    """

    responders: tuple[Identity, ...]
    forking: bool = True
    reusable: bool = False
    response: bool = True
    responder_rand: bool = True
    initiator_rand: bool = True
    resolve: bool = True
    initiator_keys: bool = False
    responder_keys: bool = False
    not_before: float | None = None
    validity_s: float | None = 3600.0
    rekey_interval_s: int | None = None
    keys: tuple[WantedKey, ...] = ()
    applications: tuple[Identity, ...] = ()
    ticket_type: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Validity:
    """When a ticket may be used, Unix seconds; None is unbounded."""

    start: float | None
    end: float | None

    def covers(self, now: float) -> bool:
        """Return whether `now` lies within, the ends included."""
        return (self.start is None or now >= self.start) and (self.end is None or now <= self.end)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a KMS grants at most; the rest of a wish it takes as it stands.

    `max_validity_s` shortens or closes the validity; `reusable`, `forking_required`, `initiator_keys`,
    `responder_keys` say which flags may be had; `max_keys` bounds the keys. `responders` None grants those asked for.
    """

    max_validity_s: float | None = None
    reusable: bool = True
    forking_required: bool = False
    initiator_keys: bool = True
    responder_keys: bool = True
    max_keys: int = 8
    responders: tuple[Identity, ...] | None = None


IMPLIED = (
    (TicketFlag.D, False, TicketFlag.L),
    (TicketFlag.G, True, TicketFlag.F),
    (TicketFlag.G, False, TicketFlag.H),
    (TicketFlag.H, False, TicketFlag.G),
    (TicketFlag.I, True, TicketFlag.E),
    (TicketFlag.K, True, TicketFlag.D),
    (TicketFlag.M, True, TicketFlag.F),
)
"""A flag, its value, and the flag that must then be 1 (RFC 6043 6.10)."""

_SINGLE_IDS = (IdRole.KMS, IdRole.INITIATOR)
TIMES = (TsRole.START, TsRole.END, TsRole.REKEY)
_SESSION_KEYS = frozenset(KeyDataType) - {KeyDataType.MPK}


def wished_policy(
    profile: Profile,
    wish: Wish,
    initiator: Identity,
    kms: Identity | None,
    now: float,
    *,
    made_by_kms: bool = True,
    prf: PrfFunc = PrfFunc.MIKEY_1,
) -> TicketPolicy:
    """Return the TP that asks for `wish`; with `made_by_kms` False the policy of a ticket the initiator makes (mode 3).

    `prf` is that of the header of the request. Raises InvalidTicketPolicy where the wish breaks a rule of the flags.
    """
    flags = TicketFlag.N | TicketFlag.O
    for wanted, flag in (
        (made_by_kms, TicketFlag.D),
        (wish.resolve, TicketFlag.E),
        (wish.response, TicketFlag.F),
        (wish.responder_rand, TicketFlag.G),
        (wish.initiator_rand, TicketFlag.H),
        (wish.forking, TicketFlag.I),
        (wish.reusable, TicketFlag.J),
        (wish.initiator_keys or not made_by_kms, TicketFlag.L),
        (wish.responder_keys, TicketFlag.M),
    ):
        if wanted:
            flags |= flag
    kind = wish.ticket_type or profile.ticket_kind_issued
    start = wish.not_before if wish.not_before is not None or wish.validity_s is None else now
    end = None if wish.validity_s is None or start is None else start + wish.validity_s
    payloads: list[Payload] = [] if kms is None else [kms.payload(IdRole.KMS)]
    payloads.append(initiator.payload(IdRole.INITIATOR))
    payloads.extend(period(wish.not_before, end, wish.rekey_interval_s))
    if made_by_kms and wish.keys:
        payloads.append(plain_kemac([_key_data(key) for key in wish.keys]))
    payloads.extend(each.payload(IdRole.APPLICATION) for each in wish.applications)
    payloads.extend(each.payload(IdRole.RESPONDER) for each in wish.responders)
    policy = TicketPolicy(*kind, prf, int(flags), tuple(payloads))
    tgk = not wish.keys or any(key.key_type.is_tgk for key in wish.keys)
    check_dependencies(policy, tgk_in_ticket=tgk)
    return policy


def check_dependencies(policy: TicketPolicy, *, tgk_in_ticket: bool = False) -> None:
    """Check every rule between the flags and the cardinality of TP Data (RFC 6043 6.10). Raises InvalidTicketPolicy.

    `tgk_in_ticket` is known to those who know the keys alone: forking a TGK takes a response (F).
    """
    for flag, value, implied in IMPLIED:
        if has(policy, flag) is value and not has(policy, implied):
            raise InvalidTicketPolicy("flags", f"{'' if value else 'not '}{flag.name} needs {implied.name}")
    if tgk_in_ticket and has(policy, TicketFlag.I) and not has(policy, TicketFlag.F):
        raise InvalidTicketPolicy("flags", "a forked TGK needs F")
    for role in _SINGLE_IDS:
        if len(identities(policy.payloads, role)) > 1:
            raise InvalidTicketPolicy("TP Data", f"more than one IDR of role {role.name}")
    for ts_role in TIMES:
        if len(times_of(policy, ts_role)) > 1:
            raise InvalidTicketPolicy("TP Data", f"more than one TR of role {ts_role.name}")
    if not responders_of(policy):
        raise InvalidTicketPolicy("TP Data", "no responder")
    window = validity(policy)
    if window.start is not None and window.end is not None and window.end < window.start:
        raise InvalidTicketPolicy("TRe", "before TRs")
    rekey_interval(policy)


def check_granted(profile: Profile, policy: TicketPolicy, *, tgk_in_ticket: bool = False) -> None:
    """Check a policy that came in a TICKET: rules of the flags, no KEMAC, a bounded number of responders.

    Raises InvalidTicketPolicy.
    """
    check_dependencies(policy, tgk_in_ticket=tgk_in_ticket)
    if any(isinstance(each, Kemac) for each in policy.payloads):
        raise InvalidTicketPolicy("TP Data", "KEMAC in a granted policy")
    if len(responders_of(policy)) > profile.max_responders:
        raise InvalidTicketPolicy("TP Data", f"more than {profile.max_responders} responders")


def check_kind(profile: Profile, policy: TicketPolicy, flag: TicketFlag) -> None:
    """Check that a ticket can be used: its kind is known, or `flag` (N or O) says that none need know it.

    A type that is not accepted at all is refused whatever the flag. Raises InvalidTicket (RFC 6043 6.10; 9.2 assumed).
    """
    if policy.kind in profile.ticket_kinds_accepted:
        return
    if policy.ticket_type not in {known[0] for known in profile.ticket_kinds_accepted}:
        raise InvalidTicket("Ticket Type", f"type {policy.ticket_type} is not known here")
    if not has(policy, flag):
        raise InvalidTicket("Ticket Type", f"subtype {policy.subtype} version {policy.version} needs extra processing")


def check_usable(profile: Profile, policy: TicketPolicy, now: float) -> None:
    """Check that a responder can use the ticket now: known kind (or O=1), flags, validity.

    Raises InvalidTicket for an unknown kind and outside the validity, InvalidTicketPolicy else.
    """
    check_kind(profile, policy, TicketFlag.O)
    check_granted(profile, policy)
    check_valid(policy, now)


def check_valid(policy: TicketPolicy, now: float) -> None:
    """Check that `now` (Unix seconds) lies in the ticket's validity. Raises InvalidTicket."""
    if not validity(policy).covers(now):
        raise InvalidTicket("TRs/TRe", "outside the validity of the ticket")


def validity(policy: TicketPolicy) -> Validity:
    """Return TRs and TRe as Unix seconds, with the era rule (RFC 6043 6.3, 6.10)."""
    start, end = (next(iter(times_of(policy, role)), None) for role in (TsRole.START, TsRole.END))
    return Validity(None if start is None else _unix(start), None if end is None else _unix(end))


def rekey_interval(policy: TicketPolicy) -> int | None:
    """Return TRr, seconds between two re-keyings at most, or None. Raises InvalidTicketPolicy for another TS type."""
    found = times_of(policy, TsRole.REKEY)
    if not found:
        return None
    try:
        return interval_seconds(found[0])
    except InvalidTimestamp as error:
        raise InvalidTicketPolicy("TRr", error.reason) from None


def wanted_keys(policy: TicketPolicy) -> tuple[WantedKey, ...]:
    """Return the keys that TP's KEMAC asks for; none where it has no KEMAC. Raises InvalidTicketPolicy."""
    found = [each for each in policy.payloads if isinstance(each, Kemac)]
    if not found:
        return ()
    if len(found) > 1 or found[0].encr_alg is not EncrAlg.NULL or found[0].mac_alg is not MacAlg.NULL:
        raise InvalidTicketPolicy("KEMAC", "not a single one with NULL encryption and NULL MAC")
    keys = decode_key_data(found[0].encr_data)
    if any(key.key_type not in _SESSION_KEYS for key in keys):
        raise InvalidTicketPolicy("KEMAC", "asks for a key that is no session key")
    return tuple(
        WantedKey(key.key_type, len(key.key), key.spi or b"", 14 if key.salt is None else len(key.salt)) for key in keys
    )


def check_acceptable(profile: Profile, wish: Wish, asked: TicketPolicy, granted: TicketPolicy, now: float) -> None:
    """Check that a granted policy is what was asked for or, with K, no worse (RFC 6043 4.2.1.6).

    Raises InvalidTicketPolicy (InvalidTicket outside the validity): the ticket is discarded; one may ask again.
    """
    check_kind(profile, granted, TicketFlag.N)
    check_granted(profile, granted)
    window = validity(granted)
    if window.end is not None and window.end < now:
        raise InvalidTicket("TRe", "the granted ticket is outdated")
    if not has(granted, TicketFlag.K):
        if comparable(asked) != comparable(granted):
            raise InvalidTicketPolicy("K", "the policy was altered and K says it was not")
        return
    if not has(granted, TicketFlag.D):
        raise InvalidTicketPolicy("D", "the KMS says it did not make the ticket")
    if initiator_of(granted) != initiator_of(asked):
        raise InvalidTicketPolicy("IDRi", "not the one that asked")
    if set(responders_of(granted)) != set(wish.responders):
        raise InvalidTicketPolicy("IDRr", "not the responders that were asked for")
    if granted.prf is not asked.prf:
        raise InvalidTicketPolicy("PRF func", "not the one that was asked for")
    for needed, flag in (
        (wish.forking, TicketFlag.I),
        (wish.initiator_keys, TicketFlag.L),
        (wish.responder_keys, TicketFlag.M),
        (wish.responder_rand, TicketFlag.G),
        (wish.initiator_rand, TicketFlag.H),
    ):
        if needed and not has(granted, flag):
            raise InvalidTicketPolicy(flag.name or "flag", "asked for and not granted")
    if has(granted, TicketFlag.F) is not wish.response:
        raise InvalidTicketPolicy("F", "a response is wanted and none granted, or the reverse")


def check_application(policy: TicketPolicy, application: Identity | None) -> None:
    """Check that the ticket is for `application`; without IDRapp it is for all (RFC 6043 6.10).

    Raises InvalidTicketPolicy.
    """
    allowed = identities(policy.payloads, IdRole.APPLICATION)
    if allowed and application not in allowed:
        raise InvalidTicketPolicy("IDRapp", "the ticket is for other applications")


def flags_text(policy: TicketPolicy) -> str:
    """Return the flags that are 1 as letters, e.g. ``DEFGHINO``."""
    return "".join(flag.name or "" for flag in sorted(TicketFlag, reverse=True) if policy.flags & flag)


def has(policy: TicketPolicy, flag: TicketFlag) -> bool:
    """Return whether `flag` is 1."""
    return bool(policy.flags & int(flag))


def initiator_of(policy: TicketPolicy) -> Identity | None:
    """Return IDRi of the policy: who asked for or made the ticket."""
    return next(iter(identities(policy.payloads, IdRole.INITIATOR)), None)


def responders_of(policy: TicketPolicy) -> tuple[Identity, ...]:
    """Return the IDRr of the policy: who may resolve the ticket."""
    return identities(policy.payloads, IdRole.RESPONDER)


def kms_of(policy: TicketPolicy) -> Identity | None:
    """Return IDRkms of the policy: a KMS that can resolve the ticket."""
    return next(iter(identities(policy.payloads, IdRole.KMS)), None)


def comparable(policy: TicketPolicy) -> tuple[object, ...]:
    """Return, to compare, what a KMS may have changed: not K, not KEMAC, no payload that is foreign to TP Data."""
    known = tuple(each for each in policy.payloads if isinstance(each, (IdRoled, TimestampRole)))
    flags = policy.flags & ~TicketFlag.K
    return (policy.kind, policy.prf, flags, known)


def period(start: float | None, end: float | None, rekey_s: int | None) -> Iterable[TimestampRole]:
    """Return TRs, TRe and TRr of a validity in Unix seconds and a re-keying interval in seconds, as far as given."""
    for role, moment in ((TsRole.START, start), (TsRole.END, end)):
        if moment is not None:
            yield role_from_unix(role, moment)
    if rekey_s is not None:
        yield interval(rekey_s)


def times_of(policy: TicketPolicy, role: TsRole) -> tuple[TimestampRole, ...]:
    """Return the TR payloads of `role`."""
    return tuple(each for each in policy.payloads if isinstance(each, TimestampRole) and each.role == role)


def _unix(moment: TimestampRole) -> float:
    try:
        return to_unix(moment)
    except InvalidTimestamp as error:
        raise InvalidTicketPolicy(f"TR {TsRole(moment.role).name}", error.reason) from None


def _key_data(key: WantedKey) -> KeyData:
    salt = Secret(bytes(key.salt_length)) if key.key_type.salted else None
    return KeyData(key.key_type, Secret(bytes(key.length)), salt, key.spi or None)
