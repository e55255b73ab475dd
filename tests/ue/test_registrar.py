import pytest

from nodes.ue.config import RegisterOptions
from nodes.ue.registrar import Wish
from nodes.ue.registration import State
from sba.testing import async_test
from signalling.aka.digest import DigestCredentials
from signalling.secagree import parse_security_header
from signalling.sip.stack import Hop, make_response
from tests.ue.fake_pcscf import SERVER_LIST, Site, until


def credentials(request):
    return DigestCredentials.parse(request.headers.get("Authorization"))


def answer(status, *headers):
    return lambda _pcscf, request: make_response(request, status, headers=list(headers))


@pytest.mark.clause("TS 24.229", "3.2", "5.1.1", "TLS-0")
@pytest.mark.clause("TS 33.328", "7.1.1-1", "7.1.1-4", "7.1.1-6", "7.1-3")
@async_test
async def test_registration_over_tls_announces_and_echoes(tmp_path):
    async with Site(tmp_path) as site:
        registration = await site.ue.register()
        assert registration.state is State.REG
        first, second = site.pcscf.of("REGISTER")
        assert first.uri == "sip:ims.test"
        assert first.headers.get("Security-Client") == "sdes-srtp;mediasec"
        assert first.headers.get("Security-Verify") is None
        assert first.headers.get("Require") is None
        assert first.headers.get("P-Access-Network-Info") is None
        assert credentials(first).algorithm == "AKAv2-SHA-256"
        assert first.headers.get("Contact").count("expires=600000") == 1
        assert second.headers.get("Security-Client") == first.headers.get("Security-Client")
        assert parse_security_header(second.headers.get_all("Security-Verify")) == parse_security_header(SERVER_LIST)
        assert (second.call_id, second.cseq[0]) == (first.call_id, first.cseq[0] + 1)
        assert registration.agreed == ("sdes-srtp",)
        assert registration.associated == ("sip:alice@ims.test", "tel:+15550100")
        assert registration.service_route == ("<sip:orig@scscf.ims.test;lr>",)
        assert 3590 < site.ue.registrar.expires_in_s <= 3600
        assert site.ue.remembered >= 1


@pytest.mark.clause("TS 33.203", "UE-5", "REG-4", "SA-1", "3.7")
@pytest.mark.clause("RFC 3329", "2.3.1")
@async_test
async def test_registration_over_udp_negotiates_ipsec_and_uses_its_ports(tmp_path):
    async with Site(tmp_path, "aka-udp") as site:
        registration = await site.ue.register()
        assert registration.state is State.REG
        first, second = site.pcscf.of("REGISTER")
        assert first.headers.get("Require") == first.headers.get("Proxy-Require") == "sec-agree"
        proposals = parse_security_header(first.headers.get_all("Security-Client"))
        assert [entry.get("ealg") for entry in proposals] == ["aes-cbc", "null", None]
        assert site.pcscf.flow.local == site.pcscf.protected.address
        assert str(site.pcscf.flow.remote[1]) == proposals[0].get("port-c")
        assert f":{proposals[0].get('port-s')}" in second.headers.get("Contact")
        assert "ipsec-3gpp" in second.headers.get("Security-Verify")
        assert "NON-SECURE" in site.ue.log.getvalue()
        assert not site.ue.agent.security().confidential


@pytest.mark.clause("TS 33.203", "UE-1")
@async_test
async def test_a_missing_security_server_ends_the_attempt(tmp_path):
    async with Site(tmp_path, "aka-udp") as site:

        def bare(pcscf, request):
            response = pcscf.challenge(request)
            response.headers.remove("Security-Server")
            return response

        site.pcscf.script = [bare]
        registration = await site.ue.register()
        assert registration.state is State.FAILED
        assert "Security-Server" in registration.reason


@pytest.mark.attack("T1", "T4")
@pytest.mark.clause("TS 33.203", "TLS-1")
@async_test
async def test_a_server_of_another_name_is_sent_nothing(tmp_path):
    async with Site(tmp_path, tls_name="other.ims.test") as site:
        registration = await site.ue.register()
        assert registration.state is State.IDLE
        assert site.pcscf.requests == []


@pytest.mark.clause("TS 24.229", "RR-1", "RR-2")
@async_test
async def test_a_refresh_repeats_the_credentials_and_the_list(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        site.pcscf.script = [lambda pcscf, request: pcscf.accepted(request)]
        await site.ue.register()
        second, third = site.pcscf.of("REGISTER")[1:]
        assert third.headers.get("Authorization") == second.headers.get("Authorization")
        assert third.headers.get("Security-Verify") is not None
        assert third.call_id == second.call_id
        assert site.ue.registrar.registration.state is State.REG


@pytest.mark.clause("TS 24.229", "RR-1")
@async_test
async def test_the_ue_registers_again_by_itself_at_half_time(tmp_path):
    async with Site(tmp_path) as site:
        site.pcscf.expires = 1
        await site.ue.register()
        await until(lambda: len(site.pcscf.of("REGISTER")) >= 4)
        assert site.ue.registrar.registration.is_registered


@pytest.mark.clause("TS 24.229", "DR-1", "DR-3")
@pytest.mark.clause("TS 33.328", "7.1.1-8")
@async_test
async def test_deregistration(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        site.pcscf.script = [lambda pcscf, request: make_response(request, 200)]
        registration = await site.ue.registrar.deregister()
        last = site.pcscf.of("REGISTER")[-1]
        assert last.headers.get("Expires") == "0"
        assert "expires=0" in last.headers.get("Contact")
        assert registration.state is State.IDLE
        assert registration.agreed == ()
        assert not registration.is_registered


@pytest.mark.clause("TS 33.203", "E-3", "E-6")
@async_test
async def test_two_invalid_challenges_are_answered_and_then_the_ue_stops(tmp_path):
    async with Site(tmp_path) as site:
        forged = "A" * 43 + "="
        site.pcscf.script = [lambda pcscf, request: pcscf.challenge(request, nonce=forged)] * 5
        registration = await site.ue.register()
        requests = site.pcscf.of("REGISTER")
        assert len(requests) == 3
        assert registration.state is State.FAILED
        for request in requests[1:]:
            assert len(credentials(request).response) == 0
            assert credentials(request).auts is None
        assert len({request.call_id for request in requests}) == 1


@pytest.mark.clause("TS 33.203", "E-5", "RS-1", "RS-2")
@async_test
async def test_an_sqn_out_of_range_is_resynchronised(tmp_path):
    async with Site(tmp_path) as site:
        site.ue.card.usim.state.highest = dict.fromkeys(range(32), 1000)
        registration = await site.ue.register()
        assert registration.state is State.REG
        assert any(credentials(request).auts is not None for request in site.pcscf.of("REGISTER"))


@pytest.mark.clause("TS 24.229", "E-14")
@async_test
async def test_423_is_answered_with_a_longer_time(tmp_path):
    async with Site(tmp_path) as site:
        site.pcscf.script = [answer(423, ("Min-Expires", "3600"))]
        await site.ue.register(expires=60)
        assert [request.headers.get("Expires") for request in site.pcscf.of("REGISTER")] == ["60", "3600", "3600"]


@pytest.mark.clause("RFC 3261", "10.2.8", "E-14")
@async_test
async def test_423_without_a_usable_time_ends_the_attempt(tmp_path):
    async with Site(tmp_path) as site:
        site.pcscf.script = [answer(423, ("Min-Expires", "10"))]
        assert (await site.ue.register(expires=60)).state is State.FAILED


@pytest.mark.clause("TS 24.229", "E-13")
@async_test
async def test_420_is_answered_without_the_extension(tmp_path):
    async with Site(tmp_path) as site:
        site.pcscf.script = [answer(420, ("Unsupported", "path"))]
        await site.ue.register()
        first, second = site.pcscf.of("REGISTER")[:2]
        assert first.headers.get("Supported") == "path"
        assert second.headers.get("Supported") is None


@pytest.mark.clause("TS 24.229", "E-21")
@pytest.mark.parametrize("status", [503, 504, 500, 408])
def test_later_is_not_never(tmp_path, status):
    @async_test
    async def run():
        async with Site(tmp_path) as site:
            site.pcscf.script = [answer(status)]
            registration = await site.ue.register()
            assert registration.state is State.IDLE
            assert registration.status == status

    return run()


@pytest.mark.clause("RFC 3329", "2.3.1")
@pytest.mark.attack("T1")
@async_test
async def test_494_ends_the_attempt_without_another_try(tmp_path):
    async with Site(tmp_path) as site:
        site.pcscf.script = [
            lambda pcscf, request: pcscf.challenge(request),
            answer(494, ("Security-Server", SERVER_LIST)),
        ]
        registration = await site.ue.register(tamper_verify="drop")
        assert registration.state is State.FAILED
        assert len(site.pcscf.of("REGISTER")) == 2
        assert site.pcscf.of("REGISTER")[1].headers.get("Security-Verify") == "msrp-tls;mediasec"


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 3310", "3.5")
@async_test
async def test_a_server_that_proves_nothing_is_not_believed(tmp_path):
    async with Site(tmp_path) as site:

        def lying(pcscf, request):
            response = pcscf.accepted(request)
            response.headers.add("Authentication-Info", f'rspauth="{"0" * 64}"')
            return response

        site.pcscf.script = [lambda pcscf, request: pcscf.challenge(request), lying]
        assert (await site.ue.register()).state is State.FAILED


@pytest.mark.clause("TS 24.229", "DR-5")
@pytest.mark.attack("T9")
@async_test
async def test_a_lost_flow_leads_to_a_new_registration(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        first = site.pcscf.of("REGISTER")[0]
        site.pcscf.stack.close_flow(site.pcscf.flow)
        await until(lambda: len(site.pcscf.of("REGISTER")) >= 4)
        await until(lambda: site.ue.registrar.registration.state is State.REG)
        assert site.pcscf.of("REGISTER")[-1].call_id != first.call_id


@pytest.mark.clause("TS 33.328", "7.1.1-4")
@async_test
async def test_the_list_may_come_in_the_200_alone(tmp_path):
    async with Site(tmp_path) as site:
        site.pcscf.server_list = ""

        def with_list(pcscf, request):
            response = pcscf.register(request)
            response.headers.add("Security-Server", "sdes-srtp;mediasec")
            return response

        site.pcscf.script = [lambda pcscf, request: pcscf.challenge(request), with_list]
        registration = await site.ue.register()
        assert site.pcscf.of("REGISTER")[1].headers.get("Security-Verify") is None
        assert registration.agreed == ("sdes-srtp",)


@pytest.mark.attack("T8")
@async_test
async def test_nothing_secret_is_logged(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        response = credentials(site.pcscf.of("REGISTER")[1]).response.reveal().decode()
        text = site.ue.log.getvalue()
        assert response not in text
        assert "000102030405" not in text


@pytest.mark.attack("T7")
@async_test
async def test_requests_from_elsewhere_are_refused(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        seen = []
        await site.pcscf.stack.listen("UDP", "127.0.0.1", 0, role="stranger")
        request = site.pcscf.invite(site.ue)
        hop = Hop("UDP", "127.0.0.1", site.ue.gm.contact_port)
        site.pcscf.stack.send(request, hop, role="stranger", on_response=seen.append, on_failure=seen.append)
        await until(lambda: any(getattr(one, "status", 0) >= 200 for one in seen))
        assert seen[-1].status == 403


@pytest.mark.clause("TS 24.229", "E-20", "E-21")
@async_test
async def test_recovery_waits_as_long_as_the_network_says(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        before = len(site.pcscf.requests)
        site.pcscf.script = [answer(503, ("Retry-After", "1"))]
        site.pcscf.cut()
        clock = site.ue.registrar._clock
        await until(lambda: len(site.pcscf.requests) > before)
        refused_at = clock.seconds()
        await until(lambda: site.ue.registrar.registration.state is State.REG)
        assert clock.seconds() - refused_at >= 0.9


@pytest.mark.attack("T9")
@async_test
async def test_a_ue_that_starts_while_the_network_is_not_there_yet_goes_on_trying(tmp_path):
    async with Site(tmp_path) as site:
        registrar = site.ue.registrar
        site.pcscf.script = [answer(500), answer(500)]
        await registrar.resume(Wish(("sdes-srtp",), 600_000, RegisterOptions()))
        assert registrar.registration.state is State.IDLE
        await until(lambda: registrar.registration.state is State.REG)
        assert len(site.pcscf.of("REGISTER")) == 4


@async_test
async def test_a_ue_that_starts_and_is_refused_for_good_does_not_try_again(tmp_path):
    async with Site(tmp_path) as site:
        site.pcscf.script = [answer(403)]
        await site.ue.registrar.resume(Wish(("sdes-srtp",), 600_000, RegisterOptions()))
        assert site.ue.registrar.registration.state is State.FAILED
        assert site.ue.registrar._recovery is None
