import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.secret import Secret
from signalling.aka.vectors import (
    DELTA,
    IND_BITS,
    MacFailure,
    MalformedNonce,
    SyncFailure,
    Usim,
    UsimState,
    format_nonce,
    generate_vector,
    next_sqn,
    parse_auts,
    parse_nonce,
    resynchronise,
)

OCTETS = bytes.fromhex
K = Secret(OCTETS("465b5ce8b199b49faa5f0a2ee238a6bc"))
OPC = Secret(OCTETS("cd63cb71954a9f4e48a5994e37a02baf"))
RAND = OCTETS("23553cbe9637a89d218ae64dae47bf35")
SQN = 0xFF9BB4D0B607
NONCE = "I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M="


def sqn(seq, ind=0):
    return seq << IND_BITS | ind


@pytest.mark.clause("TS 33.203", "AKA-1", "AKA-3")
def test_the_vector_of_test_set_1():
    vector = generate_vector(K, OPC, SQN, amf=b"\xb9\xb9", rand=RAND)
    assert vector.autn == OCTETS("55f328b43577b9b94a9ffac354dfafb3")
    assert vector.nonce == NONCE
    assert parse_nonce(NONCE) == (RAND, vector.autn)


@pytest.mark.clause("RFC 3310", "3.2")
@pytest.mark.clause("TS 33.203", "AKA-3")
def test_server_data_behind_autn_is_ignored():
    rand, autn = parse_nonce(NONCE)
    assert parse_nonce(format_nonce(rand, autn, b"server data")) == (rand, autn)


@pytest.mark.clause("RFC 3310", "3.2")
@pytest.mark.parametrize("nonce", ["", "x", NONCE[:-4], "ä" * 40, base64.b64encode(bytes(31)).decode(), NONCE[1:]])
def test_a_short_or_broken_nonce_is_an_invalid_challenge(nonce):
    with pytest.raises(MalformedNonce):
        parse_nonce(nonce)


@pytest.mark.clause("TS 33.203", "AKA-5")
def test_the_usim_answers_a_challenge_of_its_home_network():
    vector = generate_vector(K, OPC, sqn(1))
    result = Usim(K, OPC).authenticate(vector.rand, vector.autn)
    assert (result.res, result.ck, result.ik) == (vector.xres, vector.ck, vector.ik)


@pytest.mark.clause("TS 33.203", "AKA-5", "E-3")
@pytest.mark.attack("T7")
@given(st.integers(0, 15), st.integers(1, 255))
def test_any_change_of_autn_is_a_mac_failure(place, mask):
    vector = generate_vector(K, OPC, sqn(1), rand=RAND)
    forged = bytearray(vector.autn)
    forged[place] ^= mask
    usim = Usim(K, OPC)
    with pytest.raises(MacFailure):
        usim.authenticate(vector.rand, bytes(forged))
    assert usim.state.highest == {}


@pytest.mark.clause("TS 33.102", "RS-5")
@pytest.mark.attack("T7")
def test_a_replayed_challenge_is_out_of_range_and_answered_with_auts():
    usim = Usim(K, OPC)
    vector = generate_vector(K, OPC, sqn(7, 3))
    usim.authenticate(vector.rand, vector.autn)
    with pytest.raises(SyncFailure) as caught:
        usim.authenticate(vector.rand, vector.autn)
    assert resynchronise(K, OPC, vector.rand, caught.value.auts) == sqn(7, 3)


@pytest.mark.clause("TS 33.102", "RS-1", "RS-4")
def test_auts_of_test_set_1():
    usim = Usim(K, OPC, UsimState({SQN & 31: SQN >> 5}))
    assert usim.auts(RAND) == OCTETS("ba853f3c123ccf44e93596e355c6")
    assert base64.b64encode(usim.auts(RAND)).decode() == "uoU/PBI8z0TpNZbjVcY="
    assert resynchronise(K, OPC, RAND, parse_auts("uoU/PBI8z0TpNZbjVcY=")) == SQN


@pytest.mark.clause("TS 33.102", "RS-2", "RS-3")
@pytest.mark.attack("T7")
@given(st.integers(0, 13), st.integers(1, 255))
def test_a_forged_auts_is_refused(place, mask):
    forged = bytearray(OCTETS("ba853f3c123ccf44e93596e355c6"))
    forged[place] ^= mask
    with pytest.raises(MacFailure):
        resynchronise(K, OPC, RAND, bytes(forged))


@pytest.mark.parametrize("auts", ["", "x", "uoU/PBI8z0TpNZbj", "uoU/PBI8z0TpNZbjVcY=AAAA", "ä"])
def test_auts_of_another_length_is_refused(auts):
    with pytest.raises(MacFailure):
        parse_auts(auts)
    with pytest.raises(MacFailure):
        resynchronise(K, OPC, RAND, b"short")


@pytest.mark.clause("TS 33.102", "RS-5")
def test_a_sequence_number_is_judged_by_its_own_array_entry():
    state = UsimState()
    state.accept(sqn(10, 1))
    assert not state.is_fresh(sqn(10, 1))
    assert not state.is_fresh(sqn(9, 1))
    assert state.is_fresh(sqn(9, 2))
    assert state.is_fresh(sqn(11, 1))
    assert not state.is_fresh(sqn(0, 3))


@pytest.mark.clause("TS 33.102", "RS-5")
def test_a_jump_of_more_than_2_to_the_28_is_refused():
    state = UsimState({0: 100})
    assert state.is_fresh(sqn(100 + DELTA, 1))
    assert not state.is_fresh(sqn(101 + DELTA, 1))


@pytest.mark.clause("TS 33.102", "RS-5")
@given(st.integers(0, (1 << 40) - 1), st.integers(1, 80))
def test_vectors_drawn_in_order_are_all_accepted(start, count):
    state = UsimState({start & 31: start >> 5})
    number = start
    for _ in range(count):
        number = next_sqn(number)
        assert state.is_fresh(number)
        state.accept(number)
    assert state.sqn_ms == number


@pytest.mark.clause("TS 33.102", "RS-5")
def test_vectors_used_a_little_out_of_order_are_accepted():
    first = next_sqn(sqn(100, 0))
    second = next_sqn(first)
    state = UsimState({0: 100})
    state.accept(second)
    assert state.is_fresh(first)


@given(st.dictionaries(st.integers(0, 31), st.integers(0, 1 << 43)))
def test_the_usim_memory_survives_storage(highest):
    assert UsimState.from_dict(UsimState(highest).to_dict()).highest == highest


def test_sqn_has_48_bits():
    assert next_sqn((1 << 48) - 1) == 0
    with pytest.raises(ValueError, match="48"):
        generate_vector(K, OPC, 1 << 48)


@pytest.mark.attack("T8")
def test_a_vector_prints_without_its_keys():
    vector = generate_vector(K, OPC, SQN)
    for secret in (vector.xres, vector.ck, vector.ik):
        assert secret.reveal().hex() not in repr(vector)
        assert str(secret.reveal())[2:-1] not in repr(vector)
