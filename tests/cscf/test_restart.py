"""kill -9 of CSCF and HSS as real processes: registrations and calls go on (T9)."""

import pytest

from sba.testing import LabFixture, async_test, free_port
from signalling.sip.flow import Hop
from signalling.sip.message import SipRequest
from tests.cscf.home import ALICE, BOB, SUBSCRIBERS, Home, provision
from tests.cscf.test_calls import invite

pytestmark = [pytest.mark.attack("T9"), pytest.mark.clause("TS 24.229", "SC-9-restart")]


@async_test
async def test_killed_cscf_and_hss_return_with_their_state(tmp_path):
    async with LabFixture(tmp_path) as lab:
        hss_settings = provision(lab, "hss", SUBSCRIBERS)
        port = free_port()
        cscf_settings = {"mw": {"host": "127.0.0.1", "port": port}}
        hss = await lab.spawn("hss", "hss", hss_settings, nf_types=("HSS",))
        cscf = await lab.spawn("cscf", "cscf", cscf_settings, nf_types=("SCSCF", "ICSCF"))
        home = Home(lab, None, Hop("TLS", "127.0.0.1", port), "TLS")
        try:
            alice = home.phone(ALICE, await home.peer("pcscf-1"))
            bob = home.phone(BOB, await home.peer("pcscf-2"), contact="sip:192.0.2.11:5061;transport=tls")
            for phone in (alice, bob):
                assert (await phone.register()).status == 200
            request, answer, _ = await invite(alice, "sip:bob@ims.test")
            assert answer.status == 200
            service_route = alice.service_route
            await cscf.kill()
            cscf = await lab.spawn("cscf", "cscf", cscf_settings, nf_types=("SCSCF", "ICSCF"))
            bye = SipRequest(
                "BYE",
                bob.peer.uri,
                [
                    ("Max-Forwards", "70"),
                    ("From", request.headers.get("From")),
                    ("To", answer.headers.get("To")),
                    ("Call-ID", request.call_id),
                    ("CSeq", "2 BYE"),
                    *(("Route", value) for value in answer.headers.values("Record-Route")),
                ],
            )
            assert (await alice.peer.stack.request(bye, home.hop, role="mw")).status == 200
            assert (await invite(alice, "sip:bob@ims.test"))[1].status == 200
            assert bob.peer.received[-1].uri == bob.contact
            await hss.kill()
            assert (await invite(alice, "sip:bob@ims.test"))[1].status == 200
            hss = await lab.spawn("hss", "hss", hss_settings, nf_types=("HSS",))
            refreshed = await alice.register()
            assert refreshed.status == 200
            assert alice.service_route == service_route
            assert (await invite(alice, "tel:+15550101"))[1].status == 200
            challenged = await bob.send(bob.credentials())
            assert challenged.status == 401
            await cscf.kill()
            await lab.spawn("cscf", "cscf", cscf_settings, nf_types=("SCSCF", "ICSCF"))
            late = await bob.send(bob.answer(challenged))
            assert late.status == 401
            assert (await bob.send(bob.answer(late))).status == 200
        finally:
            for peer in home.peers:
                await peer.stack.stop()
