"""What a KMS grants of a policy that is asked for: limits, repairs, the keys to make (RFC 6043 4.2.1.5, 6.10)."""

from __future__ import annotations

from dataclasses import replace

from keying.mikey.errors import InvalidIdentity, InvalidTicket, InvalidTicketPolicy
from keying.mikey.identity import Identity
from keying.mikey.kdf import MIN_KEY_OCTETS, suite_of
from keying.mikey.payloads import IdRoled, Payload, TicketPolicy
from keying.mikey.policy import (
    IMPLIED,
    TIMES,
    Limits,
    WantedKey,
    check_dependencies,
    comparable,
    initiator_of,
    kms_of,
    period,
    rekey_interval,
    responders_of,
    times_of,
    validity,
    wanted_keys,
)
from keying.mikey.profile import Profile
from keying.mikey.registry import IdRole, KeyDataType, PrfFunc, TicketFlag


def grant(
    profile: Profile,
    asked: TicketPolicy,
    limits: Limits,
    initiator: Identity,
    kms: Identity,
    now: float,
    prf: PrfFunc,
) -> tuple[TicketPolicy, tuple[WantedKey, ...]]:
    """Return the policy a KMS grants for `asked` and the keys to make; K tells of any change (RFC 6043 6.10).

    `prf` is that of the request's header: policy and messages use the same one (the RFC leaves Vr's PRF open).
    Raises InvalidTicket for a ticket kind that cannot be issued, InvalidIdentity for another's IDRi,
    InvalidTicketPolicy for what cannot be repaired.
    """
    if asked.kind not in profile.base_format_kinds:
        raise InvalidTicket("Ticket Type", "this KMS issues none of that kind")
    claimed = initiator_of(asked)
    if claimed is not None and not claimed.same(initiator):
        raise InvalidIdentity("IDRi", "the ticket is asked for in another's name")
    check_dependencies(replace(asked, flags=int(_repaired(asked.flags, limits, tgk=False))))
    wanted = wanted_keys(asked)
    keys = _granted_keys(prf, wanted, limits)
    tgk = any(key.key_type.is_tgk for key in keys)
    flags = _repaired(asked.flags, limits, tgk=tgk)
    window = validity(asked)
    end = window.end
    if limits.max_validity_s is not None:
        latest = max(window.start or now, now) + limits.max_validity_s
        end = latest if end is None else min(end, latest)
    if end is not None and end <= now:
        raise InvalidTicketPolicy("TRe", "the ticket would be outdated at once")
    allowed = [each for each in responders_of(asked) if limits.responders is None or each in limits.responders]
    if not allowed or len(allowed) > profile.max_responders:
        raise InvalidTicketPolicy("IDRr", "none of the responders is granted, or they are too many")
    named = kms_of(asked)
    issuer = named if named is not None and named.same(kms) else kms
    payloads: list[Payload] = [issuer.payload(IdRole.KMS), (claimed or initiator).payload(IdRole.INITIATOR)]
    kept = [each for role in TIMES for each in times_of(asked, role)]
    payloads.extend(kept if end == window.end else period(window.start, end, rekey_interval(asked)))
    payloads.extend(each for each in asked.payloads if isinstance(each, IdRoled) and each.role is IdRole.APPLICATION)
    payloads.extend(each.payload(IdRole.RESPONDER) for each in allowed)
    granted = replace(asked, prf=prf, flags=int(flags), payloads=tuple(payloads), reserved=0)
    altered = comparable(granted) != comparable(asked) or any(
        (want.spi != key.spi and want.spi) or replace(want, spi=b"") != replace(key, spi=b"")
        for want, key in zip(wanted, keys, strict=False)
    )
    if altered or (wanted and len(wanted) != len(keys)):
        granted = replace(granted, flags=granted.flags | TicketFlag.K)
    return granted, keys


def _repaired(flags: int, limits: Limits, *, tgk: bool) -> TicketFlag:
    """Return the flags a KMS grants: what is implied switched on, what is not granted switched off."""
    granted = (TicketFlag(flags) | TicketFlag.D | TicketFlag.N | TicketFlag.O) & ~TicketFlag.K
    for allowed, flag in (
        (limits.reusable, TicketFlag.J),
        (limits.initiator_keys, TicketFlag.L),
        (limits.responder_keys, TicketFlag.M),
    ):
        if not allowed:
            granted &= ~flag
    if limits.forking_required:
        granted |= TicketFlag.I
    word = int(granted)
    for _ in IMPLIED:  # a repair may need another one: as often as there are rules is enough
        for flag, value, implied in IMPLIED:
            if bool(word & int(flag)) is value:
                word |= int(implied)
    if tgk and word & int(TicketFlag.I):
        word |= int(TicketFlag.F)
    return TicketFlag(word)


def _granted_keys(prf: PrfFunc, wanted: tuple[WantedKey, ...], limits: Limits) -> tuple[WantedKey, ...]:
    longest = suite_of(prf).key_bits // 8
    if not wanted:
        return (WantedKey(KeyDataType.TGK, longest),)
    keys: list[WantedKey] = []
    for key in wanted[: limits.max_keys]:
        taken = {each.spi for each in keys}
        keys.append(
            replace(
                key,
                length=min(max(key.length, MIN_KEY_OCTETS), longest),
                salt_length=min(max(key.salt_length, 12), 14),
                spi=b"" if key.spi in taken else key.spi,
            )
        )
    return tuple(keys)
