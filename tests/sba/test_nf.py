"""A node's life: start-up check, order of start and stop, health, limits, context of concurrent calls."""

import asyncio
import contextlib
import io
import json

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from twisted.internet.defer import Deferred

from protos import nrf_disc_pb2
from sba import runtime
from sba.access import RateLimit
from sba.errors import ConfigurationError, ContractError, RemoteProblem
from sba.testing import LabFixture, async_test
from tests.sba.gateway import (
    HEARTBEAT,
    Gateway,
    Iq,
    beat,
    channel_to,
    forge,
    lab_with_gateway,
    present,
    raw_call,
    until,
)

ANNEX_P = "TS 33.328 Annex P"


def service_without_options(*, producer: bool):
    """Return the descriptor of a service that forgot its authorization options."""
    from protos import options_pb2

    file = descriptor_pb2.FileDescriptorProto(
        name=f"careless_{producer}.proto", package=f"careless{int(producer)}", syntax="proto3"
    )
    file.dependency.append("protos/options.proto")
    file.message_type.add(name="Nothing")
    service = file.service.add(name="Careless")
    service.method.add(
        name="Do", input_type=f".careless{int(producer)}.Nothing", output_type=f".careless{int(producer)}.Nothing"
    )
    if producer:
        service.options.Extensions[options_pb2.producer].CopyFrom(
            options_pb2.Producer(nf_type="IMS_AGW", service_name="careless")
        )
    pool = descriptor_pool.Default()
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(f"careless{int(producer)}.Careless")


@pytest.mark.clause(ANNEX_P, "P.1.3-6")
@pytest.mark.parametrize("producer", [True, False])
@async_test
async def test_a_method_without_authorization_options_stops_the_node_at_start(tmp_path, producer):
    class Careless:
        service = service_without_options(producer=producer)

        async def Do(self, request, context):
            return request

    class Node(Gateway):
        def servicers(self):
            return (Careless(),)

    async with LabFixture(tmp_path) as lab:
        with pytest.raises(ContractError):
            await lab.start("imsagw", "agw-1", cls=Node)


@async_test
async def test_a_method_without_implementation_stops_the_node_at_start(tmp_path):
    class Half:
        service = Iq.service

        async def Heartbeat(self, request, context): ...

    class Node(Gateway):
        def servicers(self):
            return (Half(),)

    async with LabFixture(tmp_path) as lab:
        with pytest.raises(ContractError, match="Reserve"):
            await lab.start("imsagw", "agw-1", cls=Node)


@async_test
async def test_a_certificate_of_another_nf_type_stops_the_node_at_start(tmp_path):
    async with LabFixture(tmp_path) as lab:
        lab.add("imsagw", "agw-1", nf_types=("HSS",))
        with pytest.raises(ConfigurationError):
            await lab.start("imsagw", "agw-1", cls=Gateway)


@async_test
async def test_order_of_start_and_stop(tmp_path):
    steps = []

    class Node(Gateway):
        async def open_node(self):
            await super().open_node()
            steps.append(("open", self.store is not None, self.registered.is_set()))

        async def start_node(self):
            steps.append(("start", self.server.port > 0, self.registered.is_set(), self.health.serving))

        async def drain_node(self):
            steps.append(("drain", self.health.serving))

        async def close_node(self):
            registry = lab.nodes["nrf"].registry
            steps.append(("close", registry.get(self.identity.instance_id) is None))

    async with LabFixture(tmp_path) as lab:
        node = await lab.start("imsagw", "agw-1", cls=Node)
        assert node.health.serving
        await lab.stop("agw-1")
        assert steps == [
            ("open", True, False),
            ("start", True, True, False),
            ("drain", False),
            ("close", True),
        ]


@async_test
async def test_a_node_is_discovered_only_once_its_ports_are_open(tmp_path):
    seen = []

    class Node(Gateway):
        async def start_node(self):
            request = nrf_disc_pb2.DiscoveryRequest(target_nf_type="IMS_AGW", requester_nf_type="PCSCF")
            seen.append(lab.nodes["nrf"].registry.discover(request))

    async with LabFixture(tmp_path) as lab:
        await lab.start("imsagw", "agw-1", cls=Node)
        request = nrf_disc_pb2.DiscoveryRequest(target_nf_type="IMS_AGW", requester_nf_type="PCSCF")
        assert seen == [[]]
        assert len(lab.nodes["nrf"].registry.discover(request)) == 1


@async_test
async def test_node_whose_registration_meets_a_fault_goes_on_and_is_registered_again(tmp_path):
    async with LabFixture(tmp_path) as lab:
        gateway = await lab.start("imsagw", "agw-1", cls=Gateway)
        stream = io.StringIO()
        gateway.telemetry._stream = stream
        beaten = asyncio.Event()
        beat = gateway.beat

        async def noted():
            interval = await beat()
            beaten.set()
            return interval

        def broken():
            raise OSError("no load to be had")

        gateway.beat, gateway.load = noted, broken
        gateway._profile_changed.set()
        await until(lambda: stream.getvalue().count("registration-fault") >= 2)
        del gateway.load
        beaten.clear()
        await asyncio.wait_for(beaten.wait(), 5)
        faults = [json.loads(line) for line in stream.getvalue().splitlines() if "registration-fault" in line]
        assert {(one["level"], one["fault"]) for one in faults} == {("error", "OSError: no load to be had")}


@async_test
async def test_a_call_in_progress_finishes_while_the_node_stops_and_new_ones_are_refused(tmp_path):
    entered = asyncio.Event()
    leave = asyncio.Event()

    class Slow(Iq):
        async def Heartbeat(self, request, context):
            if request.alg_id == "long":
                entered.set()
                await leave.wait()
            return await super().Heartbeat(request, context)

    class Node(Gateway):
        def servicers(self):
            return (Slow(self),)

        async def drain_node(self):
            problem = await present(lab, forge(lab))
            refused.append(problem)
            leave.set()

    refused = []
    async with LabFixture(tmp_path) as lab:
        await lab.start("imsagw", "agw-1", cls=Node)
        client = await lab.client("PCSCF")
        call = asyncio.ensure_future(client.call(HEARTBEAT, beat("long")))
        await entered.wait()
        await lab.stop("agw-1")
        assert (await call).epoch == "agw-1"
        assert refused[0].cause == "NF_CONGESTION"


@async_test
async def test_health_needs_a_certificate_and_no_token(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        pcscf = lab.add("client", "client-pcscf", nf_types=("PCSCF",))
        async with channel_to(lab, "agw-1", pcscf) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            assert (await check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
            gateway.health.set_serving(serving=False)
            answer = await check(health_pb2.HealthCheckRequest(service="ims.iq.v1.Iq"))
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await check(health_pb2.HealthCheckRequest(service="nothing"))
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("switch", [True, False])
@async_test
async def test_reflection_only_behind_its_switch(tmp_path, switch):
    from grpc_reflection.v1alpha import reflection_pb2

    async with lab_with_gateway(tmp_path, policy={"reflection": switch}) as (lab, _):
        pcscf = lab.add("client", "client-pcscf", nf_types=("PCSCF",))
        async with channel_to(lab, "agw-1", pcscf) as channel:
            ask = channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            call = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            names = []
            with contextlib.suppress(grpc.aio.AioRpcError):
                names = [s.name async for answer in call for s in answer.list_services_response.service]
            assert ("ims.iq.v1.Iq" in names) is switch


@pytest.mark.clause(ANNEX_P, "P.1.3-19")
@async_test
async def test_a_consumer_above_its_rate_is_refused_and_others_are_not(tmp_path):
    async with lab_with_gateway(tmp_path, policy={"calls_per_second": 0.01, "burst": 6}) as (lab, _):
        problems = [await present(lab, forge(lab)) for _ in range(8)]
        assert problems[:6] == [None] * 6
        assert problems[6].code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert problems[6].cause == "NF_CONGESTION_RISK"
        other = lab.add("client", "pcscf-2", nf_types=("PCSCF",))
        token = forge(lab, sub=lab.instance_id("pcscf-2"))
        async with channel_to(lab, "agw-1", other) as channel:
            assert (await raw_call(channel, metadata=(("authorization", f"Bearer {token}"),))).epoch == "agw-1"


def test_rate_limit_refills_with_time():
    now = [0.0]
    limit = RateLimit(2.0, 4.0, lambda: now[0])
    assert [limit.take("a") for _ in range(5)] == [True] * 4 + [False]
    now[0] = 1.0
    assert [limit.take("a") for _ in range(3)] == [True, True, False]


@async_test
async def test_malformed_request_of_an_authorized_consumer(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        pcscf = lab.add("client", "client-pcscf", nf_types=("PCSCF",))
        async with channel_to(lab, "agw-1", pcscf) as channel:
            call = channel.unary_unary("/ims.iq.v1.Iq/Heartbeat")
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(b"\xff\xff\xff", metadata=(("authorization", f"Bearer {forge(lab)}"),))
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(b"\xff\xff\xff")
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED, "the token is looked at first"
        assert gateway.handled == []


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_fifty_concurrent_calls_keep_their_trace_ids(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        client = await lab.client("PCSCF")
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
        expected = {}

        async def one(number):
            with tracer.start_as_current_span(f"call {number}") as span:
                expected[str(number)] = f"{span.get_span_context().trace_id:032x}"
                await client.call(HEARTBEAT, beat(str(number)), timeout=10)

        await asyncio.gather(*(one(number) for number in range(50)))
        assert len(set(expected.values())) == 50
        assert gateway.traces == expected


@async_test
async def test_keep_binds_a_callback_to_its_own_context():
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("test")
    seen = {}
    pending = {number: Deferred() for number in range(50)}

    async def one(number):
        with tracer.start_as_current_span("call") as span:
            trace_id = span.get_span_context().trace_id

            def note(_):
                seen[number] = (trace_id, trace.get_current_span().get_span_context().trace_id)

            pending[number].addCallback(runtime.keep(note))
            await asyncio.sleep(0)

    await asyncio.gather(*(one(number) for number in range(50)))
    for number in reversed(range(50)):
        pending[number].callback(None)
    assert len(seen) == 50
    assert all(mine == current for mine, current in seen.values())


@pytest.mark.attack("T8")
@pytest.mark.clause(ANNEX_P, "P.1.3-20")
@async_test
async def test_no_token_and_no_key_in_the_log(tmp_path, capfd):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        client = await lab.client("PCSCF")
        await client.call(HEARTBEAT, beat())
        genuine = [token.header for token in client.tokens._held.values()]
        bad = forge(lab, aud="HSS")
        await present(lab, bad)
        gateway.telemetry.log("probe", authorization=genuine[0], access_token=bad, key_salt="AAAA", data=b"\x01\x02")
        text = repr(client.tokens._held) + repr(lab.nodes["nrf"].signing_keys.current)
    text += capfd.readouterr().err
    refusals = [json.loads(line) for line in text.splitlines() if '"request-refused"' in line]
    assert refusals[0]["cause"] == "audience"
    assert refusals[0]["consumer"] == lab.instance_id("client-pcscf")
    assert refusals[0]["operation"] == "Heartbeat"
    for secret in [*genuine, bad, "AAAA", *(p.read_text() for p in (tmp_path / "pki").glob("*.key"))]:
        for part in secret.removeprefix("Bearer ").split("."):
            assert part.strip() not in text
    assert (tmp_path / "sealing.key").read_text() not in text


@pytest.mark.lab
@async_test
async def test_a_process_stops_in_order_on_sigterm(tmp_path):
    async with LabFixture(tmp_path, nrf=False) as lab:
        nrf = await lab.spawn("nrf", "nrf")
        assert await nrf.terminate() == 0
        events = [record["event"] for record in nrf.log]
        assert events[0] == "node-starting"
        assert events[-2:] == ["node-stopping", "node-stopped"]


@async_test
async def test_a_port_in_use_is_a_start_error(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        lab.add("imsagw", "agw-2", nf_types=("IMS_AGW",), port=gateway.server.port)
        with pytest.raises(OSError, match="cannot listen"):
            await lab.start("imsagw", "agw-2", cls=Gateway)


@async_test
async def test_remote_problem_of_a_call_inside_a_handler_becomes_a_gateway_error(tmp_path):
    class Asking(Iq):
        async def Heartbeat(self, request, context):
            raise RemoteProblem(grpc.StatusCode.UNAVAILABLE, message="gone")

    class Node(Gateway):
        def servicers(self):
            return (Asking(self),)

    async with LabFixture(tmp_path) as lab:
        await lab.start("imsagw", "agw-1", cls=Node)
        problem = await present(lab, forge(lab))
        assert problem.cause == "TARGET_NF_NOT_REACHABLE"
        assert problem.code is grpc.StatusCode.DEADLINE_EXCEEDED
