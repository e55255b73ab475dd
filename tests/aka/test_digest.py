import base64
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.secret import Secret
from signalling.aka.digest import (
    AuthenticationInfo,
    DigestChallenge,
    DigestCredentials,
    DigestError,
    aka_password,
    akav2_password,
    answer_challenge,
    choose_challenge,
    compute_ha1,
    compute_response,
    compute_rspauth,
    server_proved,
    verify,
)
from signalling.aka.digest_headers import parse_digest_params

OCTETS = bytes.fromhex
USER, REALM, URI = "001010000000001@ims.test", "ims.test", "sip:ims.test"
NONCE = "I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M="
CNONCE = "0a4f113b"
RES = Secret(OCTETS("a54211d5e3ba50bf"))
CK = Secret(OCTETS("b40ba9a3c58b2a05bbf0d987b21bf8cb"))
IK = Secret(OCTETS("f769bcd751044604127672711c6d3441"))


def credentials(algorithm="AKAv1-MD5", qop=("auth",), password=None, nonce=NONCE, body=b""):
    challenge = DigestChallenge(REALM, nonce, algorithm, qop)
    secret = password if password is not None else aka_password(algorithm, RES, IK, CK)
    return answer_challenge(
        challenge, username=USER, password=secret, method="REGISTER", uri=URI, cnonce=CNONCE, body=body
    )


@pytest.mark.clause("RFC 3310", "3.3", "DG-1")
@pytest.mark.clause("RFC 4169", "2.1", "3", "DG-2")
@pytest.mark.clause("RFC 7616", "3.4.1", "DG-5")
@pytest.mark.clause("TS 33.203", "X")
@pytest.mark.parametrize(
    ("algorithm", "qop", "response"),
    [
        ("AKAv1-MD5", ("auth",), "640ff1af79e1c149460bb5a06f273348"),
        ("AKAv1-MD5", (), "62cf303d133aaf8114953c7d86cc6232"),
        ("AKAv1-MD5", ("auth-int",), "cda3766a4dbd175f2a06795d27159969"),
        ("AKAv2-MD5", ("auth",), "2f3c4d4d8b5fe4be76f62b8ccce05286"),
        ("AKAv2-SHA-256", ("auth",), "05bf4de137f023432cd613dbfb6ceb29270f2eddaa1275b9879b8fccff92bfd5"),
    ],
)
def test_responses_for_test_set_1(algorithm, qop, response):
    given_ = credentials(algorithm, qop)
    assert given_.response.reveal().decode() == response
    assert verify(given_, algorithm=algorithm, method="REGISTER", password=aka_password(algorithm, RES, IK, CK))


@pytest.mark.clause("RFC 4169", "2.1", "DG-2")
@pytest.mark.parametrize(
    ("algorithm", "password"),
    [("AKAv2-MD5", "shzt3q8CWaZnCAWqs3WmEQ=="), ("AKAv2-SHA-256", "wpC+5dv/7kC35JEI2hluv8XcBd+vf8XcfedJBan1buk=")],
)
def test_akav2_passwords_for_test_set_1(algorithm, password):
    assert akav2_password(RES, IK, CK, algorithm) == Secret(password.encode())


@pytest.mark.clause("RFC 3310", "3.4", "RS-1")
@pytest.mark.parametrize(
    ("qop", "response"), [((), "01f1615a1c9f971a24b5ad63f4883761"), (("auth",), "b63835cbf1836b86c86ac220481cc946")]
)
def test_the_response_beside_auts_uses_an_empty_password(qop, response):
    assert credentials("AKAv1-MD5", qop, Secret(b"")).response.reveal().decode() == response


@pytest.mark.clause("RFC 3310", "3.4", "RS-1")
def test_auts_is_sent_as_base64():
    auts = OCTETS("ba853f3c123ccf44e93596e355c6")
    challenge = DigestChallenge(REALM, NONCE, "AKAv1-MD5", ("auth",))
    text = answer_challenge(
        challenge, username=USER, password=Secret(b""), method="REGISTER", uri=URI, cnonce=CNONCE, auts=auts
    ).format()
    assert 'auts="uoU/PBI8z0TpNZbjVcY="' in text
    again = DigestCredentials.parse(text).auts
    assert again is not None
    assert base64.b64decode(again.reveal()) == auts


@pytest.mark.clause("RFC 3310", "3.5", "DG-1")
@pytest.mark.clause("RFC 2617", "3.2.3", "DG-5")
@pytest.mark.parametrize(
    ("algorithm", "rspauth"),
    [
        ("AKAv1-MD5", "5065ebcdc6c68ada1cf99ffc1a36df97"),
        ("AKAv2-SHA-256", "ac83a43c0cc830f954342b18141676edd97690c024500794deb5e2e31d5c0053"),
    ],
)
def test_the_server_proves_itself_with_rspauth(algorithm, rspauth):
    password = aka_password(algorithm, RES, IK, CK)
    sent = credentials(algorithm)
    assert compute_rspauth(sent, algorithm=algorithm, password=password) == rspauth
    text = f'qop=auth,rspauth="{rspauth}",cnonce="{CNONCE}",nc=00000001'
    assert server_proved(AuthenticationInfo.parse(text), sent, algorithm=algorithm, password=password)
    assert AuthenticationInfo.parse(text).format() == text
    for wrong in (f'rspauth="{rspauth[::-1]}"', f'rspauth="{rspauth}",cnonce="other"', 'nextnonce="x"'):
        assert not server_proved(AuthenticationInfo.parse(wrong), sent, algorithm=algorithm, password=password)


@pytest.mark.clause("RFC 7616", "DG-5")
@pytest.mark.clause("TS 33.203", "N.2")
def test_sip_digest_with_a_password():
    password = Secret(b"testpw")
    sent = credentials("MD5", ("auth",), password, nonce="bm9uY2UtZGlnZXN0LTAwMDE=")
    assert sent.response.reveal() == b"b39e600a49a3726d9aaba88852280851"
    ha1 = compute_ha1("MD5", USER, REALM, password)
    assert ha1 == Secret(b"875c126f1ac7a0f5aeeb63fb06bf0f01")
    assert verify(sent, algorithm="MD5", method="REGISTER", ha1=ha1)


@pytest.mark.clause("RFC 7616", "3.9.1", "DG-5")
@pytest.mark.clause("RFC 8760", "2.1")
@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_examples_of_rfc_7616(algorithm, response):
    assert response == compute_response(
        algorithm=algorithm,
        username="Mufasa",
        realm="http-auth@example.org",
        password=Secret(b"Circle of Life"),
        method="GET",
        uri="/dir/index.html",
        nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        qop="auth",
        nc="00000001",
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )


@pytest.mark.clause("RFC 8760", "2.2", "DG-6")
@pytest.mark.parametrize(("algorithm", "digits"), [("MD5", 32), ("SHA-256", 64), ("SHA-512-256", 64)])
def test_response_lengths(algorithm, digits):
    sent = credentials(algorithm, password=Secret(b"pw"))
    assert len(sent.response) == digits
    assert verify(sent, algorithm=algorithm, method="REGISTER", password=Secret(b"pw"))


@pytest.mark.clause("RFC 7616", "3.4", "DG-6")
def test_what_is_quoted_and_what_is_not():
    text = dataclasses.replace(credentials(), opaque="o", integrity_protected="yes", extra=(("x", "y"),)).format()
    for part in (
        'username="',
        'realm="',
        'uri="',
        'nonce="',
        'response="',
        'cnonce="',
        'opaque="',
        'integrity-protected="yes"',
    ):
        assert part in text
    for part in (",algorithm=AKAv1-MD5,", ",qop=auth,", ",nc=00000001,"):
        assert part in text
    assert DigestCredentials.parse(text).format() == text


@pytest.mark.clause("RFC 8760", "2.7", "DG-6")
def test_an_empty_response_before_the_first_challenge_is_legal():
    sent = DigestCredentials.parse(f'Digest username="{USER}",realm="{REALM}",uri="{URI}",nonce="",response=""')
    assert (len(sent.response), sent.nonce, sent.nonce_count) == (0, "", 0)


@pytest.mark.clause("RFC 7616", "3.4")
@pytest.mark.attack("T7")
@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "other"},
        {"uri": "sip:other.test"},
        {"username": "mallory"},
        {"realm": "other"},
        {"nc": "00000002"},
        {"cnonce": "other"},
        {"qop": "auth-int"},
        {"qop": None},
        {"qop": "unknown"},
        {"algorithm": "MD5"},
        {"algorithm": None},
        {"algorithm": "AKAv2-MD5"},
        {"response": Secret(b"")},
        {"response": Secret(b"640FF1AF79E1C149460BB5A06F273348")},
    ],
)
def test_any_change_to_the_credentials_fails(change):
    changed = dataclasses.replace(credentials(), **change)
    assert not verify(changed, algorithm="AKAv1-MD5", method="REGISTER", password=RES)


@pytest.mark.attack("T7")
def test_another_method_or_password_fails():
    sent = credentials()
    assert not verify(sent, algorithm="AKAv1-MD5", method="INVITE", password=RES)
    assert not verify(sent, algorithm="AKAv1-MD5", method="REGISTER", password=Secret(b""))
    body = credentials(qop=("auth-int",), body=b"hello")
    assert verify(body, algorithm="AKAv1-MD5", method="REGISTER", password=RES, body=b"hello")
    assert not verify(body, algorithm="AKAv1-MD5", method="REGISTER", password=RES, body=b"hellO")


@pytest.mark.clause("RFC 8760", "2.4", "DG-7")
@pytest.mark.clause("RFC 4169", "4.1", "DG-3")
def test_the_topmost_supported_challenge_is_answered_and_akav2_before_akav1():
    def challenge(algorithm):
        return DigestChallenge(REALM, NONCE, algorithm, ("auth",)).format()

    everything = ("MD5", "SHA-256", "AKAv1-MD5", "AKAv2-MD5", "AKAv2-SHA-256")
    values = ['Basic realm="x"', challenge("FUTURE-1"), challenge("SHA-256"), challenge("MD5")]
    assert choose_challenge(values, everything).algorithm == "SHA-256"
    assert choose_challenge(values, ("MD5",)).algorithm == "MD5"
    assert choose_challenge([challenge("AKAv1-MD5"), challenge("AKAv2-MD5")], everything).algorithm == "AKAv2-MD5"
    assert choose_challenge(['Basic realm="x"', "Digest nonsense"], everything) is None


@pytest.mark.clause("RFC 3310", "3.1", "DG-1")
def test_no_algorithm_means_md5_and_an_unknown_one_is_skipped():
    plain = f'Digest realm="{REALM}",nonce="n",qop="auth"'
    assert choose_challenge([plain], ("MD5",)) is not None
    assert choose_challenge([plain], ("AKAv1-MD5",)) is None
    assert choose_challenge([f"{plain},algorithm=AKAv9-MD5"], ("MD5", "AKAv1-MD5")) is None


@pytest.mark.clause("TS 33.203", "SC-6", "PC-8")
def test_ik_and_ck_travel_in_the_challenge_and_are_taken_out_for_the_ue():
    challenge = DigestChallenge(REALM, NONCE, "AKAv1-MD5", ("auth",), ik=IK, ck=CK)
    text = challenge.format()
    assert 'ik="f769bcd751044604127672711c6d3441"' in text
    again = DigestChallenge.parse(text)
    assert (again.ik, again.ck) == (IK, CK)
    assert "ik=" not in again.without_keys().format()
    assert "ck=" not in again.without_keys().format()
    assert again.without_keys().nonce == NONCE


@pytest.mark.attack("T8")
def test_credentials_and_challenges_print_without_secrets():
    assert "640ff1af" not in repr(credentials())
    assert "f769bcd7" not in repr(DigestChallenge(REALM, NONCE, "AKAv1-MD5", ik=IK, ck=CK))


@pytest.mark.clause("RFC 7616", "3.3")
def test_commas_quotes_and_escapes_inside_values():
    params = parse_digest_params(r'digest a="x, y", b = "q\"uo\\te" ,C=token,qop="auth,auth-int"')
    assert params == {"a": "x, y", "b": 'q"uo\\te', "c": "token", "qop": "auth,auth-int"}
    assert DigestChallenge.parse('Digest realm="r",nonce="n",qop="AUTH, auth-int",stale=TRUE').qop == (
        "auth",
        "auth-int",
    )
    tricky = dataclasses.replace(credentials(), username='a"b\\c')
    assert DigestCredentials.parse(tricky.format()).username == 'a"b\\c'


@pytest.mark.attack("T7")
@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic x",
        "Digest",
        "Digest a",
        "Digest a=b,",
        "Digest a=b c=d",
        'Digest a="b',
        "Digest a=b,a=c",
        "Digest a=b,A=c",
        "Digest =x",
        'Digest realm="r"',
        'Digest username="u",realm="r",uri="u",nc=xyz',
        'Digest realm="r",nonce="n",ik="zz"',
        "Digest " + "a=" + "b" * 9000,
    ],
)
def test_malformed_headers_are_refused(value):
    for reader in (DigestChallenge.parse, DigestCredentials.parse):
        with pytest.raises(DigestError):
            reader(value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: aka_password("MD5", RES, IK, CK),
        lambda: akav2_password(RES, IK, CK, "AKAv1-MD5"),
        lambda: credentials("FUTURE", password=RES),
        lambda: credentials("MD5", ("future",), RES),
        lambda: compute_response(algorithm="MD5", username="u", realm="r", method="M", uri="u", nonce="n"),
        lambda: dataclasses.replace(credentials(), username="a\r\nb").format(),
    ],
)
def test_what_cannot_be_computed_or_written_is_an_error(call):
    with pytest.raises(DigestError):
        call()


@pytest.mark.attack("T7")
@given(st.text(max_size=80).map(lambda text: "Digest " + text))
def test_any_header_is_read_or_refused(value):
    try:
        params = parse_digest_params(value)
    except DigestError:
        return
    assert all(name == name.lower() for name in params)


@given(*[st.text(alphabet=st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=20)] * 3)
def test_any_values_survive_writing_and_reading(username, realm, nonce):
    sent = DigestCredentials(username, realm, "sip:x", nonce)
    assert DigestCredentials.parse(sent.format()) == sent
