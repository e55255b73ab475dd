"""The cable between a browser and the world, as a SOCKS proxy (RFC 1928): it can be cut and mended."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Self


class Cable:
    """Carries TCP connections to IPv4 addresses while it is whole."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._whole = True
        self._carried: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End what is carried, carry nothing more."""
        with self._lock:
            self._whole = False
            for end in self._carried:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Carry again."""
        self._whole = True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError, struct.error):
            near.settimeout(30)
            _, methods = near.recv(2)
            near.recv(methods)
            near.sendall(b"\x05\x00")
            _, _, _, kind = near.recv(4)
            address = near.recv(4) if kind == 1 else near.recv(near.recv(1)[0])
            (port,) = struct.unpack("!H", near.recv(2))
            host = socket.inet_ntoa(address) if kind == 1 else address.decode()
            if not self._whole:
                near.sendall(b"\x05\x03\x00\x01" + bytes(6))
                return
            with socket.create_connection((host, port), timeout=30) as far:
                near.sendall(b"\x05\x00\x00\x01" + bytes(6))
                near.settimeout(None)
                far.settimeout(None)
                with self._lock:
                    self._carried |= {near, far}
                back = threading.Thread(target=self._pass, args=(far, near), daemon=True)
                back.start()
                self._pass(near, far)
                back.join()
                with self._lock:
                    self._carried -= {near, far}

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while octets := source.recv(65_536):
                target.sendall(octets)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
