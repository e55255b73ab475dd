"""Ports for tests: nobody else gets them between the question and the use."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sba import testing
from sba.testing import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_ports_are_different_ones_and_none_that_the_kernel_gives_away(host: str) -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = [free_port(host) for _ in range(100)]
    assert len(set(ports)) == 100
    if lowest >= 8192:
        assert all(1024 < port < lowest for port in ports)


def test_one_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        port = taken.getsockname()[1]
        monkeypatch.setattr(testing, "_ports", iter([port, port + 1]))
        assert free_port() == port + 1
        monkeypatch.setattr(testing, "_ports", iter([port] * 3))
        with pytest.raises(OSError, match=r"no port of 127\.0\.0\.1 is free"):
            free_port()


@pytest.mark.parametrize("content", ["", "x y", "1024 65535"])
def test_where_the_kernel_does_not_say_or_takes_all_there_are_ports_too(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "range").write_text(content)
    monkeypatch.setattr(testing, "_PORTS_OF_THE_KERNEL", tmp_path / "range")
    assert 16384 <= next(testing._ports_of_nobody()) < 32768
