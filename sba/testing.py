"""A small lab for tests: certificates, ``lab.json``, an NRF and any network function, on loopback.

How to use it::

    from sba.testing import LabFixture, async_test

    @async_test
    async def test_hss_answers(tmp_path):
        async with LabFixture(tmp_path) as lab:               # CA, sealing key, lab.json; starts an NRF in this process
            hss = await lab.start("hss", "hss-1", {"users": []})      # in process; entry-point kind or a class
            client = await lab.client("SCSCF")                # an SbiClient with a certificate of that NF type
            answer = await client.call(METHOD, Request(...))

``async_test`` runs a coroutine as a task of the reactor's loop (plain ``async def`` tests get no task of their own and
cannot use asyncio). ``lab.start(kind, instance, settings, cls=Class)`` takes a class instead of an entry point;
``nf_types`` come from the class. ``lab.spawn(kind, instance, settings)`` starts a real process instead and
returns a :class:`NodeProcess` (``.kill()``, ``.terminate()``, ``.log`` lines of stderr); starting it again with the
same instance keeps its port and its store. Everything is stopped when the block ends. Addresses: every node gets
``127.0.0.1`` and a free port unless ``host=`` says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import secrets
import socket
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2
from twisted.internet.defer import Deferred

from protos import nrf_nfm_pb2
from sba import runtime
from sba.client import SbiClient
from sba.config import NodeEnvironment
from sba.contract_build import compile_contracts
from sba.identity import access_name, cscf_name, hss_name
from sba.nf import NetworkFunction
from sba.packages import extend_path, module_path, read_package, write_metadata
from sba.pki import LabCa
from sba.run import node_class
from sba.store import create_sealing_key

__all__ = ["LabFixture", "NodeProcess", "async_test", "free_port", "use_packages"]

_REGISTER = nrf_nfm_pb2.DESCRIPTOR.services_by_name["NnrfNfManagement"].methods_by_name["NfRegister"]
_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


def async_test(function: Callable[..., Awaitable[None]]) -> Callable[..., Deferred[None]]:
    """Let pytest-twisted run a coroutine as a task of the event loop, so that asyncio works in it."""

    @wraps(function)
    def test(*args: object, **kwargs: object) -> Deferred[None]:
        return runtime.deferred(function(*args, **kwargs))

    return test


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that is free, of those that the kernel gives to nobody who asks for any; another one each time.

    So nothing takes it before it is listened at. Raises ``OSError`` where none is free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in itertools.islice(_ports, _MOST_TRIES):
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise OSError(errno.EADDRINUSE, f"no port of {host} is free")


def _ports_of_nobody() -> Iterator[int]:
    """Ports below those that the kernel gives to whoever asks for any, round and round from somewhere."""
    try:
        lowest = int(_PORTS_OF_THE_KERNEL.read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        lowest = _LOWEST_PORT_OF_THE_KERNEL
    if lowest < _LOWEST_PORT_OF_THE_KERNEL // 4:  # next to nothing is below
        lowest = _LOWEST_PORT_OF_THE_KERNEL
    below = range(lowest // 2, lowest)
    first = secrets.randbelow(len(below))
    return itertools.cycle((*below[first:], *below[:first]))


_MOST_TRIES = 1000
_PORTS_OF_THE_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT_OF_THE_KERNEL = 32768
"""Linux's; other systems begin above it."""
_ports = _ports_of_nobody()


def use_packages(folders: Sequence[str | Path], metadata: Path | None = None) -> tuple[str, ...]:
    """Check and compile packages and put them on the path of this process, as ``imslab up --with`` does for nodes.

    Their entry points are found with ``metadata`` alone, a folder to write them to. Returns what was put on the path;
    raises :class:`sba.packages.PackageError` and ``ContractError``.
    """
    packages = [read_package(folder) for folder in folders]
    for package in packages:
        compile_contracts(package.modules, package.top_modules)
    path = tuple(str(package.modules) for package in packages)
    if metadata is not None:
        write_metadata(packages, metadata)
        path = module_path(packages, metadata)
    extend_path(path)
    return path


class NodeProcess:
    """A node running as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.text: list[str] = []
        self._reading = asyncio.ensure_future(self._read())

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode("utf-8", "replace").rstrip()
            self.text.append(text)
            with contextlib.suppress(json.JSONDecodeError):
                self.log.append(json.loads(text))

    async def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading

    async def terminate(self) -> int:
        """Ask it to stop and return its exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        status = await self.process.wait()
        await self._reading
        return status


class LabFixture:
    """A temporary lab; see the module's text."""

    def __init__(
        self,
        folder: Path,
        *,
        domain: str = "ims.test",
        nrf: bool | str = True,
        policy: dict[str, Any] | None = None,
        nrf_settings: dict[str, Any] | None = None,
        otlp: dict[str, Any] | None = None,
        packages: Sequence[str | Path] = (),
    ) -> None:
        """Prepare a lab in ``folder``; ``nrf`` is True (in process), "process" or False (none started).

        ``packages`` are folders of distributions to use without installing them, as ``imslab up --with`` does.
        """
        self.folder = folder
        self.domain = domain
        self.nrf_mode = nrf
        self.path = folder / "lab.json"
        self.ca = LabCa.create(folder / "pki")
        create_sealing_key(folder / "sealing.key")
        self.nodes: dict[str, NetworkFunction] = {}
        self.processes: list[NodeProcess] = []
        self.clients: list[SbiClient] = []
        port = free_port()
        nrf_id = self.instance_id("nrf")
        self.document: dict[str, Any] = {
            "domain": domain,
            "plmn": {"mcc": "001", "mnc": "01"},
            "pki_dir": str(folder / "pki"),
            "state_dir": str(folder / "state"),
            "sealing_key_file": str(folder / "sealing.key"),
            "nrf": {"host": "127.0.0.1", "port": port, "fqdn": f"nrf.{domain}", "instance_id": nrf_id},
            "otlp": otlp or {},
            "sbi_policy": policy or {},
            "package_path": use_packages(packages, folder / "packages"),
            "nodes": {},
        }
        self.add("nrf", "nrf", nrf_settings, nf_types=("NRF",), port=port)

    @staticmethod
    def instance_id(instance: str) -> str:
        """Return the NF instance id of a node of that name."""
        return str(uuid.uuid5(_NAMESPACE, instance))

    def add(
        self,
        kind: str,
        instance: str,
        settings: dict[str, Any] | None = None,
        *,
        nf_types: Sequence[str] | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
        ips: Sequence[str] = (),
        home_domains: Sequence[str] | None = None,
    ) -> NodeEnvironment:
        """Write a node into ``lab.json`` and issue its certificate unless it has one; return its environment.

        The certificate of a CSCF or HSS names its ``home_domains``; None: those in its settings, or the lab's. That of
        a P-CSCF or IMS-AGW names the access network in its settings.
        """
        if nf_types is None:
            nf_types = node_class(kind).nf_types
        fqdn = f"{instance}.{self.domain}"
        known = self.document["nodes"].get(instance)
        if known is None:
            sbi = {"host": host, "port": port or free_port(host)}
            known = {"kind": kind, "instance": instance, "nf_instance_id": self.instance_id(instance), "fqdn": fqdn}
            known["sbi"] = sbi
            if home_domains is None:
                home_domains = (settings or {}).get("home_domains", [self.domain])
            roles = [cscf_name(home) for home in home_domains] if {"SCSCF", "ICSCF"} & set(nf_types) else []
            roles += [hss_name(home) for home in home_domains] if "HSS" in nf_types else []
            if {"PCSCF", "IMS_AGW"} & set(nf_types) and (settings or {}).get("access_network"):
                roles.append(access_name((settings or {})["access_network"], self.domain))
            self.ca.issue(instance, nf_types, known["nf_instance_id"], dns=[fqdn, *roles], ips=[host, *ips])
        if settings is not None or "settings" not in known:
            known["settings"] = settings or {}
        self.document["nodes"][instance] = known
        self.write()
        return NodeEnvironment.load(self.path, instance)

    def write(self) -> None:
        """Write ``lab.json`` again after a change of ``document``."""
        self.path.write_text(json.dumps(self.document), encoding="utf-8")

    async def start(
        self,
        kind: str,
        instance: str,
        settings: dict[str, Any] | None = None,
        *,
        cls: type[NetworkFunction] | None = None,
        host: str = "127.0.0.1",
        ips: Sequence[str] = (),
    ) -> Any:
        """Start a node in this process and return it once it is ready."""
        factory = cls or node_class(kind)
        environment = self.add(kind, instance, settings, nf_types=factory.nf_types, host=host, ips=ips)
        node = factory.from_environment(environment)
        self.nodes[instance] = node
        await node.start()
        return node

    async def spawn(
        self,
        kind: str,
        instance: str,
        settings: dict[str, Any] | None = None,
        *,
        nf_types: Sequence[str] | None = None,
        wait: bool = True,
        host: str = "127.0.0.1",
    ) -> NodeProcess:
        """Start a node as a process of its own and return it once it is ready."""
        self.add(kind, instance, settings, nf_types=nf_types, host=host)
        arguments = ("-m", "sba.run", kind, "--instance", instance, "--config", str(self.path))
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=asyncio.subprocess.PIPE)
        node = NodeProcess(process)
        self.processes.append(node)
        if wait:
            await self.wait_serving(instance)
        return node

    async def client(self, nf_type: str = "LAB", instance: str | None = None) -> SbiClient:
        """Return a client with a certificate of an NF type and, unless that is LAB, a bare profile at the NRF."""
        name = instance or f"client-{nf_type.lower().replace('_', '-')}"
        environment = self.add("client", name, nf_types=(nf_type,))
        client = SbiClient.open(environment)
        self.clients.append(client)
        if nf_type != "LAB":
            node = environment.node
            profile = nrf_nfm_pb2.NfProfile(nf_instance_id=node.nf_instance_id, nf_types=[nf_type], fqdn=node.fqdn)
            profile.instance_name, profile.host, profile.port = name, node.sbi.host, node.sbi.port
            profile.heartbeat_s, profile.status = 3600, nrf_nfm_pb2.UNDISCOVERABLE
            await client.call(_REGISTER, nrf_nfm_pb2.NfRegisterRequest(profile=profile))
        return client

    async def wait_serving(self, instance: str, timeout_s: float = 60.0) -> None:
        """Wait until a node says SERVING on ``grpc.health.v1``; raises ``TimeoutError``."""
        node = self.document["nodes"][instance]
        environment = self.add("client", "prober", nf_types=("LAB",))
        from sba.identity import NodeIdentity

        credentials = NodeIdentity(environment).channel_credentials()
        options = (
            ("grpc.ssl_target_name_override", node["fqdn"]),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 100),
        )
        target = f"{node['sbi']['host']}:{node['sbi']['port']}"
        async with asyncio.timeout(timeout_s), grpc.aio.secure_channel(target, credentials, options) as channel:
            watch = channel.unary_stream(
                "/grpc.health.v1.Health/Watch",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            while True:
                call = watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                try:
                    async for response in call:
                        if response.status == health_pb2.HealthCheckResponse.SERVING:
                            call.cancel()
                            return
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)

    async def stop(self, instance: str | None = None) -> None:
        """Stop one in-process node, or everything (nodes in reverse order of their start, the NRF last)."""
        if instance is not None:
            await self.nodes.pop(instance).stop()
            return
        for client in self.clients:
            await client.close()
        for process in reversed(self.processes):
            await process.terminate()
        for name in reversed(tuple(self.nodes)):
            await self.nodes.pop(name).stop()

    async def __aenter__(self) -> Self:
        if self.nrf_mode == "process":
            await self.spawn("nrf", "nrf")
        elif self.nrf_mode:
            await self.start("nrf", "nrf")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
