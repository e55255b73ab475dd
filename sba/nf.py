"""The life of a network function: the same order of start and stop for every node."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import grpc
from pydantic import BaseModel, ConfigDict, Field
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from protos import common_pb2, nrf_nfm_pb2, nrf_oauth2_pb2
from sba import runtime
from sba.access import AccessControl
from sba.assertions import AssertionVerifier
from sba.capture import NodeCapture
from sba.client import SbiClient
from sba.config import NodeEnvironment
from sba.contracts import service_contract
from sba.errors import (
    ConfigurationError,
    ContractError,
    IdentityError,
    MigrationError,
    PortError,
    RemoteProblem,
    StoreUnavailableError,
)
from sba.faults import raised_at, stack_of
from sba.health import Health
from sba.identity import NodeIdentity
from sba.lifecycle import NodeLifecycle
from sba.load import ProcessorShare
from sba.migrations import History
from sba.server import SbiServer
from sba.store import Store
from sba.tap import Tap
from sba.telemetry import Telemetry
from sba.tokens import KeyRing, TokenVerifier

_DRAIN_S = 3.0
_REGISTER_WAIT_S = 8.0
_RETRY_FIRST_S = 0.05
_RETRY_MOST_S = 1.0
_HEARTBEAT_S = 5
_NFM = nrf_nfm_pb2.DESCRIPTOR.services_by_name["NnrfNfManagement"].methods_by_name
_KEYS = nrf_oauth2_pb2.DESCRIPTOR.services_by_name["NnrfAccessToken"].methods_by_name["GetKeySet"]


class NodeSettings(BaseModel):
    """What every node's settings have; a node adds its own in a subclass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    priority: int = Field(default=10, ge=0, le=65535)
    """NRF priority, lower first."""
    capacity: int = Field(default=100, ge=0, le=65535)
    """Relative weight among instances of the same priority."""
    home_domains: tuple[str, ...] = ()
    """Home domains served; empty = the lab's domain."""
    access_network: str = ""
    """Access network served, e.g. ``a``."""
    heartbeat_s: int = Field(default=_HEARTBEAT_S, ge=1, le=3600)
    """Heartbeat asked of the NRF, s."""
    allowed_nf_types: tuple[str, ...] = ()
    """Consumers that may discover this instance; empty = as the contracts say."""
    nf_set_id: str = ""
    """NF set this instance belongs to."""


class NetworkFunction(MultiService):
    """Base of every node.

    Subclasses state ``nf_types`` and ``settings_class`` and override the hooks :meth:`open_node`,
    :meth:`start_node`, :meth:`drain_node`, :meth:`close_node`, :meth:`servicers` and :meth:`endpoints`. A node has its
    ``settings``, ``environment``, ``identity``, ``telemetry`` (``tracer``, ``meter``, ``log``) and ``clock``, and from
    :meth:`open_node` on its ``store`` and ``sbi``, through which it calls others.

    Start: open store, load certificate, serve gRPC, register with the NRF, open the node's own ports, report
    ready on ``grpc.health.v1``. Stop: report not serving, take no more work, drain, deregister, close.
    """

    nf_types: ClassVar[tuple[str, ...]] = ()
    settings_class: ClassVar[type[NodeSettings]] = NodeSettings

    store: Store
    sbi: SbiClient
    server: SbiServer

    def __init__(self, settings: NodeSettings, environment: NodeEnvironment) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.settings: Any = settings
        self.environment = environment
        self.setName(environment.instance)  # type: ignore[no-untyped-call]
        self.identity = NodeIdentity(environment)
        self.identity.check()
        if not set(self.nf_types) <= set(self.identity.nf_types):
            raise ConfigurationError(f"the certificate of {environment.instance} does not name its NF types")
        self.telemetry = Telemetry.for_node(environment, self.identity)
        self.clock = runtime.reactor()
        self.health = Health()
        self.tap = Tap()
        self._own_capture = NodeCapture(self.tap, key_export=environment.lab.key_export)
        self._own_lifecycle = NodeLifecycle(self)
        self.processor = ProcessorShare()
        self.registered = asyncio.Event()
        self._profile_changed = asyncio.Event()
        self._heartbeat: asyncio.Future[None] | None = None
        self._announced: nrf_nfm_pb2.NfProfile | None = None
        self._status = nrf_nfm_pb2.SUSPENDED
        self._ready: asyncio.Future[None] | None = None
        self._opened = False
        """Whether :meth:`open_node` was begun: what was never opened is not drained and not closed."""

    @classmethod
    def from_environment(cls, environment: NodeEnvironment) -> NetworkFunction:
        """Validate the node's settings and construct it; raises :class:`ConfigurationError`."""
        from pydantic import ValidationError

        cls.prepare(environment)
        try:
            settings = cls.settings_class.model_validate(environment.settings)
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, item['loc'])) or 'all'}: {item['msg']}" for item in error.errors())
            raise ConfigurationError(f"settings of {environment.instance}: {'; '.join(faults)}") from error
        return cls(settings, environment)

    @classmethod
    def prepare(cls, environment: NodeEnvironment) -> None:
        """Make this process ready before settings are read, e.g. load what the lab enables of packages.

        Raises :class:`ConfigurationError`.
        """

    # What a node overrides.

    async def open_node(self) -> None:
        """Prepare before serving; the store is open, nothing is reachable yet."""

    async def start_node(self) -> None:
        """Open SIP and media ports; the SBI is served and other NFs can be called."""

    async def drain_node(self) -> None:
        """Finish or hand over work in progress; nothing new arrives."""

    async def close_node(self) -> None:
        """Close the node's own ports and files; the store is still open."""

    def servicers(self) -> Sequence[object]:
        """Return the service implementations (see :class:`sba.server.Servicer`)."""
        return ()

    def endpoints(self) -> Sequence[nrf_nfm_pb2.Endpoint]:
        """Return SIP and media addresses for the NRF profile; asked after :meth:`start_node` and on refresh."""
        return ()

    def attributes(self) -> dict[str, str]:
        """Return further facts for the NRF profile."""
        return {}

    def load(self) -> int:
        """Return the present load in percent, sent with every heartbeat: the processor's, unless a node knows more."""
        return self.processor.percent()

    async def retire_node(self) -> None:
        """Begin to hand over what others can take; called once the NRF names this node to nobody any more."""

    async def rejoin_node(self) -> None:
        """Take back :meth:`retire_node`."""

    def work_left(self) -> tuple[int, str]:
        """Return how much work in progress would break off if the node ended now, and what it is."""
        return 0, ""

    # Life.

    @property
    def retiring(self) -> bool:
        """Whether this node finishes what it has and takes nothing new (TS 29.510 6.1.6.3.7: undiscoverable)."""
        return bool(self._status == nrf_nfm_pb2.UNDISCOVERABLE)

    async def retire(self, *, withdraw: bool = False) -> None:
        """Take no new work, or take it again; a node that is not ready yet stays as it is."""
        wanted = nrf_nfm_pb2.REGISTERED if withdraw else nrf_nfm_pb2.UNDISCOVERABLE
        if self._status in (nrf_nfm_pb2.SUSPENDED, wanted):
            return
        self._status = wanted
        self.telemetry.log("node-rejoining" if withdraw else "node-retiring")
        await self.refresh_registration()
        await (self.rejoin_node() if withdraw else self.retire_node())

    async def start(self) -> None:
        """Start the node and return when it is ready; raises whatever kept it from starting."""
        self.startService()
        await self.ready()

    async def ready(self) -> None:
        """Wait until the node is ready; raises whatever kept it from starting."""
        assert self._ready is not None, "startService comes first"
        await asyncio.shield(self._ready)

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        """Begin to start; :meth:`ready` tells when that is done."""
        super().startService()  # type: ignore[no-untyped-call]
        self._ready = runtime.spawn(self._start())

    def stopService(self) -> Deferred[None]:  # noqa: N802 - Twisted's name
        """Stop in order; the Deferred fires when everything is closed."""
        return runtime.deferred(self.stop())

    async def _start(self) -> None:
        self.telemetry.log("node-starting", nf_types=self.nf_types, nf_instance_id=self.identity.instance_id)
        self.store = await Store.open(self.environment, History.of(type(self)), self.telemetry.log)
        self.sbi = SbiClient(self.environment, self.identity, self.telemetry, nf_types=self.nf_types, tap=self.tap)
        policy = self.environment.lab.sbi_policy
        verifier = TokenVerifier(
            nf_types=self.nf_types,
            instance_id=self.identity.instance_id,
            issuers=(self.environment.lab.nrf.instance_id,),
            keys=KeyRing(self.fetch_key_set),
            nf_set_id=self.settings.nf_set_id,
            leeway_s=policy.leeway_s,
        )
        assertions = AssertionVerifier(self.identity, nf_types=self.nf_types, leeway_s=policy.leeway_s)
        access = AccessControl(self.identity, self.telemetry, verifier, policy, assertions=assertions)
        self.server = SbiServer(self.identity, self.telemetry, access, policy, self.health, tap=self.tap)
        self._opened = True
        await self.open_node()
        self.server.add((*self.servicers(), self._own_capture, self._own_lifecycle))
        sbi = self.environment.node.sbi
        await self.server.start(sbi.host, sbi.port)
        self._heartbeat = runtime.spawn(self.keep_registered())
        try:
            async with asyncio.timeout(_REGISTER_WAIT_S):
                await self.registered.wait()
        except TimeoutError:
            self.telemetry.log("nrf-absent", level="warning", waited_s=_REGISTER_WAIT_S)
        await self.start_node()
        self.processor.begin()
        self._status = nrf_nfm_pb2.REGISTERED
        if self.registered.is_set():
            await self.refresh_registration()
        self.health.set_serving(serving=True)
        self.telemetry.log("node-ready", sbi=f"{sbi.host}:{self.server.port}")

    async def stop(self) -> None:
        """Stop in order: not serving, no more work, drain, deregister, close."""
        if not self.running:
            return
        if self._ready is not None and not self._ready.done():
            self._ready.cancel()
        self.telemetry.log("node-stopping")
        self.health.set_serving(serving=False)
        if hasattr(self, "server"):
            self.server.stop_taking_work()
            if self._opened:
                await self.drain_node()
            await self.server.drain(_DRAIN_S)
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self.registered.is_set():
            try:
                await self.deregister()
            except RemoteProblem as problem:
                self.telemetry.log("deregistration-failed", level="warning", cause=str(problem))
        if self._opened:
            await self.close_node()
        if hasattr(self, "server"):
            await self.server.stop()
        if hasattr(self, "sbi"):
            await self.sbi.close()
        stopped = super().stopService()  # type: ignore[no-untyped-call]
        if stopped is not None:
            await runtime.future(stopped)
        if hasattr(self, "store"):
            await self.store.close()
        self.telemetry.log("node-stopped")
        await asyncio.get_running_loop().run_in_executor(None, self.telemetry.shutdown)

    # The NRF's view of this node.

    def profile(self) -> nrf_nfm_pb2.NfProfile:
        """Return the profile to register (TS 29.510 NFProfile)."""
        node, settings = self.environment.node, self.settings
        profile = nrf_nfm_pb2.NfProfile(
            nf_instance_id=self.identity.instance_id,
            nf_types=self.nf_types,
            status=self._status,
            instance_name=node.instance,
            fqdn=node.fqdn,
            host=node.sbi.host,
            port=self.server.port,
            priority=settings.priority,
            capacity=settings.capacity,
            load=self.load(),
            endpoints=self.endpoints() if self._status != nrf_nfm_pb2.SUSPENDED else (),
            plmn=common_pb2.PlmnId(mcc=self.environment.lab.plmn.mcc, mnc=self.environment.lab.plmn.mnc),
            home_domains=settings.home_domains or (self.environment.domain,),
            access_network=settings.access_network,
            allowed_nf_types=settings.allowed_nf_types,
            heartbeat_s=settings.heartbeat_s,
            attributes=self.attributes(),
            nf_set_id=settings.nf_set_id or node.nf_set,
        )
        for servicer in (*self.servicers(), self._own_capture, self._own_lifecycle):
            contract = service_contract(servicer.service)  # type: ignore[attr-defined]
            profile.services.add(service_name=contract.service_name, grpc_service=contract.full_name, versions=["v1"])
        return profile

    async def refresh_registration(self) -> None:
        """Register anew with the present profile, e.g. after an endpoint changed."""
        try:
            await self.register()
        except RemoteProblem as problem:
            self.telemetry.log("registration-failed", level="warning", cause=str(problem))
            self.registered.clear()
            self._profile_changed.set()

    async def register(self) -> int:
        """Register with the NRF and return the heartbeat it wants, s; raises :class:`RemoteProblem`."""
        request = nrf_nfm_pb2.NfRegisterRequest(profile=self.profile())
        response = await self.sbi.call(_NFM["NfRegister"], request, timeout=2.0)
        self._announced = request.profile
        self.registered.set()
        return int(response.profile.heartbeat_s) or _HEARTBEAT_S

    async def deregister(self) -> None:
        """Take the profile out of the NRF; raises :class:`RemoteProblem`."""
        request = nrf_nfm_pb2.NfDeregisterRequest(nf_instance_id=self.identity.instance_id)
        await self.sbi.call(_NFM["NfDeregister"], request, timeout=1.0)

    async def keep_registered(self) -> None:
        """Register, send heartbeats, and register again when the NRF has forgotten this node."""
        pause = _RETRY_FIRST_S
        interval = float(_HEARTBEAT_S)
        while True:
            try:
                if self.registered.is_set() and self._is_announced():
                    interval = await self.beat()
                else:
                    interval = await self.register()
                    self.telemetry.log("registered", heartbeat_s=interval)
                pause = _RETRY_FIRST_S
                if not self._is_announced():
                    continue  # the node changed while the NRF was being told
                wait = interval
            except RemoteProblem as problem:
                if problem.code is grpc.StatusCode.NOT_FOUND:
                    self.registered.clear()
                    continue
                self.telemetry.log("nrf-unreachable", level="warning", cause=str(problem))
                wait = pause
                pause = min(pause * 2, _RETRY_MOST_S)
            except Exception as fault:  # noqa: BLE001 - without its heartbeat a node that works is lost to all others
                self.telemetry.log("registration-fault", level="error", fault=f"{type(fault).__name__}: {fault}")
                wait = pause
                pause = min(pause * 2, _RETRY_MOST_S)
            self._profile_changed.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._profile_changed.wait()
            except TimeoutError:
                continue

    def _is_announced(self) -> bool:
        """Tell whether the NRF holds the present profile, its load aside."""
        if self._announced is None:
            return False
        profile = self.profile()
        profile.load = self._announced.load
        return profile == self._announced

    async def beat(self) -> float:
        """Send one heartbeat and return the interval until the next, s; raises :class:`RemoteProblem`."""
        request = nrf_nfm_pb2.NfUpdateRequest(
            nf_instance_id=self.identity.instance_id, status=self._status, load=self.load()
        )
        response = await self.sbi.call(_NFM["NfUpdate"], request, timeout=2.0)
        return float(response.heartbeat_s) or float(_HEARTBEAT_S)

    async def fetch_key_set(self) -> str:
        """Return the NRF's public keys as a JWKS document; raises :class:`RemoteProblem`."""
        response = await self.sbi.call(_KEYS, nrf_oauth2_pb2.KeySetRequest(), timeout=2.0)
        return str(response.jwks_json)


_EXPECTED = (
    ConfigurationError,
    MigrationError,
    ContractError,
    IdentityError,
    StoreUnavailableError,
    RemoteProblem,
    PortError,
    CannotListenError,
)
"""What keeps a node from starting and is no fault of its code."""


def exit_status(fault: BaseException | None) -> int:
    """Return how a node ends that could not start: 2 what it was given is wrong, 69 no database, 1 anything else."""
    if isinstance(fault, StoreUnavailableError):
        return os.EX_UNAVAILABLE
    wrong = (ConfigurationError, MigrationError, ContractError, IdentityError)
    return 2 if isinstance(fault, wrong) else 1


def _told(fault: BaseException, own: Path) -> dict[str, str]:
    """Return what is told of a fault; its place too, in the folder ``own`` if it can be, where no node expects it."""
    told = {"error": str(fault), "kind": type(fault).__name__}
    return told if isinstance(fault, _EXPECTED) else told | {"at": raised_at(fault, own)}


def run_node(factory: type[NetworkFunction], environment: NodeEnvironment) -> int:
    """Run one node in this process until SIGTERM or SIGINT; return the exit status."""

    own = Path(inspect.getfile(factory)).parent

    async def main() -> int:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        try:
            node = factory.from_environment(environment)
        except (ConfigurationError, IdentityError) as error:
            sys.stderr.write(f"{error}\n")
            return 2
        except Exception as error:  # noqa: BLE001 - there is no log yet, and whoever wrote the class looks for the line
            last = f"{type(error).__name__}: {error} ({raised_at(error, own)})"
            sys.stderr.write("\n".join([*stack_of(error), last]) + "\n")
            return 1
        node.startService()
        ready = asyncio.ensure_future(node.ready())
        stop = asyncio.ensure_future(stopping.wait())
        await asyncio.wait((ready, stop), return_when=asyncio.FIRST_COMPLETED)
        status = 0
        if ready.done() and ready.exception() is not None:
            fault = ready.exception()
            assert fault is not None
            told = _told(fault, own)
            if "at" in told:
                node.telemetry.log("start-traceback", level="warning", frames=stack_of(fault))
            node.telemetry.log("start-failed", level="error", **told)
            status = exit_status(fault)
        else:
            await stop
        try:
            await node.stop()
        except Exception as fault:
            if not status:
                raise
            # what was half open may not close; why the node could not start is what counts
            node.telemetry.log(
                "stop-failed", level="warning", fault=f"{type(fault).__name__}: {fault}", at=raised_at(fault)
            )
        return status

    return runtime.run(main)


__all__ = ["NetworkFunction", "NodeSettings", "run_node"]
