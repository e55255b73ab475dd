"""The consumer side: tokens used until they expire, retries only where a repeat is harmless, fail-over."""

import asyncio
import contextlib
import signal
from dataclasses import replace

import grpc
import pytest
from google.protobuf.message import DecodeError

from protos import hss_ueau_pb2, iq_pb2, nrf_nfm_pb2
from sba.errors import RemoteProblem
from sba.testing import LabFixture, async_test
from tests.sba.gateway import (
    EVENTS,
    HEARTBEAT,
    VECTORS,
    Gateway,
    Subscribers,
    beat,
    forge,
    lab_with_gateway,
    present,
    until,
)

ANNEX_P = "TS 33.328 Annex P"
LIST = nrf_nfm_pb2.DESCRIPTOR.services_by_name["NnrfNfManagement"].methods_by_name["NfListRetrieval"]


@async_test
async def test_a_call_finds_its_producer_and_gets_its_answer(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        client = await lab.client("PCSCF")
        answer = await client.call(HEARTBEAT, beat("x"))
        assert answer.epoch == "agw-1"
        context = gateway.handled[0][1]
        assert context.peer.nf_type == "PCSCF"
        assert context.token.subject == lab.instance_id("client-pcscf")
        assert 0 < context.deadline <= 2.0


@pytest.mark.clause(ANNEX_P, "P.1.3-11")
@async_test
async def test_one_token_serves_many_calls(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        client = await lab.client("PCSCF")
        await asyncio.gather(*(client.call(HEARTBEAT, beat()) for _ in range(20)))
        await client.call(HEARTBEAT, beat())
        assert len(gateway.handled) == 21
        assert client.tokens.requests == 2, "one for discovery, one for the gateway"


@pytest.mark.clause(ANNEX_P, "P.1.3-11")
@async_test
async def test_a_token_is_renewed_shortly_before_it_expires(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, _):
        client = await lab.client("PCSCF")
        now = [1000.0]
        client.tokens._clock = lambda: now[0]
        await client.call(HEARTBEAT, beat())
        (key,) = [key for key in client.tokens._held if key[1] == "IMS_AGW"]
        first = client.tokens.held(key)
        now[0] = first.expires - 1
        assert client.tokens.held(key) is first
        now[0] = first.expires + 1
        assert now[0] < 1000.0 + 300, "renewed before the token is really over"
        await client.call(HEARTBEAT, beat())
        assert client.tokens.held(key) is not first


@pytest.mark.clause(ANNEX_P, "P.1.3-1")
@async_test
async def test_signing_key_rotation_needs_no_restart(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, _):
        client = await lab.client("PCSCF")
        await client.call(HEARTBEAT, beat())
        old = lab.nodes["nrf"].signing_keys.current.key_id
        new = await lab.nodes["nrf"].signing_keys.rotate()
        await client.call(HEARTBEAT, beat())  # the old key is still published
        for key in list(client.tokens._held):
            client.tokens.forget(key)
        lab.nodes["agw-1"].server._access._verifier.keys._fetched_at = float("-inf")
        await client.call(HEARTBEAT, beat())  # signed with the new key, which the gateway fetches
        assert old != new
        assert lab.nodes["agw-1"].server._access._verifier.keys.known(new) is not None


@async_test
async def test_a_token_the_producer_refuses_is_replaced_once(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        client = await lab.client("PCSCF")
        await client.call(HEARTBEAT, beat())
        keys = lab.nodes["nrf"].signing_keys
        keys._keys.clear()
        keys._current = None
        await keys.rotate()  # the NRF lost its keys: every token out there is void
        verifier = gateway.server._access._verifier
        await verifier.keys.refresh()
        verifier.keys._fetched_at = float("-inf")
        answer = await client.call(HEARTBEAT, beat())
        assert answer.epoch == "agw-1"


@async_test
async def test_an_idempotent_call_is_repeated_and_another_instance_answers(tmp_path):
    async with lab_with_gateway(tmp_path, nrf_settings={"discovery_validity_s": 60}) as (lab, first):
        second = await lab.start("imsagw", "agw-2", {"priority": 20}, cls=Gateway)
        client = await lab.client("PCSCF")
        assert (await client.call(HEARTBEAT, beat())).epoch == "agw-1", "the lower priority value comes first"
        await first.server.stop()
        assert (await client.call(HEARTBEAT, beat())).epoch == "agw-2"
        assert len(second.handled) == 1


@async_test
async def test_a_call_that_is_not_idempotent_is_never_repeated_once_sent(tmp_path):
    async with LabFixture(tmp_path, nrf_settings={"discovery_validity_s": 60}) as lab:
        first = await lab.start("hss", "hss-1", {}, cls=Subscribers)
        second = await lab.start("hss", "hss-2", {"priority": 20}, cls=Subscribers)
        client = await lab.client("SCSCF")
        with pytest.raises(RemoteProblem) as raised:
            await client.call(VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impi="congested"))
        assert raised.value.cause == "NF_CONGESTION"
        assert len(first.handled) == 1
        assert second.handled == [], "it may have been carried out"


@async_test
async def test_a_call_that_is_not_idempotent_fails_over_while_it_was_never_sent(tmp_path):
    async with LabFixture(tmp_path, nrf_settings={"discovery_validity_s": 60}) as lab:
        first = await lab.start("hss", "hss-1", {}, cls=Subscribers)
        second = await lab.start("hss", "hss-2", {"priority": 20}, cls=Subscribers)
        client = await lab.client("SCSCF")
        assert len(await client.discover("HSS", "nhss-ims-ueau")) == 2
        await first.server.stop()
        await client.call(VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impi="a"))
        assert first.handled == []
        assert len(second.handled) == 1


@contextlib.asynccontextmanager
async def behind(port: int, silence_s: float):
    """Give the port of a host that takes connections, says nothing for a time, and then is the one at ``port``."""
    tasks: set[asyncio.Task] = set()

    async def pipe(reader, writer):
        while octets := await reader.read(65536):
            writer.write(octets)
            await writer.drain()

    async def joined(reader, writer):
        with contextlib.ExitStack() as stack:
            stack.callback(writer.close)
            await asyncio.sleep(silence_s)
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(to_writer.close)
            await asyncio.gather(pipe(reader, to_writer), pipe(to_reader, writer))

    def accepted(reader, writer):
        tasks.add(asyncio.create_task(joined(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def send_by(client, instance_id: str, port: int) -> None:
    """Let a client reach an instance at another port."""
    targets = client._targets

    async def found(*arguments, **options):
        known = await targets(*arguments, **options)
        return [replace(target, port=port) if target.instance_id == instance_id else target for target in known]

    client._targets = found


@async_test
async def test_a_producer_slow_to_greet_is_waited_for(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway), behind(gateway.server.port, 0.35) as port:
        client = await lab.client("PCSCF")
        send_by(client, lab.instance_id("agw-1"), port)
        stream = client.stream(EVENTS, iq_pb2.EventsRequest(alg_id="alg"))
        assert (await anext(stream)).event_id == 1, "streams are not repeated"
        await stream.aclose()


@async_test
async def test_a_producer_that_never_greets_leaves_time_for_another(tmp_path):
    async with LabFixture(tmp_path, nrf_settings={"discovery_validity_s": 60}) as lab, behind(1, 60.0) as port:
        first = await lab.start("hss", "hss-1", {}, cls=Subscribers)
        second = await lab.start("hss", "hss-2", {"priority": 20}, cls=Subscribers)
        client = await lab.client("SCSCF")
        send_by(client, lab.instance_id("hss-1"), port)
        await client.call(VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impi="a"))
        assert first.handled == []
        assert len(second.handled) == 1


@async_test
async def test_an_instance_can_be_pinned(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, first):
        await lab.start("imsagw", "agw-2", {"priority": 20}, cls=Gateway)
        client = await lab.client("PCSCF")
        answer = await client.call(HEARTBEAT, beat(), instance=lab.instance_id("agw-2"))
        assert answer.epoch == "agw-2"
        assert first.handled == []


@async_test
async def test_no_instance_is_a_clear_error(tmp_path):
    async with LabFixture(tmp_path) as lab:
        client = await lab.client("PCSCF")
        with pytest.raises(RemoteProblem) as raised:
            await client.call(HEARTBEAT, beat(), timeout=1.0)
        assert raised.value.cause == "TARGET_NF_NOT_REACHABLE"


@async_test
async def test_problem_details_arrive_as_they_were_raised(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, _):
        client = await lab.client("PCSCF")
        with pytest.raises(RemoteProblem) as raised:
            await client.call(HEARTBEAT, beat("refuse"))
        problem = raised.value
        assert problem.code is grpc.StatusCode.ABORTED
        assert (problem.problem.status, problem.cause) == (409, "CONTEXT_BUSY")
        assert problem.problem.detail == "another change is under way"
        assert [(p.param, p.reason) for p in problem.problem.invalid_params] == [("alg_id", "taken")]
        assert problem.instance == lab.instance_id("agw-1")


@async_test
async def test_an_unexpected_exception_shows_nothing_of_itself_to_the_peer(tmp_path, capfd):
    async with lab_with_gateway(tmp_path) as (lab, _):
        client = await lab.client("PCSCF")
        with pytest.raises(RemoteProblem) as raised:
            await client.call(HEARTBEAT, beat("crash"))
        assert raised.value.code is grpc.StatusCode.INTERNAL
        assert raised.value.cause == "SYSTEM_FAILURE"
        assert "internal text" not in str(raised.value.problem)
    assert '"event":"handler-failed"' in capfd.readouterr().err


@async_test
async def test_the_deadline_ends_a_slow_call(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, _):
        client = await lab.client("PCSCF")
        await client.call(HEARTBEAT, beat())
        started = asyncio.get_running_loop().time()
        with pytest.raises(RemoteProblem) as raised:
            await client.call(HEARTBEAT, beat("slow"), timeout=0.3)
        assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert asyncio.get_running_loop().time() - started < 1.5


@async_test
async def test_a_stream_yields_and_its_end_reaches_the_producer(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        client = await lab.client("PCSCF")
        stream = client.stream(EVENTS, iq_pb2.EventsRequest(alg_id="alg"))
        seen = [(await anext(stream)).event_id for _ in range(3)]
        assert seen == [1, 2, 3]
        await stream.aclose()
        await until(lambda: gateway.streams)
        async with asyncio.timeout(5):
            await gateway.streams[0].wait()


@pytest.mark.clause(ANNEX_P, "P.1.2-10")
@async_test
async def test_a_reissued_certificate_is_taken_up_without_restart(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        client = await lab.client("PCSCF")
        await client.call(HEARTBEAT, beat())
        old = gateway.handled[-1][1].peer.serial_number
        lab.ca.reissue("client-pcscf")
        lab.ca.reissue("agw-1")
        client._certificate_checked = float("-inf")
        await client.call(HEARTBEAT, beat())
        assert gateway.handled[-1][1].peer.serial_number != old


@pytest.mark.attack("T6")
@pytest.mark.clause(ANNEX_P, "P.1.2-10")
@async_test
async def test_a_producer_whose_certificate_was_revoked_is_not_called_until_it_has_another(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        client = await lab.client("PCSCF")
        await client.call(HEARTBEAT, beat())
        lab.ca.revoke("agw-1")
        client._certificate_checked = float("-inf")
        with pytest.raises(RemoteProblem) as refused:
            await client.call(HEARTBEAT, beat())
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
        assert len(gateway.handled) == 1
        lab.ca.reissue("agw-1")
        gateway.sbi._certificate_checked = float("-inf")
        await gateway.beat()
        answer = await client.call(HEARTBEAT, beat())
        assert answer.epoch == "agw-1"


@pytest.mark.attack("T9")
@async_test
async def test_the_nrf_dies_and_returns(tmp_path):
    async with LabFixture(tmp_path, nrf="process") as lab:
        nrf = lab.processes[0]
        gateway = await lab.start("imsagw", "agw-1", {"heartbeat_s": 1}, cls=Gateway)
        client = await lab.client("PCSCF")
        await client.call(HEARTBEAT, beat())
        await nrf.kill()
        assert nrf.process.returncode == -signal.SIGKILL
        client.discovery.forget()
        answer = await client.call(HEARTBEAT, beat())
        assert answer.epoch == "agw-1", "known producers serve on without the NRF"
        await lab.spawn("nrf", "nrf")
        async with asyncio.timeout(15):
            while True:
                try:
                    listed = await client.call(LIST, nrf_nfm_pb2.NfListRequest(nf_type="IMS_AGW"))
                except RemoteProblem:
                    await asyncio.sleep(0.1)
                    continue
                break
        assert [p.instance_name for p in listed.profiles] == ["agw-1"], "the registry survived"
        assert (await client.call(HEARTBEAT, beat())).epoch == "agw-1"
        assert gateway.health.serving


@pytest.mark.attack("T9")
@async_test
async def test_an_nrf_that_lost_its_registry_is_told_again(tmp_path):
    async with LabFixture(tmp_path) as lab:
        gateway = await lab.start("imsagw", "agw-1", {"heartbeat_s": 1}, cls=Gateway)
        await lab.nodes["nrf"].registry.remove(gateway.identity.instance_id)
        await until(lambda: lab.nodes["nrf"].registry.get(gateway.identity.instance_id) is not None)


@pytest.mark.attack("T9")
@async_test
async def test_a_node_that_starts_before_its_nrf_registers_once_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr("sba.nf._REGISTER_WAIT_S", 0.2)
    async with LabFixture(tmp_path, nrf=False) as lab:
        gateway = await lab.start("imsagw", "agw-1", cls=Gateway)
        assert gateway.health.serving
        assert not gateway.registered.is_set()
        await lab.start("nrf", "nrf")
        async with asyncio.timeout(10):
            await gateway.registered.wait()
        client = await lab.client("PCSCF")
        assert (await client.call(HEARTBEAT, beat())).epoch == "agw-1"
        await lab.stop("agw-1")


@async_test
async def test_the_deadline_covers_the_questions_to_the_nrf(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        client = await lab.client("PCSCF")

        async def silent(_):
            await asyncio.Event().wait()

        client.tokens._request = silent
        started = asyncio.get_running_loop().time()
        with pytest.raises(RemoteProblem) as raised:
            await client.call(HEARTBEAT, beat(), timeout=0.3)
        assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert asyncio.get_running_loop().time() - started < 1.5
        assert gateway.handled == []
        for asking in client.tokens._asking.values():
            asking.cancel()


@async_test
async def test_an_answer_of_before_serves_a_short_call_while_the_nrf_is_silent(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, _):
        client = await lab.client("PCSCF")
        await client.call(HEARTBEAT, beat())

        async def silent(_):
            await asyncio.Event().wait()

        client.discovery._ask = silent
        client.discovery.forget()
        assert (await client.call(HEARTBEAT, beat("x"), timeout=1.0)).epoch == "agw-1"
        for asking in client.discovery._asking.values():
            asking.cancel()


@async_test
async def test_what_is_no_message_is_a_problem_of_the_producer(tmp_path):
    def unreadable(_):
        raise DecodeError

    async with lab_with_gateway(tmp_path) as (lab, _):
        client = await lab.client("PCSCF")
        await client.call(HEARTBEAT, beat())
        assert (await anext(client.stream(EVENTS, iq_pb2.EventsRequest(alg_id="alg")))).event_id == 1
        stub = client._stub
        client._calls.clear()
        client._stub = lambda contract, target: stub(replace(contract, parse_response=unreadable), target)
        with pytest.raises(RemoteProblem, match="malformed response"):
            await anext(client.stream(EVENTS, iq_pb2.EventsRequest(alg_id="alg")))
        with pytest.raises(RemoteProblem, match="malformed response"):
            await client.call(HEARTBEAT, beat())


@pytest.mark.attack("T6")
@async_test
async def test_unknown_kids_do_not_make_the_producer_flood_the_nrf(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        assert await present(lab, forge(lab)) is None
        keys = gateway.server._access._verifier.keys
        before = keys.fetches
        for number in range(10):
            assert await present(lab, forge(lab, headers={"kid": f"unknown-{number}"})) is not None
        assert keys.fetches - before <= 1
        assert await present(lab, forge(lab)) is None
