"""Unary rate of the service-based architecture against bare gRPC.

One client process and one server process each way: mutual TLS, a cached ES256 token and full tracing
against ``grpc.aio`` on a plaintext port with no checks. Rounds are interleaved, so that whatever else the
machine does hits both. Prints calls per second and the ratio as min / median / max.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from pathlib import Path

import grpc
from google.protobuf import empty_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from protos import iq_pb2
from sba import runtime

SERVICE = iq_pb2.DESCRIPTOR.services_by_name["Iq"]
METHOD = SERVICE.methods_by_name["Heartbeat"]
PATH = f"/{SERVICE.full_name}/Heartbeat"
HERE = str(Path(__file__).resolve())


class Iq:
    """Answers every method of Iq with nothing but the heartbeat's answer."""

    service = SERVICE

    def __getattr__(self, name: str):
        if name not in SERVICE.methods_by_name:
            raise AttributeError(name)
        return self._answer

    async def _answer(self, _request, _context):
        return iq_pb2.HeartbeatResponse(epoch="1", load=1)


# The processes, each started as ``python bench/sba.py --role NAME ...``.


def serve_node(config: str) -> int:
    from sba.config import NodeEnvironment
    from sba.nf import NetworkFunction, run_node

    class Gateway(NetworkFunction):
        nf_types = ("IMS_AGW",)

        def servicers(self):
            return (Iq(),)

    return run_node(Gateway, NodeEnvironment.load(config, "agw"))


def serve_bare(port: int) -> int:
    async def main() -> None:
        async def heartbeat(_request, _context):
            return iq_pb2.HeartbeatResponse(epoch="1", load=1)

        handler = grpc.unary_unary_rpc_method_handler(
            heartbeat,
            request_deserializer=iq_pb2.HeartbeatRequest.FromString,
            response_serializer=iq_pb2.HeartbeatResponse.SerializeToString,
        )
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE.full_name, {"Heartbeat": handler}),)
        )
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        await server.stop(0)

    asyncio.run(main())
    return 0


def serve_collector(port: int, folder: str) -> int:
    pki = Path(folder)

    class Sink(
        trace_service_pb2_grpc.TraceServiceServicer,
        metrics_service_pb2_grpc.MetricsServiceServicer,
        logs_service_pb2_grpc.LogsServiceServicer,
    ):
        spans = 0

        def Export(self, request, _context):  # noqa: N802 - the name in the contract
            if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
                Sink.spans += sum(len(s.spans) for r in request.resource_spans for s in r.scope_spans)
                return trace_service_pb2.ExportTraceServiceResponse()
            return empty_pb2.Empty()

    server = grpc.server(futures.ThreadPoolExecutor(2))
    for add in (
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server,
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server,
    ):
        add(Sink(), server)
    pair = ((pki / "lab.key").read_bytes(), (pki / "lab.crt").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (pki / "ca.crt").read_bytes(), require_client_auth=True)
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM})
    server.stop(0)
    sys.stdout.write(f"{Sink.spans}\n")
    return 0


async def _rate(call, seconds: float, in_flight: int) -> float:
    done = 0
    until = time.perf_counter() + seconds

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call()
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return done / (time.perf_counter() - started)


async def _obey(call, in_flight: int) -> None:
    """Read a number of seconds a line from stdin, load the server for so long, and write the rate."""
    await call()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await reader.readline():
        sys.stdout.write(f"{await _rate(call, float(line), in_flight)}\n")
        sys.stdout.flush()


def load_node(config: str, in_flight: int) -> int:
    from sba.client import SbiClient
    from sba.config import NodeEnvironment

    async def main() -> int:
        client = SbiClient.open(NodeEnvironment.load(config, "alg"))
        nrf = __import__("protos.nrf_nfm_pb2", fromlist=["x"])
        node = NodeEnvironment.load(config, "alg").node
        profile = nrf.NfProfile(
            nf_instance_id=node.nf_instance_id, nf_types=["PCSCF"], fqdn=node.fqdn, instance_name=node.instance
        )
        profile.host, profile.port, profile.heartbeat_s = "127.0.0.1", 1, 3600
        register = nrf.DESCRIPTOR.services_by_name["NnrfNfManagement"].methods_by_name["NfRegister"]
        await client.call(register, nrf.NfRegisterRequest(profile=profile))
        request = iq_pb2.HeartbeatRequest(alg_id="alg")
        await _obey(lambda: client.call(METHOD, request, timeout=20.0), in_flight)
        await client.close()
        return 0

    return runtime.run(main)


def load_bare(port: int, in_flight: int) -> int:
    async def main() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = channel.unary_unary(
                PATH,
                request_serializer=iq_pb2.HeartbeatRequest.SerializeToString,
                response_deserializer=iq_pb2.HeartbeatResponse.FromString,
            )
            request = iq_pb2.HeartbeatRequest(alg_id="alg")

            async def call() -> None:
                await stub(request, timeout=20.0)

            await _obey(call, in_flight)

    asyncio.run(main())
    return 0


# The conductor.


class Role:
    """One process of the bench."""

    def __init__(self, *arguments: str) -> None:
        self.name = arguments[0]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [sys.executable, HERE, "--role", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def wait_ready(self) -> None:
        if self.process.stdout.readline().strip() != "ready":
            self.process.wait()
            self.log.seek(0)
            raise SystemExit(f"{self.name} of the bench did not start:\n{self.log.read()[-2000:]}")

    def measure(self, seconds: float) -> float:
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def stop(self) -> str:
        self.process.stdin.close()
        self.process.terminate()
        output = self.process.stdout.read()
        self.process.wait()
        self.log.close()
        return output


def _prepare(folder: Path) -> tuple[Path, int]:
    from sba.testing import LabFixture, free_port

    collector = free_port()
    otlp = {"endpoint": f"https://127.0.0.1:{collector}", "tls_name": "lab.ims.test"}
    fixture = LabFixture(folder, nrf=False, otlp=otlp, policy={"calls_per_second": 1e6, "burst": 1e6})
    fixture.add("lab", "lab", nf_types=("LAB",))
    fixture.add("client", "alg", nf_types=("PCSCF",))
    fixture.add("imsagw", "agw", nf_types=("IMS_AGW",))
    return fixture.path, collector


def _until_serving(port: int) -> None:
    import socket

    for _ in range(400):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.05)
    raise SystemExit("a server of the bench did not start")


def run(rounds: int, seconds: float, in_flight: int) -> dict[str, object]:
    """Measure and return one row."""
    from sba.testing import free_port

    with tempfile.TemporaryDirectory() as name:
        config, collector_port = _prepare(Path(name))
        document = json.loads(config.read_text())
        bare_port = free_port()
        roles: list[Role] = []
        try:
            collector = Role("collector", str(collector_port), document["pki_dir"])
            roles.append(collector)
            collector.wait_ready()
            roles.append(Role("nrf", str(config)))
            _until_serving(document["nrf"]["port"])
            roles.append(Role("node", str(config)))
            _until_serving(document["nodes"]["agw"]["sbi"]["port"])
            time.sleep(1.0)
            bare_server = Role("bare", str(bare_port))
            roles.append(bare_server)
            bare_server.wait_ready()
            ours, bare = (
                Role("load-node", str(config), str(in_flight)),
                Role("load-bare", str(bare_port), str(in_flight)),
            )
            roles += [ours, bare]
            ours.wait_ready()
            bare.wait_ready()
            ours.measure(1.0)
            bare.measure(1.0)
            pairs = []
            for index in range(rounds):
                first, second = (ours, bare) if index % 2 else (bare, ours)
                rates = {first: first.measure(seconds), second: second.measure(seconds)}
                pairs.append((rates[ours], rates[bare]))
        finally:
            for role in reversed(roles):
                role.stop()
    ratios = [mine / theirs for mine, theirs in pairs]
    return {
        "engine": "sba mTLS + cached token + full tracing / bare insecure grpc.aio",
        "in_flight": in_flight,
        "rounds": rounds,
        "calls_per_s": _spread([mine for mine, _ in pairs]),
        "bare_calls_per_s": _spread([theirs for _, theirs in pairs]),
        "ratio_to_bare": _spread(ratios),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 3),
        "median": round(statistics.median(values), 3),
        "max": round(max(values), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[32])
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        name, *rest = options.role
        if name == "nrf":
            from sba.run import run as run_kind

            return run_kind("nrf", "nrf", rest[0])
        roles = {
            "node": lambda: serve_node(rest[0]),
            "bare": lambda: serve_bare(int(rest[0])),
            "collector": lambda: serve_collector(int(rest[0]), rest[1]),
            "load-node": lambda: load_node(rest[0], int(rest[1])),
            "load-bare": lambda: load_bare(int(rest[0]), int(rest[1])),
        }
        return roles[name]()
    rows = [run(options.rounds, options.seconds, in_flight) for in_flight in options.in_flight]
    for row in rows:
        print(f"{row['engine']}, {row['in_flight']} in flight, {row['rounds']} rounds")
        for key in ("calls_per_s", "bare_calls_per_s", "ratio_to_bare"):
            spread = row[key]
            print(f"  {key:18} min {spread['min']:>9}  median {spread['median']:>9}  max {spread['max']:>9}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
