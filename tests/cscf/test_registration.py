"""Registration through a running CSCF and HSS, over TLS on Mw."""

import asyncio
import base64
import re

import pytest

from keying.secret import Secret
from sba.testing import async_test
from signalling.aka.digest import DigestChallenge
from signalling.aka.vectors import Usim, UsimState
from tests.cscf.home import ALICE, BOB, DAVE, OPC, K, home_network, until


def challenge_of(response):
    return DigestChallenge.parse(response.headers.get_all("WWW-Authenticate")[0])


@pytest.mark.clause("TS 24.229", "SC-6", "SC-8", "SC-9")
@async_test
async def test_a_ue_registers_with_aka_over_tls(tmp_path):
    async with home_network(tmp_path) as home:
        peer = await home.peer()
        phone = home.phone(ALICE, peer)
        challenged = await phone.send(phone.credentials())
        challenge = challenge_of(challenged)
        assert (challenge.algorithm, challenge.realm, challenge.qop) == ("AKAv2-SHA-256", "ims.test", ("auth",))
        answer = await phone.send(phone.answer(challenged))
        assert answer.status == 200
        assert answer.headers.get("P-Associated-URI") == "<sip:alice@ims.test>, <tel:+15550100>"
        assert answer.headers.values("Path") == [f"<{peer.uri}>"]
        assert re.fullmatch(r"<sip:orig-[0-9a-f]+@127\.0\.0\.1:\d+;transport=tls;lr>", phone.service_route)
        assert answer.headers.get("Contact").startswith("<sip:192.0.2.10:5061;transport=tls>;expires=600")
        assert 'icid-value="icid-1"' in answer.headers.get("P-Charging-Vector")
        assert 'term-ioi="Type 1ims.test"' in answer.headers.get("P-Charging-Vector")


@pytest.mark.clause("TS 33.203", "DG-4", "SC-6")
@pytest.mark.parametrize(
    ("flag", "keys"), [("no", True), ("tls-connected", False), (None, False), ("ip-assoc-pending", False)]
)
def test_only_the_p_cscf_of_a_security_association_gets_the_keys(tmp_path, flag, keys):
    @async_test
    async def run():
        async with home_network(tmp_path) as home:
            phone = home.phone(ALICE, await home.peer(), flag=flag)
            phone.algorithm = "AKAv2-SHA-256" if flag == "tls-connected" else None
            challenge = challenge_of(await phone.send(phone.credentials()))
            assert (challenge.ik is not None, challenge.ck is not None) == (keys, keys)
            assert challenge.algorithm == ("AKAv2-SHA-256" if flag == "tls-connected" else "AKAv1-MD5")

    return run()


@pytest.mark.clause("TS 33.203", "PC-17", "RR-3")
@async_test
async def test_ipsec_aka_needs_the_answer_under_the_association_and_refreshes_without_challenge(tmp_path):
    async with home_network(tmp_path, aka_without_association=False) as home:
        phone = home.phone(ALICE, await home.peer(), flag="no", algorithm=None)
        challenged = await phone.send(phone.credentials())
        unprotected = phone.answer(challenged)[1].replace('integrity-protected="yes"', 'integrity-protected="no"')
        assert (await phone.send(("Authorization", unprotected))).status == 401
        assert (await phone.register()).status == 200
        phone.flag = "yes"
        assert (await phone.send(phone.credentials())).status == 200


@pytest.mark.clause("TS 33.203", "SC-1")
@pytest.mark.parametrize("flags", [("no", "no"), (None, "no"), (None, None)])
def test_aka_without_association_registers_flagged_and_again(tmp_path, capfd, flags):
    @async_test
    async def run():
        async with home_network(tmp_path) as home:
            phone = home.phone(ALICE, await home.peer(), algorithm=None)
            for _ in range(2):
                phone.flag = flags[0]
                challenged = await phone.send(phone.credentials())
                phone.flag = flags[1]
                name, value = phone.answer(challenged)
                answer = await phone.send((name, value.replace('"yes"', '"no"')))
                assert answer.status == 200
            assert home.cscf._location.by_impi(ALICE.impi).scheme == "aka-open"
            assert "aka.without-association" in capfd.readouterr().err

    return run()


@pytest.mark.clause("TS 33.203", "E-1")
@async_test
async def test_a_wrong_response_is_403_and_leaves_an_earlier_registration(tmp_path):
    async with home_network(tmp_path) as home:
        phone = home.phone(ALICE, await home.peer())
        challenged = await phone.send(phone.credentials())
        assert (await phone.send(phone.answer(challenged, res=Secret(bytes(8))))).status == 403
        assert home.cscf._location.by_impi(ALICE.impi) is None
        assert home.lab.nodes["hss"]._assignments.of(ALICE.impi).server_name == ""
        assert (await phone.register()).status == 200
        challenged = await phone.send(phone.credentials())
        assert (await phone.send(phone.answer(challenged, res=Secret(bytes(8))))).status == 403
        assert home.cscf._location.by_impi(ALICE.impi) is not None
        assert home.lab.nodes["hss"]._assignments.of(ALICE.impi).server_name


@pytest.mark.clause("TS 33.203", "E-3", "E-4")
@async_test
async def test_a_refused_challenge_is_repeated_twice_and_then_403(tmp_path):
    async with home_network(tmp_path) as home:
        phone = home.phone(ALICE, await home.peer())
        response = await phone.send(phone.credentials())
        seen = set()
        for expected in (401, 401, 403):
            nonce = challenge_of(response).nonce
            seen.add(nonce)
            response = await phone.send(phone.credentials(f'nonce="{nonce}",response=""'))
            assert response.status == expected
        assert len(seen) == 3


@pytest.mark.clause("TS 33.102", "RS-2", "E-5")
@async_test
async def test_a_usim_ahead_of_the_hss_is_followed(tmp_path):
    async with home_network(tmp_path) as home:
        phone = home.phone(ALICE, await home.peer())
        phone.usim = Usim(K, OPC, UsimState({0: 5000}))
        response = await phone.send(phone.credentials())
        auts = phone.usim.auts(base64.b64decode(challenge_of(response).nonce)[:16])
        text = base64.b64encode(auts).decode()
        response = await phone.send(
            phone.credentials(f'nonce="{challenge_of(response).nonce}",response="",auts="{text}"')
        )
        assert response.status == 401
        assert (await phone.send(phone.answer(response))).status == 200


@pytest.mark.clause("TS 33.102", "RS-3")
@async_test
async def test_a_forged_auts_is_403(tmp_path):
    async with home_network(tmp_path) as home:
        phone = home.phone(ALICE, await home.peer())
        response = await phone.send(phone.credentials())
        nonce = challenge_of(response).nonce
        assert (
            await phone.send(phone.credentials(f'nonce="{nonce}",response="",auts="AAAAAAAAAAAAAAAAAAA="'))
        ).status == 403


@pytest.mark.clause("TS 24.229", "E-7", "SC-6")
@async_test
async def test_an_unanswered_challenge_ends_by_timer(tmp_path):
    async with home_network(tmp_path, reg_await_auth=0.2) as home:
        phone = home.phone(ALICE, await home.peer())
        response = await phone.send(phone.credentials())
        flags = home.lab.nodes["hss"]._assignments
        assert flags.of(ALICE.impi).flag.value == "authentication-pending"
        await until(lambda: not flags.of(ALICE.impi).server_name)
        assert len(home.cscf._challenges) == 0
        assert (await phone.send(phone.answer(response))).status == 401


@pytest.mark.clause("TS 24.229", "SC-7", "E-8")
@async_test
async def test_a_new_register_voids_the_open_challenge(tmp_path):
    async with home_network(tmp_path) as home:
        phone = home.phone(ALICE, await home.peer())
        first = await phone.send(phone.credentials())
        await phone.send(phone.credentials())
        late = await phone.send(phone.answer(first))
        assert late.status == 401


@pytest.mark.clause("RFC 7616", "TLS-6", "E-9")
@async_test
async def test_digest_registers_counts_nonces_and_proves_the_network(tmp_path):
    async with home_network(tmp_path, digest_algorithms=["SHA-256", "MD5"]) as home:
        phone = home.phone(DAVE, await home.peer())
        challenged = await phone.send(None)
        algorithms = [DigestChallenge.parse(v).algorithm for v in challenged.headers.get_all("WWW-Authenticate")]
        assert algorithms == ["SHA-256", "MD5"]
        answer = await phone.send(phone.answer(challenged))
        assert answer.status == 200
        assert "rspauth=" in answer.headers.get("Authentication-Info")
        assert (await phone.send(phone.answer(challenged))).status == 200
        phone.nc -= 1
        replayed = await phone.send(phone.answer(challenged))
        assert replayed.status == 401
        assert challenge_of(replayed).stale


@pytest.mark.clause("RFC 7616", "E-9")
@async_test
async def test_an_old_digest_nonce_is_stale(tmp_path):
    async with home_network(tmp_path, digest_nonce_lifetime=0.05) as home:
        phone = home.phone(DAVE, await home.peer())
        challenged = await phone.send(None)
        await asyncio.sleep(0.1)
        again = await phone.send(phone.answer(challenged))
        assert again.status == 401
        assert challenge_of(again).stale


@pytest.mark.clause("RFC 3261", "10.3", "E-13", "E-14", "E-16", "E-18", "SC-2")
@async_test
async def test_registrar_error_answers(tmp_path):
    async with home_network(tmp_path) as home:
        peer = await home.peer()
        phone = home.phone(ALICE, peer)
        response = await phone.send(phone.credentials(), extra=[("Require", "made-up")])
        assert (response.status, response.headers.get("Unsupported")) == (420, "made-up")
        response = await phone.send(phone.credentials(), expires=30)
        assert (response.status, response.headers.get("Min-Expires")) == (423, "60")
        assert (await phone.send(phone.credentials(), impu="sip:nobody@ims.test")).status == 404
        assert (await phone.send(phone.credentials(), impu="sip:bob@ims.test")).status == 403
        assert (await phone.send(phone.credentials(), contact="*", expires=600)).status == 400
        assert (await phone.send(phone.credentials(), contact="*, <sip:a@192.0.2.1>", expires=0)).status == 400
        other = peer.request("REGISTER", "sip:elsewhere.test", to="<sip:alice@elsewhere.test>")
        assert (await peer.stack.request(other, home.hop, role="mw")).status == 404
        assert (await phone.register(expires=0)).status == 481


@pytest.mark.clause("RFC 3261", "DR-1", "DR-2")
@async_test
async def test_deregistration_with_a_star_and_by_contact(tmp_path):
    async with home_network(tmp_path) as home:
        phone = home.phone(ALICE, await home.peer())
        for options in ({"contact": "*", "expires": 0}, {"expires": 0}):
            assert (await phone.register()).status == 200
            gone = await phone.register(**options)
            assert gone.status == 200
            assert gone.headers.get("Contact") is None
            assert gone.headers.get("Service-Route") is None
            assert home.lab.nodes["hss"]._assignments.of(ALICE.impi).server_name == ""


@pytest.mark.clause("RFC 5626", "E-15")
@async_test
async def test_outbound_needs_ob_in_the_path(tmp_path):
    async with home_network(tmp_path) as home:
        peer = await home.peer()
        phone = home.phone(ALICE, peer, contact_params=';reg-id=1;+sip.instance="<urn:uuid:0000>"')
        response = await phone.send(phone.credentials(), extra=[("Supported", "outbound")])
        assert response.status == 439
        assert (await phone.register()).status == 200
        ob = [("Path", f"<{peer.uri};ob>"), ("Supported", "outbound")]
        phone.call_id = ""
        response = await phone.register(path=False, extra=ob)
        assert (response.status, response.headers.get("Require")) == (200, "outbound")


@pytest.mark.clause("TS 24.229", "E-17", "E-19")
@async_test
async def test_without_hss_503_and_a_refresh_of_nothing_500(tmp_path):
    async with home_network(tmp_path, hss_timeout=0.5) as home:
        phone = home.phone(BOB, await home.peer(), flag="yes", algorithm=None)
        assert (await phone.send(phone.credentials())).status == 500
        await home.lab.stop("hss")
        response = await phone.send(phone.credentials())
        assert (response.status, response.headers.get("Retry-After")) == (503, "5")


@pytest.mark.clause("TS 24.229", "SC-1")
@async_test
async def test_scheme_follows_flag_and_subscription(tmp_path):
    async with home_network(tmp_path, aka_without_association=False) as home:
        peer = await home.peer()
        alice = home.phone(ALICE, peer, flag=None, algorithm=None)
        assert (await alice.send(alice.credentials())).status == 403
        dave = home.phone(DAVE, peer, flag="no")
        assert (await dave.send(dave.credentials())).status == 403
        trusted = home.phone(ALICE, peer, flag="auth-done", algorithm=None)
        assert (await trusted.send(trusted.credentials())).status == 403
