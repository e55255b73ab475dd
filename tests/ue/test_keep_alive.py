import pytest

from nodes.ue.gm import advised_interval
from nodes.ue.registration import State
from sba.testing import async_test
from signalling.sip import connection
from signalling.sip.message import parse_message
from signalling.sip.stack import make_response
from tests.ue.fake_pcscf import Site, until


def keeping(value):
    """Accepts a registration and puts `value` into the `keep` of the UE's Via, as a P-CSCF does."""

    def accept(pcscf, request):
        response = pcscf.accepted(request)
        via = str(response.top_via)
        assert ";keep" in via
        response.headers.remove_first_value("Via")
        response.headers.prepend("Via", via.replace(";keep", f";keep={value}", 1))
        return response

    return accept


def challenged(pcscf, request):
    return pcscf.challenge(request)


@pytest.mark.clause("RFC 6223", "4.2", "4.3")
@pytest.mark.clause("TS 24.229", "TR-5")
@async_test
async def test_the_ue_says_that_it_is_willing_in_every_register_and_nowhere_else(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        assert [request.top_via.params.get("keep", "none") for request in site.pcscf.of("REGISTER")] == [None, None]
        await site.ue.agent.registrar.deregister()
        assert all(
            "keep" not in request.top_via.params for request in site.pcscf.requests if request.method != "REGISTER"
        )


@pytest.mark.clause("RFC 5626", "4.4.1")
@pytest.mark.clause("TS 24.229", "TR-6", "DR-5")
@async_test
async def test_a_flow_that_does_not_answer_its_ping_is_given_up_and_the_ue_registers_over_another(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(connection, "PONG_DEADLINE", 0.2)
    async with Site(tmp_path) as site:
        site.pcscf.script = [challenged, keeping(1)]
        await site.ue.register()
        dead = site.ue.registrar.flow
        site.pcscf.freeze()
        await until(lambda: site.ue.registrar.flow is None or site.ue.registrar.flow.id != dead.id, 5)
        await until(lambda: site.ue.registrar.registration.state is State.REG, 5)
        assert "ue.flow-lost" in site.ue.log.getvalue()


@pytest.mark.clause("RFC 6223", "4.2.2", "4.4")
@pytest.mark.parametrize(
    ("via", "seconds"),
    [(";keep=30", 30), (";keep=0", 0), (";keep", None), ("", None), (";keep=soon", None), (";keep=99999999", None)],
)
def test_the_advised_interval_is_read_from_the_own_via_alone(via, seconds):
    response = make_response(_request(via), 200)
    assert advised_interval(response) == seconds


def _request(via):
    text = (
        "REGISTER sip:ims.test SIP/2.0\r\n"
        f"Via: SIP/2.0/TLS 127.0.0.1:5061;branch=z9hG4bKa{via}\r\n"
        "From: <sip:a@ims.test>;tag=1\r\nTo: <sip:a@ims.test>\r\nCall-ID: c\r\nCSeq: 1 REGISTER\r\n"
        "Content-Length: 0\r\n\r\n"
    )
    return parse_message(text.encode())
