import asyncio

import pytest

from nodes.ue.config import Behaviour
from nodes.ue.media_security import SecurityContext
from nodes.ue.session_media import OfferRefused, SessionMedia
from nodes.ue.stream import Stream
from protos import ue_control_pb2
from sba.errors import ProblemError
from sba.testing import async_test
from signalling.sdp import parse_sdp
from signalling.sip.dialog import Dialog
from signalling.sip.message import SipResponse
from signalling.sip.stack import Hop, make_response
from tests.ue.fake_pcscf import IP, SERVER_LIST, Site, until

TARGET = "sip:bob@ims.test"
CONTEXT = SecurityContext(
    "preferred", announced=True, agreed=True, confidential=True, suites=("AES_CM_128_HMAC_SHA1_80",)
)


def far_end():
    return SessionMedia(IP, CONTEXT, lambda index: Stream(index, IP))


class FarEnd:
    """Bob: answers the UE's INVITE."""

    def __init__(self, site, *, provisional=180, reliable=False, change=lambda body: body, status=200, tag="b2"):
        self.site, self.provisional, self.reliable = site, provisional, reliable
        self.change, self.status, self.tag = change, status, tag
        self.media = far_end()
        self.dialog = None
        site.pcscf.on_invite = self.invited

    def response(self, txn, status, body=b"", headers=()):
        contact = ("Contact", f"<sip:bob@{IP}:{self.site.pcscf.port}>")
        return make_response(
            txn.request,
            status,
            to_tag=self.tag,
            headers=[contact, *headers],
            body=body,
            content_type="application/sdp" if body else None,
        )

    def invited(self, txn):
        self.txn = txn
        if self.dialog is not None and txn.request.to_tag is not None:
            self.dialog.check_incoming(txn.request)
            txn.respond(self.response(txn, 200, self.media.answer(txn.request.body)))
            return
        if self.status >= 300:
            txn.respond(self.response(txn, self.status))
            return
        body = self.change(self.media.answer(txn.request.body) if txn.request.body else self.media.first_offer("none"))
        if self.provisional:
            headers = [("Require", "100rel"), ("RSeq", "7")] if self.reliable else []
            txn.respond(self.response(txn, self.provisional, body if self.reliable else b"", headers))
        if self.status:
            final = self.response(txn, 200, b"" if self.reliable else body)
            self.dialog = Dialog.from_uas(txn.request, final)
            txn.respond(final)


async def place(site, seconds=0.2, security="none", target=TARGET, suites=(), **options):
    """Call through the control service; returns all events."""
    options.setdefault("media", "off")
    request = ue_control_pb2.CallRequest(
        target=target, security=security, seconds=seconds, suites=suites, options=options
    )
    return [event async for event in site.ue.control.Call(request, None)]


async def answered(site, behaviour, body=None, headers=(), **more):
    """Call the UE; returns the request and the responses."""
    site.ue.agent.behaviour = Behaviour.read({"media": "off", "answer_after_s": "0", **behaviour})
    offer = far_end().first_offer("none") if body is None else body
    request = site.pcscf.invite(site.ue, offer, headers, **more)
    seen = []
    site.pcscf.send(request, seen)
    await until(lambda: any(isinstance(one, SipResponse) and one.status >= 200 for one in seen))
    return request, seen


@pytest.mark.clause("TS 24.229", "5.2", "3.5")
@pytest.mark.clause("TS 33.328", "7.1.1-6")
@async_test
async def test_an_invite_carries_what_the_edge_needs(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        FarEnd(site)
        events = await place(site)
        assert [event.state for event in events] == ["calling", "ringing", "established", "ended"]
        assert events[-1].result == "established"
        (invite,) = site.pcscf.of("INVITE")
        routes = invite.headers.values("Route")
        assert routes[0].startswith(f"<sip:{IP}:{site.pcscf.port}")
        assert routes[1] == "<sip:orig@scscf.ims.test;lr>"
        assert invite.headers.get("P-Preferred-Identity") == "<sip:alice@ims.test>"
        assert invite.headers.get("Security-Verify") == SERVER_LIST
        assert "mmtel" in invite.headers.get("Accept-Contact")
        assert invite.headers.get("Supported") == "100rel"
        assert invite.headers.get("traceparent") is not None
        for request in (site.pcscf.of("BYE")[0], site.pcscf.acks[0]):
            assert request.headers.get("Security-Verify") == SERVER_LIST


@pytest.mark.clause("TS 33.328", "7.2.1-1", "7.2.1-4")
@async_test
async def test_an_e2ae_offer_on_the_wire(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        FarEnd(site)
        events = await place(site, security="e2ae-sdes")
        (stream,) = parse_sdp(site.pcscf.of("INVITE")[0].body).media
        assert (stream.proto, stream.e2ae, len(stream.crypto)) == ("RTP/SAVP", "requested", 3)
        assert events[-1].security == "e2ae-sdes"
        assert events[-1].legs[0].suite == "AES_CM_128_HMAC_SHA1_80"


@pytest.mark.clause("TS 33.328", "5.4.1-3", "7.2.1-6")
@pytest.mark.attack("T1")
@async_test
async def test_e2ae_that_was_not_agreed_is_refused_before_a_word_is_sent(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register(mechanisms=())
        events = await place(site, security="e2ae-sdes")
        assert [event.state for event in events] == ["ended"]
        assert (events[0].result, events[0].sip_status, events[0].reason) == (
            "refused",
            488,
            "media-sec:e2ae-not-announced: e2ae is not agreed with the P-CSCF",
        )
        assert site.pcscf.of("INVITE") == []


@pytest.mark.clause("TS 24.229", "UO-3", "SEC-2")
@pytest.mark.attack("T1")
@async_test
async def test_a_stripped_answer_ends_the_call_with_ack_and_bye(tmp_path):
    def strip(body):
        sdp = parse_sdp(body)
        sdp.media[0].crypto = []
        return sdp.to_bytes()

    async with Site(tmp_path) as site:
        await site.ue.register()
        FarEnd(site, change=strip)
        events = await place(site, security="e2ae-sdes")
        assert (events[-1].result, events[-1].sip_status, events[-1].reason) == (
            "refused",
            488,
            "media-sec:downgrade-refused: the stream was accepted without a crypto line",
        )
        await until(lambda: site.pcscf.acks and site.pcscf.of("BYE"))
        assert "cause=488" in site.pcscf.of("BYE")[0].headers.get("Reason")


@pytest.mark.clause("RFC 3262", "3", "4")
@async_test
async def test_a_reliable_answer_is_acknowledged_by_prack(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        FarEnd(site, provisional=183, reliable=True)
        events = await place(site)
        assert "early" in [event.state for event in events]
        (prack,) = site.pcscf.of("PRACK")
        assert prack.headers.get("RAck") == "7 1 INVITE"


@pytest.mark.clause("RFC 3261", "13.2.1")
@pytest.mark.clause("TS 33.328", "7.2.1-10")
@async_test
async def test_an_invite_without_offer_answers_in_the_ack(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        FarEnd(site, provisional=0)
        events = await place(site, offerless="1")
        assert events[-1].result == "established"
        assert site.pcscf.of("INVITE")[0].body == b""
        assert parse_sdp(site.pcscf.acks[0].body).media[0].proto == "RTP/AVP"


@pytest.mark.clause("RFC 3261", "9.1")
@async_test
async def test_cancel_after_ringing(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        FarEnd(site, status=0)
        events = await place(site, cancel_after_s="0.05")
        assert (events[-1].result, events[-1].sip_status) == ("refused", 487)
        assert site.pcscf.of("CANCEL")


class Crossing(FarEnd):
    """Bob answers at the moment the CANCEL comes: his 200 passes it on the way."""

    def __init__(self, site, **more):
        super().__init__(site, status=0, **more)
        site.pcscf.cancel_received = self.cancelled

    def cancelled(self, txn, cancel):
        self.site.pcscf.requests.append(cancel)
        final = self.response(txn, 200, self.change(far_end().answer(txn.request.body)))
        self.dialog = Dialog.from_uas(txn.request, final)
        txn.respond(final)


@pytest.mark.clause("RFC 3261", "9.1", "13.2.2.4", "15")
@pytest.mark.parametrize("answer", ["usable", "unusable"])
@pytest.mark.parametrize("provisional", [180, 183])
def test_an_answer_that_crosses_the_cancel_is_acknowledged_and_hung_up(tmp_path, answer, provisional):
    @async_test
    async def run():
        async with Site(tmp_path) as site:
            await site.ue.register()
            change = (lambda body: body) if answer == "usable" else (lambda body: b"v=0\r\nnonsense")
            Crossing(site, provisional=provisional, change=change)
            events = await place(site, cancel_after_s="0.05")
            states = [event.state for event in events]
            assert "established" not in states
            assert states[-1] == "ended"
            assert (events[-1].result, events[-1].sip_status) == ("refused", 487 if answer == "usable" else 400)
            await until(lambda: site.pcscf.acks and site.pcscf.of("BYE"))
            (bye,), (ack, *_) = site.pcscf.of("BYE"), site.pcscf.acks
            assert "b2" in bye.headers.get("To")
            assert "b2" in ack.headers.get("To")
            assert ack.cseq == (1, "ACK")
            assert site.ue.agent.calls == {}

    return run()


@pytest.mark.clause("RFC 3261", "13.2.2.4")
@async_test
async def test_an_answer_after_the_call_ended_by_itself_is_acknowledged_and_hung_up_once(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        far = FarEnd(site, status=0)
        calling = asyncio.ensure_future(place(site))
        await until(lambda: site.ue.agent.calls and far.site.pcscf.of("INVITE"))
        (call,) = site.ue.agent.calls.values()
        await until(lambda: call.state == "ringing")
        call.vanish()
        await calling
        answer = far.response(far.txn, 200, far_end().answer(far.txn.request.body))
        far.txn.respond(answer)
        await until(lambda: site.pcscf.of("BYE"))
        far.txn.send_success_again(answer)
        await until(lambda: len(site.pcscf.acks) >= 2)
        assert len(site.pcscf.of("BYE")) == 1


@pytest.mark.clause("RFC 3261", "12.1.2")
@async_test
async def test_an_answer_that_forms_no_dialog_ends_the_call(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()

        def routed_nowhere(txn):
            txn.respond(make_response(txn.request, 200, to_tag="b2", headers=[("Record-Route", "<nonsense")]))

        site.pcscf.on_invite = routed_nowhere
        events = await asyncio.wait_for(place(site), 3)
        assert (events[-1].state, events[-1].result, events[-1].sip_status) == ("ended", "failed", 500)


@pytest.mark.parametrize("status", [404, 486, 488, 503, 603])
def test_a_refusal_is_told_as_it_is(tmp_path, status):
    @async_test
    async def run():
        async with Site(tmp_path) as site:
            await site.ue.register()
            FarEnd(site, status=status)
            events = await place(site)
            assert (events[-1].result, events[-1].sip_status) == ("refused", status)
            assert site.ue.agent.calls == {}

    return run()


@pytest.mark.clause("RFC 3261", "13.2.2.4")
@async_test
async def test_a_second_fork_that_answers_is_hung_up(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        far = FarEnd(site)
        calling = asyncio.ensure_future(place(site, seconds=0.5))
        await until(lambda: site.pcscf.acks)
        far.tag = "other"
        far.txn.respond(far.response(far.txn, 200, far_end().answer(far.txn.request.body)))
        await until(lambda: any("other" in (request.headers.get("To") or "") for request in site.pcscf.of("BYE")))
        assert (await calling)[-1].result == "established"


@pytest.mark.clause("RFC 3261", "13.3", "12.1.1")
@async_test
async def test_an_incoming_call_is_answered_and_ended_by_the_caller(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        request, seen = await answered(site, {})
        assert [one.status for one in seen][-2:] == [180, 200]
        dialog = site.pcscf.acknowledge(request, seen[-1])
        await until(lambda: any(call.state == "established" for call in site.ue.agent.calls.values()))
        ended = []
        site.pcscf.send(dialog.request("BYE"), ended)
        await until(lambda: ended)
        assert ended[0].status == 200
        report = await site.ue.control.Report(ue_control_pb2.ReportRequest(call_id=request.call_id, wait_s=2), None)
        assert (report.state, report.result) == ("ended", "established")


@pytest.mark.clause("TS 24.229", "UO-5", "SEC-1")
@pytest.mark.attack("T1")
@async_test
async def test_a_plain_call_is_refused_where_protection_is_required(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        _, seen = await answered(site, {"media_security": "required"})
        assert seen[-1].status == 488
        assert seen[-1].headers.get("Warning") == f'399 {IP} "media-sec:protection-required"'
        assert site.ue.agent.calls == {}


@pytest.mark.clause("RFC 3262", "3", "5")
@async_test
async def test_early_media_waits_for_prack_before_the_answer(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        site.ue.agent.behaviour = Behaviour.read({"media": "off", "early_media": "true", "answer_after_s": "0"})
        request = site.pcscf.invite(site.ue, far_end().first_offer("none"), [("Supported", "100rel")])
        seen = []
        site.pcscf.send(request, seen)
        await until(lambda: sum(one.status == 183 for one in seen) >= 2)
        assert all(one.status < 200 for one in seen)
        early = next(one for one in seen if one.status == 183)
        dialog = Dialog.from_uac(request, early)
        answers = []
        rack = f"{early.headers.get('RSeq')} 1 INVITE"
        site.pcscf.send(dialog.request("PRACK", [("RAck", "1 1 INVITE")]), answers)
        await until(lambda: answers)
        assert answers[0].status == 481
        site.pcscf.send(dialog.request("PRACK", [("RAck", rack)]), answers)
        await until(lambda: seen[-1].status == 200)
        assert answers[1].status == 200
        assert seen[-1].body == b""
        site.pcscf.acknowledge(request, seen[-1])


@pytest.mark.clause("RFC 3261", "8.2", "E-13")
@pytest.mark.parametrize(
    ("header", "status"),
    [(("Require", "precondition"), 420), (("Content-Encoding", "gzip"), 415)],
)
def test_what_the_ue_does_not_understand_is_refused(tmp_path, header, status):
    @async_test
    async def run():
        async with Site(tmp_path) as site:
            await site.ue.register()
            _, seen = await answered(site, {}, headers=[header])
            assert seen[-1].status == status

    return run()


@pytest.mark.parametrize(("behaviour", "status"), [({"reject_status": "486"}, 486), ({"reject_status": "603"}, 603)])
def test_the_ue_refuses_as_told(tmp_path, behaviour, status):
    @async_test
    async def run():
        async with Site(tmp_path) as site:
            await site.ue.register()
            _, seen = await answered(site, behaviour)
            assert seen[-1].status == status

    return run()


@pytest.mark.clause("RFC 3261", "9.2")
@async_test
async def test_a_cancelled_call_ends_with_487(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        site.ue.agent.behaviour = Behaviour.read({"media": "off", "keep_ringing": "true"})
        seen = []
        txn = site.pcscf.send(site.pcscf.invite(site.ue, far_end().first_offer("none")), seen)
        await until(lambda: any(one.status == 180 for one in seen))
        txn.cancel()
        await until(lambda: seen[-1].status >= 200)
        assert seen[-1].status == 487


@pytest.mark.clause("RFC 3261", "11", "12.2.2")
@async_test
async def test_options_and_requests_of_unknown_dialogs(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        seen = []
        options = site.pcscf.invite(site.ue)
        options.method = "OPTIONS"
        options.headers.set("CSeq", "1 OPTIONS")
        site.pcscf.send(options, seen)
        bye = site.pcscf.invite(site.ue, to_tag="nobody")
        bye.method = "BYE"
        bye.headers.set("CSeq", "1 BYE")
        site.pcscf.send(bye, seen)
        message = site.pcscf.invite(site.ue)
        message.method = "MESSAGE"
        message.headers.set("CSeq", "1 MESSAGE")
        site.pcscf.send(message, seen)
        await until(lambda: len([one for one in seen if one.status >= 200]) == 3)
        assert sorted(one.status for one in seen) == [200, 405, 481]
        ok = next(one for one in seen if one.status == 200)
        assert "PRACK" in ok.headers.get("Allow")
        assert ok.headers.get("Supported") == "100rel"


async def in_call(site, security="none"):
    far = FarEnd(site)
    calling = asyncio.ensure_future(place(site, seconds=0, security=security))
    await until(lambda: any(call.state == "established" for call in site.ue.agent.calls.values()))
    (call,) = site.ue.agent.calls.values()
    return far, call, calling


async def modify(site, call, action, **options):
    request = ue_control_pb2.ModifyRequest(call_id=call.call_id, action=action, options=options)
    return await site.ue.control.Modify(request, None)


@pytest.mark.clause("TS 33.328", "7.4-1", "7.4-2", "7.4-3")
@async_test
async def test_hold_rekey_move_and_streams_within_the_call(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        far, call, calling = await in_call(site, "e2e-sdes")
        keys = [call.media.streams[0].keys.send]
        for action, options in (
            ("hold", {}),
            ("resume", {}),
            ("rekey", {}),
            ("add-stream", {}),
            ("rekey", {"stream": "2"}),
            ("drop-stream", {}),
        ):
            outcome = await modify(site, call, action, **options)
            assert outcome.sip_status == 200, action
            keys.append(call.media.streams[0].keys.send)
        assert keys[0] == keys[1] == keys[2]
        assert keys[3] != keys[2]
        assert far.media.streams[0].keys.receive == keys[-1]
        assert [media.port for media in call.media.local.media][1] == 0
        await site.ue.control.HangUp(ue_control_pb2.CallHandle(call_id=call.call_id), None)
        assert (await calling)[-1].reason == "hung up"


@pytest.mark.clause("RFC 3261", "14.1")
@async_test
async def test_glare_is_tried_again(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        far, call, calling = await in_call(site)
        call.offers.retry_delay = lambda **_: 0.02
        answer, tries = far.invited, []

        def first_491(txn):
            tries.append(txn)
            if len(tries) == 1:
                far.dialog.check_incoming(txn.request)
                txn.respond(make_response(txn.request, 491))
            else:
                answer(txn)

        site.pcscf.on_invite = first_491
        assert (await modify(site, call, "hold")).sip_status == 200
        assert len(tries) == 2
        await call.hang_up()
        await calling


@pytest.mark.clause("RFC 3261", "14.1")
@pytest.mark.clause("RFC 4568", "7.1.4", "SDES-17a")
@async_test
async def test_a_refused_reoffer_leaves_the_call_as_it_was(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        _, call, calling = await in_call(site, "e2e-sdes")
        keys = call.media.streams[0].keys
        site.pcscf.on_invite = lambda txn: txn.respond(make_response(txn.request, 488))
        assert (await modify(site, call, "rekey")).sip_status == 488
        assert call.media.streams[0].keys == keys
        assert call.state == "established"
        await call.hang_up()
        await calling


@pytest.mark.clause("RFC 3261", "14.1")
@pytest.mark.clause("RFC 3264", "8.3.1")
@pytest.mark.clause("TS 33.328", "7.4-2")
@pytest.mark.parametrize("outcome", [488, 500, 200])
def test_sound_goes_on_while_a_move_is_offered_and_on_the_old_port_under_the_old_key_when_it_is_refused(
    tmp_path, outcome
):
    @async_test
    async def run():
        from twisted.internet import reactor

        from media.session import RtpEndpoint, SessionSettings, spoken_by

        async with Site(tmp_path) as site:
            await site.ue.register()
            endpoint = RtpEndpoint(reactor, SessionSettings(), source=spoken_by("bob"))
            endpoint.open(IP)
            far = FarEnd(site)
            far.media = SessionMedia(IP, CONTEXT, lambda index: Stream(index, IP, endpoint))
            calling = asyncio.ensure_future(place(site, seconds=10, security="e2ae-sdes", media="on"))
            await until(lambda: site.pcscf.acks)
            endpoint.start()
            (call,) = site.ue.agent.calls.values()
            stream = call.media.streams[0]

            async def heard_on():
                before = stream.statistics().packets_in, endpoint.statistics().packets_in
                await until(lambda: stream.statistics().packets_in > before[0] + 5)
                await until(lambda: endpoint.statistics().packets_in > before[1] + 5)

            await heard_on()
            port, keys, answer, held = stream.local, stream.keys, far.invited, []
            site.pcscf.on_invite = held.append
            moving = asyncio.ensure_future(modify(site, call, "move-port"))
            await until(lambda: held)
            offered = parse_sdp(held[0].request.body).media[0]
            assert offered.port != port[1]
            await heard_on()
            if outcome == 200:
                answer(held[0])
            else:
                held[0].respond(make_response(held[0].request, outcome))
            assert (await moving).sip_status == outcome
            moved = outcome == 200
            assert (stream.local[1] == offered.port, stream.local == port) == (moved, not moved)
            assert (stream.keys == keys) is not moved
            await heard_on()
            drops = {cause: count for cause, count in endpoint.session.drops.items() if count}
            assert drops == {}, "every packet was understood"
            site.pcscf.on_invite = answer
            assert (await modify(site, call, "rekey")).sip_status == 200, "the next offer is sound again"
            await heard_on()
            await call.hang_up()
            await calling
            endpoint.close()

    return run()


@pytest.mark.clause("RFC 3261", "14.2")
@pytest.mark.clause("RFC 3311", "5.2")
@pytest.mark.attack("T1")
@async_test
async def test_offers_of_the_far_end_within_the_call(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        far, call, calling = await in_call(site, "e2e-sdes")

        async def offer(method, body):
            seen = []
            request = far.dialog.request(method, [("Content-Type", "application/sdp")] if body else [], body)
            site.pcscf.send(request, seen, Hop.over(site.pcscf.flow))
            await until(lambda: seen and seen[-1].status >= 200)
            if method == "INVITE" and seen[-1].status < 300:
                site.pcscf.stack.send_ack(far.dialog.ack_for(seen[-1]), Hop.over(site.pcscf.flow), "gm")
                await asyncio.sleep(0.05)
            return seen[-1]

        held = await offer("UPDATE", far.media.next_offer(direction="inactive"))
        assert held.status == 200
        far.media.take_answer(held.body)
        assert parse_sdp(held.body).media[0].direction == "inactive"
        rekeyed = await offer("INVITE", far.media.next_offer(direction="sendrecv", rekey=0))
        assert rekeyed.status == 200
        far.media.take_answer(rekeyed.body)
        assert call.media.streams[0].keys.receive == far.media.streams[0].keys.send
        plain = parse_sdp(far.media.next_offer())
        plain.media[0].crypto = []
        plain.media[0].proto = "RTP/AVP"
        refused = await offer("INVITE", plain.to_bytes())
        assert refused.status == 488
        assert "downgrade-refused" in refused.headers.get("Warning")
        offered = await offer("INVITE", b"")
        assert parse_sdp(offered.body).media[0].crypto
        await call.hang_up()
        await calling


@pytest.mark.attack("T9")
@pytest.mark.clause("TS 24.229", "DR-5")
@async_test
async def test_a_call_outlives_the_loss_of_its_flow(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        _, call, calling = await in_call(site)
        site.pcscf.cut()
        await until(lambda: len(site.pcscf.of("REGISTER")) >= 4 and site.ue.registrar.registration.is_registered)
        assert call.state == "established"
        assert await call.hang_up() == 200
        assert (await calling)[-1].result == "established"


@pytest.mark.clause("TS 24.229", "DR-5")
@async_test
async def test_within_a_call_the_ue_registers_over_a_new_flow_before_it_says_anything_else(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        _, call, calling = await in_call(site)
        before = len(site.pcscf.requests)
        site.pcscf.cut()
        await until(lambda: site.ue.registrar.flow is None)
        assert await call.hang_up() == 200
        assert [one.method for one in site.pcscf.requests[before:]] == ["REGISTER", "REGISTER", "BYE"]
        await calling


@async_test
async def test_a_call_ends_at_this_side_when_the_network_does_not_come_back(tmp_path):
    async with Site(tmp_path, flow_wait_s=0.2) as site:
        await site.ue.register()
        _, call, calling = await in_call(site)
        await site.pcscf.stack.stop()
        await until(lambda: site.ue.registrar.flow is None)
        assert await call.hang_up() == 503
        await calling


@async_test
async def test_many_calls_at_once(tmp_path):
    async with Site(tmp_path) as site:
        await site.ue.register()
        site.pcscf.on_invite = lambda txn: FarEnd(site).invited(txn)
        outcomes = await asyncio.gather(*(place(site, seconds=0.1) for _ in range(50)))
        assert {events[-1].result for events in outcomes} == {"established"}
        assert len({events[-1].call_id for events in outcomes}) == 50
        assert len({events[-1].trace_id for events in outcomes}) == 50
        assert site.ue.agent.calls == {}


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        (ue_control_pb2.CallRequest(target="nonsense"), "INVALID_PARAM"),
        (ue_control_pb2.CallRequest(target=TARGET, security="rot13"), "INVALID_PARAM"),
        (ue_control_pb2.CallRequest(target=TARGET, options={"unknown": "1"}), "INVALID_PARAM"),
        (ue_control_pb2.CallRequest(target=TARGET, suites=["FOO"]), "INVALID_PARAM"),
        (ue_control_pb2.CallRequest(target=TARGET, play_wav=b"RIFFxxxx"), "INVALID_PARAM"),
        (ue_control_pb2.CallRequest(target=TARGET), "UE_NOT_REGISTERED"),
    ],
)
def test_the_control_service_refuses_what_it_cannot_do(tmp_path, request_, cause):
    @async_test
    async def run():
        async with Site(tmp_path) as site:
            if cause != "UE_NOT_REGISTERED":
                await site.ue.register()
            with pytest.raises(ProblemError) as caught:
                await anext(site.ue.control.Call(request_, None))
            assert caught.value.cause == cause

    return run()


@async_test
async def test_behaviour_is_kept_and_unknown_switches_are_refused(tmp_path):
    async with Site(tmp_path) as site:
        control = site.ue.control
        await control.SetBehaviour(ue_control_pb2.BehaviourRequest(options={"early_media": "true"}), None)
        answer = await control.SetBehaviour(ue_control_pb2.BehaviourRequest(options={"reject_status": "486"}), None)
        assert (answer.options["early_media"], answer.options["reject_status"]) == ("true", "486")
        with pytest.raises(ProblemError):
            await control.SetBehaviour(ue_control_pb2.BehaviourRequest(options={"sing": "1"}), None)


@pytest.mark.clause("RFC 3550", "6.6")
@async_test
async def test_real_media_flows_and_is_judged(tmp_path):
    from twisted.internet import reactor

    from media.session import RtpEndpoint, SessionSettings, spoken_by

    async with Site(tmp_path) as site:
        await site.ue.register()
        endpoint = RtpEndpoint(reactor, SessionSettings(), source=spoken_by("bob"))
        endpoint.open(IP)
        far = FarEnd(site)
        far.media = SessionMedia(IP, CONTEXT, lambda index: Stream(index, IP, endpoint))
        calling = asyncio.ensure_future(place(site, seconds=1.0, security="e2ae-sdes", media="on"))
        await until(lambda: site.pcscf.acks)
        endpoint.start()
        events = await calling
        assert "media" in [event.state for event in events]
        assert events[-1].audio.heard
        assert events[-1].legs[0].protection == "SRTP"
        assert events[-1].legs[0].packets_in > 20
        assert endpoint.statistics().packets_in > 20
        endpoint.close()


def test_refusals_carry_their_warning():
    assert OfferRefused(488, "x").warning == ""
