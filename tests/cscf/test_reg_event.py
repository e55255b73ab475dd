"""The registration event package over real sockets (RFC 3680)."""

from xml.etree import ElementTree as ET

import pytest

from sba.testing import async_test
from signalling.sip.headers import parse_name_addr
from signalling.sip.message import SipRequest
from tests.cscf.home import ALICE, BOB, home_network, until
from tests.cscf.test_calls import registered

NS = {"r": "urn:ietf:params:xml:ns:reginfo"}


async def subscribe(phone, *more, impu="sip:alice@ims.test", expires=600, asserted=None, peer=None):
    peer = peer or phone.peer
    headers = [("Event", "reg"), ("Expires", str(expires)), ("Contact", f"<{peer.uri}>"), *more]
    if asserted is None:
        headers += [("Route", phone.service_route), ("P-Asserted-Identity", f"<{phone.impu}>")]
    elif asserted:
        headers.append(("P-Asserted-Identity", asserted))
    request = peer.request("SUBSCRIBE", impu, headers=headers)
    return request, await peer.stack.request(request, phone.hop, role="mw")


def notifies(peer):
    return [request for request in peer.received if request.method == "NOTIFY"]


def states(notify):
    root = ET.fromstring(notify.body)
    return root.get("version"), {
        one.get("aor"): (one.get("state"), [(c.get("state"), c.get("event")) for c in one.findall("r:contact", NS)])
        for one in root.findall("r:registration", NS)
    }


@pytest.mark.clause("RFC 3680", "4.6", "4.7", "5.1")
@async_test
async def test_a_user_watches_his_registration_come_and_go(tmp_path):
    async with home_network(tmp_path) as home:
        [alice] = await registered(home, ALICE)
        request, answer = await subscribe(alice)
        assert (answer.status, answer.headers.get("Expires")) == (200, "600")
        await until(lambda: notifies(alice.peer))
        first = notifies(alice.peer)[0]
        assert first.headers.get("Subscription-State").startswith("active;expires=")
        assert first.headers.get("Content-Type") == "application/reginfo+xml"
        version, found = states(first)
        assert version == "0"
        assert found == {aor: ("active", [("active", "registered")]) for aor in ("sip:alice@ims.test", "tel:+15550100")}
        assert (await alice.register(expires=0)).status == 200
        await until(lambda: len(notifies(alice.peer)) > 1)
        last = notifies(alice.peer)[1]
        assert last.headers.get("Subscription-State") == "terminated;reason=noresource"
        version, found = states(last)
        assert version == "1"
        assert found["sip:alice@ims.test"] == ("terminated", [("terminated", "unregistered")])
        assert len(home.cscf._reg_event) == 0
        assert request.call_id == last.call_id


@pytest.mark.clause("RFC 6665", "4.2.1", "4.1.2.3")
@async_test
async def test_a_subscription_is_refreshed_and_ended_in_its_dialog(tmp_path):
    async with home_network(tmp_path) as home:
        [alice] = await registered(home, ALICE)
        request, answer = await subscribe(alice)
        target = str(parse_name_addr(answer.headers.get("Contact")).uri)
        for cseq, expires in ((2, 300), (3, 0)):
            again = SipRequest("SUBSCRIBE", target, request.headers.items())
            again.headers.remove("Route")
            again.headers.set("To", answer.headers.get("To"))
            again.headers.set("CSeq", f"{cseq} SUBSCRIBE")
            again.headers.set("Expires", str(expires))
            response = await alice.peer.stack.request(again, home.hop, role="mw")
            assert (response.status, response.headers.get("Expires")) == (200, str(expires))
        await until(lambda: len(notifies(alice.peer)) == 3)
        assert notifies(alice.peer)[-1].headers.get("Subscription-State").startswith("terminated")
        again.headers.set("CSeq", "4 SUBSCRIBE")
        assert (await alice.peer.stack.request(again, home.hop, role="mw")).status == 481


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 3680", "4.6-authorization")
@async_test
async def test_who_may_watch(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        assert (await subscribe(bob, asserted="<sip:bob@ims.test>"))[1].status == 403
        assert (await subscribe(bob, asserted=""))[1].status == 403
        stranger = await home.peer("gateway", nf_type="IMS_AGW")
        assert (await subscribe(bob, asserted="<sip:alice@ims.test>", peer=stranger))[1].status == 403
        assert (await subscribe(alice, asserted="<sip:pcscf.visited.test>"))[1].status == 200
        assert (await subscribe(alice, asserted="<sip:alice@ims.test>", impu="sip:nobody@ims.test"))[1].status == 404


@pytest.mark.attack("T9")
@async_test
async def test_a_subscription_outlives_the_node(tmp_path):
    async with home_network(tmp_path) as home:
        [alice] = await registered(home, ALICE)
        await subscribe(alice)
        await until(lambda: notifies(alice.peer))
        settings = home.lab.document["nodes"]["cscf"]["settings"]
        await home.lab.stop("cscf")
        home.cscf = await home.lab.start("cscf", "cscf", settings, cls=type(home.cscf))
        assert len(home.cscf._reg_event) == 1
        assert (await alice.register(expires=0)).status == 200
        await until(lambda: len(notifies(alice.peer)) > 1)
        first, second = notifies(alice.peer)[:2]
        assert second.cseq[0] > first.cseq[0]
        assert states(second)[0] == "1"


@pytest.mark.attack("T7")
@async_test
async def test_one_watcher_cannot_use_up_the_subscriptions_of_all(tmp_path):
    async with home_network(tmp_path, max_subscriptions=5, max_subscriptions_per_watcher=3) as home:
        alice, bob = await registered(home, ALICE, BOB)
        for _ in range(8):
            assert (await subscribe(alice))[1].status == 200
        assert len(home.cscf._reg_event) == 3
        await until(lambda: len(notifies(alice.peer)) == 8 + 5)
        ended = [one for one in notifies(alice.peer) if "terminated" in one.headers.get("Subscription-State")]
        assert len(ended) == 5
        assert (await subscribe(bob, impu="sip:bob@ims.test"))[1].status == 200
        assert (await subscribe(alice, asserted="<sip:pcscf.visited.test>"))[1].status == 200
        assert (await subscribe(bob, impu="sip:bob@ims.test"))[1].status == 503
