import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.secret import Secret
from signalling.aka.milenage import Milenage, opc_from_op
from signalling.aka.vectors import generate_vector, resynchronise

OCTETS = bytes.fromhex
K = Secret(OCTETS("465b5ce8b199b49faa5f0a2ee238a6bc"))
OP = Secret(OCTETS("cdc202d5123e20f62b6d676ac72cb318"))
OPC = Secret(OCTETS("cd63cb71954a9f4e48a5994e37a02baf"))
RAND = OCTETS("23553cbe9637a89d218ae64dae47bf35")
SQN = OCTETS("ff9bb4d0b607")
AMF = OCTETS("b9b9")


def osmo(*arguments):
    """What osmo-auc-gen, an implementation of others, prints for the same input."""
    command = ["osmo-auc-gen", "-3", "-a", "MILENAGE", *arguments]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^([\w. ]+):\t(\S+)$", text, re.MULTILINE))


@pytest.mark.clause("TS 35.206", "set-1")
def test_test_set_1():
    milenage = Milenage(K, OPC)
    assert opc_from_op(K, OP) == OPC
    assert milenage.f1(RAND, SQN, AMF) == OCTETS("4a9ffac354dfafb3")
    assert milenage.f1_star(RAND, SQN, AMF) == OCTETS("01cfaf9ec4e871e9")
    res, ck, ik, ak = milenage.f2345(RAND)
    assert res == Secret(OCTETS("a54211d5e3ba50bf"))
    assert ck == Secret(OCTETS("b40ba9a3c58b2a05bbf0d987b21bf8cb"))
    assert ik == Secret(OCTETS("f769bcd751044604127672711c6d3441"))
    assert ak == Secret(OCTETS("aa689c648370"))
    assert milenage.f5_star(RAND) == Secret(OCTETS("451e8beca43b"))


@pytest.mark.parametrize(
    "call",
    [
        lambda: Milenage(Secret(b"x" * 15), OPC),
        lambda: Milenage(K, Secret(b"x" * 17)),
        lambda: opc_from_op(K, Secret(b"")),
        lambda: Milenage(K, OPC).f2345(b"x" * 15),
        lambda: Milenage(K, OPC).f1(RAND, b"x" * 5, AMF),
        lambda: Milenage(K, OPC).f1(RAND, SQN, b"x"),
    ],
)
def test_inputs_of_another_length_are_refused(call):
    with pytest.raises(ValueError, match="octets"):
        call()


@pytest.mark.peer("osmo-auc-gen")
@pytest.mark.clause("TS 35.206", "peer")
@pytest.mark.parametrize("round_", range(12))
def test_vectors_equal_those_of_osmo_auc_gen(round_):
    seed = bytes([round_ * 7 + index & 0xFF for index in range(16)])
    k, opc, rand = Secret(seed), Secret(seed[::-1]), bytes(octet ^ 0x5A for octet in seed)
    sqn, amf = (round_ + 1) * 0x0123456789AB % (1 << 48), bytes([0x80, round_])
    theirs = osmo("-k", k.reveal().hex(), "-o", opc.reveal().hex(), "-f", amf.hex(), "-s", str(sqn), "-r", rand.hex())
    ours = generate_vector(k, opc, sqn, amf=amf, rand=rand)
    assert ours.autn.hex() == theirs["AUTN"]
    assert ours.ik.reveal().hex() == theirs["IK"]
    assert ours.ck.reveal().hex() == theirs["CK"]
    assert ours.xres.reveal().hex() == theirs["RES"]
    assert ours.nonce == theirs["IMS nonce"]


@pytest.mark.peer("osmo-auc-gen")
@pytest.mark.clause("TS 35.206", "peer")
def test_opc_equals_that_of_osmo_auc_gen():
    arguments = ("-k", K.reveal().hex(), "-f", AMF.hex(), "-s", "33", "-r", RAND.hex())
    assert osmo(*arguments, "-O", OP.reveal().hex()) == osmo(*arguments, "-o", opc_from_op(K, OP).reveal().hex())


@pytest.mark.peer("osmo-auc-gen")
@pytest.mark.clause("TS 33.102", "RS-4")
def test_osmo_auc_gen_finds_the_same_sqn_in_our_auts():
    auts = "ba853f3c123ccf44e93596e355c6"
    theirs = osmo(
        "-k", K.reveal().hex(), "-o", OPC.reveal().hex(), "-f", "b9b9", "-s", "1", "-r", RAND.hex(), "-A", auts
    )
    assert int(theirs["SQN.MS"]) == resynchronise(K, OPC, RAND, bytes.fromhex(auts)) == int.from_bytes(SQN, "big")


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_the_functions_depend_on_key_and_challenge(key, rand):
    if key != K.reveal() and rand != RAND:
        assert Milenage(Secret(key), OPC).f2345(rand) != Milenage(K, OPC).f2345(rand)
        assert Milenage(K, OPC).f2345(rand) != Milenage(K, OPC).f2345(RAND)
