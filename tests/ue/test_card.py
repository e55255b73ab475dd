import base64
import json

import pytest

from keying.secret import Secret
from nodes.ue.card import Card, CardError, ChallengeFault
from signalling.aka.digest import DigestChallenge, aka_password, verify
from signalling.aka.vectors import generate_vector, next_sqn, parse_auts, resynchronise

K, OPC = Secret(bytes(range(16))), Secret(bytes(range(16, 32)))
FILE = json.dumps({"k": K.reveal().hex(), "opc": OPC.reveal().hex(), "amf": "8000"}).encode()
IMPI, REALM, URI = "001010000000001@ims.test", "ims.test", "sip:ims.test"


def card(profile="aka-tls", content=FILE, sequence=None):
    return Card.load(content, IMPI, REALM, profile, sequence or {})


def challenge(sqn=33, algorithm="AKAv2-SHA-256", amf=b"\x80\x00", **changes):
    vector = generate_vector(K, OPC, sqn, amf=amf)
    return vector, DigestChallenge(REALM, changes.get("nonce", vector.nonce), algorithm, ("auth",)).format()


@pytest.mark.clause("TS 33.203", "PC-2", "3.2")
def test_the_first_register_names_the_user_and_akav2():
    text = card().initial(URI).format()
    assert 'nonce=""' in text
    assert 'response=""' in text
    assert "algorithm=AKAv2-SHA-256" in text
    assert "algorithm" not in card("aka-udp").initial(URI).format()


@pytest.mark.clause("TS 33.203", "UE-1", "AKA-5")
@pytest.mark.parametrize(("profile", "algorithm"), [("aka-tls", "AKAv2-SHA-256"), ("aka-udp", "AKAv1-MD5")])
def test_a_challenge_of_the_home_network_is_answered(profile, algorithm):
    vector, text = challenge(algorithm=algorithm)
    answer = card(profile).answer([text], "REGISTER", URI)
    assert answer.fault is ChallengeFault.NONE
    password = aka_password(algorithm, vector.xres, vector.ik, vector.ck)
    assert verify(answer.credentials, algorithm=algorithm, method="REGISTER", password=password)


@pytest.mark.clause("TS 33.203", "E-3")
def test_a_wrong_mac_gives_an_empty_response_without_auts():
    vector, _ = challenge()
    forged = vector.autn[:8] + bytes(8)
    nonce = base64.b64encode(vector.rand + forged).decode()
    answer = card().answer([challenge(nonce=nonce)[1]], "REGISTER", URI)
    assert answer.fault is ChallengeFault.MAC
    assert answer.credentials.auts is None
    assert len(answer.credentials.response) == 0


@pytest.mark.clause("TS 33.203", "AKA-3")
def test_a_short_nonce_is_an_invalid_challenge():
    answer = card().answer([challenge(nonce="AAAA")[1]], "REGISTER", URI)
    assert answer.fault is ChallengeFault.MAC


@pytest.mark.clause("TS 33.203", "E-5")
@pytest.mark.clause("RFC 3310", "3.4", "RS-1")
def test_a_used_sqn_gives_auts_from_which_the_network_resumes():
    ours = card()
    vector, text = challenge(sqn=33)
    ours.answer([text], "REGISTER", URI)
    answer = ours.answer([text], "REGISTER", URI)
    assert answer.fault is ChallengeFault.SYNC
    auts = parse_auts(answer.credentials.auts.reveal().decode())
    resumed = resynchronise(K, OPC, vector.rand, auts)
    assert resumed == 33
    assert verify(answer.credentials, algorithm="AKAv2-SHA-256", method="REGISTER", password=Secret(b""))
    assert ours.answer([challenge(sqn=next_sqn(resumed))[1]], "REGISTER", URI).fault is ChallengeFault.NONE


@pytest.mark.clause("TS 33.102", "RS-5")
def test_the_sequence_survives_a_restart():
    ours = card()
    _, text = challenge(sqn=33)
    ours.answer([text], "REGISTER", URI)
    again = card(sequence=json.loads(json.dumps(ours.sequence())))
    assert again.answer([text], "REGISTER", URI).fault is ChallengeFault.SYNC


@pytest.mark.attack("T1")
@pytest.mark.parametrize("algorithm", ["AKAv1-MD5", "MD5", None, "SHA-256"])
def test_a_weaker_algorithm_than_the_profile_is_not_answered(algorithm):
    assert card().answer([challenge(algorithm=algorithm)[1]], "REGISTER", URI).fault is ChallengeFault.UNSUPPORTED


@pytest.mark.clause("RFC 8760", "DG-7")
def test_digest_takes_the_topmost_algorithm_and_counts_on():
    ours = card("digest", json.dumps({"password": b"pw".hex()}).encode())
    values = [DigestChallenge(REALM, "n", name, ("auth",)).format() for name in ("SHA-256", "MD5")]
    first = ours.answer(values, "REGISTER", URI).credentials
    assert (first.algorithm, first.nc) == ("SHA-256", "00000001")
    second = ours.refreshed("REGISTER", URI)
    assert second.nc == "00000002"
    assert verify(second, algorithm="SHA-256", method="REGISTER", password=Secret(b"pw"))


@pytest.mark.clause("TS 33.203", "RR-2")
def test_aka_repeats_the_last_credentials_when_it_registers_again():
    ours = card()
    assert ours.refreshed("REGISTER", URI) == ours.initial(URI)
    first = ours.answer([challenge()[1]], "REGISTER", URI).credentials
    assert ours.refreshed("REGISTER", URI) == first
    ours.forget()
    assert ours.refreshed("REGISTER", URI) == ours.initial(URI)


@pytest.mark.clause("TS 33.203", "E-1")
def test_a_spoilt_answer_is_wrong():
    vector, text = challenge()
    password = aka_password("AKAv2-SHA-256", vector.xres, vector.ik, vector.ck)
    answer = card().answer([text], "REGISTER", URI, spoil=True)
    assert not verify(answer.credentials, algorithm="AKAv2-SHA-256", method="REGISTER", password=password)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"k": "zz"}', b'{"k": 1}', b'{"k": "00"}', b'{"k": "00", "opc": "00"}']
)
def test_a_broken_key_file_is_refused_without_showing_it(content):
    with pytest.raises(CardError) as caught:
        card(content=content)
    assert "zz" not in str(caught.value)
