"""How the command line talks to the supervisor: one request a connection, JSON lines over a Unix socket.

Request: ``{"op": "status", "params": {...}}``. Answers: any number of ``{"progress": {...}}``, then one
``{"result": ...}`` or ``{"error": {"kind": "usage"|"failed", "message": "..."}}``. The socket lies in the state folder
(0600); the peer must be the same user. Closing the connection cancels what was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""What a JSON text holds."""
Params = dict[str, Json]
Progress = Callable[[Params], Awaitable[None]]
Operation = Callable[[Params, Progress], Awaitable[Json]]

MAX_LINE = 32 << 20
"""Longest JSON line either side reads, octets."""
_PATH_LIMIT = 100


def options_of(params: Params) -> dict[str, str]:
    """Return the switches among the parameters of an operation (``--option KEY=VALUE``), each as text."""
    value = params.get("options")
    return {key: str(item) for key, item in value.items()} if isinstance(value, dict) else {}


class ControlError(Exception):
    """The supervisor refused or failed; ``kind`` is ``usage`` (asked wrongly) or ``failed``.

    ``details`` is what a program wants to know of it; empty where there is no more than the message.
    """

    def __init__(self, message: str, kind: str = "failed", details: Params | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.details: Params = details or {}


class NotRunningError(ControlError):
    """No supervisor answers in this state folder."""


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a name for ``path`` that fits a socket address, whatever the length of the state folder's name."""
    if len(os.fsencode(path)) < _PATH_LIMIT:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class ControlServer:
    """Serves ``operations`` by name on the Unix socket ``path``."""

    def __init__(self, path: Path, operations: Mapping[str, Operation]) -> None:
        self._path = path
        self._operations = operations
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; a stale socket file is replaced. Raises ``OSError``."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        previous = os.umask(0o177)
        try:
            with _short(self._path) as name:
                listener.bind(name)
        finally:
            os.umask(previous)
        self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=MAX_LINE)

    async def stop(self) -> None:
        """Stop listening, cancel what runs and remove the socket."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        self._path.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if _peer_user(writer) == os.getuid():
                await self._serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(message: Params) -> None:
            writer.write(json.dumps(message).encode() + b"\n")
            await writer.drain()

        try:
            request = json.loads(await reader.readline())
            operation = self._operations[request["op"]]
            params = dict(request.get("params", {}))
        except (ValueError, KeyError, TypeError, AttributeError):
            await send({"error": {"kind": "usage", "message": "not a request this supervisor knows"}})
            return
        work = asyncio.ensure_future(operation(params, lambda item: send({"progress": item})))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
            result = await work
        except ControlError as error:
            await send({"error": {"kind": error.kind, "message": str(error), "details": error.details}})
        except asyncio.CancelledError:
            if not gone.done():
                raise
        except Exception as error:  # noqa: BLE001 - a fault of one operation must not look like a dead supervisor
            traceback.print_exc()
            await send({"error": {"kind": "failed", "message": f"{type(error).__name__}: {error}"}})
        else:
            await send({"result": result})
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()


def _peer_user(writer: asyncio.StreamWriter) -> int:
    if not hasattr(socket, "SO_PEERCRED"):
        return os.getuid()
    connection = writer.get_extra_info("socket")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def _unless_plain(error: OSError) -> str:
    """Say what kept the socket of a supervisor shut, but where there simply is none."""
    return "" if error.errno in (errno.ENOENT, errno.ECONNREFUSED) else f" ({error.strerror})"


class Conversation:
    """An operation that goes on for long: its progress as it comes, and a way to say that it is enough."""

    def __init__(self, path: Path, op: str, params: Params) -> None:
        """Begin; raises ``NotRunningError`` when nobody listens."""
        self._path = path
        self._connection = socket.socket(socket.AF_UNIX)
        try:
            with _short(path) as name:
                self._connection.connect(name)
            self._connection.sendall(json.dumps({"op": op, "params": params}).encode() + b"\n")
        except OSError as error:
            self._connection.close()
            message = f"no lab runs in {path.parent}{_unless_plain(error)}; start one with: imslab up"
            raise NotRunningError(message) from None
        self.result: Json = None

    def progress(self) -> Iterator[Params]:
        """Yield what comes until the result is there. Raises ``ControlError`` like ``ask``."""
        try:
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    message = json.loads(line)
                    if "progress" in message:
                        yield message["progress"]
                    elif "error" in message:
                        said = message["error"]
                        raise ControlError(said["message"], said["kind"], said.get("details"))
                    else:
                        self.result = message["result"]
                        return
        except OSError as error:
            raise ControlError(f"the supervisor went away ({error.strerror})") from None
        raise ControlError("the supervisor went away before it was done")

    def enough(self) -> None:
        """Ask for the end; what is still to come comes. Safe in a signal handler, and more than once."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End at once."""
        self._connection.close()


def ask(path: Path, op: str, params: Params | None = None, progress: Callable[[Params], None] | None = None) -> Json:
    """Ask the supervisor behind ``path`` to do ``op`` and return its result; blocks.

    Raises ``NotRunningError`` when nobody listens, ``ControlError`` when it refuses or goes away.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        try:
            with _short(path) as name:
                connection.connect(name)
        except OSError as error:
            message = f"no lab runs in {path.parent}{_unless_plain(error)}; start one with: imslab up"
            raise NotRunningError(message) from None
        try:
            connection.sendall(json.dumps({"op": op, "params": params or {}}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    message = json.loads(line)
                    if "progress" in message:
                        if progress is not None:
                            progress(message["progress"])
                    elif "error" in message:
                        said = message["error"]
                        raise ControlError(said["message"], said["kind"], said.get("details"))
                    else:
                        result: Json = message["result"]
                        return result
        except OSError as error:
            raise ControlError(f"the supervisor went away ({error.strerror})") from None
        raise ControlError("the supervisor went away before it answered")
    finally:
        connection.close()
