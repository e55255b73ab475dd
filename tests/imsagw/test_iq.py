"""Iq over real gRPC: transactions, ownership, keys, errors, restart of the P-CSCF."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from keying.sdes import generate
from keying.suites import SUITES
from nodes.imsagw.crypto import write_crypto
from protos import capture_pb2, iq_pb2
from sba.errors import RemoteProblem
from sba.testing import async_test
from tests.imsagw.calls import CALL_ID, IQ, SUITE, Call, context_of, gateway, read, rtp, tx_id, until

ACCESS, CORE = iq_pb2.ACCESS, iq_pb2.CORE
CAPTURE = capture_pb2.DESCRIPTOR.services_by_name["MediaCapture"].methods_by_name["Capture"]


def on_gateway(**settings: Any):
    """Run a test with (node, pcscf, lab, call) on a gateway of these settings."""

    def decorate(function):
        def test(tmp_path: Path):
            @async_test
            async def run() -> None:
                async with gateway(tmp_path, **settings) as (node, pcscf, lab):
                    call = Call(pcscf)
                    try:
                        await function(node, pcscf, lab, call)
                    finally:
                        call.close()

            return run()

        test.__name__, test.__doc__ = function.__name__, function.__doc__
        return test

    return decorate


async def _drops(call: Call) -> list[Any]:
    return list((await call.audit()).contexts[0].statistics[0].drops)


async def _tapped(node: Any) -> bool:
    return bool(node._capture._tapped)


async def refused(awaitable: Any, code: grpc.StatusCode, cause: str) -> RemoteProblem:
    with pytest.raises(RemoteProblem) as caught:
        await awaitable
    assert (caught.value.code, caught.value.cause) == (code, cause)
    return caught.value


@pytest.mark.clause("TS 33.328", "6.2.1.3.1-1")
@pytest.mark.clause("TS 33.328", "7.2.1-2", "7.2.1-4")
@on_gateway()
async def test_gateway_makes_its_own_key_for_the_accepted_line(node, pcscf, lab, call):
    await call.reserve()
    (line,) = call.local(ACCESS).sdes_local
    assert (line.tag, line.suite) == (call.phone_key.tag, SUITE)
    assert len(line.key_salt) == SUITES[SUITE].key_salt_length
    assert line.key_salt != call.phone_key.keys[0].key_salt.reveal()
    assert not call.local(CORE).sdes_local


@pytest.mark.clause("TS 33.328", "7.3.1")
@on_gateway()
async def test_terminating_side_offers_lines_and_uses_the_one_the_phone_took(node, pcscf, lab, call):
    suites = ["AEAD_AES_256_GCM", SUITE]
    access = call.access()
    for name in ("remote", "sdes_remote", "sdes_local_request"):
        access.ClearField(name)
    access.sdes_local_request.suites.extend(suites)
    await call.reserve(access)
    lines = call.local(ACCESS).sdes_local
    assert [(line.tag, line.suite) for line in lines] == [(1, suites[0]), (2, suites[1])]
    answer = call.access(sdes_local_selected=2)
    answer.ClearField("sdes_local_request")
    await call.configure(ACCESS, answer)
    await call.talk(0, 3, context_of(call.phone_key))
    call.far.sendto(rtp(1), call.port(CORE))
    assert context_of(lines[1]).unprotect_rtp(await read(call.phone)) == rtp(1)


@pytest.mark.clause("RFC 4568", "7.1.4")
@on_gateway()
async def test_lines_are_the_same_until_a_new_key_is_asked_for(node, pcscf, lab, call):
    await call.reserve()
    first = call.local(ACCESS).sdes_local[0]
    again = call.access()
    again.ClearField("sdes_remote")
    same = await call.configure(ACCESS, again)
    assert same.terminations[0].streams[0].sdes_local[0] == first
    again.sdes_local_request.rekey = True
    other = await call.configure(ACCESS, again)
    fresh = other.terminations[0].streams[0].sdes_local[0]
    assert fresh.key_salt != first.key_salt
    call.far.sendto(rtp(1), call.port(CORE))
    assert context_of(first).unprotect_rtp(await read(call.phone)) == rtp(1), "the old key until the phone answered"
    await call.configure(ACCESS, iq_pb2.StreamSpec(stream_id=1, sdes_local_selected=fresh.tag))
    call.far.sendto(rtp(2), call.port(CORE))
    assert context_of(fresh).unprotect_rtp(await read(call.phone)) == rtp(2)


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("TS 33.328", "7.4-3")
@on_gateway()
async def test_old_key_from_a_new_address_is_refused_and_the_call_goes_on(node, pcscf, lab, call):
    await call.reserve()
    sender = context_of(call.phone_key)
    await call.talk(0, 2, sender)
    moved = call.access()
    moved.remote.port = 4000
    await refused(call.configure(ACCESS, moved), grpc.StatusCode.INVALID_ARGUMENT, "IQ_449")
    await call.talk(2, 2, sender)


@on_gateway()
async def test_repeated_transaction_gets_the_first_answer(node, pcscf, lab, call):
    request = call.request()
    first, second = await asyncio.gather(*(pcscf.call(IQ["Reserve"], request) for _ in range(2)))
    assert first == second
    assert len(node.gateway.contexts) == 1
    other = call.request()
    other.tx_id, other.priority = request.tx_id, 3
    await refused(pcscf.call(IQ["Reserve"], other), grpc.StatusCode.INVALID_ARGUMENT, "IQ_442")


@on_gateway()
async def test_repeated_release_gets_the_same_counters(node, pcscf, lab, call):
    await call.reserve()
    await call.talk(0, 2, context_of(call.phone_key))
    request = iq_pb2.ReleaseRequest(tx_id=tx_id(), context_id=call.context_id)
    first = await pcscf.call(IQ["Release"], request)
    assert first == await pcscf.call(IQ["Release"], request)
    assert first.statistics[0].packets_in == 2
    assert node.gateway.contexts == {}


@pytest.mark.attack("T6")
@on_gateway()
async def test_context_of_another_p_cscf_cannot_be_touched_or_seen(node, pcscf, lab, call):
    await call.reserve()
    stranger = Call(await lab.client("PCSCF", "pcscf-b"))
    stranger.context_id, stranger.answer = call.context_id, call.answer
    gone = grpc.StatusCode.NOT_FOUND
    await refused(stranger.configure(ACCESS, iq_pb2.StreamSpec(stream_id=1, mode=iq_pb2.INACTIVE)), gone, "IQ_411")
    await refused(stranger.release(), gone, "IQ_411")
    assert not (await stranger.audit()).contexts
    await call.talk(0, 2, context_of(call.phone_key))
    stranger.close()


@pytest.mark.attack("T9")
@pytest.mark.clause("TS 33.328", "7.2.1")
@on_gateway()
async def test_media_outlives_the_p_cscf_which_finds_its_contexts_again(node, pcscf, lab, call):
    await call.reserve()
    sender = context_of(call.phone_key)
    await call.talk(0, 2, sender)
    await pcscf.close()
    lab.clients.remove(pcscf)
    await call.talk(2, 5, sender)
    call.pcscf = await lab.client("PCSCF")
    associated = await call.pcscf.call(IQ["Associate"], iq_pb2.AssociateRequest(alg_id="pcscf", profile_version="1"))
    audit = await call.audit()
    assert associated.epoch == audit.epoch == call.answer.epoch
    assert [context.context_id for context in audit.contexts] == [call.context_id]
    assert (await call.release()).statistics[0].packets_in == 7


@pytest.mark.attack("T8")
@on_gateway()
async def test_audit_shows_contexts_without_keys(node, pcscf, lab, call):
    await call.reserve()
    operator = await lab.client("LAB")
    audit = await operator.call(IQ["Audit"], iq_pb2.AuditRequest(root=True))
    (context,) = audit.contexts
    assert (context.correlation, audit.streams_in_use) == (CALL_ID, 1)
    octets = audit.SerializeToString()
    for line in (call.phone_key.keys[0].key_salt.reveal(), call.local(ACCESS).sdes_local[0].key_salt):
        assert line not in octets
    assert all(not info.sdes_local for termination in context.terminations for info in termination.streams)
    assert set(audit.suites) == set(SUITES)


@on_gateway()
async def test_gate_opens_and_closes_on_command(node, pcscf, lab, call):
    await call.reserve(call.access(), call.core())
    sender = context_of(call.phone_key)
    await call.talk(0, 1, sender)

    async def switch(mode: int) -> None:
        request = iq_pb2.ThroughConnectionRequest(tx_id=tx_id(), context_id=call.context_id)
        request.changes.add(termination_id=call.termination(ACCESS).termination_id, stream_id=1, mode=mode)
        await pcscf.call(IQ["SetThroughConnection"], request)

    await switch(iq_pb2.INACTIVE)
    call.phone.sendto(sender.protect_rtp(rtp(1)), call.port(ACCESS))
    drops = await until(lambda: _drops(call))
    assert [(drop.cause, drop.packets) for drop in drops] == [("gate_closed", 1)]
    await switch(iq_pb2.SENDRECV)
    await call.talk(2, 2, sender)


@on_gateway()
async def test_stream_is_added_and_removed_in_a_running_context(node, pcscf, lab, call):
    await call.reserve()
    video = call.core(transport=iq_pb2.RTP_AVPF)
    video.stream_id, video.media = 2, iq_pb2.VIDEO
    for side in (ACCESS, CORE):
        answer = await call.configure(side, video)
        assert answer.terminations[0].streams[0].port % 2 == 0
    assert node.gateway.streams_in_use == 2
    for side in (ACCESS, CORE):
        await call.configure(side, iq_pb2.StreamSpec(stream_id=2, removed=True))
    assert node.gateway.streams_in_use == 1
    await call.talk(0, 2, context_of(call.phone_key))


@pytest.mark.clause("TS 33.328", "7.2.1-8")
@on_gateway(srtp="off")
async def test_gateway_without_srtp_refuses_it_and_says_so(node, pcscf, lab, call):
    await refused(call.reserve(), grpc.StatusCode.UNIMPLEMENTED, "IQ_445")
    assert node.gateway.contexts == {}
    associated = await pcscf.call(IQ["Associate"], iq_pb2.AssociateRequest())
    assert not associated.srtp
    assert not associated.suites


BAD = {
    "fingerprint": ({"tls_id": "abc"}, "UNIMPLEMENTED", "IQ_445"),
    "dtls": ({"transport": iq_pb2.UDP_TLS_RTP_SAVP}, "UNIMPLEMENTED", "IQ_445"),
    "tcp": ({"transport": iq_pb2.TCP_MSRP}, "UNIMPLEMENTED", "IQ_445"),
    "address": ({"remote": iq_pb2.RemoteSpec(ip="not an address", port=9)}, "INVALID_ARGUMENT", "IQ_449"),
    "port": ({"remote": iq_pb2.RemoteSpec(port=70000)}, "INVALID_ARGUMENT", "IQ_449"),
    "dscp": ({"dscp": 64}, "INVALID_ARGUMENT", "IQ_449"),
    "tag": ({"sdes_local_selected": 9}, "INVALID_ARGUMENT", "IQ_449"),
    "suite": ({"sdes_local_request": iq_pb2.SdesLocalRequest(suites=["F8_128_HMAC_SHA1_80"])}, "", ""),
}


@pytest.mark.parametrize("case", [name for name in BAD if name != "suite"])
def test_bad_stream_is_refused_with_its_code_and_leaves_nothing(tmp_path: Path, case: str):
    fields, code, cause = BAD[case]

    @async_test
    async def run() -> None:
        async with gateway(tmp_path) as (node, pcscf, _lab):
            call = Call(pcscf)
            problem = await refused(call.reserve(call.access(**fields)), grpc.StatusCode[code], cause)
            assert problem.problem.invalid_params[0].reason == "1"
            assert node.gateway.contexts == {}
            assert (await pcscf.call(IQ["Audit"], iq_pb2.AuditRequest())).streams_in_use == 0
            call.close()

    return run()


@pytest.mark.attack("T2")
@pytest.mark.clause("RFC 4568", "6.1", "6.3")
@pytest.mark.parametrize("fault", ["length", "suite", "lifetime", "mki", "parameter"])
def test_bad_key_is_refused_and_never_quoted(tmp_path: Path, fault: str):
    @async_test
    async def run() -> None:
        async with gateway(tmp_path) as (_, pcscf, _lab):
            call = Call(pcscf)
            line = write_crypto(call.phone_key)
            expected = {"length": "IQ_X01", "parameter": "IQ_445"}.get(fault, "IQ_449")
            if fault == "length":
                line.key_salt = line.key_salt[:-1]
            elif fault == "suite":
                line.suite = "ROT13"
            elif fault == "lifetime":
                line.lifetime = 2**48 + 1
            elif fault == "mki":
                line.mki, line.mki_length = 256, 1
            else:
                line.session_params.append("UNENCRYPTED_SRTP")
            access = call.access()
            access.ClearField("sdes_remote")
            access.sdes_remote.append(line)
            with pytest.raises(RemoteProblem) as caught:
                await call.reserve(access)
            assert caught.value.cause == expected
            octets = line.key_salt
            text = str(caught.value) + str(caught.value.problem)
            assert repr(octets)[2:-1] not in text
            assert octets.hex() not in text
            call.close()

    return run()


@pytest.mark.attack("T2")
@pytest.mark.clause("RFC 4568", "6.1")
@pytest.mark.parametrize("whose", ["phone", "gateway"])
def test_a_key_of_one_stream_is_refused_on_another_of_the_call(tmp_path: Path, whose: str):
    @async_test
    async def run() -> None:
        async with gateway(tmp_path) as (node, pcscf, _lab):
            call = Call(pcscf)
            await call.reserve()
            key = write_crypto(call.phone_key) if whose == "phone" else call.local(ACCESS).sdes_local[0]
            second = call.access(stream_id=2)
            second.ClearField("sdes_remote")
            second.sdes_remote.append(key)
            await refused(call.configure(ACCESS, second), grpc.StatusCode.INVALID_ARGUMENT, "IQ_449")
            assert node.gateway.streams_in_use == 1
            await call.talk(0, 2, context_of(call.phone_key))
            call.close()

    return run()


@on_gateway(streams_max=1)
async def test_full_gateway_refuses_calls_but_not_emergency_calls(node, pcscf, lab, call):
    await call.reserve()
    other = Call(pcscf)
    await refused(other.reserve(), grpc.StatusCode.RESOURCE_EXHAUSTED, "IQ_510")
    request = other.request()
    request.emergency = True
    await pcscf.call(IQ["Reserve"], request)
    assert node.gateway.streams_in_use == 2
    other.close()


@pytest.mark.attack("T7")
@on_gateway(streams_max=1, streams_max_emergency=1)
async def test_emergency_calls_exceed_the_limit_by_so_much_and_no_more(node, pcscf, lab, call):
    await call.reserve()
    for expected in (True, False):
        other = Call(pcscf)
        request = other.request()
        request.emergency = True
        if expected:
            await pcscf.call(IQ["Reserve"], request)
        else:
            await refused(pcscf.call(IQ["Reserve"], request), grpc.StatusCode.RESOURCE_EXHAUSTED, "IQ_510")
        other.close()
    assert node.gateway.streams_in_use == 2


@pytest.mark.attack("T7")
@on_gateway(streams_max=2)
async def test_streams_added_later_are_counted_too(node, pcscf, lab, call):
    await call.reserve()
    plain = {"transport": iq_pb2.RTP_AVP}
    await call.configure(CORE, call.core(stream_id=2, **plain))
    await refused(call.configure(CORE, call.core(stream_id=3)), grpc.StatusCode.RESOURCE_EXHAUSTED, "IQ_510")
    await call.configure(CORE, call.core(stream_id=2, mode=iq_pb2.INACTIVE))
    assert node.gateway.streams_in_use == 2
    await call.talk(0, 2, context_of(call.phone_key))


@on_gateway()
async def test_unknown_context_and_termination_have_their_codes(node, pcscf, lab, call):
    await call.reserve()
    known = call.context_id
    request = iq_pb2.ConfigureRequest(tx_id=tx_id(), context_id=known)
    request.terminations.add(id="none").streams.append(call.core())
    await refused(pcscf.call(IQ["Configure"], request), grpc.StatusCode.NOT_FOUND, "IQ_430")
    call.context_id = "none"
    await refused(call.release(), grpc.StatusCode.NOT_FOUND, "IQ_411")


@pytest.mark.attack("T3")
@on_gateway()
async def test_srtp_failures_and_latching_are_notified_and_delivered_again_after_a_break(node, pcscf, lab, call):
    await call.reserve()
    await call.talk(0, 1, context_of(call.phone_key))
    for number in range(60):
        call.phone.sendto(rtp(number + 1, payload=bytes(60)), call.port(ACCESS))

    async def heard(after: int, count: int) -> list[Any]:
        found = []
        stream = pcscf.stream(IQ["Events"], iq_pb2.EventsRequest(last_event_id=after))
        async for event in stream:
            found.append(event)
            if len(found) == count:
                await stream.aclose()
                break
        return found

    latched, failure = await asyncio.wait_for(heard(0, 2), 5)
    assert (latched.latched_address.ip, latched.latched_address.port) == call.phone.getsockname()
    assert 50 <= failure.srtp_failure.auth_failures <= 60, "told once fifty are passed"
    assert failure.context_id == call.context_id
    (again,) = await asyncio.wait_for(heard(latched.event_id, 1), 5)
    assert again == failure


@on_gateway()
async def test_capture_shows_both_sides_of_a_call_as_on_the_wire(node, pcscf, lab, call):
    operator = await lab.client("LAB")
    stream = operator.stream(CAPTURE, capture_pb2.CaptureRequest(correlation=CALL_ID))
    items = aiter(stream)
    assert (await anext(items)).started
    await call.reserve()
    sender = context_of(call.phone_key)
    await until(lambda: _tapped(node))
    packet = sender.protect_rtp(rtp(0))
    call.phone.sendto(packet, call.port(ACCESS))
    came, left = [(await asyncio.wait_for(anext(items), 5)).packet for _ in range(2)]
    assert (came.payload, came.comment) == (packet, "imsagw-a access SRTP")
    assert (left.payload, left.destination_port) == (rtp(0), call.far.getsockname()[1])
    await stream.aclose()


@pytest.mark.attack("T8")
@on_gateway()
async def test_capture_with_keys_is_refused_unless_the_lab_exports_keys(node, pcscf, lab, call):
    operator = await lab.client("LAB")
    with pytest.raises(RemoteProblem) as caught:
        async for _ in operator.stream(CAPTURE, capture_pb2.CaptureRequest(with_keys=True)):
            pass
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED


@on_gateway(key_export=True)
async def test_capture_with_keys_gives_both_directions_where_the_switch_is_on(node, pcscf, lab, call):
    await call.reserve()
    operator = await lab.client("LAB")
    stream = operator.stream(CAPTURE, capture_pb2.CaptureRequest(with_keys=True))
    items = [await asyncio.wait_for(anext(aiter(stream)), 5) for _ in range(3)]
    lines = {item.key.crypto for item in items if item.WhichOneof("item") == "key"}
    assert call.phone_key.encode() in lines
    assert len(lines) == 2
    await stream.aclose()


@pytest.mark.attack("T8")
@on_gateway()
async def test_association_spans_tell_the_protection_and_no_key(node, pcscf, lab, call):
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    node.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    await call.reserve()
    await call.talk(0, 3, context_of(call.phone_key))
    await call.release()
    spans = {
        span.attributes["media.side"]: span
        for span in exporter.get_finished_spans()
        if span.name == "media.association"
    }
    access, core = spans["access"].attributes, spans["core"].attributes
    assert (access["media.protection"], access["media.keying"], access["media.suite"]) == ("SRTP", "SDES", SUITE)
    assert (core["media.protection"], core.get("media.suite")) == ("RTP", None)
    assert (access["media.packets_in"], core["media.packets_out"], access["sip.call_id"]) == (3, 3, CALL_ID)
    text = "".join(repr((span.name, dict(span.attributes), span.events)) for span in exporter.get_finished_spans())
    for octets in (call.phone_key.keys[0].key_salt.reveal(), call.local(ACCESS).sdes_local[0].key_salt):
        assert octets.hex() not in text
    assert call.phone_key.keys[0].encode()[7:47] not in text


@pytest.mark.clause("TS 33.328", "7.2.2", "7.3.1-1")
@on_gateway()
async def test_end_to_end_media_passes_untouched(node, pcscf, lab, call):
    opaque = {"transport": iq_pb2.OPAQUE_UDP}
    await call.reserve(call.core(**opaque, remote=call.access().remote), call.core(**opaque))
    protected = context_of(generate("AEAD_AES_256_GCM", 1)).protect_rtp(rtp(1))
    call.phone.sendto(protected, call.port(ACCESS))
    assert await read(call.far) == protected
    assert {row.protection for row in (await call.release()).statistics} == {"opaque"}


@on_gateway()
async def test_realms_heartbeat_and_monitor_answer(node, pcscf, lab, call):
    await call.reserve()
    realms = await pcscf.call(IQ["ActivateRealmMonitor"], iq_pb2.RealmMonitorRequest())
    assert list(realms.realms) == ["access", "core"]
    beat = await pcscf.call(IQ["Heartbeat"], iq_pb2.HeartbeatRequest(alg_id="pcscf"))
    assert beat.epoch == call.answer.epoch
    monitor = iq_pb2.MonitorRequest(context_id=call.context_id, stream_id=1)
    monitor.termination_id = call.termination(ACCESS).termination_id
    monitor.inactivity.seconds, monitor.inactivity.direction = 7, iq_pb2.BOTH
    await pcscf.call(IQ["ConfigureMonitor"], monitor)
    record = next(iter(node.gateway.contexts.values())).terminations[monitor.termination_id].streams[1]
    assert record.config.inactivity_s == 7
