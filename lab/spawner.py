"""How node processes are started: a fork server that has the heavy modules in memory, or plain processes.

The fork server is forked from the supervisor after it imported what every node needs and before it made any thread,
event loop, reactor or gRPC object; a node forked from it serves in a tenth of the time and shares its code pages.
Where that cannot be had (another platform, a module that starts a thread on import) ``ProcessSpawner`` does the same
with ordinary processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

HEAVY_MODULES = (
    "asyncio",
    "grpc",
    "grpc.aio",
    "grpc_health.v1.health_pb2",
    "grpc_status.rpc_status",
    "twisted.internet.asyncioreactor",
    "twisted.internet.ssl",
    "twisted.application.service",
    "sqlalchemy.ext.asyncio",
    "aiosqlite",
    "jwt",
    "pydantic",
    "cryptography.x509",
    "OpenSSL.SSL",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.sdk.metrics.export",
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.metric_exporter",
)
STOP_GRACE_S = 5.0
"""How long children get to end after SIGTERM before SIGKILL, seconds."""
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


@dataclass(frozen=True)
class NodeOrder:
    """What to start: a node of ``kind`` called ``instance``, its configuration file and its log file."""

    instance: str
    kind: str
    config: str
    log: str


class ExitHandler(Protocol):
    """Told that a node ended: its pid and its exit code (minus the signal number when a signal ended it)."""

    def __call__(self, pid: int, code: int) -> None:
        """Take note of the end of process ``pid``."""


class SpawnerLostError(RuntimeError):
    """The fork server is gone; its nodes are ending too."""


class Spawner(Protocol):
    """Starts node processes and tells when they end."""

    async def spawn(self, order: NodeOrder) -> int:
        """Start a node and return its pid; raises ``OSError`` or ``SpawnerLostError``."""

    def signal(self, pid: int, number: int) -> None:
        """Send signal ``number`` to a node that this spawner started and that has not ended."""

    async def close(self) -> None:
        """End what is left of the nodes and the spawner itself."""


def node_command(order: NodeOrder) -> list[str]:
    """Return the argument vector of a node as an ordinary process. Holds no secret."""
    return [sys.executable, "-m", "lab", "node", order.kind, "--instance", order.instance, "--config", order.config]


def preload(modules: Iterable[str]) -> dict[str, str]:
    """Import ``modules``; return the faults by module name. Missing ones do not stop the others."""
    faults: dict[str, str] = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a node that cannot be imported is reported when it is started
            faults[name] = f"{type(error).__name__}: {error}"
    return faults


def can_fork() -> bool:
    """Tell whether this process may still be a fork server: one thread and no reactor."""
    if not hasattr(os, "fork") or "twisted.internet.reactor" in sys.modules:
        return False
    with contextlib.suppress(OSError):
        return len(list(Path("/proc/self/task").iterdir())) == 1
    import threading

    return threading.active_count() == 1


def _prctl(option: int, argument: int | bytes) -> None:
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


class _ForkServer:
    """The loop of the fork server process; one thread, no event loop."""

    def __init__(self, channel: socket.socket, run: Callable[[NodeOrder], int]) -> None:
        self._channel = channel
        self._run = run
        self._children: set[int] = set()

    def serve(self) -> None:
        """Serve orders until the supervisor closes the channel, then end every child."""
        _prctl(_PR_SET_NAME, b"imslab-spawner")
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        os.set_blocking(reader, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        import select

        pending = b""
        while True:
            ready, _, _ = select.select([self._channel.fileno(), reader], [], [])
            if reader in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(reader, 4096)
                self._reap()
            if self._channel.fileno() in ready:
                chunk = self._channel.recv(65536)
                if not chunk:
                    self._end_children()
                    return
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line), (reader, writer))

    def _obey(self, order: dict[str, str], pipes: tuple[int, int]) -> None:
        if "signal" in order:
            pid = int(order["pid"])
            if pid in self._children:
                os.kill(pid, int(order["signal"]))
            return
        node = NodeOrder(order["instance"], order["kind"], order["config"], order["log"])
        try:
            pid = os.fork()
        except OSError as error:
            self._tell({"request": order["request"], "error": str(error)})
            return
        if pid == 0:
            self._become(node, pipes)
        self._children.add(pid)
        self._tell({"request": order["request"], "pid": pid})

    def _become(self, node: NodeOrder, pipes: tuple[int, int]) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()
            _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
            _prctl(_PR_SET_NAME, f"ims:{node.instance}"[:15].encode())
            for descriptor in (self._channel.fileno(), *pipes):
                os.close(descriptor)
            redirect_output(node.log)
            code = self._run(node)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:  # noqa: BLE001 - the last frame of a process: the log must say why it ended
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._children.discard(pid)
            self._tell({"exited": pid, "code": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _end_children(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + STOP_GRACE_S
            while self._children and time.monotonic() < deadline:
                self._reap()
                time.sleep(0.02)


def redirect_output(log: str) -> None:
    """Point standard output and error of this process at the file ``log`` (appending) and input at nothing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for descriptor, path, mode in ((0, os.devnull, os.O_RDONLY), (1, log, flags), (2, log, flags)):
        opened = os.open(path, mode, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def fork_server(run: Callable[[NodeOrder], int]) -> socket.socket | None:
    """Fork the server from this process; return the channel to it, ``None`` when this process must not fork."""
    if not can_fork():
        return None
    ours, theirs = socket.socketpair()
    gc.collect()
    gc.freeze()
    if os.fork() == 0:
        ours.close()
        try:
            _ForkServer(theirs, run).serve()
        finally:
            os._exit(0)
    theirs.close()
    return ours


class ForkSpawner:
    """Starts nodes through the fork server behind ``channel``; ``lost`` is called once if it ends by itself."""

    def __init__(self, channel: socket.socket, exited: ExitHandler, lost: Callable[[], None]) -> None:
        self._channel = channel
        self._exited = exited
        self._lost = lost
        self._waiting: dict[str, asyncio.Future[int]] = {}
        self._number = 0
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._closing = False

    async def open(self) -> None:
        """Take the channel into the running loop."""
        reader, self._writer = await asyncio.open_connection(sock=self._channel)
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            if "exited" in message:
                self._exited(message["exited"], message["code"])
                continue
            future = self._waiting.pop(message["request"], None)
            if future is not None and not future.done():
                if "pid" in message:
                    future.set_result(message["pid"])
                else:
                    future.set_exception(OSError(message["error"]))
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(SpawnerLostError("the fork server has ended"))
        if not self._closing:
            self._lost()

    def _send(self, message: dict[str, str]) -> None:
        if self._writer is None or self._writer.is_closing():
            raise SpawnerLostError("the fork server has ended")
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def spawn(self, order: NodeOrder) -> int:
        """Fork a node and return its pid."""
        self._number += 1
        request = str(self._number)
        future = self._waiting[request] = asyncio.get_running_loop().create_future()
        self._send({"request": request, **order.__dict__})
        pid: int = await future
        return pid

    def signal(self, pid: int, number: int) -> None:
        """Have the fork server signal its child ``pid``."""
        with contextlib.suppress(SpawnerLostError):
            self._send({"pid": str(pid), "signal": str(number)})

    async def close(self) -> None:
        """Close the channel: the fork server ends its children and itself."""
        self._closing = True
        if self._writer is not None:
            self._writer.write_eof()
        if self._reading is not None:
            await self._reading
        if self._writer is not None:
            self._writer.close()


class ProcessSpawner:
    """Starts nodes as ordinary processes."""

    def __init__(self, exited: ExitHandler, command: Callable[[NodeOrder], list[str]] = node_command) -> None:
        self._exited = exited
        self._command = command
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._watching: set[asyncio.Task[None]] = set()

    async def spawn(self, order: NodeOrder) -> int:
        """Start a node as a process of its own session and return its pid."""
        descriptor = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(order),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        self._processes[process.pid] = process
        task = asyncio.create_task(self._watch(process))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        return int(process.pid)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        self._processes.pop(process.pid, None)
        self._exited(process.pid, code)

    def signal(self, pid: int, number: int) -> None:
        """Signal the process ``pid``."""
        process = self._processes.get(pid)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def close(self) -> None:
        """End what still runs: SIGTERM, then SIGKILL after ``STOP_GRACE_S``."""
        for pid in list(self._processes):
            self.signal(pid, signal.SIGTERM)
        if self._watching:
            await asyncio.wait(self._watching, timeout=STOP_GRACE_S)
        for pid in list(self._processes):
            self.signal(pid, signal.SIGKILL)
        if self._watching:
            await asyncio.wait(self._watching, timeout=1.0)
