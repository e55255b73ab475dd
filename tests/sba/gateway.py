"""A producer for the tests of the framework: Iq with a memory of what reached it, and a forger of tokens."""

from __future__ import annotations

import asyncio
import contextlib
import time

import grpc
import jwt
from opentelemetry import trace

from protos import hss_ueau_pb2, iq_pb2
from sba.client import serialize
from sba.errors import ProblemError, RemoteProblem
from sba.identity import NodeIdentity
from sba.nf import NetworkFunction
from sba.testing import LabFixture

SERVICE = iq_pb2.DESCRIPTOR.services_by_name["Iq"]
HEARTBEAT = SERVICE.methods_by_name["Heartbeat"]
EVENTS = SERVICE.methods_by_name["Events"]
SCOPE = "nimsagw-iq"


class Iq:
    service = SERVICE

    def __init__(self, node):
        self.node = node

    def __getattr__(self, name):
        if name not in SERVICE.methods_by_name:
            raise AttributeError(name)
        return self._other

    async def _other(self, request, context):
        raise ProblemError(501, "UNSUPPORTED")

    async def Heartbeat(self, request, context):
        self.node.handled.append((request.alg_id, context))
        await asyncio.sleep(0.001)
        span = trace.get_current_span().get_span_context()
        self.node.traces[request.alg_id] = f"{span.trace_id:032x}"
        if request.alg_id == "slow":
            await asyncio.sleep(5)
        if request.alg_id == "refuse":
            raise ProblemError(409, "CONTEXT_BUSY", "another change is under way", invalid_params=[("alg_id", "taken")])
        if request.alg_id == "crash":
            raise ValueError("internal text")
        return iq_pb2.HeartbeatResponse(epoch=self.node.environment.instance, load=len(self.node.handled))

    async def Events(self, request, context):
        self.node.handled.append((request.alg_id, context))
        ended = asyncio.Event()
        context.on_end(ended.set)
        for number in range(3):
            yield iq_pb2.Notification(event_id=number + 1)
        self.node.streams.append(ended)
        await ended.wait()


class Authentication:
    """Nhss_imsUEAuthentication: a method that must not be repeated."""

    service = hss_ueau_pb2.DESCRIPTOR.services_by_name["NhssImsUeAuthentication"]

    def __init__(self, node):
        self.node = node

    async def GenerateVectors(self, request, context):
        self.node.handled.append((request.impi, context))
        if request.impi == "congested":
            raise ProblemError(503, "NF_CONGESTION")
        return hss_ueau_pb2.GenerateVectorsResponse(scheme=hss_ueau_pb2.AKA)


VECTORS = Authentication.service.methods_by_name["GenerateVectors"]


class Subscribers(NetworkFunction):
    nf_types = ("HSS",)

    async def open_node(self):
        self.handled = []

    def servicers(self):
        return (Authentication(self),)


class Gateway(NetworkFunction):
    nf_types = ("IMS_AGW",)

    async def open_node(self):
        self.handled = []
        self.traces = {}
        self.streams = []

    def servicers(self):
        return (Iq(self),)


def beat(alg_id="alg"):
    return iq_pb2.HeartbeatRequest(alg_id=alg_id)


@contextlib.asynccontextmanager
async def lab_with_gateway(tmp_path, **options):
    async with LabFixture(tmp_path, **options) as lab:
        gateway = await lab.start("imsagw", "agw-1", cls=Gateway)
        yield lab, gateway


def forge(lab, *, key=None, headers=None, algorithm="ES256", drop=(), **claims):
    """Return a token like the NRF's own, with the given claims and headers changed."""
    keys = lab.nodes["nrf"].signing_keys
    now = int(time.time())
    payload = {
        "iss": lab.instance_id("nrf"),
        "sub": lab.instance_id("client-pcscf"),
        "aud": "IMS_AGW",
        "scope": SCOPE,
        "iat": now,
        "exp": now + 300,
    } | claims
    for name in drop:
        del payload[name]
    signer = keys.current.private if key is None else key
    if algorithm == "none":
        signer = None
    return jwt.encode(
        payload, signer, algorithm=algorithm, headers={"kid": keys.current.key_id, "typ": "JWT"} | (headers or {})
    )


def channel_to(lab, instance, environment=None, credentials=None, name=None):
    node = lab.document["nodes"][instance]
    if credentials is None:
        credentials = NodeIdentity(environment).channel_credentials()
    options = (("grpc.ssl_target_name_override", name or node["fqdn"]), ("grpc.enable_retries", 0))
    return grpc.aio.secure_channel(f"{node['sbi']['host']}:{node['sbi']['port']}", credentials, options)


async def raw_call(channel, method=HEARTBEAT, request=None, metadata=()):
    """Call without the framework's client; raises RemoteProblem with what came back."""
    from sba.contracts import method_contract

    contract = method_contract(method)
    call = channel.unary_unary(
        contract.path, request_serializer=serialize, response_deserializer=contract.parse_response
    )
    try:
        return await call(request or beat(), metadata=metadata, timeout=3.0)
    except grpc.aio.AioRpcError as error:
        raise RemoteProblem.from_rpc_error(error) from None


async def until(condition, seconds=10.0):
    """Let the loop run until a condition holds; TimeoutError when it does not come true."""
    ends = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > ends:
            raise TimeoutError
        await asyncio.sleep(0.02)


async def present(lab, token, **options):
    """Present a token to agw-1 as client-pcscf and return the refusal, or None when it was accepted."""
    environment = lab.add("client", "client-pcscf", nf_types=("PCSCF",))
    metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
    async with channel_to(lab, "agw-1", environment) as channel:
        try:
            await raw_call(channel, metadata=metadata + options.pop("metadata", ()), **options)
        except RemoteProblem as problem:
            return problem
    return None
