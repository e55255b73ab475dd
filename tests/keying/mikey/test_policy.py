"""Ticket policies: every rule between the flags, validity, what a KMS grants, what an initiator takes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from keying.mikey.errors import InvalidIdentity, InvalidTicket, InvalidTicketPolicy, MikeyError
from keying.mikey.grant import grant
from keying.mikey.identity import Identity
from keying.mikey.ntp import role_from_unix
from keying.mikey.payloads import TicketPolicy, TimestampRole
from keying.mikey.policy import (
    Limits,
    WantedKey,
    Wish,
    check_acceptable,
    check_application,
    check_dependencies,
    check_granted,
    check_usable,
    flags_text,
    has,
    rekey_interval,
    responders_of,
    validity,
    wanted_keys,
    wished_policy,
)
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.registry import IdRole, KeyDataType, PrfFunc, TicketFlag, TsRole, TsType
from tests.keying.mikey.stage import ALICE, BOB, CAROL, KMS, MALLORY, NOW

pytestmark = pytest.mark.clause("TS 33.328", "D-5")
F = TicketFlag
ERA_1 = 2_085_978_496.0
"""Unix seconds of 2036-02-07 06:28:16, when the seconds of NTP begin anew."""


def policy(flags: int, **changes: object) -> TicketPolicy:
    made = TicketPolicy(1, 1, 1, PrfFunc.MIKEY_1, flags, (BOB.payload(IdRole.RESPONDER),))
    return replace(made, **changes)  # type: ignore[arg-type]


def breaks(flags: int, *, tgk: bool) -> bool:
    """The rules of RFC 6043 6.10, written out a second time."""
    d, e, f, g, h, i, k, l, m = (bool(flags & flag) for flag in (F.D, F.E, F.F, F.G, F.H, F.I, F.K, F.L, F.M))  # noqa: E741
    return (
        (not d and not l)
        or (g and not f)
        or (not g and not h)
        or (i and not e)
        or (k and not d)
        or (m and not f)
        or (i and tgk and not f)
    )


@pytest.mark.clause("RFC 6043", "6.10")
@pytest.mark.parametrize("tgk", [True, False])
def test_of_all_4096_settings_exactly_those_within_the_rules_are_taken(tgk):
    for chosen in itertools.product((0, 1), repeat=12):
        flags = sum(bit * flag for bit, flag in zip(chosen, sorted(F), strict=True))
        try:
            check_dependencies(policy(flags), tgk_in_ticket=tgk)
            refused = False
        except InvalidTicketPolicy:
            refused = True
        assert refused is breaks(flags, tgk=tgk), flags_text(policy(flags))


GOOD = F.D | F.E | F.F | F.G | F.H | F.I | F.N | F.O


@pytest.mark.clause("RFC 6043", "6.10")
@pytest.mark.parametrize(
    "payloads",
    [
        (),
        (KMS.payload(IdRole.KMS), KMS.payload(IdRole.KMS), BOB.payload(IdRole.RESPONDER)),
        (ALICE.payload(IdRole.INITIATOR), CAROL.payload(IdRole.INITIATOR), BOB.payload(IdRole.RESPONDER)),
        (role_from_unix(TsRole.END, NOW), role_from_unix(TsRole.END, NOW + 1), BOB.payload(IdRole.RESPONDER)),
        (role_from_unix(TsRole.START, NOW), role_from_unix(TsRole.END, NOW - 1), BOB.payload(IdRole.RESPONDER)),
        (TimestampRole(TsRole.REKEY, TsType.NTP_UTC, bytes(8)), BOB.payload(IdRole.RESPONDER)),
        (TimestampRole(TsRole.END, TsType.COUNTER, bytes(4)), BOB.payload(IdRole.RESPONDER)),
    ],
    ids=["no responder", "two KMS", "two initiators", "two ends", "end before start", "long TRr", "counter as end"],
)
def test_contradictory_data_of_a_policy_are_refused(payloads):
    with pytest.raises(MikeyError) as refused:
        check_dependencies(policy(int(GOOD), payloads=payloads))
    assert isinstance(refused.value, InvalidTicketPolicy) or refused.value.where.startswith("IDR")


def test_a_granted_policy_has_no_kemac_and_a_bounded_number_of_responders():
    asked = wished_policy(DEFAULT_PROFILE, Wish((BOB,), keys=(WantedKey(),)), ALICE, KMS, NOW)
    with pytest.raises(InvalidTicketPolicy, match="KEMAC"):
        check_granted(DEFAULT_PROFILE, asked)
    many = tuple(Identity.uri(f"sip:u{n}@ims.test") for n in range(DEFAULT_PROFILE.max_responders + 1))
    with pytest.raises(InvalidTicketPolicy, match="responders"):
        check_granted(DEFAULT_PROFILE, wished_policy(DEFAULT_PROFILE, Wish(many), ALICE, KMS, NOW))


@pytest.mark.parametrize("end", [NOW + 10, ERA_1 - 10, ERA_1 + 10, ERA_1 + 1_000_000_000])
def test_validity_is_read_with_the_rule_of_the_eras(end):
    window = validity(policy(int(GOOD), payloads=(role_from_unix(TsRole.END, end), BOB.payload(IdRole.RESPONDER))))
    assert window.end == end
    assert window.covers(end)
    assert not window.covers(end + 1)


def test_a_ticket_without_times_is_valid_always():
    window = validity(policy(int(GOOD)))
    assert (window.start, window.end) == (None, None)
    assert window.covers(0.0)


def test_a_ticket_is_not_used_before_its_start_nor_after_its_end():
    wish = Wish((BOB,), not_before=NOW + 100, validity_s=60)
    made = wished_policy(DEFAULT_PROFILE, wish, ALICE, KMS, NOW)
    check_usable(DEFAULT_PROFILE, made, NOW + 130)
    for moment in (NOW + 99, NOW + 161):
        with pytest.raises(InvalidTicket):
            check_usable(DEFAULT_PROFILE, made, moment)


def test_a_wish_is_written_as_it_is_read():
    wanted = (WantedKey(KeyDataType.TEK_SALT, 16, b"\x01\x02", 14), WantedKey(KeyDataType.GTGK, 16, b"\x03", 14))
    wish = Wish((BOB, CAROL), reusable=True, rekey_interval_s=600, keys=wanted, initiator_keys=True)
    made = wished_policy(DEFAULT_PROFILE, wish, ALICE, KMS, NOW)
    assert flags_text(made) == "DEFGHIJLNO"
    assert list(responders_of(made)) == [BOB, CAROL]
    assert rekey_interval(made) == 600
    assert wanted_keys(made) == wanted


def test_a_wish_against_the_rules_is_not_sent():
    with pytest.raises(InvalidTicketPolicy):
        wished_policy(DEFAULT_PROFILE, Wish((BOB,), response=False), ALICE, KMS, NOW)


@pytest.mark.clause("RFC 6043", "11")
@pytest.mark.clause("TS 33.328", "6.2.3.4.2-1")
@pytest.mark.parametrize(
    ("kind", "o", "taken"), [((2, 9, 9), True, True), ((2, 9, 9), False, False), ((3, 1, 1), True, False)]
)
def test_an_unknown_subtype_is_taken_with_o_and_refused_without(kind, o, taken):
    flags = GOOD if o else GOOD & ~F.O
    made = policy(int(flags), ticket_type=kind[0], subtype=kind[1], version=kind[2])
    if taken:
        check_usable(DEFAULT_PROFILE, made, NOW)
        return
    with pytest.raises(InvalidTicket) as refused:
        check_usable(DEFAULT_PROFILE, made, NOW)
    assert refused.value.number == 14


@pytest.mark.clause("TS 33.328", "6.2.3.4.1-1")
def test_type_2_needs_no_flag_where_the_table_knows_it():
    check_usable(DEFAULT_PROFILE, policy(int(GOOD & ~F.O), ticket_type=2), NOW)
    without = replace(DEFAULT_PROFILE, ticket_kinds_accepted=frozenset({(1, 1, 1)}))
    with pytest.raises(InvalidTicket):
        check_usable(without, policy(int(GOOD), ticket_type=2), NOW)


def granted(wish: Wish, limits: Limits | None = None, **changes: object) -> tuple[TicketPolicy, TicketPolicy, int]:
    asked = replace(wished_policy(DEFAULT_PROFILE, wish, ALICE, KMS, NOW), **changes)  # type: ignore[arg-type]
    made, keys = grant(DEFAULT_PROFILE, asked, limits or Limits(), ALICE, KMS, NOW, PrfFunc.MIKEY_1)
    return asked, made, len(keys)


def test_what_can_be_granted_as_it_stands_is_not_altered():
    asked, made, keys = granted(Wish((BOB,)))
    assert made == asked
    assert not has(made, F.K)
    assert keys == 1


def test_the_keys_leave_the_policy_without_k():
    asked, made, keys = granted(Wish((BOB,), keys=(WantedKey(spi=b"\x01"), WantedKey(KeyDataType.GTGK))))
    assert not has(made, F.K)
    assert wanted_keys(made) == ()
    assert keys == 2
    assert wanted_keys(asked)[0].spi == b"\x01"


@pytest.mark.clause("RFC 6043", "4.2.1.5")
@pytest.mark.parametrize(
    ("wish", "limits", "left"),
    [
        (Wish((BOB,), reusable=True), Limits(reusable=False), "DEFGHIKNO"),
        (Wish((BOB,), forking=False), Limits(forking_required=True), "DEFGHIKNO"),
        (Wish((BOB,), initiator_keys=True), Limits(initiator_keys=False), "DEFGHIKNO"),
        (Wish((BOB,), responder_keys=True), Limits(responder_keys=False), "DEFGHIKNO"),
        (
            Wish((BOB,), forking=False, resolve=False, response=False, responder_rand=False),
            Limits(forking_required=True),
            "DEFHIKNO",
        ),
    ],
)
def test_what_is_altered_is_marked_and_within_the_rules(wish, limits, left):
    _, made, _ = granted(wish, limits)
    assert flags_text(made) == left
    check_dependencies(made, tgk_in_ticket=True)


def test_flags_that_contradict_each_other_are_repaired_or_refused_never_granted():
    for chosen in itertools.product((0, 1), repeat=12):
        flags = sum(bit * flag for bit, flag in zip(chosen, sorted(F), strict=True))
        asked = replace(wished_policy(DEFAULT_PROFILE, Wish((BOB,)), ALICE, KMS, NOW), flags=flags)
        made, _ = grant(DEFAULT_PROFILE, asked, Limits(), ALICE, KMS, NOW, PrfFunc.MIKEY_1)
        check_dependencies(made, tgk_in_ticket=True)
        assert has(made, F.D)
        assert has(made, F.K) is (flags & ~F.K != made.flags & ~F.K)


def test_the_validity_is_shortened_to_what_the_kms_grants():
    _, made, _ = granted(Wish((BOB,), validity_s=86400), Limits(max_validity_s=600))
    assert validity(made).end == NOW + 600
    assert has(made, F.K)
    _, open_ended, _ = granted(Wish((BOB,), validity_s=None), Limits(max_validity_s=600))
    assert validity(open_ended).end == NOW + 600


def test_an_end_in_the_past_is_not_granted():
    with pytest.raises(InvalidTicketPolicy):
        granted(Wish((BOB,), not_before=NOW - 100, validity_s=50))


def test_responders_that_are_not_allowed_are_left_out_and_none_is_refused():
    _, made, _ = granted(Wish((BOB, CAROL)), Limits(responders=(CAROL,)))
    assert list(responders_of(made)) == [CAROL]
    assert has(made, F.K)
    with pytest.raises(InvalidTicketPolicy):
        granted(Wish((BOB,)), Limits(responders=()))


def test_nobody_gets_a_ticket_in_anothers_name():
    asked = wished_policy(DEFAULT_PROFILE, Wish((BOB,)), MALLORY, KMS, NOW)
    with pytest.raises(InvalidIdentity):
        grant(DEFAULT_PROFILE, asked, Limits(), ALICE, KMS, NOW, PrfFunc.MIKEY_1)


def test_a_kind_that_is_not_issued_is_refused_with_invalid_ticket():
    with pytest.raises(InvalidTicket) as refused:
        granted(Wish((BOB,), ticket_type=(9, 1, 1)))
    assert refused.value.number == 14


def acceptable(wish: Wish, made: TicketPolicy) -> None:
    asked = wished_policy(DEFAULT_PROFILE, wish, ALICE, KMS, NOW)
    check_acceptable(DEFAULT_PROFILE, wish, asked, made, NOW)


WISH = Wish((BOB,))


def test_a_policy_as_asked_is_acceptable():
    acceptable(WISH, wished_policy(DEFAULT_PROFILE, WISH, ALICE, KMS, NOW))


@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    "other",
    [
        Wish((BOB,), reusable=True),
        Wish((CAROL,)),
        Wish((BOB, MALLORY)),
        Wish((BOB,), forking=False),
        Wish((BOB,), validity_s=60),
    ],
)
def test_a_change_that_k_does_not_tell_of_is_not_acceptable(other):
    with pytest.raises(InvalidTicketPolicy):
        acceptable(WISH, wished_policy(DEFAULT_PROFILE, other, ALICE, KMS, NOW))


@pytest.mark.clause("RFC 6043", "4.2.1.6")
@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    "other",
    [Wish((CAROL,)), Wish((BOB, MALLORY)), Wish((BOB,), forking=False), Wish((BOB,), responder_rand=False)],
)
def test_with_k_a_worse_policy_is_discarded(other):
    made = wished_policy(DEFAULT_PROFILE, other, ALICE, KMS, NOW)
    with pytest.raises(InvalidTicketPolicy):
        acceptable(WISH, replace(made, flags=made.flags | F.K))


def test_with_k_a_shorter_validity_is_taken():
    made = wished_policy(DEFAULT_PROFILE, Wish((BOB,), validity_s=60), ALICE, KMS, NOW)
    acceptable(WISH, replace(made, flags=made.flags | F.K))


@pytest.mark.clause("RFC 6043", "11")
def test_an_initiator_leaves_a_ticket_that_needs_processing_it_does_not_know():
    made = wished_policy(DEFAULT_PROFILE, Wish((BOB,), ticket_type=(2, 7, 1)), ALICE, KMS, NOW)
    without_n = replace(made, flags=(made.flags | F.K) & ~F.N)
    with pytest.raises(InvalidTicket):
        acceptable(WISH, without_n)


@pytest.mark.clause("RFC 6043", "6.10")
def test_a_ticket_for_some_applications_is_not_for_others():
    app = Identity.octets(b"app-1")
    made = wished_policy(DEFAULT_PROFILE, Wish((BOB,), applications=(app,)), ALICE, KMS, NOW)
    check_application(made, app)
    for other in (None, Identity.octets(b"app-2")):
        with pytest.raises(InvalidTicketPolicy):
            check_application(made, other)
    check_application(wished_policy(DEFAULT_PROFILE, WISH, ALICE, KMS, NOW), None)
