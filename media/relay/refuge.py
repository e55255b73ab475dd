"""Where a packet loop that lost its gateway process can be found again: a socket of its own, for its own user.

The gateway process may be killed at any moment and started again; the packets of its calls must not care. Keys stay in
the memory of the packet loop; what passes here is what passes between the two at any time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")
_BACKLOG = 4


@dataclass(frozen=True, slots=True)
class Refuge:
    """Path of the socket, in a folder of the user's alone, and for how many seconds a packet loop waits there."""

    path: Path
    seconds: float

    def listen(self) -> socket.socket:
        """Open the socket for its user alone (0600); one that was left behind is replaced. Raises OSError."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.settimeout(0.0)
        previous = os.umask(0o177)
        try:
            with _short(self.path) as name:
                listener.bind(name)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(previous)
        listener.listen(_BACKLOG)
        return listener

    def knock(self) -> socket.socket:
        """Connect to a packet loop that waits. Raises OSError when there is none, or one of another user."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            with _short(self.path) as name:
                connection.connect(name)
            if peer_of(connection)[1] != os.getuid():
                raise PermissionError("the packet loop is another user's")
        except OSError:
            connection.close()
            raise
        connection.settimeout(0.0)
        return connection

    def remove(self) -> None:
        """Take the socket away."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return process id and user id of the other end."""
    pid, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(pid), int(user)


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a name for a path that fits a socket address, whatever the length of the folder's name."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
