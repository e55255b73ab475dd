"""The base ticket: sealed and opened, made by KMS and initiator, and the Initiator Data that go with forking."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.mikey import cipher, codec
from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidIdentity,
    InvalidTicket,
    InvalidTicketPolicy,
    MalformedMessage,
    MikeyError,
    Unspecified,
)
from keying.mikey.kdf import SUITES, vr_auth_key
from keying.mikey.payloads import KeyData, TicketPayload, Verification
from keying.mikey.policy import WantedKey, Wish, flags_text, wished_policy
from keying.mikey.profile import DEFAULT_PROFILE, Profile
from keying.mikey.registry import KeyDataType, MacAlg, PrfFunc
from keying.mikey.ticket import (
    Ticket,
    TicketContents,
    TicketProtectionKey,
    build_initiator_data,
    check_initiator_data,
    check_initiator_data_presence,
    check_vi,
    create_ticket,
    fresh_spi,
    hold,
    make_ticket,
    mode3_ticket_key,
    open_ticket,
    protection_keys,
    seal_ticket,
    ticket_id,
    ticket_key_id,
)
from keying.secret import Secret
from tests.keying.mikey.stage import ALICE, BOB, KMS, LONG, MALLORY, NOW, counting, credential, tpk

pytestmark = pytest.mark.clause("TS 33.328", "6.2.3.4.1-1")


def made(
    profile: Profile = DEFAULT_PROFILE, wish: Wish | None = None, key: TicketProtectionKey | None = None
) -> Ticket:
    prf = PrfFunc.MIKEY_1 if profile.suite == "128" else PrfFunc.PRF_HMAC_SHA_256
    wish = wish or Wish((BOB,))
    policy = wished_policy(profile, replace(wish, keys=()), ALICE, KMS, NOW, prf=prf)
    wanted = wish.keys or (WantedKey(length=16 if prf is PrfFunc.MIKEY_1 else 32),)
    return make_ticket(profile, policy, key or tpk(profile), wanted, NOW, counting())


def opened(
    ticket: TicketPayload, key: TicketProtectionKey | None = None, profile: Profile = DEFAULT_PROFILE
) -> TicketContents:
    return open_ticket(profile, ticket, lambda _: key or tpk(profile))


@pytest.mark.clause("RFC 6043", "A.2.2")
@pytest.mark.parametrize("profile", [DEFAULT_PROFILE, LONG], ids=["128", "256"])
@pytest.mark.parametrize("kind", [(1, 1, 1), (2, 1, 1)])
def test_a_ticket_opens_to_the_keys_its_initiator_holds(profile, kind):
    ticket = made(profile, Wish((BOB,), ticket_type=kind))
    contents = opened(ticket.payload, profile=profile)
    mpki, mpkr = protection_keys(ticket.policy, contents)
    assert mpki == ticket.mpki
    assert ticket.mpkr is not None
    assert mpkr == ticket.mpkr.key
    assert contents.keys == ticket.keys
    assert ticket_key_id(ticket.payload) == contents.key_id == b"tpk-0001"


def test_the_table_of_kinds_says_which_tickets_are_built_like_the_base_ticket():
    other = replace(DEFAULT_PROFILE, base_format_kinds=frozenset({(1, 1, 1)}))
    with pytest.raises(InvalidTicket):
        opened(made(wish=Wish((BOB,), ticket_type=(2, 1, 1))).payload, profile=other)
    third = replace(DEFAULT_PROFILE, base_format_kinds=DEFAULT_PROFILE.base_format_kinds | {(2, 5, 1)})
    assert opened(made(wish=Wish((BOB,), ticket_type=(2, 5, 1))).payload, profile=third).keys


def test_every_kind_of_session_key_goes_into_a_ticket_and_out_again():
    kinds = [kind for kind in KeyDataType if kind is not KeyDataType.MPK]
    ticket = made(wish=Wish((BOB,), keys=tuple(WantedKey(kind) for kind in kinds)))
    assert [key.key_type for key in opened(ticket.payload).keys] == kinds
    assert len({key.spi for key in (*ticket.keys, ticket.mpki, ticket.mpkr) if key}) == len(kinds) + 2


@pytest.mark.clause("RFC 6043", "A.1")
@pytest.mark.attack("T5")
@given(place=st.integers(0, 10_000), mask=st.sampled_from([1 << bit for bit in range(8)]))
def test_no_bit_of_a_ticket_may_flip(place, mask):
    octets = bytearray(codec.encode_ticket(made().payload)[:-2])
    octets[place % len(octets)] ^= mask
    with pytest.raises(MikeyError):
        opened(codec.decode_ticket(bytes(octets) + b"\0\0"))


@pytest.mark.attack("T5")
def test_a_ticket_of_another_issuer_does_not_open():
    with pytest.raises(InvalidTicket, match="MAC"):
        opened(made().payload, tpk(fill=b"u"))
    with pytest.raises(InvalidTicket, match="no ticket protection key"):
        open_ticket(DEFAULT_PROFILE, made().payload, lambda _: None)


def test_the_random_value_is_as_long_as_the_longest_of_tpk_and_mpk():
    ticket = made()
    contents = opened(ticket.payload)
    with pytest.raises(Unspecified):
        seal_ticket(DEFAULT_PROFILE, ticket.policy, tpk(), replace(contents, rand=bytes(15)))
    short = replace(DEFAULT_PROFILE, ticket_rand_octets=1)
    assert len(opened(made(short).payload).rand) == 16


def test_keys_of_256_bits_do_not_go_with_the_128_bit_algorithms():
    with pytest.raises(Unspecified):
        made(wish=Wish((BOB,), keys=(WantedKey(length=32),)))


def test_keys_without_a_name_of_their_own_are_not_sealed():
    ticket = made()
    contents = opened(ticket.payload)
    twice = replace(contents, keys=(contents.keys[0], contents.keys[0]))
    nameless = replace(contents, keys=(replace(contents.keys[0], spi=None),))
    for wrong in (twice, nameless):
        with pytest.raises(MalformedMessage):
            seal_ticket(DEFAULT_PROFILE, ticket.policy, tpk(), wrong)


def test_spis_differ_even_when_the_random_source_repeats():
    profile = replace(DEFAULT_PROFILE, spi_octets=1)
    taken: set[bytes | None] = {bytes([n]) for n in range(255)}
    assert fresh_spi(profile, taken, bytes) == b"\xff"


def test_a_ticket_is_kept_and_found_again():
    for wish in (Wish((BOB,)), Wish((BOB,), forking=False)):
        ticket = made(wish=wish)
        assert Ticket.from_record(dict(ticket.to_record())) == ticket


@pytest.mark.parametrize(
    "record", [{}, {"ticket": "?", "keys": ""}, {"ticket": "AQ==", "keys": "AQ=="}, {"ticket": 3, "keys": 4}]
)
def test_what_is_no_record_of_a_ticket_is_refused(record):
    with pytest.raises(MalformedMessage):
        Ticket.from_record(record)


def test_a_held_ticket_shows_no_key():
    ticket = made()
    assert ticket.mpki.key.reveal().hex() not in repr(ticket)
    assert repr(ticket.mpki.key.reveal())[2:-1] not in repr(ticket)


def test_a_ticket_says_for_whom_and_when_it_can_be_used():
    ticket = made(wish=Wish((BOB,), validity_s=60))
    assert ticket.responders == (BOB,)
    assert ticket.validity.covers(NOW)
    assert not ticket.validity.covers(NOW + 61)
    assert ticket.forking
    assert not ticket.reusable


def test_the_name_of_a_ticket_is_the_same_with_initiator_data():
    ticket = made()
    other = replace(ticket.payload, initiator_data=b"\x09")
    assert ticket_id(ticket.payload) == ticket_id(other)
    assert ticket_id(ticket.payload) != ticket_id(made(key=tpk(fill=b"x")).payload)


def test_a_forked_tgk_without_response_is_not_held():
    ticket = made()
    policy = replace(ticket.policy, flags=ticket.policy.flags & ~0x6000)
    with pytest.raises(InvalidTicketPolicy):
        hold(TicketPayload(policy, ticket.payload.ticket_data), (ticket.mpki, ticket.mpkr, *ticket.keys))


# Mode 3


def own_key(owners: tuple = (ALICE,)) -> TicketProtectionKey:
    return mode3_ticket_key(b"btid", credential("alice").key, KMS, 16, owners)


@pytest.mark.clause("RFC 6043", "4.1.1")
def test_a_ticket_an_initiator_makes_says_so_and_lets_it_supply_keys():
    ticket = create_ticket(DEFAULT_PROFILE, Wish((BOB,)), ALICE, KMS, own_key(), NOW, counting())
    assert flags_text(ticket.policy) == "EFGHILNO"
    assert opened(ticket.payload, own_key()).keys == ticket.keys
    assert ticket_key_id(ticket.payload) == b"btid"


def test_user_and_kms_come_to_the_same_key_and_another_kms_to_another():
    psk = credential("alice").key
    assert mode3_ticket_key(b"btid", psk, KMS, 16).key == own_key().key
    assert mode3_ticket_key(b"btid", psk, BOB, 16).key != own_key().key
    assert own_key().key != psk.part(0, 16)
    for length in (15, 33):
        with pytest.raises(ValueError, match="16 to 32"):
            mode3_ticket_key(b"btid", psk, KMS, length)


@pytest.mark.attack("T5")
def test_nobody_makes_a_ticket_in_the_name_of_somebody_else():
    ticket = create_ticket(DEFAULT_PROFILE, Wish((BOB,)), MALLORY, KMS, own_key(), NOW, counting())
    with pytest.raises(InvalidIdentity):
        opened(ticket.payload, own_key())


@pytest.mark.attack("T5")
def test_a_user_makes_no_ticket_that_passes_for_the_kms_s_and_the_reverse():
    with pytest.raises(InvalidTicket, match="D:"):
        opened(made(key=own_key()).payload, own_key())
    ticket = create_ticket(DEFAULT_PROFILE, Wish((BOB,)), ALICE, KMS, tpk(), NOW, counting())
    with pytest.raises(InvalidTicket, match="D:"):
        opened(ticket.payload)


# Initiator Data

V = Verification(MacAlg.HMAC_SHA_1_160, bytes(range(20)))


def with_data(next_payload: int = 9) -> tuple[Ticket, TicketPayload]:
    ticket = made()
    data = bytearray(build_initiator_data(ticket, V))
    data[1] = next_payload
    if next_payload != 9:  # Vr covers the octet
        resealed = replace(ticket.payload, initiator_data=bytes(data))
        return ticket, resealed
    return ticket, replace(ticket.payload, initiator_data=bytes(data))


@pytest.mark.clause("TS 33.328", "D-9")
def test_initiator_data_repeat_v_and_are_the_initiator_s():
    ticket, payload = with_data()
    assert ticket.mpkr is not None
    check_initiator_data_presence(payload)
    check_initiator_data(payload, ticket.mpkr.key)
    check_vi(payload, V)


def test_vi_may_say_that_nothing_follows_as_v_does():
    _, payload = with_data(0)
    check_vi(payload, V)


@pytest.mark.parametrize("next_payload", [0, 9])
def test_the_kms_takes_vi_however_it_says_what_follows_as_long_as_vr_covers_it(next_payload):
    ticket, payload = with_data()
    assert ticket.mpkr is not None
    covered = payload.initiator_data[:1] + bytes([next_payload]) + payload.initiator_data[2:-20]
    suite = SUITES["128"]
    mac = cipher.mac(suite.mac_alg, vr_auth_key(suite.prf, ticket.mpkr.key, suite), covered)
    check_initiator_data(replace(payload, initiator_data=covered + mac), ticket.mpkr.key)


@pytest.mark.attack("T5")
def test_no_bit_of_initiator_data_may_flip():
    ticket, payload = with_data()
    assert ticket.mpkr is not None
    for place in range(len(payload.initiator_data)):
        for bit in range(8):
            changed = bytearray(payload.initiator_data)
            changed[place] ^= 1 << bit
            with pytest.raises(MikeyError):
                check_initiator_data(replace(payload, initiator_data=bytes(changed)), ticket.mpkr.key)


@pytest.mark.clause("RFC 6043", "4.2.3.6")
def test_vi_of_another_message_is_refused():
    _, payload = with_data()
    with pytest.raises(AuthenticationFailure):
        check_vi(payload, replace(V, mac=bytes(20)))


@pytest.mark.clause("RFC 6043", "6.10")
def test_initiator_data_are_there_with_forking_and_not_without():
    _, payload = with_data()
    plain = made(wish=Wish((BOB,), forking=False))
    with pytest.raises(InvalidTicket):
        check_initiator_data_presence(replace(payload, initiator_data=b""))
    with pytest.raises(InvalidTicket):
        check_initiator_data_presence(replace(plain.payload, initiator_data=payload.initiator_data))
    with pytest.raises(InvalidTicketPolicy):
        build_initiator_data(plain, V)


def test_a_key_of_less_than_128_bits_is_refused():
    ticket = made()
    contents = opened(ticket.payload)
    weak = KeyData(KeyDataType.TGK, Secret(bytes(15)), spi=b"weak")
    with pytest.raises(Unspecified):
        seal_ticket(DEFAULT_PROFILE, ticket.policy, tpk(), replace(contents, keys=(weak,)))
