"""Tickets that a UE asks for, makes and resolves by hand, and messages of calls that it tells."""

import time

import pytest

from keying.mikey.identity import Identity
from nodes.https import HttpFault, HttpResponse
from nodes.ue.kms_policy import identity_of, wish_for
from nodes.ue.media_security import KMS
from protos import ue_control_pb2
from sba.errors import ProblemError
from sba.testing import async_test
from tests.ue.fake_pcscf import Site
from tests.ue.kms_calls import Bob, Kms
from tests.ue.kms_stand_in import ALICE, BOB, management
from tests.ue.test_calls import place


@pytest.mark.clause("TS 33.328", "6.2.3.7-1", "7.2.3-1")
@async_test
async def test_a_ticket_asked_for_by_hand_serves_the_next_calls(tmp_path):
    async with Kms(tmp_path) as site:
        Bob(site, site.kms)
        order = ue_control_pb2.TicketOrder(responders=[BOB], reusable=True, validity_s=600)
        info = await site.ue.control.RequestTicket(order, None)
        assert (info.kms, info.initiator, list(info.responders)) == ("kms.ims.test", ALICE, [BOB])
        assert {"D", "E", "F", "I", "J"} <= set(info.flags)
        assert info.not_after == pytest.approx(time.time() + 600, abs=5)
        assert info.request_init[1] == 11
        assert info.request_resp[1] == 13
        site.kms.asked.clear()
        assert (await place(site, security=KMS))[-1].result == "established"
        assert (await place(site, security=KMS, ticket=info.ticket_id))[-1].result == "established"
        assert "ticketrequest" not in site.kms.asked
        (listed,) = (await site.ue.control.ListTickets(ue_control_pb2.TicketListRequest(), None)).tickets
        assert (listed.ticket_id, listed.uses) == (info.ticket_id, 2)
        await place(site, security=KMS, fresh_ticket="1")
        assert "ticketrequest" in site.kms.asked


@pytest.mark.clause("RFC 6043", "4.1.1")
@async_test
async def test_a_ticket_made_by_hand_is_of_mode_3(tmp_path):
    async with Kms(tmp_path) as site:
        info = await site.ue.control.RequestTicket(ue_control_pb2.TicketOrder(responders=[BOB], mode_3=True), None)
        assert site.kms.asked == []
        assert "D" not in info.flags
        assert "L" in info.flags


@pytest.mark.clause("TS 33.328", "5.4.3-1")
@async_test
async def test_a_ticket_is_resolved_by_hand(tmp_path):
    async with Kms(tmp_path) as site:
        bob = management(site.kms, BOB)
        held = await bob.obtain(*wish(bob, BOB, ALICE))
        info = await site.ue.control.ResolveTicket(ue_control_pb2.ResolveOrder(ticket=held.octets), None)
        assert (info.kms, info.responder, info.forked) == ("kms.ims.test", ALICE, False)
        assert (info.resolve_init[1], info.resolve_resp[1]) == (16, 18)


def wish(keys, initiator, responder):
    policy = keys.policy.model_copy(update={"forking": False})
    return Identity.uri(initiator), wish_for(policy, (identity_of(responder),))


@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"tamper": "flip-mac"}, "MIKEY_AUTH_FAILURE"),
        ({"tamper": "wrong-psk"}, "MIKEY_AUTH_FAILURE"),
        ({"tamper": "truncate"}, None),
        ({"tamper": "old-timestamp"}, "MIKEY_INVALID_TS"),
        ({"tamper": "replay"}, "MIKEY_INVALID_TS"),
        ({"initiator": "sip:mallory@ims.test"}, "MIKEY_INVALID_ID"),
        ({"nonsense": "1"}, "INVALID_PARAM"),
    ],
)
@async_test
async def test_spoilt_requests_for_tickets_are_refused_with_the_mikey_error(tmp_path, options, cause):
    async with Kms(tmp_path) as site:
        good = ue_control_pb2.TicketOrder(responders=[BOB])
        await site.ue.control.RequestTicket(good, None)
        with pytest.raises(ProblemError) as refused:
            await site.ue.control.RequestTicket(ue_control_pb2.TicketOrder(responders=[BOB], options=options), None)
        if cause is not None:
            assert refused.value.cause == cause
        assert refused.value.status in {400, 403}


@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    ("options", "cause"),
    [({"tamper": "wrong-ticket"}, "MIKEY_INVALID_TICKET"), ({"responder": "sip:mallory@ims.test"}, "MIKEY_INVALID_ID"),
     ({"tamper": "flip-mac"}, "MIKEY_AUTH_FAILURE")],
)  # fmt: skip
@async_test
async def test_spoilt_requests_to_resolve_are_refused(tmp_path, options, cause):
    async with Kms(tmp_path) as site:
        bob = management(site.kms, BOB)
        held = await bob.obtain(*wish(bob, BOB, ALICE))
        with pytest.raises(ProblemError) as refused:
            await site.ue.control.ResolveTicket(ue_control_pb2.ResolveOrder(ticket=held.octets, options=options), None)
        assert refused.value.cause == cause


@async_test
async def test_tickets_need_a_kms(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        for ask in (
            site.ue.control.RequestTicket(ue_control_pb2.TicketOrder(responders=[BOB]), None),
            site.ue.control.ListTickets(ue_control_pb2.TicketListRequest(), None),
            site.ue.control.ResolveTicket(ue_control_pb2.ResolveOrder(ticket=b"x"), None),
        ):
            with pytest.raises(ProblemError) as refused:
                await ask
            assert refused.value.cause == "KMS_NOT_CONFIGURED"
        events = await place(site, security=KMS)
        assert events[-1].reason == ("media-sec:profile-refused: policy excludes keys from a KMS, or there is no KMS")


@async_test
async def test_a_kms_that_is_down_is_told_by_hand_too(tmp_path):
    async with Kms(tmp_path) as site:
        site.kms.script = [HttpResponse(500)]
        with pytest.raises(ProblemError) as refused:
            await site.ue.control.RequestTicket(ue_control_pb2.TicketOrder(responders=[BOB]), None)
        assert refused.value.cause == "KMS_REFUSED"
        site.keys.client._https.down = HttpFault.TLS
        with pytest.raises(ProblemError) as refused:
            await site.ue.control.RequestTicket(ue_control_pb2.TicketOrder(responders=[BOB]), None)
        assert (refused.value.status, refused.value.cause) == (504, "KMS_UNREACHABLE")


@pytest.mark.attack("T8")
@pytest.mark.parametrize("export", [True, False])
@async_test
async def test_the_messages_of_a_call_are_told_only_where_the_lab_exports_keys(tmp_path, export):
    async with Kms(tmp_path, key_export=export) as site:
        Bob(site, site.kms)
        request = ue_control_pb2.CallRequest(
            target=BOB, security=KMS, seconds=0.1, options={"media": "off"}, with_keys=True
        )
        events = [event async for event in site.ue.control.Call(request, None)]
        again = await site.ue.control.Report(ue_control_pb2.ReportRequest(with_keys=True), None)
        quiet = await site.ue.control.Report(ue_control_pb2.ReportRequest(), None)
        assert not quiet.HasField("mikey")
        for event in (events[-1], again):
            assert event.HasField("mikey") is export
            if export:
                seen = event.mikey
                assert [one[1] for one in (seen.request_init, seen.request_resp, seen.transfer_init, seen.transfer_resp)] == [
                    11, 13, 14, 15,
                ]  # fmt: skip
                assert (len(seen.psk), seen.issuer, seen.resolve_init) == (32, "kms.ims.test", b"")
